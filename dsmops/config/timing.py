"""The time of a step, and so how many streams keep up.

It is measured where a profile exists, and estimated otherwise. Every step runs the whole configured
batch, used or not, and must end within 80 ms. This module knows nothing of what fits; the planner
takes the smaller of both bounds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dsmops.config.memory import VOICE_POSITIONS, ServedModel, saved_bytes, stored_kv_bytes
from dsmops.devices import Device, Runtime
from dsmops.dtypes import PLAIN, ComputeDType, Quant, Quantised
from dsmops.errors import InputError
from dsmops.files import os_errors, require_file
from dsmops.models import FRAME_MS, TtsShape

BUDGET_SHARE = 0.8
"""Share of the 80 ms that a planned step may take. The rest absorbs jitter, so that the slowest
steps end in time."""
BUDGET_MS = FRAME_MS * BUDGET_SHARE


@dataclass(frozen=True, slots=True)
class _Launches:
    """What a step takes on an endlessly wide bus, in milliseconds.

    By layer of the language model, by codebook of a depformer, for Mimi, and by slot in Python.
    """

    layer_ms: float
    mimi_ms: float
    codebook_ms: float = 0.0
    slot_ms: float = 0.0


# moshi-server with an STT model, measured on one H200 (0.6.4, 1B model, f16; batch and median step
# in ms): 1 14.5, 8 13.1, 64 13.7, 256 32.0, 400 48.2, 560 63.9, 700 79.0. candle launches its small
# kernels one by one, so small batches wait for the processor: the floor, half of it the 16 layers
# and half Mimi. Large batches wait for the card: 4.6 ms and 0.107 ms a slot.
_FLOOR_LAYER_MS = 0.43
_FLOOR_MIMI_MS = 6.8
_SLOW_HOST_FLOOR = 2.1
"""How much longer launches take on the slowest host that is published: 28.8 ms a step at batch 2 in
f16 with an RTX 2070, where this floor is 13.7."""
_BF16_FLOOR = 1.15
"""bf16 took 14.5, 16.9 and 16.6 ms at batch 1, 8 and 64 there."""
_KERNELS_LAYER_MS = 0.15
_KERNELS_MIMI_MS = 1.6
"""The shortest that the kernels of a step take on the card, whatever the batch."""
_MIMI_SLOT_MS = 0.069
"""Mimi's convolutions for one slot in float32, on an H200: what the traffic does not explain."""
_H200_FP32_PER_S = 67e12
_FP32_PER_BYTE = ((6, 14), (7, 17), (8, 10), (8.6, 35), (8.9, 76), (9, 14), (10, 9), (12, 55))
"""Peak float32 operations for each byte of peak bandwidth, from a compute capability on.

They are the lower end for the cards of an architecture: T4 and RTX 2070 have 17 to 25, L40S and RTX
4060 Ti 76 to 106. Times the bandwidth, they give a card's arithmetic, which no driver reports."""

# The embedded worker replays one graph and launches nothing: its fixed part is the shortest that
# its kernels take, on an H200.
_STT_WORKER = _Launches(0.06, 1.3)
# TTS on one H200 with 24 codebooks. moshi-server's Python module at 1, 32 and 64 texts: 21.1, 28.8
# and 32.8 ms a step, of which the bare `moshi` package takes 16.8, 19.1 and 21.4. The embedded
# worker takes 9.5 ms at batch 1 and 32 codebooks, 1.9 of them in the language model and 0.9 in
# Mimi.
_TTS_LAUNCHES = {
    Runtime.MOSHI_SERVER: _Launches(0.3, 2.5 + 4.6, 0.33, 0.115),
    Runtime.EMBEDDED: _Launches(0.07, 0.95, 0.17),
}
_BANDWIDTH_SHARE = 0.7
"""Share of the theoretical memory bandwidth that such kernels reach."""
_INT8_KV_TRAFFIC = 1.35
"""What keys and values in int8 take of the time that their bytes do: a slot of the 1B on an H200
costs 0.029 ms with them, and 0.039 without."""
_MIMI_HALF_BYTES = 225_000_000
"""One half of Mimi in F32, the encoder or the decoder, read once a step."""
_MIMI_ENCODER_TRAFFIC_BYTES = 28_000_000
"""KV (8 MB) and convolution activations (about 20 MB) of one stream, moved once a step."""
_MIMI_DECODER_TRAFFIC_BYTES = 100_000_000
"""Memory traffic that takes 0.03 ms on an H200.

One more stream costs the package's decoder 0.04 ms there, and the worker's 0.02, from batch 1 to
64."""

PROFILE_SCHEMA = "dsmops.step-profile/1"


Measured = tuple[str, str, ComputeDType, str, int | None, str]
"""Device name, model, dtype, runtime, how many codebooks are generated (None: STT), and what is in
int8, in words."""


