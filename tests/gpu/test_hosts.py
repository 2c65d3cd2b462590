"""Recorded hosts, played back to the real probe: each is distinguished from the others, and nothing
that is missing crashes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsmops.config.plan import LimitedBy, plan_serving
from dsmops.devices import Runtime
from dsmops.dtypes import ComputeDType
from dsmops.errors import DriverMissingError
from dsmops.gpu import GpuReport, choose, probe
from dsmops.models import MODELS
from dsmops.units import size
from tests.gpu.hosts import HOSTS, PlayedHost, host_names, load_host

Play = Callable[[str], PlayedHost]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Put a recorded host in place of this machine."""
    return lambda name: PlayedHost(load_host(name), tmp_path, monkeypatch)


def summary(report: GpuReport) -> dict[str, Any]:
    """Return what the expectations of the recorded hosts hold: every finding, and every device in
    one line.
    """
    lines = []
    for each in report.devices:
        device, build = each.device, each.verdict.build
        parts = [
            "-" if device.cuda_ordinal is None else str(device.cuda_ordinal),
            device.label,
            each.state.value,
            f"{size(device.memory_total_bytes)} total",
            f"{size(device.memory_free_bytes)} free",
            "n/a"
            if device.memory_bandwidth_bytes_per_s is None
            else f"{device.memory_bandwidth_bytes_per_s / 1e9:.0f} GB/s",
            "serve n/a"
            if each.verdict.serving_dtype is None
            else f"serve {each.verdict.serving_dtype.candle_name}",
            "build n/a"
            if build is None
            else f"build {build.cuda_compute_cap} with {build.toolkit_min} to {build.toolkit_max}",
        ]
        parts += [f"catalogue: {', '.join(each.from_catalogue)}"] if each.from_catalogue else []
        parts += [
            f"{process.pid} {process.name} {process.used_bytes}" for process in each.processes or ()
        ]
        lines.append(", ".join(parts))
    return {
        "source": report.source,
        "driver": report.driver_version,
        "cuda": report.cuda_driver_version,
        "ordinals_certain": report.ordinals_certain,
        "findings": [f"{finding.severity.value} {finding.code}" for finding in report.findings],
        "devices": lines,
    }


