"""Measure what a language model computes on given codes.

It records logits, choices and the range of the activations.

Two models can be compared on the same codes: the second one is fed the first one's text, so that
each step has the same inputs. Another row of it takes its own choices. The work goes step by step,
as in serving, but without a graph and with hooks, so it is slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn

from dsmops.dtypes import ComputeDType, Quantised
from dsmops.models import LmShape
from dsmops.progress import SILENT, Progress
from dsmops.worker.models.attention import Positions, RingState, SelfAttention, rotate
from dsmops.worker.models.backbone import Layer
from dsmops.worker.models.device import device_errors
from dsmops.worker.models.loading import int8_tables, published_tables
from dsmops.worker.models.matrix import multiply
from dsmops.worker.models.mimi import MimiEncoder
from dsmops.worker.models.random import random_stt
from dsmops.worker.models.state import RowState
from dsmops.worker.models.stt_lm import SttLm
from dsmops.worker.runtime.stt.transcription import Frame

_RANDOM_STEPS = 200
"""16 s of audio."""


class Stage(StrEnum):
    """Where values are looked at.

    `SCORES` are Q·K before scaling: here they are never formed in 16 bits, in moshi-server they
    are.
    """

    EMBEDDING = "embedding_sum"
    SCORES = "attention_scores"
    ATTENTION = "attention_residual"
    GATE = "gate_product"
    FEED_FORWARD = "feed_forward_residual"
    LOGITS = "logits"


@dataclass(frozen=True, slots=True)
class Reading:
    """The range of the values of one place over all steps and rows.

    It holds the largest finite magnitude, how many values were NaN or infinite, and the first such
    step. `layer` is the prefix of its tensors in the checkpoint, as in `transformer.layers.3`.
    `largest` is None where nothing was finite.
    """

    layer: str
    stage: Stage
    largest: float | None
    non_finite: int
    first_non_finite_step: int | None


@dataclass(frozen=True, slots=True)
class WeightFault:
    """A tensor that holds NaN or infinity in the dtype in which it is computed."""

    tensor: str
    non_finite: int


@dataclass(frozen=True, slots=True)
class SttLmRun:
    """What one model made of the codes.

    `logits` float32 [T, V] on the CPU: of its own text, or of the reference's where there was one.
    `tokens`: its own choices, fed back. `readings` are in the order of computing.
    """

    logits: Tensor
    tokens: tuple[int, ...]
    readings: tuple[Reading, ...]
    faults: tuple[WeightFault, ...]
    compute_s: float


@dataclass(frozen=True, slots=True)
class LogitsError:
    """How far logits are from the reference's, given the same inputs.

    All None where no value is finite in both.

    `relative_rms` is `rms` over `reference_rms`. `same_choice_share`: steps in which both find the
    same token most probable.
    """

    max_abs: float | None
    rms: float | None
    reference_rms: float | None
    relative_rms: float | None
    same_choice_share: float


def encode_frames(
    mimi: MimiEncoder, frames: Iterable[Frame], codebooks: int, *, device: torch.device
) -> Tensor:
    """Return the codes of `frames`, int64 [T, K] on the CPU.

    `frames` are float32 [1920] each, encoded one by one as an engine does.
    """
    with device_errors(device), torch.inference_mode():
        rows = RowState(1, device)
        state = mimi.init_state(rows, zero_start=True)
        mask = torch.ones(1, dtype=torch.bool, device=device)
        codes = [
            mimi.encode(torch.as_tensor(frame, device=device)[None, None], codebooks, state, mask)[
                0, :, 0
            ].cpu()
            for frame in frames
        ]
    return torch.stack(codes)


def run_stt_lm(
    lm: SttLm, codes: Tensor, *, reference: SttLmRun | None = None, progress: Progress = SILENT
) -> SttLmRun:
    """Step `lm` through `codes` (int64 [T, K]), always choosing the most probable token.

    Step t takes frame t - 1, as in serving.

    With `reference`, the logits are those of a row that is fed the tokens of `reference`, and a
    second row is fed its own. Prompts and temperatures play no part: this compares arithmetic.

    Raises:
        GpuMemoryError, DeviceLostError: the device has no room, or failed.
    """
    device = lm.text_emb.device
    begin = time.perf_counter()
    with device_errors(device), torch.inference_mode(), ActivationWatch(lm) as watch:
        rows = RowState(1 if reference is None else 2, device)
        ring, mask = lm.init_state(rows), torch.ones(rows.rows, dtype=torch.bool, device=device)
        fed = torch.cat([torch.full_like(codes[:1], lm.initial_audio), codes[:-1]]).to(device)
        text = torch.full((rows.rows,), lm.initial_text, device=device)
        logits, tokens = [], []
        for step, audio in enumerate(fed):
            values, _ = lm(text[:, None], audio.expand(rows.rows, -1)[..., None], ring, mask)
            watch.end_step()
            text = values[:, 0].argmax(-1)
            if reference is not None:
                text[0] = reference.tokens[step]
            logits.append(values[0, 0].float().cpu())
            tokens.append(int(text[-1]))
            progress.advance(1)
        faults = tuple(_weight_faults(lm))
        return SttLmRun(
            torch.stack(logits),
            tuple(tokens),
            watch.readings(),
            faults,
            time.perf_counter() - begin,
        )


def compare_logits(reference: SttLmRun, other: SttLmRun) -> LogitsError:
    """Return how far the logits of `other` are from the reference's.

    `other` was fed the reference's tokens.
    """
    count, largest, squares, reference_squares, same = 0, 0.0, 0.0, 0.0, 0
    for expected, got in zip(reference.logits, other.logits, strict=True):
        finite = expected.isfinite() & got.isfinite()
        wanted = expected[finite].double()
        error = got[finite].double() - wanted
        count += len(error)
        largest = max(largest, float(error.abs().max())) if len(error) else largest
        squares += float(error.square().sum())
        reference_squares += float(wanted.square().sum())
        same += bool(finite.all()) and int(expected.argmax()) == int(got.argmax())
    share = same / len(reference.logits)
    if not count:
        return LogitsError(None, None, None, None, share)
    rms, reference_rms = (squares / count) ** 0.5, (reference_squares / count) ** 0.5
    return LogitsError(
        largest, rms, reference_rms, rms / reference_rms if reference_rms else None, share
    )


def random_comparison(
    shape: LmShape, device_name: str, *, seed: int
) -> Callable[[ComputeDType, Quantised], LogitsError]:
    """Return what compares a model of random weights, stored in some way, with itself in float32.

    Both get the same random codes, and the text of the one in float32, which is computed once.
    """
    device = torch.device(device_name)
    # The last row of a codebook's table stands for "no audio yet".
    size = (_RANDOM_STEPS, shape.audio_codebooks)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(shape.audio_vocab_size - 1, size, generator=generator)

    @cache
    def exact() -> SttLmRun:
        return run_stt_lm(random_stt(shape, device, ComputeDType.F32, seed=seed).lm, codes)

    def compare(dtype: ComputeDType, quantised: Quantised) -> LogitsError:
        reference = exact()
        model = random_stt(shape, device, dtype, seed=seed, quantised=quantised)
        return compare_logits(reference, run_stt_lm(model.lm, codes, reference=reference))

    return compare


class ActivationWatch:
    """Watches a language model's activations by hooks, while it is entered.

    The networks have no code for it.
    """

    def __init__(self, lm: SttLm) -> None:
        self._lm = lm
        self._handles: list[Any] = []
        self._places: list[tuple[str, Stage]] = []
        self._steps = 0
        self._step: dict[int, Tensor] = {}
        self._largest = self._non_finite = self._first = torch.empty(0)

    def __enter__(self) -> ActivationWatch:
        lm = self._lm
        layers = cast("list[Layer]", list(lm.layers))
        self._before(layers[0].norm1, "emb", Stage.EMBEDDING)
        for number, layer in enumerate(layers):
            name = f"transformer.layers.{number}"
            self._handles.append(
                layer.self_attn.register_forward_hook(
                    partial(self._scores, self._place(name, Stage.SCORES))
                )
            )
            self._before(layer.norm2, name, Stage.ATTENTION)
            self._after(layer.gating, name, Stage.GATE)
            self._after(layer, name, Stage.FEED_FORWARD)
        self._after(lm.text_linear, "text_linear", Stage.LOGITS)
        places, device = len(self._places), lm.text_emb.device
        self._largest = torch.zeros(places, device=device)
        self._non_finite = torch.zeros(places, dtype=torch.float64, device=device)
        self._first = torch.full((places,), -1, device=device)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def end_step(self) -> None:
        """Add what the step gave. Nothing is brought to the CPU."""
        seen = torch.stack([self._step[place] for place in range(len(self._places))])
        self._largest = torch.maximum(self._largest, seen[:, 0])
        self._non_finite += seen[:, 1]
        self._first = torch.where((self._first < 0) & (seen[:, 1] > 0), self._steps, self._first)
        self._steps += 1

    def readings(self) -> tuple[Reading, ...]:
        """Return what was seen, in the order of computing."""
        seen = zip(
            self._places,
            self._largest.tolist(),
            self._non_finite.tolist(),
            self._first.tolist(),
            strict=True,
        )
        return tuple(
            Reading(
                layer,
                stage,
                largest if largest or not bad else None,
                int(bad),
                first if first >= 0 else None,
            )
            for (layer, stage), largest, bad, first in seen
        )

    def _place(self, layer: str, stage: Stage) -> int:
        self._places.append((layer, stage))
        return len(self._places) - 1

    def _before(self, module: nn.Module, layer: str, stage: Stage) -> None:
        place = self._place(layer, stage)
        self._handles.append(
            module.register_forward_pre_hook(lambda _, inputs: self._look(place, inputs[0]))
        )

    def _after(self, module: nn.Module, layer: str, stage: Stage) -> None:
        place = self._place(layer, stage)
        self._handles.append(
            module.register_forward_hook(lambda _, __, output: self._look(place, output))
        )

    def _look(self, place: int, x: Tensor) -> None:
        largest = x.float().abs().nan_to_num(nan=0.0, posinf=0.0).amax()
        self._step[place] = torch.stack([largest, (~x.isfinite()).sum().float()])

    def _scores(
        self,
        place: int,
        attention: SelfAttention,
        inputs: tuple[Tensor, Positions, RingState, int],
        _: Tensor,
    ) -> None:
        """Record the range of Q·K of the step, unscaled, in float32.

        The keys are those that the layer has just written.
        """
        x, at, ring, layer = inputs
        query = (
            multiply(x, attention.in_proj_weight)[..., : x.shape[-1]]
            .unflatten(-1, (attention.heads, -1))
            .transpose(1, 2)
        )
        keys, _ = ring.entries[layer].read(torch.float32)
        keys = keys.float()
        self._look(place, torch.matmul(rotate(query, at.rotation).float(), keys.transpose(-1, -2)))


def _weight_faults(lm: SttLm) -> Iterable[WeightFault]:
    # An int8 matrix is finite where its scales are.
    scales = {
        name: torch.cat([matrix.largest for matrix in matrices])
        for name, matrices in int8_tables(lm).items()
    }
    for name, weights in (published_tables(lm) | scales).items():
        bad = weights.numel() - int(weights.isfinite().sum())
        if bad:
            yield WeightFault(name, bad)
