"""Make words with times from text tokens, and ends of turns from pause probabilities.

Two rules are published. The server's rule works step by step and is what clients of moshi-server
see. The Python package's rule needs a finished sequence and divides a segment's time among its
words. Both count from the start of what was fed, silence prefix included, unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dsmops.worker.models.conventions import END_OF_PADDING, FRAMES_PER_S, LAST_SPECIAL, PADDING
from dsmops.worker.runtime.stt.interface import SttTokenizer

_LAST_SEGMENT_FRAMES = 13
"""Where no word boundary and no end follows, the last word ends a second after it began: 12.5
frames, rounded up."""
_END_OF_STREAM = 2
"""SentencePiece's own end-of-sentence id."""


@dataclass(frozen=True, slots=True)
class SttWord:
    """A word whose text is complete; `start_s` is the time of the boundary before it."""

    text: str
    start_s: float


@dataclass(frozen=True, slots=True)
class SttWordEnd:
    """The end of the last `SttWord`."""

    stop_s: float


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word with its times in seconds.

    `stop_s` None where the next word, or the stream's end, came before a boundary.
    """

    text: str
    start_s: float
    stop_s: float | None


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """A turn of the speaker ends here.

    `time_s` is how much of the recording the model had got then.
    """

    time_s: float


class TurnDetector:
    """Kyutai's rule for ends of turns: the head for pauses of 2 s gives more than a half.

    Another `head` stands for another pause.

    Announced once, until the next word.

    Silence before the first word ends no turn here. Source of the rest: `stt-rs`, file and
    microphone clients of delayed-streams-modeling.
    """

    HEAD = 2
    THRESHOLD = 0.5

    def __init__(self, head: int = HEAD) -> None:
        self._head = head
        self._in_turn = False

    def take(self, pauses: Sequence[float], *, spoken: bool) -> bool:
        """Take a step's pause probabilities, and whether it brought a word.

        Return whether a turn ends with it.
        """
        self._in_turn |= spoken
        ends = self._in_turn and len(pauses) > self._head and pauses[self._head] > self.THRESHOLD
        self._in_turn &= not ends
        return ends


class SttWordMachine:
    """moshi-server's rule for one stream.

    n counts the steps done, D is the text delay. Nothing happens while n < D. Then token 0 or 3
    completes a word that has begun; any other token belongs to the word; token 0 also marks a
    boundary at (n - D) / 12.5 seconds, where the last word ends and the next begins.

    Source: `rust/moshi-core/src/asr.rs`.
    """

    def __init__(self, tokenizer: SttTokenizer, delay_steps: int) -> None:
        self._tokenizer = tokenizer
        self._delay_steps = delay_steps
        self._steps = 0
        self._tokens: list[int] = []
        self._boundary_s = 0.0
        self._unended = False

    def take(self, token: int) -> list[SttWord | SttWordEnd]:
        """Take the token of the next step and return what it completes, in order."""
        self._steps += 1
        if self._steps < self._delay_steps:
            return []
        events: list[SttWord | SttWordEnd] = []
        if token in (END_OF_PADDING, PADDING):
            events += self.flush()
        else:
            self._tokens.append(token)
        if token == END_OF_PADDING:
            stop_s = (self._steps - self._delay_steps) / FRAMES_PER_S
            if self._unended:
                events.append(SttWordEnd(stop_s))
                self._unended = False
            self._boundary_s = stop_s
        return events

    def flush(self) -> list[SttWord | SttWordEnd]:
        """Return the word that has begun, if any: the stream ends here, or its text does."""
        if not self._tokens:
            return []
        text = self._tokenizer.decode(self._tokens)
        self._tokens = []
        self._unended = True
        return [SttWord(text, self._boundary_s)]


def words_of_sequence(
    tokens: Sequence[int], tokenizer: SttTokenizer, *, prefix_frames: int, delay_s: float
) -> list[TimedWord]:
    """Return the words of a finished token sequence by the Python package's rule.

    A segment lies between two tokens 0; what comes before the first does not count. A single word
    takes its whole segment. Of several, each but the last takes as many frames as it has tokens
    when encoded alone, none beyond the segment. Times are moved back by the prefix, in whole
    seconds, and the delay, and never lie before 0.

    Source: `scripts/stt_from_file_pytorch.py` of delayed-streams-modeling; its last segment fails
    when more than 12 frames follow, here it ends after a second.
    """
    offset_s = int(prefix_frames / FRAMES_PER_S) + delay_s

    def time_s(position: int) -> float:
        return max(0.0, position / FRAMES_PER_S - offset_s)

    boundaries = [position for position, token in enumerate(tokens) if token == END_OF_PADDING]
    if not boundaries:
        return []
    last = boundaries[-1]
    ends = (
        position for position in range(last + 1, len(tokens)) if tokens[position] == _END_OF_STREAM
    )
    boundaries.append(next(ends, min(len(tokens), last + 1 + _LAST_SEGMENT_FRAMES)))
    words: list[TimedWord] = []
    for begin, end in pairwise(boundaries):
        texts = tokenizer.decode(
            [token for token in tokens[begin + 1 : end] if token > LAST_SPECIAL]
        ).split()
        at = begin + 1
        for number, text in enumerate(texts, start=1):
            stop = end if number == len(texts) else min(end, at + len(tokenizer.encode(text)))
            words.append(TimedWord(text, time_s(at), time_s(stop)))
            at = stop
    return words
