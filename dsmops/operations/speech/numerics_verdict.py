"""Compare two runs of a language model, of the original and of the converted one.

The result has figures side by side, thresholds, and a verdict with its reasons. Pure: no files, no
tensors but those that the runs already hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dsmops.dtypes import ComputeDType
from dsmops.operations.speech.numerics_words import WordRates, word_rates
from dsmops.worker.models.conventions import FRAMES_PER_S, LAST_SPECIAL

if TYPE_CHECKING:
    from dsmops.worker.runtime.numerics import LogitsError, Reading, SttLmRun, WeightFault

F16_MAX = 65_504.0
"""Largest finite number of float16."""
LEAST_HEADROOM = 2.0
"""F16_MAX over the largest activation. One recording proves little about the next: below this,
another may overflow."""
LARGE_ERROR = 0.02
"""Relative rms error of the logits of the 1B model's size, random weights, computed in bfloat16, in
which the models were released. In float16 it is 0.0024."""
LARGEST_ERROR = 0.1
"""Relative rms error of logits that rounding cannot explain."""

LARGE_WER_RISE = 0.02
"""How much the word error rate may rise without a warning: of 62 words one more is wrong."""
LARGEST_WER_RISE = 0.05
"""A rise that is not chance in a recording of a minute or more."""

_SCORES = "attention_scores"
_SHOWN_TENSORS = 4


class NumericsVerdict(StrEnum):
    """`NO`: not to be served like this.

    `WARNING`: it worked here, with little headroom.
    """

    YES = "yes"
    WARNING = "warning"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for a verdict that is not yes."""

    verdict: NumericsVerdict
    message: str


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What the verdict was measured by."""

    f16_max: float = F16_MAX
    least_headroom: float = LEAST_HEADROOM
    large_relative_rms: float = LARGE_ERROR
    largest_relative_rms: float = LARGEST_ERROR
    large_wer_rise: float = LARGE_WER_RISE
    largest_wer_rise: float = LARGEST_WER_RISE


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models: its file, dtype, text, and values that were not finite.

    The text is what the model wrote from its own tokens. `non_finite` counts activations in all
    places and steps, `weight_faults` weights.
    """

    file: Path
    dtype: ComputeDType
    text: str
    tokens: tuple[int, ...]
    weight_faults: tuple[WeightFault, ...]
    non_finite: int
    compute_s: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Tokens of the two models left alone, step by step.

    The first difference as step and as time in the recording, None where none is.
    """

    steps: int
    same: int
    share: float
    first_difference_step: int | None
    first_difference_s: float | None
    same_text: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Activations of one place in both models.

    `layer` is the prefix of its tensors in the checkpoint, `stage` one of
    `worker.runtime.numerics.Stage`. Magnitudes are None where nothing was finite. `headroom` is
    65,504 over the larger of the two, None for zero too. `first_non_finite_step` is the converted
    model's.
    """

    layer: str
    stage: str
    source_largest: float | None
    target_largest: float | None
    largest: float | None
    headroom: float | None
    source_non_finite: int
    target_non_finite: int
    first_non_finite_step: int | None


@dataclass(frozen=True, slots=True)
class NumericsReport:
    """What two models made of one recording.

    `audio_s` is how much of it was used, without the silence fed before and after it. `words` are
    the word error rates, None where no reference was given.
    """

    verdict: NumericsVerdict
    findings: tuple[Reason, ...]
    notes: tuple[str, ...]
    thresholds: Thresholds
    model: str
    device: str
    audio: str
    audio_s: float
    steps: int
    source: Side
    target: Side
    logits: LogitsError
    agreement: Agreement
    places: tuple[Place, ...]
    words: WordRates | None


@dataclass(frozen=True, slots=True)
class Setting:
    """The recording that both models got, and what they ran on.

    `prefix_frames` of silence went before the recording.
    """

    audio: str
    audio_s: float
    prefix_frames: int
    model: str
    device: str


class _Decoder(Protocol):
    def decode(self, ids: Sequence[int]) -> str: ...


def judge(
    setting: Setting,
    files: tuple[Path, Path],
    dtype: ComputeDType,
    runs: tuple[SttLmRun, SttLmRun],
    logits: LogitsError,
    tokenizer: _Decoder,
    *,
    reference: str | None = None,
    notes: Sequence[str] = (),
) -> NumericsReport:
    """Return the report on two runs: the original's in float32, the other's in `dtype`.

    `reference` is the spoken text, normalised.
    """
    original, converted = runs
    places = tuple(
        _place(*pair) for pair in zip(original.readings, converted.readings, strict=True)
    )
    source, target = (
        Side(
            file=file,
            dtype=computed_in,
            text=tokenizer.decode([token for token in run.tokens if token > LAST_SPECIAL]),
            tokens=run.tokens,
            weight_faults=run.faults,
            non_finite=sum(reading.non_finite for reading in run.readings),
            compute_s=run.compute_s,
        )
        for file, computed_in, run in zip(files, (ComputeDType.F32, dtype), runs, strict=True)
    )
    rates = None if reference is None else word_rates(reference, source.text, target.text)
    findings = (
        *_reasons(source, target, runs, places, logits),
        *(() if rates is None else _about_words(rates)),
    )
    return NumericsReport(
        verdict=max(
            (finding.verdict for finding in findings),
            key=list(NumericsVerdict).index,
            default=NumericsVerdict.YES,
        ),
        findings=findings,
        notes=tuple(notes),
        thresholds=Thresholds(),
        model=setting.model,
        device=setting.device,
        audio=setting.audio,
        audio_s=setting.audio_s,
        steps=len(original.tokens),
        source=source,
        target=target,
        logits=logits,
        agreement=_agreement(source, target, setting.prefix_frames),
        places=places,
        words=rates,
    )


