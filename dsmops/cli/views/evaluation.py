"""Word error rates as people read them."""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.operations.speech.evaluation import Evaluation, ScoringStatus, Totals, UtteranceResult
from dsmops.report import Block, Table
from dsmops.scoring import Counts
from dsmops.units import counted, duration

_WORST = 10
_TEXT_LENGTH = 60
"""Characters of a text that the table shows; the JSON has all of it."""


def show_evaluation(report: Evaluation) -> Iterator[Block]:
    """Yield the worst utterances, what could not be read, and the totals."""
    wrong = [
        (file, file.score.words)
        for file in report.files
        if file.score is not None and file.score.words.errors
    ]
    if wrong:
        shown = sorted(wrong, key=lambda entry: entry[1].rate, reverse=True)[:_WORST]
        scored = counted(report.totals.scored, "utterance")
        yield f"Worst {len(shown)} of {scored}, normalised ({report.normalizer}):"
        yield Table(
            ["WER>", "S>", "D>", "I>", "words>", "audio", "reference", "hypothesis"],
            [_row(file, words) for file, words in shown],
        )
    yield from (
        f"failed: {file.error}" for file in report.files if file.status is ScoringStatus.FAILED
    )
    yield from _totals(report.totals)


def evaluation_notes(report: Evaluation) -> Iterator[str]:
    """Yield what is missing of recordings, whether the normaliser fits, and how fast it went."""
    for file in report.files:
        yield from (f"warning: {warning}" for warning in file.warnings)
    if report.language is not None:
        yield (
            f"warning: the references seem to be in {report.language}, and --normalizer english "
            "is for English only: use --normalizer basic"
        )
    totals = report.totals
    if report.device is None or report.batch_size is None:
        return
    speed = f", {totals.speedup:.1f} × real time" if totals.speedup is not None else ""
    yield (
        f"{duration(totals.audio_s)} of audio in {duration(totals.compute_s)}{speed}, "
        f"{counted(report.batch_size, 'recording')} at a time, {report.dtype} on {report.device}"
    )


def _totals(totals: Totals) -> Iterator[str]:
    words = totals.words
    yield (
        f"corpus WER {_percent(totals.corpus_wer)}: {words.substitutions:,} substitutions, "
        f"{words.deletions:,} deletions, {words.insertions:,} insertions in "
        f"{words.reference_length:,} words"
    )
    yield f"mean of utterances: WER {_percent(totals.wer)}, CER {_percent(totals.cer)}"
    left_out = (
        [f"{totals.dropped:,} dropped (their references have no words)"] if totals.dropped else []
    )
    if totals.failed:
        left_out.append(f"{totals.failed:,} failed, which are in none of these figures")
    scored = f"{totals.scored:,} of {counted(totals.utterances, 'utterance')} scored"
    yield "; ".join([scored, *left_out])


def _row(file: UtteranceResult, words: Counts) -> list[str]:
    counts = [words.substitutions, words.deletions, words.insertions, words.reference_length]
    texts = [_short(file.normalized_reference), _short(file.normalized_hypothesis or "")]
    return [_percent(words.rate), *(f"{count:,}" for count in counts), file.audio, *texts]


def _short(text: str) -> str:
    return text if len(text) <= _TEXT_LENGTH else f"{text[: _TEXT_LENGTH - 1]}…"


def _percent(rate: float | None) -> str:
    return "n/a" if rate is None else f"{rate:.2%}"
