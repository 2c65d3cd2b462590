"""How long a step takes, and so how many streams keep up: measured where a profile exists, estimated otherwise.

Every step runs the whole configured batch, used or not, and must end within 80 ms. This module
knows nothing of what fits; the planner takes the smaller of both bounds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dsmops.config.memory import VOICE_POSITIONS
from dsmops.devices import Device, Runtime
from dsmops.dtypes import DType
from dsmops.errors import InputError
from dsmops.files import os_errors, require_file
from dsmops.models import FRAME_MS, Shape, TtsShape

BUDGET_SHARE = 0.8
"""Share of the 80 ms that a planned step may take: what is left absorbs jitter, so that the slowest steps still end in time."""
BUDGET_MS = FRAME_MS * BUDGET_SHARE


@dataclass(frozen=True, slots=True)
class _Launches:
    """What a step takes on an endlessly wide bus, in milliseconds: by layer of the language model, codebook of a depformer, and Mimi."""

    layer_ms: float
    mimi_ms: float
    codebook_ms: float = 0.0


# The estimate. Its fixed part for moshi-server comes from the only public trace of a Turing card:
# RTX 2070 class, 1B model, f16, batch 2, median 28.8 ms, of which the memory traffic below explains
# 8 ms. The remaining 21 ms are kernel launches, split by their number: about half in the 16
# language-model layers, half in Mimi with its 32 quantiser stages. The embedded worker replays one
# graph and launches nothing: its fixed part is the shortest that its kernels take, on an H200.
_STT_LAUNCHES = {
    Runtime.MOSHI_SERVER: _Launches(0.62, 11.0),
    Runtime.EMBEDDED: _Launches(0.06, 1.3),
}
# Text-to-speech on one H200 at batch 1, 32 codebooks in f16: 19.4 ms in the `moshi` package, which
# moshi-server's Python module runs, and 9.5 ms in the embedded worker, 1.9 of them in the language
# model and 0.9 in Mimi; 1.7 ms of either are traffic.
_TTS_LAUNCHES = {
    Runtime.MOSHI_SERVER: _Launches(0.3, 2.5, 0.33),
    Runtime.EMBEDDED: _Launches(0.07, 0.95, 0.17),
}
_BANDWIDTH_SHARE = 0.7
"""Share of the theoretical memory bandwidth that such kernels reach."""
_MIMI_HALF_BYTES = 225_000_000
"""One half of Mimi in F32, the encoder or the decoder, read once a step."""
_MIMI_ENCODER_TRAFFIC_BYTES = 28_000_000
"""KV (8 MB) and convolution activations (about 20 MB) of one stream, moved once a step."""
_MIMI_DECODER_TRAFFIC_BYTES = 100_000_000
"""What takes 0.03 ms there. One more stream takes the package's decoder 0.04 ms on an H200, the worker's 0.02, from batch 1 to 64."""

PROFILE_SCHEMA = "dsmops.step-profile/1"


Measured = tuple[str, str, DType, str, int | None]
"""Device name, model, dtype, runtime, and how many codebooks are generated (None: the model hears)."""


@dataclass(frozen=True, slots=True)
class StepPoint:
    """One measured batch size and the 99th percentile of the whole step, in milliseconds."""

    batch_size: int
    step_p99_ms: float


@dataclass(frozen=True, slots=True)
class StepProfile:
    """Measured step times of one model on one kind of device, by rising batch size."""

    device_name: str
    model: str
    dtype: DType
    runtime: str
    points: tuple[StepPoint, ...]
    n_q: int | None = None

    @property
    def measured(self) -> Measured:
        """What a plan must share with a profile to use it."""
        return self.device_name, self.model, self.dtype, self.runtime, self.n_q

    def step_p99_ms(self, batch_size: int) -> float | None:
        """Return the 99th percentile at `batch_size`, linear between measured points, level below the first, None beyond the last."""
        below = self.points[0]
        for point in self.points:
            if point.batch_size >= batch_size:
                span = point.batch_size - below.batch_size
                share = (
                    (batch_size - below.batch_size) / span
                    if span > 0 and batch_size > below.batch_size
                    else 0.0
                )
                start = below if span > 0 else point
                return start.step_p99_ms + share * (point.step_p99_ms - start.step_p99_ms)
            below = point
        return None

    def largest_batch(self, budget_ms: float = BUDGET_MS) -> int:
        """Return the largest batch up to which the 99th percentile stays within `budget_ms`, never beyond what was measured; 0: none."""
        if self.points[0].step_p99_ms > budget_ms:
            return 0
        for below, above in pairwise(self.points):
            if above.step_p99_ms > budget_ms:
                rise = (above.step_p99_ms - below.step_p99_ms) / (
                    above.batch_size - below.batch_size
                )
                return below.batch_size + int((budget_ms - below.step_p99_ms) / rise)
        return self.points[-1].batch_size


def estimate_step_ms(
    shape: Shape,
    dtype: DType,
    batch_size: int,
    device: Device,
    *,
    context: int | None = None,
    runtime: Runtime = Runtime.MOSHI_SERVER,
    n_q: int | None = None,
) -> float | None:
    """Return a rough step time in milliseconds, None where the device's memory bandwidth is unknown.

    Kernel launches plus memory traffic (weights once, every slot's full caches and Mimi state) at
    70 % of the bus. A text-to-speech model reads one weight set of its depformer for each of `n_q`
    codebooks (None: all), again where two use the same one. Calibrated on one public trace of one
    card, and for speaking on another; good for "tens or hundreds of streams", not for promises.
    Measure before relying on it.
    """
    if device.memory_bandwidth_bytes_per_s is None:
        return None
    if isinstance(shape, TtsShape):
        lm, codebooks, launches = shape.lm, n_q or shape.lm.audio_codebooks, _TTS_LAUNCHES[runtime]
        rows = batch_size if shape.distilled else 2 * batch_size
        parameters = shape.backbone_parameters + codebooks * shape.depformer_parameters_per_codebook
        positions, mimi_bytes = lm.context + VOICE_POSITIONS, _MIMI_DECODER_TRAFFIC_BYTES
    else:
        lm, codebooks, launches, rows = shape, 0, _STT_LAUNCHES[runtime], batch_size
        parameters, positions, mimi_bytes = (
            lm.parameters,
            context or lm.context,
            _MIMI_ENCODER_TRAFFIC_BYTES,
        )
    fixed_bytes = parameters * dtype.itemsize + _MIMI_HALF_BYTES
    slots_bytes = rows * lm.kv_bytes_per_stream(dtype.itemsize, positions) + batch_size * mimi_bytes
    traffic_s = (fixed_bytes + slots_bytes) / (
        device.memory_bandwidth_bytes_per_s * _BANDWIDTH_SHARE
    )
    return (
        launches.mimi_ms
        + lm.num_layers * launches.layer_ms
        + codebooks * launches.codebook_ms
        + traffic_s * 1000
    )


def estimate_largest_batch(
    shape: Shape,
    dtype: DType,
    device: Device,
    *,
    context: int | None = None,
    budget_ms: float = BUDGET_MS,
    runtime: Runtime = Runtime.MOSHI_SERVER,
    n_q: int | None = None,
) -> int | None:
    """Return the largest batch whose estimated step stays within `budget_ms`; None where there is no estimate, 0 when none does."""
    empty_ms, one_ms = (
        estimate_step_ms(shape, dtype, slots, device, context=context, runtime=runtime, n_q=n_q)
        for slots in (0, 1)
    )
    if empty_ms is None or one_ms is None:
        return None
    return max(0, int((budget_ms - empty_ms) / (one_ms - empty_ms)))


def read_profile(path: Path) -> StepProfile:
    """Read a measured profile.

    The file is a JSON object: `schema` ("dsmops.step-profile/1"), `device_name`, `model`, `dtype`,
    `runtime`, for a text-to-speech model `n_q`, and `points`, a list of objects with `batch_size`
    and `step_p99_ms`.

    Raises:
        SourceError, FileAccessError: the file is not there, or cannot be read.
        InputError: it is no file, or not such an object; the message names what is wrong.
    """
    require_file(path, "profile")
    with os_errors(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return _parse_profile(json.loads(text))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
        what = f"the key {exc} is missing" if isinstance(exc, KeyError) else str(exc)
        raise InputError(
            f"{path} is not a step profile: {what}",
            hint=f"Its schema is {PROFILE_SCHEMA}; remove the file to plan without it.",
        ) from exc


def find_profile(folder: Path, measured: Measured) -> StepProfile | None:
    """Return the profile in `folder` that was measured for exactly this, if there is one."""
    profiles = map(read_profile, sorted(folder.glob("*.json"))) if folder.is_dir() else ()
    return next((profile for profile in profiles if profile.measured == measured), None)


def _parse_profile(body: Any) -> StepProfile:
    if not isinstance(body, dict) or body.get("schema") != PROFILE_SCHEMA:
        raise ValueError(f"its schema is not {PROFILE_SCHEMA}")
    points = tuple(
        StepPoint(int(point["batch_size"]), float(point["step_p99_ms"])) for point in body["points"]
    )
    sizes = [point.batch_size for point in points]
    if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1:
        raise ValueError("its points must be there, with rising batch sizes from 1")
    if any(not 0 < point.step_p99_ms < float("inf") for point in points):
        raise ValueError("a step time is not a positive number")
    n_q = None if body.get("n_q") is None else int(body["n_q"])
    return StepProfile(
        str(body["device_name"]),
        str(body["model"]),
        DType.parse(str(body["dtype"])),
        str(body["runtime"]),
        points,
        n_q,
    )