def _about_words(rates: WordRates) -> Iterator[Reason]:
    if rates.rise > LARGE_WER_RISE:
        largest = rates.rise > LARGEST_WER_RISE
        limit = LARGEST_WER_RISE if largest else LARGE_WER_RISE
        yield Reason(
            NumericsVerdict.NO if largest else NumericsVerdict.WARNING,
            f"the word error rate rises from {rates.source_wer:.1%} to {rates.target_wer:.1%}, by"
            f" more than {limit:.0%}",
        )


def _place(source: Reading, target: Reading) -> Place:
    largest = max(
        (value for value in (source.largest, target.largest) if value is not None), default=None
    )
    return Place(
        layer=source.layer,
        stage=source.stage.value,
        source_largest=source.largest,
        target_largest=target.largest,
        largest=largest,
        headroom=F16_MAX / largest if largest else None,
        source_non_finite=source.non_finite,
        target_non_finite=target.non_finite,
        first_non_finite_step=target.first_non_finite_step,
    )


def _agreement(source: Side, target: Side, prefix_frames: int) -> Agreement:
    pairs = list(zip(source.tokens, target.tokens, strict=True))
    same = sum(one == other for one, other in pairs)
    first = next((step for step, (one, other) in enumerate(pairs) if one != other), None)
    return Agreement(
        steps=len(pairs),
        same=same,
        share=same / len(pairs),
        first_difference_step=first,
        first_difference_s=None if first is None else max(0, first - prefix_frames) / FRAMES_PER_S,
        same_text=source.text == target.text,
    )


def _reasons(
    source: Side,
    target: Side,
    runs: tuple[SttLmRun, SttLmRun],
    places: Sequence[Place],
    logits: LogitsError,
) -> Iterator[Reason]:
    for side, run, what in (
        (source, runs[0], "the original"),
        (target, runs[1], "the converted model"),
    ):
        if side.weight_faults:
            named = ", ".join(
                f"{fault.tensor} ({fault.non_finite:,})"
                for fault in side.weight_faults[:_SHOWN_TENSORS]
            )
            more = (
                f" and {len(side.weight_faults) - _SHOWN_TENSORS} more"
                if len(side.weight_faults) > _SHOWN_TENSORS
                else ""
            )
            yield Reason(
                NumericsVerdict.NO,
                f"{what} has NaN or infinity among its weights as {side.dtype}: {named}{more}",
            )
        if side.non_finite:
            yield Reason(
                NumericsVerdict.NO,
                f"{what}, computed in {side.dtype}, gives NaN or infinity, "
                f"{_beginning(run.readings)}",
            )
    yield from _about_headroom(target, places)
    relative = logits.relative_rms
    if relative is not None and relative > LARGEST_ERROR:
        yield Reason(
            NumericsVerdict.NO,
            f"logits are {relative:.2g} of their size apart (rms); above {LARGEST_ERROR:g} "
            "rounding cannot explain it",
        )
    elif relative is not None and relative > LARGE_ERROR:
        yield Reason(
            NumericsVerdict.WARNING,
            f"logits are {relative:.2g} of their size apart (rms), more than bf16 costs "
            f"({LARGE_ERROR:g})",
        )


def _beginning(readings: Sequence[Reading]) -> str:
    """Return where a value was not finite first.

    It is the earliest step, and in it the first place in the order of computing.
    """
    bad = [reading for reading in readings if reading.first_non_finite_step is not None]
    first = min(bad, key=lambda reading: reading.first_non_finite_step or 0)
    layers = len({reading.layer for reading in bad})
    return (
        f"from step {first.first_non_finite_step} on, first in {first.layer} "
        f"({words(first.stage)}), in the end in {layers} layers"
    )


def _about_headroom(target: Side, places: Sequence[Place]) -> Iterator[Reason]:
    if target.dtype is not ComputeDType.F16:
        return
    for scores in (True, False):
        headrooms = [
            (place.headroom, place)
            for place in places
            if place.headroom is not None and (place.stage == _SCORES) is scores
        ]
        if not headrooms:
            continue
        headroom, least = min(headrooms, key=lambda pair: pair[0])
        what = f"values in {least.layer} ({words(least.stage)}) reach {least.largest:,.0f}"
        if scores and headroom < 1:
            yield Reason(
                NumericsVerdict.NO,
                f"{what}: moshi-server forms them in f16, where they are infinite; the "
                "embedded worker does not",
            )
        elif headroom < 1 and not target.non_finite:
            yield Reason(
                NumericsVerdict.WARNING,
                f"{what} in the original, which f16 cannot hold; the converted model stays finite",
            )
        elif headroom < LEAST_HEADROOM and not target.non_finite:
            room = (
                f"f16 ends {headroom:.2g} × higher, and below {LEAST_HEADROOM:g} × other "
                "recordings have no room"
            )
            yield Reason(NumericsVerdict.WARNING, f"{what}; {room}")


def words(stage: str) -> str:
    """Return the name of a stage as people say it."""
    return stage.replace("_", " ")
