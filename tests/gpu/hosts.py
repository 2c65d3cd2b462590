"""Recorded hosts: what NVML, nvidia-smi and the file system answer on a machine, played back to the
real probe.

A host is one JSON file in tests/data/gpu/hosts. NVML is faked at the functions of pynvml, so all of
`gpu/nvml.py` runs; nvidia-smi is a program on PATH that answers queries from a table; the file
system is a folder. Answers are keyed by NVML's own function names, a missing one means
NVML_ERROR_NOT_SUPPORTED, and a text that starts with NVML_ERROR_ is raised. `record` writes such a
file on a real machine: `python -m tests.gpu.hosts > tests/data/gpu/hosts/NAME.json`.
"""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from dsmops.gpu import GpuReport
from dsmops.gpu.detection import probe

HOSTS = Path(__file__).resolve().parents[1] / "data" / "gpu" / "hosts"

SIMPLE = (
    "nvmlDeviceGetName",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetDisplayActive",
    "nvmlDeviceGetComputeMode",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetNumGpuCores",
    "nvmlDeviceGetMemoryBusWidth",
)
PROCESSES = (
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetComputeRunningProcesses_v2",
    "nvmlDeviceGetGraphicsRunningProcesses_v2",
)


def load_host(name: str) -> dict[str, Any]:
    """Return the recorded host of that name."""
    loaded: dict[str, Any] = json.loads((HOSTS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def host_names() -> list[str]:
    """Return the names of all recorded hosts."""
    return sorted(path.stem for path in HOSTS.glob("*.json"))


class PlayedHost:
    """A recorded host in place. `shut_down` counts the calls of nvmlShutdown."""

    def __init__(self, host: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = folder / "root"
        self.environ: dict[str, str] = host.get("environ", {})
        self.shut_down = 0
        _lay_out_files(self.root, host)
        self._fake_nvml(host.get("nvml", {"nvmlInit": "NVML_ERROR_LIBRARY_NOT_FOUND"}), monkeypatch)
        tools = folder / "bin"
        tools.mkdir()
        if "nvidia_smi" in host:
            _write_tool(tools / "nvidia-smi", host["nvidia_smi"])
        monkeypatch.setenv("PATH", str(tools))

    def probe(self) -> GpuReport:
        """Return the report of the real probe.

        All recorded hosts run Linux, whatever runs the tests.
        """
        return probe(self.root, self.environ, "linux")

    def _fake_nvml(self, recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        devices: list[Any] = recorded.get("devices", [])

        def fake(name: str, function: Callable[..., Any]) -> None:
            monkeypatch.setattr(pynvml, name, function)

        def shutdown() -> None:
            self.shut_down += 1

        def handle(index: int) -> Any:
            return _answer(devices[index])

        def instance(device: dict[str, Any], index: int) -> Any:
            found = device.get("instances", [])[index : index + 1]
            return _answer(found[0] if found and found[0] else "NVML_ERROR_NOT_FOUND")

        def process_name(pid: int) -> Any:
            return _answer(recorded.get("process_names", {}).get(str(pid), "NVML_ERROR_NOT_FOUND"))

        fake("nvmlInit", lambda: _answer(recorded.get("nvmlInit")))
        fake("nvmlShutdown", shutdown)
        fake("nvmlDeviceGetCount", lambda: len(devices))
        fake("nvmlDeviceGetHandleByIndex", handle)
        fake("nvmlSystemGetDriverVersion", lambda: _answer(recorded["nvmlSystemGetDriverVersion"]))
        fake(
            "nvmlSystemGetCudaDriverVersion_v2",
            lambda: _answer(recorded["nvmlSystemGetCudaDriverVersion_v2"]),
        )
        fake("nvmlSystemGetProcessName", process_name)
        fake("nvmlDeviceGetPciInfo", lambda device: SimpleNamespace(busId=_get(device, "busId")))
        fake(
            "nvmlDeviceGetMaxClockInfo",
            lambda device, kind: _answer(_get(device, "nvmlDeviceGetMaxClockInfo")[str(kind)]),
        )
        fake("nvmlDeviceGetMaxMigDeviceCount", lambda device: len(device.get("instances", [])))
        fake("nvmlDeviceGetMigDeviceHandleByIndex", instance)
        fake("nvmlDeviceGetMemoryInfo", _memory)
        for name in SIMPLE:
            fake(name, lambda device, name=name: _get(device, name))
        for name in PROCESSES:
            fake(
                name,
                lambda device, name=name: [
                    SimpleNamespace(**entry) for entry in _get(device, name)
                ],
            )


def _answer(recorded: Any) -> Any:
    if isinstance(recorded, str) and recorded.startswith("NVML_ERROR_"):
        raise pynvml.NVMLError(getattr(pynvml, recorded))
    return recorded


def _get(device: dict[str, Any], key: str) -> Any:
    return _answer(device.get(key, "NVML_ERROR_NOT_SUPPORTED"))


def _memory(device: dict[str, Any]) -> Any:
    total, free, used = _get(device, "nvmlDeviceGetMemoryInfo")
    return SimpleNamespace(total=total, free=free, used=used)


def _lay_out_files(root: Path, host: dict[str, Any]) -> None:
    root.mkdir()
    for name, content in {"dev/nvidia-uvm": "", **host.get("files", {})}.items():
        if content is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content, encoding="utf-8")
    for index, driver in enumerate(host.get("pci_drivers", [])):
        card = root / f"sys/bus/pci/devices/0000:{index:02x}:00.0"
        card.mkdir(parents=True)
        (card / "vendor").write_text("0x10de\n")
        (card / "class").write_text("0x030200\n")
        if driver:
            (card / "driver").symlink_to(f"../../../../bus/pci/drivers/{driver}")


def _write_tool(path: Path, recorded: dict[str, Any]) -> None:
    """Write a program that fails with `text` and `exit`, or answers any --query-gpu from `rows`,
    knowing only the fields of the rows.
    """
    path.write_text(
        f"#!{sys.executable} -SE\nimport sys\nrecorded = {recorded!r}\nrows = recorded.get('rows',"
        " [])\nwanted = next(arg for arg in sys.argv if"
        " arg.startswith('--query-gpu=')).split('=')[1].split(',')\nfor field in wanted if rows"
        ' else []:\n    if field not in rows[0]:\n        sys.exit(print(f\'Field "{field}" is'
        " not a valid field to query.\\n') or 2)\nfor row in rows:\n    print(', '.join(row[field]"
        " for field in wanted))\nprint(recorded.get('text', ''),"
        " end='')\nsys.exit(recorded.get('exit', 0))\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def record() -> dict[str, Any]:
    """Return what this machine's NVML answers, as a host without its expectation."""
    pynvml.nvmlInit()

    def ask(function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except pynvml.NVMLError as exc:
            known = [
                name
                for name, value in vars(pynvml).items()
                if name.startswith("NVML_ERROR_") and value == exc.value
            ]
            return known[0]

    def device(index: int) -> Any:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        answers = {name: ask(getattr(pynvml, name), handle) for name in SIMPLE}
        answers["busId"] = pynvml.nvmlDeviceGetPciInfo(handle).busId
        kinds = (pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM)
        answers["nvmlDeviceGetMaxClockInfo"] = {
            str(kind): ask(pynvml.nvmlDeviceGetMaxClockInfo, handle, kind) for kind in kinds
        }
        memory = ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
        answers["nvmlDeviceGetMemoryInfo"] = (
            memory if isinstance(memory, str) else [memory.total, memory.free, memory.used]
        )
        for name in PROCESSES[:2]:
            listed = ask(getattr(pynvml, name), handle)
            fields = ("pid", "usedGpuMemory")
            answers[name] = (
                listed
                if isinstance(listed, str)
                else [{key: getattr(entry, key) for key in fields} for entry in listed]
            )
        return answers

    return {
        "about": "Recorded.",
        "nvml": {
            "nvmlSystemGetDriverVersion": ask(pynvml.nvmlSystemGetDriverVersion),
            "nvmlSystemGetCudaDriverVersion_v2": ask(pynvml.nvmlSystemGetCudaDriverVersion_v2),
            "devices": [device(index) for index in range(pynvml.nvmlDeviceGetCount())],
        },
    }


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        print(json.dumps(record(), indent=2))