def measured_of(
    device_name: str,
    model: str,
    dtype: ComputeDType,
    runtime: str,
    n_q: int | None,
    quantised: Quantised,
) -> Measured:
    """Return what a profile of this was measured with."""
    in_int8 = f"{quantised.in_int8} in int8" if quantised.has_int8 else "no int8"
    return device_name, model, dtype, runtime, n_q, in_int8


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
    dtype: ComputeDType
    runtime: str
    points: tuple[StepPoint, ...]
    n_q: int | None = None
    quantised: Quantised = PLAIN

    @property
    def measured(self) -> Measured:
        """What a plan must share with a profile to use it."""
        return measured_of(
            self.device_name, self.model, self.dtype, self.runtime, self.n_q, self.quantised
        )

    def step_p99_ms(self, batch_size: int) -> float | None:
        """Return the 99th percentile of the step time at `batch_size`, in ms.

        It is linear between measured points, constant below the first, and None beyond the last.
        """
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
        """Return the largest batch whose 99th percentile stays within `budget_ms`.

        Never more than was measured. 0: none.
        """
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
    model: ServedModel, batch_size: int, device: Device, *, slow_host: bool = False
) -> float | None:
    """Return a rough step time in milliseconds, None where the device's bandwidth is unknown.

    A step takes what the card needs (kernels, weights once, every slot's caches and Mimi at 70 % of
    the bus), and with candle at least what the processor needs to launch it. Measured on an H200
    and scaled by bandwidth and arithmetic. A TTS model reads one weight set of its depformer for
    each of its codebooks. Measure before relying on it.

    Checked against what others published (1B unless named): L40S, 64 streams at 3 × real time
    (26.7 ms): 4 % less. H100, 400 streams of the 2.6B in real time (80 ms): 1 % more. RTX 2070,
    f16, batch 2, 28.8 ms: half, for the launches of that host's processor take twice as long;
    `slow_host` reckons with that.

    The embedded worker's, against moshi.cpp, another program, at one stream (its README, CUDA on
    Linux, weights not quantised). 1B: RTX 2070 93.3 frames/s, RTX 3060 78.0: 10 % less time; RTX
    4060 76.6: 11 % more. TTS, 32 codebooks: 20.6, 18.0 and 19.4 frames/s: 45, 44 and 25 % less.
    """
    parts = _step_parts(model, device)
    if parts is None:
        return None
    floor_ms, empty_ms, slot_ms = parts
    floor_ms *= _SLOW_HOST_FLOOR if slow_host else 1
    return max(floor_ms, empty_ms + batch_size * slot_ms)


def estimate_largest_batch(
    model: ServedModel, device: Device, *, budget_ms: float = BUDGET_MS
) -> int | None:
    """Return the largest batch whose estimated step stays within `budget_ms`.

    None where there is no estimate, 0 when no batch does.
    """
    parts = _step_parts(model, device)
    if parts is None:
        return None
    floor_ms, empty_ms, slot_ms = parts
    return 0 if floor_ms > budget_ms else max(0, int((budget_ms - empty_ms) / slot_ms))


def _step_parts(model: ServedModel, device: Device) -> tuple[float, float, float] | None:
    """Return the floor of a step, the time of an empty step, and that of each slot, in ms."""
    shape, dtype, runtime, quantised = model.shape, model.dtype, model.runtime, model.quantised
    if device.memory_bandwidth_bytes_per_s is None:
        return None
    bytes_per_ms = device.memory_bandwidth_bytes_per_s * _BANDWIDTH_SHARE / 1000
    floor_ms = 0.0
    if isinstance(shape, TtsShape):
        lm, launches = shape.lm, _TTS_LAUNCHES[runtime]
        codebooks = model.n_q or lm.audio_codebooks
        rows = 1 if shape.distilled else 2
        parameters = shape.backbone_parameters + codebooks * shape.depformer_parameters_per_codebook
        positions, mimi_bytes = lm.context + VOICE_POSITIONS, _MIMI_DECODER_TRAFFIC_BYTES
        saved = codebooks * saved_bytes(shape.depformer_matrices(1), dtype, quantised)
    else:
        lm, codebooks, rows, parameters = shape, 0, 1, shape.parameters
        positions, mimi_bytes = model.context or lm.context, _MIMI_ENCODER_TRAFFIC_BYTES
        launches, saved = _STT_WORKER, 0
        if runtime is Runtime.MOSHI_SERVER:
            floor_ms = _FLOOR_MIMI_MS + lm.num_layers * _FLOOR_LAYER_MS
            floor_ms *= _BF16_FLOOR if dtype is ComputeDType.BF16 else 1
            mimi_slot_ms = _MIMI_SLOT_MS * _H200_FP32_PER_S / _fp32_per_s(device)
            launches = _Launches(_KERNELS_LAYER_MS, _KERNELS_MIMI_MS, slot_ms=mimi_slot_ms)
    saved += saved_bytes(shape.layer_matrices, dtype, quantised)
    fixed_bytes = parameters * dtype.itemsize - saved + _MIMI_HALF_BYTES
    kv_bytes = stored_kv_bytes(lm, positions, dtype, quantised)
    kv_share = _INT8_KV_TRAFFIC if quantised.kv is Quant.INT8 else 1
    slot_bytes = rows * kv_share * kv_bytes + mimi_bytes
    empty_ms = (
        launches.mimi_ms
        + lm.num_layers * launches.layer_ms
        + codebooks * launches.codebook_ms
        + fixed_bytes / bytes_per_ms
    )
    return floor_ms, empty_ms, launches.slot_ms + slot_bytes / bytes_per_ms


def _fp32_per_s(device: Device) -> float:
    capability = device.compute_capability
    version = capability.major + capability.minor / 10 if capability else 0
    known = [ratio for since, ratio in _FP32_PER_BYTE if since <= version]
    return (known[-1] if known else 10) * (device.memory_bandwidth_bytes_per_s or 0)


def read_profile(path: Path) -> StepProfile:
    """Read a measured profile.

    The file is a JSON object: `schema` ("dsmops.step-profile/1"), `device_name`, `model`, `dtype`,
    `runtime`, for a text-to-speech model `n_q`, `weights` and `kv` where these are "int8", and
    `points`, a list of objects with `batch_size` and `step_p99_ms`.

    Raises:
        SourceError, FileAccessError: the file is not there, or cannot be read.
        InputError: it is not a file, or not such an object; the message names what is wrong.
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
        ComputeDType.parse(str(body["dtype"])),
        str(body["runtime"]),
        points,
        n_q,
        Quantised(*(Quant(body.get(part, Quant.NONE)) for part in ("weights", "kv"))),
    )
