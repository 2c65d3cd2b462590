"""Arrays in memory that processes share after a fork.

The memory has no name: it ends with the last process that maps it, however that one ends, and needs
no room in `/dev/shm`. Pages that are never touched take no memory.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_LINE_BYTES = 64
"""Arrays begin at cache lines, so that processes that write different arrays do not slow each
other."""

Layout = Mapping[str, tuple[DTypeLike, tuple[int, ...]]]
"""Name, type and shape of each array."""


def shared_arrays(layout: Layout) -> dict[str, NDArray[Any]]:
    """Return zeroed arrays in one new block of shared memory."""
    sizes = {
        name: math.prod(shape) * np.dtype(dtype).itemsize for name, (dtype, shape) in layout.items()
    }
    begins, end = {}, 0
    for name, size in sizes.items():
        begins[name] = end
        end += -(-size // _LINE_BYTES) * _LINE_BYTES
    memory = mmap.mmap(-1, max(end, 1))
    return {
        name: np.frombuffer(memory, dtype, math.prod(shape), begins[name]).reshape(shape)
        for name, (dtype, shape) in layout.items()
    }


_fence_lock = threading.Lock()


def fence() -> None:
    """Order memory: what was written before is seen before what is written after.

    x86-64 keeps this order by itself. On 64-bit Arm the atomic operation of taking a lock does it.
    """
    with _fence_lock:
        pass
