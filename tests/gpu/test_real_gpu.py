"""The real probe on a machine with a CUDA device, beside nvidia-smi, the CUDA driver itself and
torch. Run with `pytest -m gpu`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from dsmops.devices import ComputeCapability
from dsmops.gpu import GpuReport, choose, nvml, probe, smi
from dsmops.gpu.readings import HostReading
from dsmops.gpu.torch_build import TorchKernels
from dsmops.gpu.visible import visible_devices
from tests.support.cli import dsmops

pytestmark = pytest.mark.gpu

# Ask the CUDA driver, in a process of its own, what it enumerates: [[uuid hex, major, minor, total
# bytes], ...] and its CUDA version.
ASK_CUDA = """
import ctypes, json
cuda = ctypes.CDLL("libcuda.so.1")
version, count, devices = ctypes.c_int(), ctypes.c_int(), []
started = cuda.cuInit(0)
cuda.cuDriverGetVersion(ctypes.byref(version))
if started == 0:
    cuda.cuDeviceGetCount(ctypes.byref(count))
for ordinal in range(count.value):
    device, uuid, total = ctypes.c_int(), (ctypes.c_ubyte * 16)(), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), ordinal)
    cuda.cuDeviceGetUuid_v2(ctypes.byref(uuid), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    devices.append([bytes(uuid).hex(), major.value, minor.value, total.value])
print(json.dumps({"version": version.value, "devices": devices}))
"""

ASK_TORCH = """
import json, torch
print(json.dumps({
    "count": torch.cuda.device_count(),
    "capability": torch.cuda.get_device_capability(0),
    "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    "architectures": [name for name in torch.cuda.get_arch_list() if name.startswith("sm_")],
    "works": float((torch.ones(8, device="cuda") * 2).sum()),
}))
"""


@pytest.fixture(scope="module")
def report() -> GpuReport:
    """The report on this machine, which must have a visible device."""
    found = probe(environ={})
    if not found.visible:
        pytest.skip(f"no usable CUDA device: {[finding.code for finding in found.findings]}")
    return found


def ask(code: str, environ: dict[str, str] | None = None) -> Any:
    """Run Python code in a process of its own, with a mask of devices, and return the JSON it
    prints.
    """
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"}
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=clean | (environ or {}),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def plain(uuid: str | None) -> str:
    """Return a UUID as bare hex digits."""
    return (uuid or "").removeprefix("GPU-").removeprefix("MIG-").replace("-", "")


def test_nvml_answers_with_every_reading(report: GpuReport) -> None:
    """On a whole card with a current driver nothing is missing that planners need."""
    assert report.source == "nvml"
    device = choose(report)
    assert device.compute_capability is not None
    assert device.memory_total_bytes is not None
    assert device.memory_free_bytes is not None
    assert 0 <= device.memory_free_bytes <= device.memory_total_bytes
    assert device.uuid
    assert report.driver_version
    assert report.cuda_driver_version
    assert report.nvml_init_ms is not None
    print(
        f"\n{device.label}: NVML started in {report.nvml_init_ms} ms, read in"
        f" {report.nvml_read_ms} ms"
    )


def test_the_same_as_nvidia_smi(report: GpuReport) -> None:
    """Name, UUID, capability, total memory and driver are those of nvidia-smi, read by our own
    fallback.
    """
    if shutil.which("nvidia-smi") is None:
        pytest.skip("nvidia-smi is not on PATH")
    reading = smi.read()
    assert isinstance(reading, HostReading)
    ours = {
        device.device.uuid: device.device
        for device in report.devices
        if device.mig_parent_uuid is None
    }
    assert reading.driver_version == report.driver_version
    assert {device.uuid for device in reading.devices} == set(ours)
    for device in reading.devices:
        twin = ours[device.uuid]
        assert device.name == twin.name
        assert device.compute_capability == twin.compute_capability
        assert abs((device.memory_total_bytes or 0) - (twin.memory_total_bytes or 0)) <= 1 << 20


def test_the_driver_table_knows_this_driver(report: GpuReport) -> None:
    """The CUDA that the fallback derives from the driver's branch, when it knows the branch, is the
    one that NVML reports.
    """
    derived = smi.newest_cuda(report.driver_version)
    if derived is None:
        pytest.skip(f"driver branch of {report.driver_version} is newer than the table")
    assert f"{derived[0]}.{derived[1]}" == report.cuda_driver_version


def test_the_same_as_the_cuda_driver(report: GpuReport) -> None:
    """CUDA itself enumerates the devices in the order reported, with the same capability."""
    cuda = ask(ASK_CUDA)
    assert [row[0] for row in cuda["devices"]] == [
        plain(each.device.uuid) for each in report.visible
    ]
    for row, each in zip(cuda["devices"], report.visible, strict=True):
        assert each.device.compute_capability == ComputeCapability(row[1], row[2])
        assert row[3] == pytest.approx(each.device.memory_total_bytes, rel=0.02)
    assert f"{cuda['version'] // 1000}.{cuda['version'] % 1000 // 10}" == report.cuda_driver_version


MASKS = [
    "0",
    "",
    " ",
    "-1",
    "0,0",
    "0,9",
    "0,9,0",
    "9,0",
    "0foo",
    " 0",
    "+0",
    "0,-1",
    ",0",
    "0,",
    "none",
    "{uuid}",
    "{prefix}",
    "{uuid},{uuid}",
]
MASKS += ["{uuid},0", "0,{uuid}", "GPU-ffffffff", "{uuid},GPU-ffffffff", "GPU-"]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("order", [None, "PCI_BUS_ID"])
def test_masks_mean_what_cuda_makes_of_them(
    mask: str, order: str | None, report: GpuReport
) -> None:
    """Every way to write CUDA_VISIBLE_DEVICES, mistakes included, gives the devices that the CUDA
    driver enumerates under it.
    """
    first = report.visible[0].device.uuid or ""
    environ = {"CUDA_VISIBLE_DEVICES": mask.format(uuid=first, prefix=first[:12])}
    if order:
        environ["CUDA_DEVICE_ORDER"] = order
    reading = nvml.read()
    assert isinstance(reading, HostReading)
    ours = [
        plain(reading.devices[at].uuid) for at in visible_devices(reading.devices, environ).ordinals
    ]
    assert ours == [row[0] for row in ask(ASK_CUDA, environ)["devices"]]


def test_the_same_as_torch(report: GpuReport) -> None:
    """Where torch is installed, it counts the same devices, sees the same capability, has the
    architectures its table gives, and runs.
    """
    if report.torch is None:
        pytest.skip("torch is not installed here")
    verdict = report.visible[0].verdict
    if verdict.torch_kernels in {
        TorchKernels.NO_CUDA,
        TorchKernels.NO,
        TorchKernels.DRIVER_TOO_OLD,
    }:
        pytest.skip(f"torch {report.torch.version} cannot run here: {verdict.torch_kernels.value}")
    torch = ask(ASK_TORCH)
    assert torch["count"] == len(report.visible)
    assert ComputeCapability(*torch["capability"]) == report.visible[0].device.compute_capability
    assert torch["bf16"] == (not verdict.bf16_fails)
    if report.torch.architectures is not None:
        assert set(report.torch.architectures) == {
            ComputeCapability.parse(name) for name in torch["architectures"]
        }
    assert torch["works"] == 16.0


def test_the_command(report: GpuReport) -> None:
    """`check-gpu` exits 0 and shows the device; a mask that hides it gives exit code 4 and the
    reason.
    """
    shown = dsmops("check-gpu")
    assert shown.code == 0, shown.stderr
    assert choose(report).name in shown.stdout
    print("\n" + shown.stdout)
    hidden = dsmops("check-gpu", "--json", env={"CUDA_VISIBLE_DEVICES": "-1"})
    assert hidden.code == 4
    assert json.loads(hidden.stderr)["error"]["code"] == "gpu.all_hidden"
    assert hidden.document["devices"][0]["state"] == "hidden"
