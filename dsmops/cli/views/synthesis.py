"""What was synthesized, as people read it."""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.cli.views.run_totals import skipped_notes
from dsmops.operations.speech.synthesis_result import Synthesis
from dsmops.units import counted


def show_synthesis(result: Synthesis, *, timestamps: bool) -> Iterator[str]:
    """Yield how much was synthesized and where it is, or a line per word with its times."""
    if timestamps:
        for word in result.words:
            yield f"{word.start_s:8.2f} {word.stop_s:8.2f}  {word.text}"
    else:
        where = f"{result.output}: " if result.output else ""
        mark = ", incomplete" if result.incomplete else ""
        yield f"{where}{counted(len(result.words), 'word')} in {result.audio_s:.1f} s{mark}"


def synthesis_notes(result: Synthesis) -> Iterator[str]:
    """Yield what was skipped, how fast it went, and what repeats it."""
    yield from skipped_notes(result.skipped)
    speed = f", {result.speedup:.1f} × real time" if result.speedup is not None else ""
    first = (
        f", first sound after {result.first_audio_ms:.0f} ms"
        if result.first_audio_ms is not None
        else ""
    )
    where = f"{result.dtype} on {result.device}" if result.device else f"through {result.model}"
    voices = f", {' and '.join(result.voices)}, seed {result.seed}"
    repeat = voices if result.seed is not None else ""
    yield (
        f"{result.audio_s:.1f} s of audio in {result.compute_s:.1f} s{speed}{first}, "
        f"{where}{repeat}"
    )
