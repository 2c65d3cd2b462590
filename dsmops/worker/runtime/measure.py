"""How long a step takes on a device, by batch size.

With random weights: a step's time does not depend on their values. Or with a model that is loaded.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dsmops.dtypes import PLAIN, ComputeDType, Quantised
from dsmops.errors import DriverMissingError, GpuMemoryError
from dsmops.models import FRAME_MS, Shape, TtsShape
from dsmops.worker.models.attention import RingState
from dsmops.worker.models.conventions import END_OF_PADDING, PADDING
from dsmops.worker.models.random import random_stt, random_tts
from dsmops.worker.models.stt import LoadedStt
from dsmops.worker.models.tts import LoadedTts
from dsmops.worker.runtime.stt.engine import SttEngine
from dsmops.worker.runtime.tts.engine import TtsEngine
from dsmops.worker.runtime.tts.interface import TtsLaunchedStep, TtsRequest

_WARM_UP_STEPS = 10
_TIMED_STEPS = 200
"""Enough for a 99th percentile with two steps above it."""
_FEWEST_STEPS = 20
_LONGEST_MS = 15_000.0
"""On a CPU a large model needs seconds for a step."""


Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class StepMeasurement:
    """Whole steps of an engine with `batch_size` slots, all of them in use, in milliseconds.

    `first_audio_ms` is the time from a reset of all slots to the first sound of all, for
    text-to-speech. `state_bytes` is the memory of the slots, `device_bytes` all memory that became
    used on the device; None where the device does not report it.
    """

    batch_size: int
    steps: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    first_audio_ms: float | None
    state_bytes: int
    device_bytes: int | None


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that is open: one step, how long the first sound took, its state.

    `ring` holds the attention windows of the language model.
    """

    step: Step
    first_audio_ms: float | None
    state_bytes: int
    ring: RingState


OpenEngine = Callable[[int], Engine]


def measure_steps(
    shape: Shape,
    dtype: ComputeDType,
    batch_sizes: Sequence[int],
    *,
    device_name: str,
    n_q: int | None = None,
    quantised: Quantised = PLAIN,
) -> Iterator[tuple[int, float]]:
    """Yield (batch size, 99th percentile of the whole step in ms), as `measure_engine` finds it."""
    for found in measure_engine(
        random_engine(shape, dtype, device_name=device_name, n_q=n_q, quantised=quantised),
        batch_sizes,
        device_name=device_name,
    ):
        yield found.batch_size, found.p99_ms


def random_engine(
    shape: Shape,
    dtype: ComputeDType,
    *,
    device_name: str,
    n_q: int | None = None,
    quantised: Quantised = PLAIN,
) -> OpenEngine:
    """Return what opens engines of a model with random weights on `device_name`, as torch names it.

    `n_q` is how many codebooks a text-to-speech model generates; None: all.

    Raises:
        DriverMissingError: torch sees no such device.
    """
    device = torch.device(device_name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DriverMissingError(
            f"torch sees {torch.cuda.device_count()} CUDA devices here, and not {device_name}",
            hint="`dsmops check-gpu` shows the cards, the driver, and whether torch fits them.",
        )
    if device.type == "cuda":
        # Streams and events that name no device are of the current one.
        torch.cuda.set_device(device)
    if isinstance(shape, TtsShape):
        return _tts_engine(random_tts(shape, device, dtype, n_q=n_q, quantised=quantised))
    return stt_engine(random_stt(shape, device, dtype, quantised=quantised))


def measure_engine(
    open_engine: OpenEngine,
    batch_sizes: Sequence[int],
    *,
    device_name: str,
    warm_up_steps: int | None = None,
    timed_steps: int | None = None,
) -> Iterator[StepMeasurement]:
    """Yield the whole step at rising `batch_sizes`.

    Ends early, without an error, where the next size does not fit, or once a step takes longer than
    a frame: no larger one can keep up.
    """
    device = torch.device(device_name)
    warm_up = _WARM_UP_STEPS if warm_up_steps is None else warm_up_steps
    timed = timed_steps or _TIMED_STEPS
    for batch_size in batch_sizes:
        try:
            found = _measure(open_engine(batch_size), batch_size, warm_up, timed)
        except GpuMemoryError:
            return
        if device.type == "cuda":
            free_bytes, total_bytes = torch.cuda.mem_get_info(device)
            found = replace(found, device_bytes=total_bytes - free_bytes)
        yield found
        if found.p99_ms > FRAME_MS:
            return
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def stt_engine(model: LoadedStt) -> OpenEngine:
    """Return what opens engines of a speech-to-text model."""

    def open_engine(batch_size: int) -> Engine:
        engine = SttEngine(model, batch_size)
        pcm, everyone = engine.new_frames(), np.ones(batch_size, np.bool_)
        return Engine(lambda: engine.step(pcm, everyone), None, engine.state_bytes, engine._ring)

    return open_engine


def _tts_engine(model: LoadedTts) -> OpenEngine:
    def open_engine(batch_size: int) -> Engine:
        engine = TtsEngine(model, batch_size)
        everyone = np.ones(batch_size, dtype=np.bool_)
        voice = np.random.default_rng(0).standard_normal(model.config.voice_shape)
        request = TtsRequest((voice.astype(np.float32),))
        delay_steps = model.config.delay_steps

        tokens = np.tile(np.array([PADDING, END_OF_PADDING]), (batch_size, 1))
        before: TtsLaunchedStep | None = None

        def step(*, text_only: bool = False) -> None:
            """Launch a step, and wait for the one before, as the model loop does."""
            nonlocal before
            launched = engine.launch(everyone, tokens, text_only=text_only)
            launched.predicted()
            if before is not None:
                before.wait()
            before = launched

        def first_audio_ms() -> float:
            for slot in range(batch_size):
                engine.reset([slot], [request])
            begin_s = time.perf_counter()
            while before is None or not before.wait().valid.all():
                step(text_only=bool((engine.offsets < delay_steps).all()))
            return (time.perf_counter() - begin_s) * 1000

        first_audio_ms()  # what is made at the first step
        before = None
        return Engine(step, first_audio_ms(), engine.state_bytes, engine._ring)

    return open_engine


def _measure(
    engine: Engine, batch_size: int, warm_up_steps: int, timed_steps: int
) -> StepMeasurement:
    for _ in range(warm_up_steps):
        engine.step()
    times_ms = _times_ms(engine.step, timed_steps)

    def rank(percent: int) -> float:
        # The same rank as that of a load test: the smallest value that so many do not exceed.
        return round(times_ms[max(0, -(-percent * len(times_ms) // 100) - 1)], 3)

    return StepMeasurement(
        batch_size,
        len(times_ms),
        rank(50),
        rank(95),
        rank(99),
        round(times_ms[-1], 3),
        None if engine.first_audio_ms is None else round(engine.first_audio_ms, 1),
        engine.state_bytes,
        None,
    )


def _times_ms(step: Step, count: int) -> list[float]:
    """Return the times of `count` steps, rising; fewer where they take long."""
    times_ms: list[float] = []
    while len(times_ms) < count:
        begin_s = time.perf_counter()
        step()
        times_ms.append((time.perf_counter() - begin_s) * 1000)
        if len(times_ms) >= _FEWEST_STEPS and sum(times_ms) > _LONGEST_MS:
            break
    return sorted(times_ms)
