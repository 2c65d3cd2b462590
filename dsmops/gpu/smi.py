"""Readings by the `nvidia-smi` program, for machines where NVML cannot be loaded.

Fewer readings than NVML gives: no processes, no bus width. Tolerates drivers that do not know a
field (470 has no `compute_cap`).
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from pathlib import Path

from dsmops.devices import ComputeCapability
from dsmops.gpu.belief import is_no_value
from dsmops.gpu.readings import DeviceReading, Failure, FailureKind, HostReading

TIMEOUT_S = 5.0
"""A healthy nvidia-smi answers in well under a second; with a dead GPU it may hang for minutes."""

WSL_TOOL = "usr/lib/wsl/lib/nvidia-smi"
"""Where Windows puts the tool inside WSL; not on PATH in every distribution."""

_FIELDS = (
    "index",
    "uuid",
    "name",
    "pci.bus_id",
    "driver_version",
    "memory.total",
    "memory.free",
    "memory.used",
    "compute_cap",
    "mig.mode.current",
    "display_active",
)
_NEEDED = {"index", "name"}
_MIB = 1 << 20

# Newest CUDA of each driver branch. Source: release notes of the CUDA toolkits, table of toolkit
# and driver versions.
_CUDA_OF_BRANCH = {
    450: (11, 0),
    455: (11, 1),
    460: (11, 2),
    465: (11, 3),
    470: (11, 4),
    495: (11, 5),
    510: (11, 6),
    515: (11, 7),
    520: (11, 8),
    525: (12, 0),
    530: (12, 1),
    535: (12, 2),
    545: (12, 3),
    550: (12, 4),
    555: (12, 5),
    560: (12, 6),
    565: (12, 7),
    570: (12, 8),
    575: (12, 9),
    580: (13, 0),
    590: (13, 1),
}

# What nvidia-smi prints when it cannot work, in words that have been the same for years. First
# match wins.
_WORDS = (
    ("version mismatch", FailureKind.VERSION_MISMATCH),
    ("couldn't communicate with the NVIDIA driver", FailureKind.DRIVER_NOT_LOADED),
    ("Driver Not Loaded", FailureKind.DRIVER_NOT_LOADED),
    ("Insufficient Permissions", FailureKind.NO_PERMISSION),
    ("blocked by the operating system", FailureKind.BLOCKED),
    ("couldn't find libnvidia-ml", FailureKind.LIBRARY_MISSING),
    ("GPU is lost", FailureKind.LOST),
    ("Unable to determine the device handle", FailureKind.LOST),
    ("GPU requires reset", FailureKind.RESET_REQUIRED),
)


def read(root: Path = Path("/"), *, timeout_s: float = TIMEOUT_S) -> HostReading | Failure:
    """Return what nvidia-smi says about this machine, or why it says nothing."""
    tool = shutil.which("nvidia-smi") or (
        str(root / WSL_TOOL) if (root / WSL_TOOL).exists() else None
    )
    if tool is None:
        return Failure(FailureKind.TOOL_MISSING, "nvidia-smi is not on PATH")
    fields = list(_FIELDS)
    while True:
        try:
            done = subprocess.run(
                [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Failure(
                FailureKind.NO_ANSWER, f"nvidia-smi did not answer within {timeout_s:g} s"
            )
        except OSError as exc:
            return Failure(FailureKind.TOOL_MISSING, f"{tool}: {exc.strerror}")
        unknown = re.search(r'Field "([^"]+)" is not a valid field', done.stdout + done.stderr)
        if unknown is None or unknown[1] not in fields or unknown[1] in _NEEDED:
            return _understand(done.stdout, done.stderr, fields)
        fields.remove(unknown[1])


def _understand(stdout: str, stderr: str, fields: list[str]) -> HostReading | Failure:
    """Return every row of the output, whatever the exit code.

    One lost GPU makes the exit code an error, but the rows of the others are right.
    """
    rows, rest = [], []
    for line in stdout.splitlines():
        cells = [cell.strip() for cell in next(csv.reader([line]), [])]
        if len(cells) == len(fields) and _is_index(cells[0]):
            rows.append(dict(zip(fields, map(_value, cells), strict=True)))
        elif line.strip():
            rest.append(line.strip())
            if row := _beginning(cells, fields):
                rows.append(row)
    words = "; ".join([*rest, *(line.strip() for line in stderr.splitlines() if line.strip())])
    failure = Failure(_kind_of(words), words) if words else None
    if not rows and failure and "No devices were found" not in words:
        return failure
    # A line that comes twice is one card; the first says most.
    devices = list({int(row["index"] or 0): _device(row) for row in reversed(rows)}.values())
    devices.sort(key=lambda device: device.nvml_index)
    if rows and failure and failure.kind is FailureKind.LOST:
        free_index = next(
            index
            for index in range(len(devices) + 1)
            if index not in {device.nvml_index for device in devices}
        )
        devices.append(DeviceReading(nvml_index=free_index, failure=failure))
        devices.sort(key=lambda device: device.nvml_index)
    driver = next((row["driver_version"] for row in rows if row.get("driver_version")), None)
    return HostReading(
        tuple(devices),
        source="nvidia-smi",
        driver_version=driver,
        cuda_driver_version=newest_cuda(driver),
        unread=tuple(line for line in rest if rows and _kind_of(line) is FailureKind.UNKNOWN),
    )


def _is_index(cell: str) -> bool:
    return re.fullmatch(r"\d{1,4}", cell, re.ASCII) is not None


def _beginning(cells: list[str], fields: list[str]) -> dict[str, str | None] | None:
    """Return index, UUID and name of a row whose other cells cannot be separated.

    In some locales a number has a comma in it.
    """
    if fields[:3] != ["index", "uuid", "name"] or len(cells) <= len(fields):
        return None
    if not (_is_index(cells[0]) and cells[1].startswith("GPU-")):
        return None
    return dict.fromkeys(fields) | dict(zip(fields[:3], map(_value, cells[:3]), strict=True))


def _kind_of(words: str) -> FailureKind:
    return next(
        (kind for text, kind in _WORDS if text.lower() in words.lower()), FailureKind.UNKNOWN
    )


def _value(cell: str) -> str | None:
    """`[N/A]`, `[Not Supported]`, `[Unknown Error]` and the like are missing readings."""
    return None if is_no_value(cell) else cell


def _device(row: dict[str, str | None]) -> DeviceReading:
    capability, mig, display = (
        row.get("compute_cap"),
        row.get("mig.mode.current"),
        row.get("display_active"),
    )
    return DeviceReading(
        nvml_index=int(row["index"] or 0),
        name=row["name"],
        uuid=row.get("uuid"),
        pci_bus_id=row.get("pci.bus_id"),
        compute_capability=ComputeCapability.parse(capability)
        if capability and re.fullmatch(r"\d+\.\d", capability)
        else None,
        memory_total_bytes=_mebibytes(row.get("memory.total")),
        memory_free_bytes=_mebibytes(row.get("memory.free")),
        memory_used_bytes=_mebibytes(row.get("memory.used")),
        display_active=display == "Enabled" if display else None,
        mig_enabled=mig == "Enabled" if mig else None,
    )


def _mebibytes(text: str | None) -> int | None:
    """Return the bytes of `15360`, or of `15360 MiB` from tools that ignore `nounits`."""
    found = re.fullmatch(r"(\d{1,20})(?: MiB)?", text or "", re.ASCII)
    return (int(found[1]) * _MIB or None) if found else None


def newest_cuda(driver_version: str | None) -> tuple[int, int] | None:
    """Return the newest CUDA that a driver version runs, by its branch.

    None for a branch that the table does not know.
    """
    branch = (driver_version or "").split(".")[0]
    return _CUDA_OF_BRANCH.get(int(branch)) if branch.isdigit() else None
