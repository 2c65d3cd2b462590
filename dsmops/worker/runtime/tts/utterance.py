"""One utterance in an engine: its next token, its words and sound, its end.

It knows no tensors and no threads. The rules are those of moshi-server's batched service (its
`tts.py` and `py_module.rs`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsmops.worker.models.conventions import FRAMES_PER_S
from dsmops.worker.models.tts_config import TtsConfig
from dsmops.worker.runtime.tts.machine import TtsEntry, TtsPacing, TtsTextMachine

LOUDEST = 0.99
"""Samples are clipped to this, as moshi-server does."""


@dataclass(frozen=True, slots=True)
class TtsWord:
    """A word, or a pause of the stream, with its times in the audio in seconds.

    It starts one step after the step in which it began, and stops where the next one starts. The
    last one stops where a further word would have begun; moshi-server has it stop with all sound,
    two seconds later.
    """

    text: str
    start_s: float
    stop_s: float


@dataclass(frozen=True, slots=True)
class TtsAudio:
    """The next frame: float32 [1920] at 24 kHz, clipped."""

    pcm: NDArray[np.float32]


class Utterance:
    """What is said in one slot from its reset on.

    It always ends once `close` was called: no word waits endlessly.
    """

    def __init__(self, config: TtsConfig, pacing: TtsPacing) -> None:
        self.steps = 0
        self.is_closed = False
        """Whether no more text comes."""
        self._delay_steps = config.delay_steps
        # The last word's sound, and what the codebooks lag behind, come after the end of the text.
        self._closing_steps = config.delay_steps + pacing.final_padding + config.max_delay
        self._machine = TtsTextMachine(
            ahead=config.second_stream_ahead,
            text_rows=config.shape.lm.text_in_vocab_size,
            pacing=pacing,
        )
        self._is_empty = True
        self._word: tuple[str, float] | None = None
        self._spoken: list[TtsWord] = []

    @property
    def waiting(self) -> int:
        """Words and pauses that wait."""
        return len(self._machine)

    def extend(self, entries: Iterable[TtsEntry]) -> None:
        """Add entries to the end of the text."""
        before = len(self._machine)
        self._machine.extend(entries)
        self._is_empty &= len(self._machine) == before

    def close(self) -> None:
        """Say that no more text comes."""
        self.is_closed = True

    @property
    def can_step(self) -> bool:
        """Whether there is something to say, and the text that is known decides the next step."""
        return (
            not self._is_empty
            and not self.has_ended
            and (self.is_closed or self._machine.sees_enough)
        )

    @property
    def is_text_only(self) -> bool:
        """Whether the next step needs no audio: the voice begins after the text's lead."""
        return self.steps < self._delay_steps

    @property
    def has_ended(self) -> bool:
        """Whether all is said; at once where there was nothing to say."""
        if not self.is_closed:
            return False
        if self._is_empty:
            return True
        end_step = self._machine.end_step
        return end_step is not None and self.steps >= end_step + self._closing_steps

    def options(self) -> tuple[int, int]:
        """Return what `choose` returns next where the model predicts padding, and where it asks for
        a word.
        """
        return self._machine.options()

    def choose(self, prediction: int) -> int:
        """Return the token to feed in this step, from the model's own."""
        end_step = self._machine.end_step
        token, begun = self._machine.step(self.steps, prediction)
        if begun is not None or self._machine.end_step != end_step:
            now_s = (self.steps + 1) / FRAMES_PER_S
            if self._word is not None:
                self._spoken.append(TtsWord(*self._word, now_s))
            self._word = (begun.text, now_s) if begun is not None and begun.text else None
        return token

    def take(self, pcm: NDArray[np.float32] | None) -> list[TtsWord | TtsAudio]:
        """Take what the step gave, a frame or none, and return what is new."""
        return [*self.advance(), *sound(pcm)]

    def advance(self) -> list[TtsWord]:
        """Go on to the next step, and return the words that ended in this one.

        The step's sound may come later.
        """
        self.steps += 1
        spoken, self._spoken = self._spoken, []
        return spoken


def sound(pcm: NDArray[np.float32] | None) -> list[TtsAudio]:
    """Return a frame as it is handed out, if there is one."""
    return [] if pcm is None else [TtsAudio(pcm.clip(-LOUDEST, LOUDEST))]
