"""Two models on one recording, as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from dsmops.operations.speech.numerics_verdict import NumericsReport, NumericsVerdict, Place, Side
from dsmops.report import Block, Table
from dsmops.units import counted, duration

_SHOWN_TEXT = 400
_BEFORE_DIFFERENCE = 60
_ANSWERS = {
    NumericsVerdict.YES: "yes",
    NumericsVerdict.WARNING: "yes, with little to spare",
    NumericsVerdict.NO: "no",
}


def show_numerics(report: NumericsReport) -> Iterator[Block]:
    """Yield the verdict and its reasons, both transcripts, the errors, ranges and notes."""
    source, target, limits = report.source, report.target, report.thresholds
    yield (
        f"Does {target.file} in {target.dtype} say what {source.file} says in {source.dtype}?"
        f" {_ANSWERS[report.verdict]}"
    )
    yield from (f"  {finding.verdict}: {finding.message}" for finding in report.findings)
    yield (
        f"Ran {report.audio_s:.1f} s of {report.audio} on {report.device} in"
        f" {counted(report.steps, 'step')}: {source.dtype} took {duration(source.compute_s)},"
        f" {target.dtype} {duration(target.compute_s)}."
    )
    if (rates := report.words) is not None:
        yield (
            f"Word error rate: {rates.source_wer:.1%} before, {rates.target_wer:.1%} after"
            f" ({rates.source_errors} and {rates.target_errors} of"
            f" {counted(rates.words, 'word')} wrong)."
        )
    yield from _texts(source, target, same=report.agreement.same_text)
    agreement, logits = report.agreement, report.logits
    apart = ""
    if agreement.first_difference_step is not None:
        apart = (
            f"; first different at step {agreement.first_difference_step},"
            f" {agreement.first_difference_s:.2f} s"
        )
    yield (
        f"Tokens, each by itself: {agreement.same:,} of {agreement.steps:,} the same"
        f" ({agreement.share:.1%}){apart}."
    )
    if logits.relative_rms is not None:
        yield (
            f"Logits, given the same inputs: off by {_number(logits.max_abs)} at most,"
            f" {_number(logits.rms)} rms, {logits.relative_rms:.2g} of their size; the same choice"
            f" in {logits.same_choice_share:.1%} of the steps."
        )
    else:
        yield "Logits cannot be compared: none are finite in both."
    yield "Largest magnitudes, of the two models the larger:"
    yield Table(
        [
            "layer",
            "scores>",
            "after attention>",
            "gate product>",
            "output>",
            "headroom>",
            "not finite>",
            "from step>",
        ],
        [
            _row(layer, list(places))
            for layer, places in groupby(report.places, key=lambda place: place.layer)
        ],
    )
    yield (
        f"Headroom is {limits.f16_max:,.0f} over the largest magnitude. No: anything not finite,"
        f" logits more than {limits.largest_relative_rms:g} of their size apart, or attention"
        " scores that moshi-server cannot form in f16. Warning: headroom below"
        f" {limits.least_headroom:g} × in f16, or logits more than {limits.large_relative_rms:g}"
        " apart."
    )
    if rates is not None:
        yield (
            f"A word error rate that rises by more than {limits.largest_wer_rise:.0%} is a no, by"
            f" more than {limits.large_wer_rise:.0%} a warning."
        )
    yield from report.notes


def _texts(source: Side, target: Side, *, same: bool) -> Iterator[str]:
    """Yield what both wrote; of long texts the part where they begin to differ."""
    if same:
        yield f"Both wrote: {_part(source.text, 0)}"
        return
    pairs = enumerate(zip(source.text, target.text, strict=False))
    apart = next(
        (at for at, (one, other) in pairs if one != other), min(len(source.text), len(target.text))
    )
    start = max(0, apart - _BEFORE_DIFFERENCE)
    for side in (source, target):
        yield f"{side.dtype} wrote: {_part(side.text, start)}"


def _part(text: str, start: int) -> str:
    shown = text[start : start + _SHOWN_TEXT]
    before = "…" if start else ""
    after = "…" if start + len(shown) < len(text) else ""
    return f"{before}{shown or '(nothing)'}{after}"


def _row(layer: str, places: Sequence[Place]) -> list[str]:
    """Return the figures of one layer; the embedding and the logits have nothing but an output."""
    inside = {place.stage: _number(place.largest) for place in places}
    steps = [
        place.first_non_finite_step for place in places if place.first_non_finite_step is not None
    ]
    bad, bad_in_source = (
        sum(place.target_non_finite for place in places),
        sum(place.source_non_finite for place in places),
    )
    return [
        layer,
        *(
            inside.get(stage, "")
            for stage in ("attention_scores", "attention_residual", "gate_product")
        ),
        _number(places[-1].largest),
        _times(
            min((place.headroom for place in places if place.headroom is not None), default=None)
        ),
        f"{bad:,} ({bad_in_source:,} in the original)" if bad_in_source else f"{bad:,}",
        str(min(steps)) if steps else "",
    ]


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _times(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.0f} ×" if value >= 10 else f"{value:.2g} ×"
