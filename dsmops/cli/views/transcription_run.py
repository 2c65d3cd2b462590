"""Runs over many recordings as people read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dsmops.cli.views.run_totals import RunTotals, show_totals, totals_notes, totals_of
from dsmops.operations.speech.many.transcribing import TranscriptionRun
from dsmops.report import Block

if TYPE_CHECKING:
    from dsmops.operations.speech.transcription import Transcription


def of_ending(result: Transcription, ending: str, *, timestamps: bool, vad: bool) -> str:
    """Return a transcript as the text of a file with this ending."""
    # Not where nothing is left to transcribe: that must end fast.
    from dsmops.cli.views.transcription import rendered

    form = "text" if ending == "txt" else ending
    return rendered(result, form, timestamps=timestamps, vad=vad)


def show_run(run: TranscriptionRun) -> Iterator[Block]:
    """Yield what failed, with reasons, and the totals."""
    return show_totals(_totals(run))


def run_notes(run: TranscriptionRun) -> Iterator[str]:
    """Yield how fast it went, and what to do where something is left."""
    return totals_notes(_totals(run), "decoding")


def _totals(run: TranscriptionRun) -> RunTotals:
    return totals_of(
        run, "recording", "transcribed", listed=run.recordings, finished=run.transcribed
    )
