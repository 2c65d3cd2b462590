"""What was said, as people read it."""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.operations.speech.synthesis_result import Synthesis
from dsmops.units import counted


def show_synthesis(said: Synthesis, *, timestamps: bool) -> Iterator[str]:
    """Yield how much was said and where it is, or one line per word with its times in the sound."""
    if timestamps:
        for word in said.words:
            yield f"{word.start_s:8.2f} {word.stop_s:8.2f}  {word.text}"
    else:
        where = f"{said.output}: " if said.output else ""
        mark = ", incomplete" if said.incomplete else ""
        yield f"{where}{counted(len(said.words), 'word')} in {said.audio_s:.1f} s{mark}"


def synthesis_note(said: Synthesis) -> str:
    """Return how fast it went, and what it takes to say it the same way again."""
    speed = f", {said.speedup:.1f} × real time" if said.speedup is not None else ""
    first = (
        f", first sound after {said.first_audio_ms:.0f} ms"
        if said.first_audio_ms is not None
        else ""
    )
    where = f"{said.dtype} on {said.device}" if said.device else f"through {said.model}"
    manner = f", {' and '.join(said.voices)}, seed {said.seed}" if said.seed is not None else ""
    return f"{said.audio_s:.1f} s of audio in {said.compute_s:.1f} s{speed}{first}, {where}{manner}"
