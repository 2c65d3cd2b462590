"""`bench --engine`: how long a whole step takes here, by model, dtype and streams."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsmops import __version__
from dsmops.config.timing import BUDGET_MS, StepPoint, StepProfile
from dsmops.devices import Runtime
from dsmops.dtypes import PLAIN, ComputeDType, Quantised
from dsmops.errors import InputError
from dsmops.extras import require_worker
from dsmops.files import os_errors
from dsmops.models import FRAME_MS, MODELS, TTS_MODELS
from dsmops.operations.bench.levels import Levels
from dsmops.operations.bench.quality import SEED, MeasureQuality, Quality, quality_of
from dsmops.operations.configs.measuring import write_profile
from dsmops.operations.configs.planning import find_device
from dsmops.progress import SILENT, Progress

if TYPE_CHECKING:
    from dsmops.worker.runtime.measure import OpenEngine, StepMeasurement


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What to measure: each model in each dtype and way of storing, at each number of streams.

    A model is a published name, with random weights, or what `transcribe --model` takes, loaded.
    `dtypes` empty: what the device serves best. `quality`: also compare each with float32. `kept`
    are rows of an earlier run that are not measured again. `warm_up_steps` None: a full attention
    window on a card, ten steps on a CPU. `profile` is where to write the step profile; None: on a
    card this machine's own folder, nowhere for a CPU.
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
    quantised: tuple[Quantised, ...] = (PLAIN,)
    quality: bool = False
    kept: tuple[EngineRow, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineRow:
    """A whole step of one model in one dtype and way of storing with `streams` slots in use.

    `weights` and `kv` are "int8", or "none": as they are computed; `weights` is None where a model
    is as its file stores it. `speedup` is × real time of all streams together, `keeps_up` whether
    p99 is within the planned share of a frame. `quality` is of all rows of one way of storing.
    `command` measures the row again, `seed` is that of random weights, None of a loaded model.
    """

    model: str
    dtype: str
    weights: str | None
    kv: str
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
    quality: Quality | None
    seed: int | None
    command: str

    @classmethod
    def from_json(cls, body: Any) -> EngineRow:
        """Read back what a document holds. Raises KeyError, TypeError where it is not one."""
        quality = body["quality"]
        return cls(**{**body, "quality": quality and Quality(**quality)})

    @property
    def variation(self) -> tuple[str, str, str | None, str, int | None]:
        """What rows of one model in one dtype and way of storing have in common."""
        return self.model, self.dtype, self.weights, self.kv, self.n_q


@dataclass(frozen=True, slots=True)
class EngineTest:
    """A whole run. `profiles` are the files that `plan --profile` reads.

    `interrupted`: it was stopped, or goes on still.
    """

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
    on_row: Callable[[EngineTest], None] = lambda _: None,
) -> EngineTest:
    """Measure, and call `on_row` with the test so far after each row.

    Ctrl-C keeps what was measured. A variation ends where the next number does not fit, or a step
    takes longer than a frame.

    Raises:
        InputError, SourceError: a model is unknown, cannot be stored like that, or the profile is
            of several.
        DriverMissingError: torch sees no such card.
        ExtraMissingError: the worker's libraries are not installed.
    """
    require_worker("measuring an engine")
    from dsmops.worker.models.device import best_device, best_dtype

    device = best_device(cpu=request.cpu)
    device_name = "cpu" if device.type == "cpu" else f"cuda:{request.device}"
    dtypes = request.dtypes or (best_dtype(device),)
    several = len(request.models) * len(dtypes) * len(request.quantised) > 1
    if request.profile is not None and several:
        raise InputError(
            "a profile is of one model in one dtype",
            hint="Omit --profile, or name one --model and one --dtype.",
            code="bench.profile",
        )
    work = _Work(request, device_name, progress, on_row)
    interrupted = False
    try:
        for model in request.models:
            work.measure_model(model, dtypes)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        progress.finish()
    return work.test(interrupted=interrupted)


def device_label(request: EngineRequest) -> str:
    """Return the name of what a run measures: the card, or the processor."""
    from dsmops.worker.models.device import best_device

    if best_device(cpu=request.cpu).type == "cpu":
        return _processor()
    return find_device(None, request.device).name


class _Work:
    """A run: the rows and profiles so far."""

    def __init__(
        self,
        request: EngineRequest,
        device_name: str,
        progress: Progress,
        on_row: Callable[[EngineTest], None],
    ) -> None:
        self._request, self._device_name = request, device_name
        self._progress, self._on_row = progress, on_row
        self._label, self._begun = device_label(request), datetime.now(UTC)
        self._rows: list[EngineRow] = []
        self._profiles: list[Path] = []
        self._kept = {(row.variation, row.streams): row for row in request.kept}

    def test(self, *, interrupted: bool) -> EngineTest:
        """Return what was measured so far."""
        rows, profiles = tuple(self._rows), tuple(self._profiles)
        return EngineTest(
            "engine", self._label, self._begun, __version__, rows, profiles, interrupted
        )

    def measure_model(self, model: str, dtypes: Sequence[ComputeDType]) -> None:
        """Measure all variations of a model."""
        quality = (
            quality_of(model, device_name=self._device_name) if self._request.quality else None
        )
        for dtype in dtypes:
            for quantised in self._request.quantised:
                variation = _Variation(model, dtype, quantised, self._request.n_q)
                self._measure(variation, quality)

    def _measure(self, variation: _Variation, quality: MeasureQuality | None) -> None:
        from dsmops.worker.runtime.measure import measure_engine

        request, sizes = self._request, list(_sizes(self._request.levels))
        kept = [
            row
            for size in sizes
            if (row := self._kept.get((variation.key, size))) is not None
            and (row.quality is not None or quality is None)
        ]
        for row in kept:
            self._rows.append(row)
            self._on_row(self.test(interrupted=True))
        done = {row.streams for row in kept}
        if kept and max(row.step_p99_ms for row in kept) > FRAME_MS:
            # It ended there.
            return
        left = [size for size in sizes if size not in done]
        points = [(row.streams, row.step_p99_ms) for row in kept]
        if left:
            open_engine, context = _opener(variation, self._device_name)
            found_quality = quality and quality(variation.dtype, variation.quantised)
            self._progress.start(f"Measuring {variation}", len(left), "sizes")
            warm_up = request.warm_up_steps
            if warm_up is None:
                warm_up = 10 if self._device_name == "cpu" else context + 10
            for found in measure_engine(
                open_engine,
                left,
                device_name=self._device_name,
                warm_up_steps=warm_up,
                timed_steps=request.steps,
            ):
                row = _row(variation, found, found_quality, self._command(variation, found))
                self._rows.append(row)
                points.append((row.streams, row.step_p99_ms))
                self._on_row(self.test(interrupted=True))
                self._progress.advance(1)
            self._progress.finish()
        if points and (request.profile is not None or self._device_name != "cpu"):
            self._note_profile(variation, sorted(points))

    def _note_profile(self, variation: _Variation, points: Sequence[tuple[int, float]]) -> None:
        """Write the profile that `plan --profile` reads."""
        model = variation.model
        profile = StepProfile(
            self._label,
            model,
            variation.dtype,
            Runtime.EMBEDDED.value,
            tuple(StepPoint(streams, step_p99_ms) for streams, step_p99_ms in points),
            MODELS[model].codebooks(variation.n_q) if model in MODELS else None,
            variation.quantised,
        )
        self._profiles.append(write_profile(profile, self._request.profile))

    def _command(self, variation: _Variation, found: StepMeasurement) -> str:
        device = self._request.device
        return shlex.join(
            [
                *("dsmops", "bench", "--engine", "--model", variation.model),
                *("--dtype", variation.dtype.candle_name),
                *(["--weights", str(weights)] if (weights := variation.quantised.weights) else []),
                *("--kv", variation.quantised.kv),
                *("--streams", str(found.batch_size)),
                *(["--n-q", str(variation.n_q)] if variation.n_q else []),
                *(["--quality"] if self._request.quality else []),
                *(["--cpu"] if self._device_name == "cpu" else []),
                *(["--device", str(device)] if device else []),
            ]
        )


@dataclass(frozen=True, slots=True)
class _Variation:
    """A model in one dtype and way of storing."""

    model: str
    dtype: ComputeDType
    quantised: Quantised
    n_q: int | None

    @property
    def key(self) -> tuple[str, str, str | None, str, int | None]:
        """As `EngineRow.variation`."""
        weights = self.quantised.weights
        return (
            self.model,
            self.dtype.candle_name,
            None if weights is None else weights.value,
            self.quantised.kv.value,
            self.n_q,
        )

    def __str__(self) -> str:
        stored = describe_stored(self.key[2], self.key[3])
        return f"{self.model} in {self.dtype.candle_name}{stored}"


def describe_stored(weights: str | None, kv: str) -> str:
    """Return what is stored in int8 in words that follow a dtype, nothing where nothing is."""
    parts = [
        name for name, stored in (("weights", weights), ("keys and values", kv)) if stored == "int8"
    ]
    return f" with {', '.join(parts)} in int8" if parts else ""


def _opener(variation: _Variation, device_name: str) -> tuple[OpenEngine, int]:
    """Return what opens engines of a variation, and its attention window in steps."""
    from dsmops.worker.runtime.measure import random_engine, stt_engine

    model, dtype, quantised = variation.model, variation.dtype, variation.quantised
    if model in MODELS:
        MODELS[model].codebooks(variation.n_q)  # refuses a number that the model does not have
        shape = MODELS[model].shape
        context = TTS_MODELS[model].shape.lm.context if model in TTS_MODELS else 0
        opener = random_engine(
            shape, dtype, device_name=device_name, n_q=variation.n_q, quantised=quantised
        )
        return opener, context or getattr(shape, "context", 0)
    from dsmops.operations.models.stt import find_stt, load_stt_source

    source = find_stt(model)
    loaded = load_stt_source(source, dtype=dtype, cpu=device_name == "cpu", quantised=quantised)
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


def _row(
    variation: _Variation, found: StepMeasurement, quality: Quality | None, command: str
) -> EngineRow:
    return EngineRow(
        *variation.key,
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
        quality,
        SEED if variation.model in MODELS else None,
        command,
    )


def read_rows(path: Path, request: EngineRequest) -> tuple[EngineRow, ...]:
    """Return the rows of an earlier run with this version on this device, none without a file.

    Raises:
        FileAccessError: the file cannot be read.
        InputError: it is of something else.
    """
    if not path.exists():
        return ()
    with os_errors(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        body = json.loads(text)
        rows = tuple(map(EngineRow.from_json, body["rows"]))
        measured = body["device"], body["dsmops"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise InputError(
            f"{path} is not a result of `dsmops bench --engine` of this version",
            hint="Omit --resume to measure all again.",
            code="bench.not_resumable",
        ) from exc
    here = device_label(request), __version__
    if measured != here:
        raise InputError(
            f"{path} was measured on {measured[0]} by dsmops {measured[1]}, this is {here[0]} and "
            f"{here[1]}",
            hint="Omit --resume to measure all again.",
            code="bench.not_resumable",
        )
    return rows


def _processor() -> str:
    """Return the name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