@pytest.mark.parametrize("name", host_names())
def test_a_recorded_host_is_reported_as_expected(
    name: str, play: Play, request: pytest.FixtureRequest
) -> None:
    """The report on each recorded host has exactly the devices and findings written in its file."""
    host = play(name)
    found = summary(host.probe())
    if request.config.getoption("--update-golden"):
        recorded = load_host(name) | {"expect": found}
        (HOSTS / f"{name}.json").write_text(
            json.dumps(recorded, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    assert found == load_host(name)["expect"]


@pytest.mark.parametrize("name", host_names())
def test_a_device_or_a_reason_with_a_fix(name: str, play: Play) -> None:
    """A host yields a device for the server, or an error that carries the code of its first
    finding, says why and what to do.
    """
    host = play(name)
    report = host.probe()
    assert all(finding.message and finding.hint.endswith(".") for finding in report.findings)
    errors = [finding for finding in report.findings if finding.severity == "error"]
    if report.visible:
        assert not errors
        assert choose(report).cuda_ordinal == 0
    else:
        with pytest.raises(DriverMissingError) as caught:
            choose(report)
        assert caught.value.exit_code == 4
        assert caught.value.code == errors[0].code
        assert errors[0].message in caught.value.message
        assert caught.value.hint.startswith(errors[0].hint)


def test_verdicts_that_need_different_fixes_have_different_codes() -> None:
    """No driver, mismatch, no device, all hidden, lost device, empty MIG, WSL and a
    container each have a code of their own.
    """
    hosts = (
        "no_driver",
        "mismatch",
        "module_not_loaded",
        "no_device",
        "all_hidden_empty",
        "lost_only_gpu",
        "mig_empty",
        "wsl_no_driver",
        "wsl_1",
        "wsl_library_path",
        "container_without_runtime",
        "access_blocked",
    )
    codes = [
        next(line for line in load_host(name)["expect"]["findings"] if line.startswith("error"))
        for name in hosts
    ]
    assert len(set(codes)) == len(hosts)


def test_nvml_is_shut_down_after_every_start(play: Play) -> None:
    """A started NVML is shut down once, also when a device fails on the way."""
    host = play("lost_gpu")
    host.probe()
    assert host.shut_down == 1


def test_nvml_that_never_started_is_not_shut_down(play: Play) -> None:
    """Shutting down what did not start would be an error of its own."""
    host = play("mismatch")
    host.probe()
    assert host.shut_down == 0


def test_a_process_name_in_no_encoding_is_missing(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that the bindings cannot decode is a missing reading."""
    host = play("processes_unknown")
    monkeypatch.setattr("pynvml.nvmlSystemGetProcessName", lambda pid: b"\xff".decode())
    [process] = host.probe().devices[0].processes or ()
    assert (process.pid, process.name) == (4242, None)


def test_nvml_times_are_reported_apart(play: Play) -> None:
    """NVML's start and read times are there when NVML answered, and null when it did not."""
    host = play("t4_cloud")
    report = host.probe()
    assert report.nvml_init_ms is not None
    assert report.nvml_read_ms is not None


def test_a_recorded_host_needs_no_linux(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said about a host follows from its own system, not from the one that plays it
    back.
    """
    monkeypatch.setattr("sys.platform", "darwin")
    host = play("mismatch")
    assert [finding.code for finding in host.probe().findings] == ["gpu.driver_mismatch"]
    [elsewhere] = probe(host.root, host.environ, "darwin").findings
    assert "darwin" in elsewhere.message


def test_this_machine_can_be_probed() -> None:
    """The real probe on this very machine gives devices or a reason, and raises nothing."""
    report = probe()
    assert report.devices or any(finding.severity == "error" for finding in report.findings)


@pytest.mark.skipif(
    Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists(),
    reason="this machine has an NVIDIA driver",
)
def test_no_driver_for_real() -> None:
    """On a machine without a driver, NVML and nvidia-smi fail for real, and the report says so with
    exit code 4.
    """
    report = probe()
    assert report.source is None
    assert report.devices == ()
    with pytest.raises(DriverMissingError):
        choose(report)


@pytest.mark.parametrize("name", ["gb10_unified", "jetson_orin", "jetson_thor", "jetson_no_nvml"])
def test_a_machine_with_shared_memory_is_planned_for_what_is_available(
    name: str, play: Play
) -> None:
    """The plan counts from MemAvailable and leaves 10 %, at least 2 GiB, to other programs."""
    device = choose(play(name).probe())
    files = load_host(name)["files"]["proc/meminfo"]
    available = int(re.search(r"MemAvailable:\s+(\d+)", files)[1]) * 1024  # type: ignore[index]
    plan = plan_serving(device, MODELS["stt-1b-en_fr"], runtime=Runtime.EMBEDDED)
    assert device.memory_free_bytes == available
    assert plan.reserve_bytes >= max(2 << 30, (device.memory_total_bytes or 0) // 10)
    assert plan.usable_bytes == available - plan.reserve_bytes
    assert plan.memory_batch_size is not None
    assert any("host's memory" in note for note in plan.notes)


@pytest.mark.parametrize("name", ["garbage_nvml", "garbage_smi"])
def test_what_no_card_has_is_a_missing_value_with_a_note(name: str, play: Play) -> None:
    """No absurd number is shown, planned with or kept silent about; plans say memory is unknown."""
    report = play(name).probe()
    notes = [finding for finding in report.findings if finding.code == "gpu.odd_reading"]
    assert notes
    assert "memory_total_bytes" in notes[0].message
    device = choose(report)
    assert device.memory_total_bytes is device.memory_free_bytes is None
    plan = plan_serving(device, MODELS["stt-1b-en_fr"], dtype=ComputeDType.F16)
    assert plan.limited_by is LimitedBy.UNKNOWN_MEMORY
    if name == "garbage_smi":
        assert [each.device.nvml_index for each in report.devices] == [0, 1]
        odd = next(found for found in report.findings if found.code == "gpu.odd_output")
        assert "and 1 more" in odd.message
