"""What one synthesis produced: its sound, its words and its figures, local or remote.

`synthesis` makes one with the embedded engine, `remote_synthesis` with a server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from dsmops.audio import SAMPLE_RATE_HZ, Samples
from dsmops.operations.speech.incomplete import Incomplete
from dsmops.operations.speech.interruption import Interruption
from dsmops.progress import Progress

Sink = Callable[[Iterator[Samples]], object]
"""Writes or plays the sound, block by block, as it comes."""


@dataclass(frozen=True, slots=True)
class SynthesizedWord:
    """A word with its times in the audio, in seconds."""

    text: str
    start_s: float
    stop_s: float


@dataclass(frozen=True, slots=True)
class Synthesis:
    """The words of one text, the model that synthesized them, and the time it took.

    `first_audio_ms`: from the text to the first sound, without loading. `compute_s`: the whole time
    without waiting for the sink; `speedup` is seconds of audio per second of it. Through a server,
    `model` is its address, the times are those until its answers came, and settings that only the
    server knows are None. `output` is None where the sound did not go to a file. `incomplete`: the
    stream failed or was stopped, and this is what came before. `skipped`: each character of the
    text once that the model's tokenizer does not know, as far as that is known.
    """

    output: Path | None
    model: str
    device: str | None
    dtype: str | None
    voices: tuple[str, ...]
    seed: int | None
    cfg: float | None
    temperature: float | None
    words: tuple[SynthesizedWord, ...]
    audio_s: float
    first_audio_ms: float | None
    compute_s: float
    speedup: float | None
    incomplete: Incomplete | None = None
    skipped: str = ""


SynthesisEvent = Samples | SynthesizedWord
"""A block of sound, float32 at 24 kHz, or a word that was said."""


class SynthesisMeter:
    """Passes the sound on to a sink, and keeps the words and the figures."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._words: list[SynthesizedWord] = []
        self._samples = 0
        self._spent_s = 0.0
        self._first_s: float | None = None
        self._interruption = Interruption()

    def begin(self, words: int) -> None:
        """Start the clock: all is ready, and the text begins. Time before this does not count."""
        self._progress.start("Synthesizing", words, "words")
        self._spent_s = -time.perf_counter()

    def pour(self, events: Generator[SynthesisEvent], sink: Sink) -> None:
        """Hand the sound of `events` to `sink`, which may stop before the end.

        A first Ctrl-C, SIGTERM or SIGHUP ends the events: the sink gets the sound until then, and
        the synthesis is `incomplete`. Without any sound the process ends, and the sink gets none.
        """
        try:
            with (
                closing(events),
                self._interruption,
                closing(self._blocks(self._interruption.until(events))) as blocks,
            ):
                sink(blocks)
        finally:
            self._progress.finish()

    def _blocks(self, events: Iterator[SynthesisEvent]) -> Generator[Samples]:
        for event in events:
            if isinstance(event, SynthesizedWord):
                self._words.append(event)
                self._progress.advance(1)
            else:
                self._spent_s += time.perf_counter()
                self._first_s = self._spent_s if self._first_s is None else self._first_s
                self._samples += len(event)
                yield event
                self._spent_s -= time.perf_counter()
        self._spent_s += time.perf_counter()
        if self._interruption.exit_code is not None and not self._samples:
            raise SystemExit(self._interruption.exit_code)

    def synthesis(self) -> Synthesis:
        """Return the words and figures so far. The caller fills in model, voices and settings."""
        audio_s = self._samples / SAMPLE_RATE_HZ
        exit_code = self._interruption.exit_code
        return Synthesis(
            output=None,
            model="",
            device=None,
            dtype=None,
            voices=(),
            seed=None,
            cfg=None,
            temperature=None,
            words=tuple(self._words),
            audio_s=audio_s,
            first_audio_ms=None if self._first_s is None else 1000 * self._first_s,
            compute_s=self._spent_s,
            speedup=audio_s / self._spent_s if self._spent_s else None,
            incomplete=None if exit_code is None else Incomplete.interrupted(exit_code),
        )
