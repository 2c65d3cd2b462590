"""The CUDA driver, before torch is imported.

A context takes a third of a second or more to make, and importing torch takes seconds.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_SCHEDULE_BLOCKING_SYNC = 4
"""CU_CTX_SCHED_BLOCKING_SYNC of the CUDA driver API."""


@cache
def prepare_device() -> threading.Thread:
    """Make the context of the first CUDA device in a thread, if torch is built for CUDA.

    In it, threads that wait for the device sleep until it is done. By default they ask again and
    again, and keep one core busy. Call this before torch is imported, join the thread before torch
    uses the device, and fork nothing afterwards. Without a driver nothing happens: torch says what
    is wrong.
    """
    thread = threading.Thread(target=_make_context, name="cuda-context", daemon=True)
    thread.start()
    return thread


def _make_context() -> None:
    if not _torch_has_cuda():
        return
    with suppress(OSError):
        cuda = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        if cuda.cuInit(0) == 0 and cuda.cuDeviceGet(ctypes.byref(device), 0) == 0:
            cuda.cuDevicePrimaryCtxSetFlags_v2(device, _SCHEDULE_BLOCKING_SYNC)
            # torch uses the same one, which lives as long as the process.
            cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)


def _torch_has_cuda() -> bool:
    spec = find_spec("torch")
    places = (spec and spec.submodule_search_locations) or ()
    return any(Path(place, "lib", "libtorch_cuda.so").exists() for place in places)
