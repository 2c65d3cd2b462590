"""Totals of a run over many recordings or texts, as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsmops.report import Block, Table
from dsmops.units import counted, duration

if TYPE_CHECKING:
    from dsmops.operations.speech.many.synthesizing import SynthesisRun
    from dsmops.operations.speech.many.transcribing import TranscriptionRun


@dataclass(frozen=True, slots=True)
class RunTotals:
    """What a run over many did. `thing` is what it has many of, `verb` what was done to them."""

    folder: str
    thing: str
    verb: str
    listed: int
    done_before: int
    in_work_elsewhere: int
    finished: int
    errors: tuple[str, ...]
    words: int
    audio_s: float
    elapsed_s: float
    speedup: float | None
    step_share: float | None
    device: str | None
    dtype: str | None
    batch_size: int | None


def totals_of(
    run: SynthesisRun | TranscriptionRun, thing: str, verb: str, *, listed: int, finished: int
) -> RunTotals:
    """Return what a run did; the rest of the arguments are as in `RunTotals`."""
    return RunTotals(
        folder=run.folder,
        thing=thing,
        verb=verb,
        listed=listed,
        done_before=run.done_before,
        in_work_elsewhere=run.in_work_elsewhere,
        finished=finished,
        errors=tuple(failure.error for failure in run.failures),
        words=run.words,
        audio_s=run.audio_s,
        elapsed_s=run.elapsed_s,
        speedup=run.speedup,
        step_share=run.step_share,
        device=run.device,
        dtype=run.dtype,
        batch_size=run.batch_size,
    )


def show_totals(run: RunTotals) -> Iterator[Block]:
    """Yield what failed, with reasons, a table, and all in a sentence."""
    yield from (f"failed: {error}" for error in run.errors)
    if run.finished:
        yield Table(
            (
                f"{run.thing}s>",
                f"{run.verb}>",
                "failed>",
                "words>",
                "audio>",
                "time>",
                "× real time>",
            ),
            [
                (
                    f"{run.listed:,}",
                    f"{run.finished:,}",
                    f"{len(run.errors):,}",
                    f"{run.words:,}",
                    duration(run.audio_s),
                    duration(run.elapsed_s),
                    "" if run.speedup is None else f"{run.speedup:.1f}",
                )
            ],
        )
    parts = [f"{run.finished:,} {run.verb}"]
    if run.done_before:
        parts.append(f"{run.done_before:,} were done before")
    if run.in_work_elsewhere:
        parts.append(f"{run.in_work_elsewhere:,} in work in another process")
    if run.errors:
        parts.append(f"{len(run.errors):,} failed")
    yield f"{run.folder}: {counted(run.listed, run.thing)}: {', '.join(parts)}"


def totals_notes(run: RunTotals, rest: str) -> Iterator[str]:
    """Yield how fast it went, and what to do where something is left.

    `rest` is what took the time in which the engine did not compute.
    """
    if run.speedup is not None and run.batch_size is not None:
        yield (
            f"{duration(run.audio_s)} of audio in {duration(run.elapsed_s)}, "
            f"{run.speedup:.1f} × real time, {counted(run.batch_size, run.thing)} at a time, "
            f"{run.dtype} on {run.device}"
        )
    if run.step_share is not None:
        yield f"the engine computed in {run.step_share:.0%} of the time; the rest is {rest}"
    if run.errors:
        yield "the same command again tries what failed once more, and nothing else"


def skipped_notes(skipped: Iterable[str]) -> Iterator[str]:
    """Yield a warning where a model's tokenizer does not know some characters."""
    characters = list(skipped)
    if characters:
        shown = " ".join(map(repr, characters[:_SHOWN]))
        rest = len(characters) - _SHOWN
        more = f" and {rest} more" if rest > 0 else ""
        yield f"warning: skipped characters that the model does not know: {shown}{more}"


_SHOWN = 10
