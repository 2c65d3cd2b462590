"""`bench --engine`: how long a whole step takes here, by model, dtype and streams."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dsmops import __version__
from dsmops.config.timing import BUDGET_MS
from dsmops.devices import Runtime
from dsmops.dtypes import ComputeDType
from dsmops.errors import InputError
from dsmops.extras import require_worker
from dsmops.models import FRAME_MS, MODELS, TTS_MODELS
from dsmops.operations.bench.levels import Levels
from dsmops.operations.configs.measuring import write_profile
from dsmops.operations.configs.planning import find_device
from dsmops.progress import SILENT, Progress

if TYPE_CHECKING:
    from dsmops.worker.runtime.measure import OpenEngine, StepMeasurement


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What to measure: each model in each dtype, at each number of streams.

    A model is a published name, with random weights, or what `transcribe --model` takes, loaded.
    `dtypes` empty: what the device serves best. `warm_up_steps` None: a full attention window on a
    card, ten steps on a CPU. `profile` is where to write the step profile; None: on a card this
    machine's own folder, nowhere for a CPU.
    """

    models: tuple[str, ...]
    dtypes: tuple[ComputeDType, ...]
    levels: Levels
    cpu: bool = False
    device: int = 0
    n_q: int | None = None
    steps: int = 200
    warm_up_steps: int | None = None
    profile: Path | None = None


@dataclass(frozen=True, slots=True)
class EngineRow:
    """A whole step of one model in one dtype with `streams` slots in use.

    `speedup` is × real time of all streams together, `keeps_up` whether p99 is within the planned
    share of a frame.
    """

    model: str
    dtype: str
    n_q: int | None
    streams: int
    steps: int
    step_p50_ms: float
    step_p95_ms: float
    step_p99_ms: float
    step_max_ms: float
    speedup: float
    keeps_up: bool
    first_audio_ms: float | None
    state_bytes: int
    device_bytes: int | None


@dataclass(frozen=True, slots=True)
class EngineTest:
    """A whole run. `profiles` are the files that `plan --profile` reads."""

    kind: str
    device: str
    begun: datetime
    dsmops: str
    rows: tuple[EngineRow, ...]
    profiles: tuple[Path, ...]
    interrupted: bool


def run_engine_test(
    request: EngineRequest,
    *,
    progress: Progress = SILENT,
    on_row: Callable[[EngineRow], None] = lambda _: None,
) -> EngineTest:
    """Measure, and call `on_row` after each number of streams. Ctrl-C keeps what was measured.

    A model ends where the next number does not fit, or a step takes longer than a frame.

    Raises:
        InputError, SourceError: a model is unknown, or the profile is of several.
        DriverMissingError: torch sees no such card.
        ExtraMissingError: the worker's libraries are not installed.
    """
    require_worker("measuring an engine")
    from dsmops.worker.models.device import best_device, best_dtype
    from dsmops.worker.runtime.measure import measure_engine

    device = best_device(cpu=request.cpu)
    device_name = "cpu" if device.type == "cpu" else f"cuda:{request.device}"
    dtypes = request.dtypes or (best_dtype(device),)
    if request.profile is not None and len(request.models) * len(dtypes) > 1:
        raise InputError(
            "a profile is of one model in one dtype",
            hint="Omit --profile, or name one --model and one --dtype.",
            code="bench.profile",
        )
    label = _processor() if device_name == "cpu" else find_device(None, request.device).name
    begun = datetime.now(UTC)
    rows: list[EngineRow] = []
    profiles: list[Path] = []
    interrupted = False
    try:
        for model in request.models:
            for dtype in dtypes:
                open_engine, context = _opener(model, dtype, request, device_name)
                sizes = _sizes(request.levels)
                progress.start(f"Measuring {model} in {dtype.candle_name}", len(sizes), "sizes")
                warm_up = request.warm_up_steps
                if warm_up is None:
                    warm_up = 10 if device_name == "cpu" else context + 10
                points = []
                for found in measure_engine(
                    open_engine,
                    sizes,
                    device_name=device_name,
                    warm_up_steps=warm_up,
                    timed_steps=request.steps,
                ):
                    row = _row(model, dtype, request.n_q, found)
                    rows.append(row)
                    points.append((row.streams, row.step_p99_ms))
                    on_row(row)
                    progress.advance(1)
                progress.finish()
                if points and (request.profile is not None or device_name != "cpu"):
                    n_q = MODELS[model].codebooks(request.n_q) if model in MODELS else None
                    measured = (label, model, dtype, Runtime.EMBEDDED.value, n_q)
                    profiles.append(write_profile(measured, points, request.profile))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        progress.finish()
    return EngineTest(
        "engine", label, begun, __version__, tuple(rows), tuple(profiles), interrupted
    )


def _opener(
    model: str, dtype: ComputeDType, request: EngineRequest, device_name: str
) -> tuple[OpenEngine, int]:
    """Return what opens engines of a model, and its attention window in steps."""
    from dsmops.worker.runtime.measure import random_engine, stt_engine

    if model in MODELS:
        MODELS[model].codebooks(request.n_q)  # refuses a number that the model does not have
        shape = MODELS[model].shape
        context = TTS_MODELS[model].shape.lm.context if model in TTS_MODELS else 0
        opener = random_engine(shape, dtype, device_name=device_name, n_q=request.n_q)
        return opener, context or getattr(shape, "context", 0)
    from dsmops.operations.models.stt import find_stt, load_stt_source

    source = find_stt(model)
    loaded = load_stt_source(source, dtype=dtype, cpu=device_name == "cpu")
    return stt_engine(loaded), source.config.lm.context


def _sizes(levels: Levels) -> Sequence[int]:
    """Return numbers of streams, rising; a search doubles."""
    if not levels.is_search:
        return sorted(levels.listed)
    first, last = levels.listed
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]


def _row(model: str, dtype: ComputeDType, n_q: int | None, found: StepMeasurement) -> EngineRow:
    return EngineRow(
        model,
        dtype.candle_name,
        n_q,
        found.batch_size,
        found.steps,
        found.p50_ms,
        found.p95_ms,
        found.p99_ms,
        found.max_ms,
        round(found.batch_size * FRAME_MS / found.p50_ms, 1),
        found.p99_ms <= BUDGET_MS,
        found.first_audio_ms,
        found.state_bytes,
        found.device_bytes,
    )


def _processor() -> str:
    """Return the name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
