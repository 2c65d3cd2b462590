"""What is known of an engine that is loaded: device, dtype, memory."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

import torch

from dsmops.dtypes import ComputeDType
from dsmops.worker.models.kernels import why_not
from dsmops.worker.runtime.facts import EngineFacts

_LONGEST_REASON = 160
"""Facts must fit into a row of shared memory."""


def describe(device: torch.device, dtype: ComputeDType, *, fallback: str = "") -> EngineFacts:
    """Return the facts of an engine that is loaded on `device`.

    `fallback` is why it is a CPU where a GPU was wanted.
    """
    if device.type == "cpu":
        used_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return EngineFacts(
            "cpu",
            _processor(),
            dtype.value.lower(),
            # Kilobytes on Linux, bytes on macOS.
            used_bytes if sys.platform == "darwin" else used_bytes * 1024,
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            fallback,
        )
    properties = torch.cuda.get_device_properties(device)
    return EngineFacts(
        str(device),
        properties.name,
        dtype.value.lower(),
        torch.cuda.memory_reserved(device),
        properties.total_memory,
        no_kernels=why_not(device)[:_LONGEST_REASON],
    )


def _processor() -> str:
    """Return the processor's name, or its architecture where the system has no name for it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())[:80]
