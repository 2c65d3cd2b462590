"""A server's processes, its own and those that it started, and the main memory that they take."""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")


def family(pid: int) -> list[int]:
    """Return `pid` and the process ids of its descendants; only `pid` where the system does not
    tell.
    """
    found, left = [], [pid]
    while left:
        each = left.pop()
        found.append(each)
        try:
            for thread in (_PROC / str(each) / "task").iterdir():
                left += map(int, (thread / "children").read_text().split())
        except OSError:
            continue  # it has ended, or this system has no /proc
    return found


def main_memory(pid: int) -> tuple[int, int] | None:
    """Return the bytes of main memory that a process and its descendants take now, and how many
    processes they are. What several share is shared out between them.

    None where the system does not report it.
    """
    found = [size for each in family(pid) if (size := _proportional_bytes(each)) is not None]
    return (sum(found), len(found)) if found else None


def _proportional_bytes(pid: int) -> int | None:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    kib = [line.split()[1] for line in lines if line.startswith("Pss:")]
    return int(kib[0]) * 1024 if kib else None
