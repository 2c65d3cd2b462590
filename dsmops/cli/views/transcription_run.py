"""Runs over many recordings as people read them."""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.cli.views.transcription import rendered
from dsmops.operations.speech.many.transcribing import TranscriptionRun
from dsmops.operations.speech.transcription import Transcription
from dsmops.report import Block
from dsmops.units import counted, duration


def of_ending(result: Transcription, ending: str, *, timestamps: bool, vad: bool) -> str:
    """Return a transcript as the text of a file with this ending."""
    form = "text" if ending == "txt" else ending
    return rendered(result, form, timestamps=timestamps, vad=vad)


def show_run(run: TranscriptionRun) -> Iterator[Block]:
    """Yield what failed, with reasons, and the totals."""
    yield from (f"failed: {failure.error}" for failure in run.failures)
    parts = [f"{run.transcribed:,} transcribed"]
    if run.done_before:
        parts.append(f"{run.done_before:,} were done before")
    if run.in_work_elsewhere:
        parts.append(f"{run.in_work_elsewhere:,} in work in another process")
    if run.failures:
        parts.append(f"{len(run.failures):,} failed")
    yield f"{run.folder}: {counted(run.recordings, 'recording')}: {', '.join(parts)}"


def run_notes(run: TranscriptionRun) -> Iterator[str]:
    """Yield how fast it went, and what to do where something is left."""
    if run.speedup is not None and run.batch_size is not None:
        yield (
            f"{duration(run.audio_s)} of audio in {duration(run.elapsed_s)}, "
            f"{run.speedup:.1f} × real time, {counted(run.batch_size, 'recording')} at a time, "
            f"{run.dtype} on {run.device}"
        )
    if run.step_share is not None:
        yield f"the engine computed in {run.step_share:.0%} of the time; the rest is decoding"
    if run.failures:
        yield "the same command again tries what failed once more, and nothing else"
