"""How long a step takes on a device, by batch size, with random weights: a step's time does not
depend on their values.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from dsmops.dtypes import ComputeDType
from dsmops.errors import DriverMissingError, GpuMemoryError
from dsmops.models import FRAME_MS, LmShape, Shape, TtsShape
from dsmops.worker.models.random import random_stt, random_tts
from dsmops.worker.runtime.stt.engine import SttEngine
from dsmops.worker.runtime.tts.engine import TtsEngine

_WARM_UP_STEPS = 10
_TIMED_STEPS = 200
"""Enough for a 99th percentile with two steps above it."""


Step = Callable[[], object]


def measure_steps(
    shape: Shape,
    dtype: ComputeDType,
    batch_sizes: Sequence[int],
    *,
    device_name: str,
    n_q: int | None = None,
) -> Iterator[tuple[int, float]]:
    """Yield (batch size, 99th percentile of the whole step in ms) for rising `batch_sizes` on
    `device_name`, as torch names it (`cuda:0`).

    `n_q` is how many codebooks a text-to-speech model generates; None: all.

    Ends early, without an error, where the next size does not fit, or once a step takes longer than
    a frame: no larger one can keep up.

    Raises:
        DriverMissingError: torch sees no such device.
    """
    device = torch.device(device_name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DriverMissingError(
            f"torch sees {torch.cuda.device_count()} CUDA devices here, and not {device_name}",
            hint="`dsmops check-gpu` shows the cards, the driver, and whether torch fits them.",
        )
    open_engine = (
        _tts_steps(shape, device, dtype, n_q)
        if isinstance(shape, TtsShape)
        else _stt_steps(shape, device, dtype)
    )
    for batch_size in batch_sizes:
        try:
            step_p99_ms = _time_steps(open_engine(batch_size))
        except GpuMemoryError:
            return
        yield batch_size, step_p99_ms
        if step_p99_ms > FRAME_MS:
            return
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _stt_steps(shape: LmShape, device: torch.device, dtype: ComputeDType) -> Callable[[int], Step]:
    model = random_stt(shape, device, dtype)

    def open_engine(batch_size: int) -> Step:
        engine = SttEngine(model, batch_size)
        pcm, everyone = (
            engine.new_frames(),
            np.ones(batch_size, np.bool_),
        )
        return lambda: engine.step(pcm, everyone)

    return open_engine


def _tts_steps(
    shape: TtsShape, device: torch.device, dtype: ComputeDType, n_q: int | None
) -> Callable[[int], Step]:
    model = random_tts(shape, device, dtype, n_q=n_q)

    def open_engine(batch_size: int) -> Step:
        engine = TtsEngine(model, batch_size)
        everyone = np.ones(batch_size, dtype=np.bool_)
        return lambda: engine.step(everyone, lambda predicted: predicted)

    return open_engine


def _time_steps(step: Step) -> float:
    times_ms = []
    for number in range(_WARM_UP_STEPS + _TIMED_STEPS):
        begin_s = time.perf_counter()
        step()
        if number >= _WARM_UP_STEPS:
            times_ms.append((time.perf_counter() - begin_s) * 1000)
    return sorted(times_ms)[int(_TIMED_STEPS * 0.99) - 1]
