"""How long a step takes on a device, by batch size, with random weights: a step's time does not depend on their values."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence

import torch

from dsmops.errors import DriverMissingError, GpuMemoryError
from dsmops.facts import DType
from dsmops.models import FRAME_MS, LmShape
from dsmops.worker.models.random import random_stt
from dsmops.worker.runtime.engine import SttEngine

_WARM_UP_STEPS = 10
_TIMED_STEPS = 200
"""Enough for a 99th percentile with two steps above it."""


def measure_steps(shape: LmShape, dtype: DType, batch_sizes: Sequence[int], *, device_name: str) -> Iterator[tuple[int, float]]:
    """Yield (batch size, 99th percentile of the whole step in ms) for rising `batch_sizes` on `device_name`, as torch names it (`cuda:0`).

    Ends early, without an error, where the next size does not fit, or once a step takes longer than a frame: no larger one can keep up.

    Raises:
        DriverMissingError: torch sees no such device.
    """
    device = torch.device(device_name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DriverMissingError(
            f"torch sees {torch.cuda.device_count()} CUDA devices here, and not {device_name}",
            hint="`dsmops check-gpu` shows the cards, the driver and whether the installed torch fits them.",
        )
    model = random_stt(shape, device, dtype)
    for batch_size in batch_sizes:
        try:
            step_p99_ms = _time_steps(SttEngine(model, batch_size))
        except GpuMemoryError:
            return
        yield batch_size, step_p99_ms
        if step_p99_ms > FRAME_MS:
            return
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _time_steps(engine: SttEngine) -> float:
    pcm = torch.rand(engine.batch_size, 1, engine.model.frame_samples)
    everyone = torch.ones(engine.batch_size, dtype=torch.bool)
    times_ms = []
    for step in range(_WARM_UP_STEPS + _TIMED_STEPS):
        begin_s = time.perf_counter()
        engine.step(pcm, everyone)
        if step >= _WARM_UP_STEPS:
            times_ms.append((time.perf_counter() - begin_s) * 1000)
    return sorted(times_ms)[int(_TIMED_STEPS * 0.99) - 1]
