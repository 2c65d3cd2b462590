"""Readings that cannot be true become missing ones, and what was dropped is remembered.

Drivers that are confused, virtual or broken answer with all bits set (16,777,216 TiB), with zeros,
or with words in place of a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dsmops.devices import ComputeCapability
from dsmops.gpu.readings import DeviceReading

_TIB = 1 << 40
_MOST_MEMORY_BYTES = 16 * _TIB
"""More than any GPU has, or any host that lends it memory."""
_LEAST_MEMORY_BYTES = 64 << 20
_MOST_BANDWIDTH_BYTES_PER_S = 100 * 10**12
"""An H200 has 4.8 TB/s."""
_LEAST_BANDWIDTH_BYTES_PER_S = 10**9
_MOST_THROUGHPUT = 10**10
"""Cores × MHz; an H200 has 3.3 × 10⁷."""
_NO_VALUE = re.compile(
    r"\[.*\]|n/?a|none|unknown( error)?|err!?|(gpu )?not (supported|available|found)|\W*",
    re.IGNORECASE,
)


def is_no_value(text: str) -> bool:
    """Whether a text stands for a missing reading: `[N/A]`, `[Unknown Error]`, `ERR!`, nothing."""
    return _NO_VALUE.fullmatch(text.strip()) is not None


def believable(reading: DeviceReading) -> DeviceReading:
    """Return the reading without the values that no device can have; `dropped` names them."""
    total = reading.memory_total_bytes
    ceiling = total if total and _is_memory(total) else _MOST_MEMORY_BYTES
    checks: dict[str, Callable[[Any], bool]] = {
        "name": lambda name: not is_no_value(name),
        "uuid": lambda uuid: not is_no_value(uuid),
        "compute_capability": _is_capability,
        "memory_total_bytes": _is_memory,
        "memory_free_bytes": lambda count: 0 <= count <= ceiling,
        "memory_used_bytes": lambda count: 0 <= count <= ceiling,
        "memory_bandwidth_bytes_per_s": lambda count: (
            _LEAST_BANDWIDTH_BYTES_PER_S <= count <= _MOST_BANDWIDTH_BYTES_PER_S
        ),
        "throughput": lambda count: 0 < count <= _MOST_THROUGHPUT,
    }
    wrong = {
        name: value
        for name, is_true in checks.items()
        if (value := getattr(reading, name)) is not None and not is_true(value)
    }
    if "memory_total_bytes" in wrong:
        # What is free of a total that is wrong says nothing either.
        wrong |= {
            name: value
            for name in ("memory_free_bytes", "memory_used_bytes")
            if (value := getattr(reading, name)) is not None
        }
    processes = reading.processes and tuple(
        replace(each, used_bytes=None) if (each.used_bytes or 0) > ceiling else each
        for each in reading.processes
    )
    if not wrong and processes == reading.processes:
        return reading
    missing: dict[str, Any] = dict.fromkeys(wrong)
    dropped = tuple(f"{name} {value}" for name, value in wrong.items())
    return replace(reading, **missing, processes=processes, dropped=dropped)


def _is_memory(count: int) -> bool:
    return _LEAST_MEMORY_BYTES <= count <= _MOST_MEMORY_BYTES


def _is_capability(capability: ComputeCapability) -> bool:
    return 2 <= capability.major <= 50 and 0 <= capability.minor <= 9
