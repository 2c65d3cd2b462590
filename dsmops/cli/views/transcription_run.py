"""Runs over many recordings as people read them."""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.cli.views.run_totals import RunTotals, show_totals, totals_notes
from dsmops.cli.views.transcription import rendered
from dsmops.operations.speech.many.transcribing import TranscriptionRun
from dsmops.operations.speech.transcription import Transcription
from dsmops.report import Block


def of_ending(result: Transcription, ending: str, *, timestamps: bool, vad: bool) -> str:
    """Return a transcript as the text of a file with this ending."""
    form = "text" if ending == "txt" else ending
    return rendered(result, form, timestamps=timestamps, vad=vad)


def show_run(run: TranscriptionRun) -> Iterator[Block]:
    """Yield what failed, with reasons, and the totals."""
    return show_totals(_totals(run))


def run_notes(run: TranscriptionRun) -> Iterator[str]:
    """Yield how fast it went, and what to do where something is left."""
    return totals_notes(_totals(run), "decoding")


def _totals(run: TranscriptionRun) -> RunTotals:
    return RunTotals(
        folder=run.folder,
        thing="recording",
        verb="transcribed",
        listed=run.recordings,
        done_before=run.done_before,
        in_work_elsewhere=run.in_work_elsewhere,
        finished=run.transcribed,
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
