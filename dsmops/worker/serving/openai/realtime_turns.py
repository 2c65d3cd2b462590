"""The turns of a realtime session: what a client appends and commits, and the words of each turn.

A turn ends where the model tells a pause, or where the client commits. Committed sound is followed
by silence, since the model's text lags behind its audio, and a marker in it says when the text is
complete. Times count the client's sound only, not that silence.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dsmops.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples
from dsmops.worker.runtime.stt.stream import SttEvent, SttMarkerReached, SttStepped, SttStream
from dsmops.worker.runtime.stt.words import SttWord, TurnDetector
from dsmops.worker.serving.openai.refusals import Refusal

MIN_COMMIT_S = 0.1
"""As with OpenAI."""
_TAIL_FRAMES = 4
"""Silence that still belongs to a committed turn, so that its last word ends."""
_FRAME_MS = 1000 * FRAME_SAMPLES // SAMPLE_RATE_HZ
_TRANSCRIPTION = "conversation.item.input_audio_transcription"

Event = dict[str, Any]


@dataclass(slots=True)
class _Turn:
    """Sound up to a boundary that may still come. `is_dropped` after a clear."""

    item_id: str = field(default_factory=lambda: f"item_{secrets.token_hex(8)}")
    words: list[str] = field(default_factory=list)
    is_dropped: bool = False
    samples: int = 0
    """Of the client, once the turn has ended."""


class Turns:
    """The turns on one stream, as events for the client."""

    def __init__(self, stream: SttStream) -> None:
        self._stream = stream
        self._turns = deque([_Turn()])
        """Those whose text is not complete; the last one is open."""
        self._committed: str | None = None
        self._detector: TurnDetector | None = None
        self._has_spoken = False
        self._pushed = 0
        """Samples, with silence."""
        self._appended = self._boundary = 0
        """Samples of the client: all, and those up to the last turn's end."""
        self._silences: deque[tuple[int, int]] = deque()
        """Where silence begins in the stream, and its samples, for markers that are to come."""
        self._passed_silence = 0

    def detect(self, head: int | None) -> None:
        """End turns where this pause head tells a pause, None for never."""
        self._detector = None if head is None else TurnDetector(head)

    def append(self, pcm: Samples) -> None:
        """Add sound of the client."""
        self._appended += len(pcm)
        self._push(pcm)

    def commit(self) -> list[Event]:
        """End the open turn here.

        Raises:
            Refusal: it has too little sound, or too many commits are under way.
        """
        seconds = (self._appended - self._boundary) / SAMPLE_RATE_HZ
        if seconds < MIN_COMMIT_S:
            raise Refusal(
                400,
                f"the buffer has {1000 * seconds:.0f} ms of audio, and a turn at least"
                f" {1000 * MIN_COMMIT_S:.0f} ms",
                code="input_audio_buffer_commit_empty",
            )
        turn = self._turns[-1]
        self._close()
        return [self._committed_event(turn)]

    def clear(self) -> list[Event]:
        """Forget the open turn.

        Raises:
            Refusal: too many commits are under way.
        """
        if self._appended > self._boundary:
            turn = self._turns[-1]
            self._close()
            turn.is_dropped = True
        return [new_event("input_audio_buffer.cleared")]

    def take(self, event: SttEvent) -> Iterator[Event]:
        """Yield what the client is sent about something that the model did."""
        match event:
            case SttStepped():
                yield from self._end_turn(event.own_step, event.pauses)
            case SttWord():
                yield from self._say(event)
            case SttMarkerReached():
                turn = self._turns.popleft()
                self._passed_silence += self._silences.popleft()[1]
                if not turn.is_dropped:
                    yield _completed(turn)

    def _say(self, word: SttWord) -> Iterator[Event]:
        turn = self._turns[0]
        if turn.is_dropped:
            return
        if not turn.words and self._detector is not None:
            yield new_event(
                "input_audio_buffer.speech_started",
                audio_start_ms=self._client_ms(word.start_s * 1000),
                item_id=turn.item_id,
            )
        delta = f" {word.text}" if turn.words else word.text
        turn.words.append(word.text)
        self._has_spoken = True
        yield new_event(
            f"{_TRANSCRIPTION}.delta", item_id=turn.item_id, content_index=0, delta=delta
        )

    def _end_turn(self, own_step: int, pauses: Sequence[float]) -> Iterator[Event]:
        """End the open turn where the model tells a pause."""
        spoken, self._has_spoken = self._has_spoken, False
        if self._detector is None or not self._detector.take(pauses, spoken=spoken):
            return
        turn = self._turns[0]
        if len(self._turns) > 1 or not turn.words:
            return  # The pause is that of a turn which the client has ended.
        stop_ms = self._client_ms(own_step * _FRAME_MS + _FRAME_MS)
        boundary = min(self._appended, stop_ms * SAMPLE_RATE_HZ // 1000)
        turn.samples, self._boundary = boundary - self._boundary, boundary
        self._turns[0] = _Turn()
        yield new_event(
            "input_audio_buffer.speech_stopped", audio_end_ms=stop_ms, item_id=turn.item_id
        )
        yield self._committed_event(turn)
        yield _completed(turn)

    def _close(self) -> None:
        """End the open turn at what was appended: silence, a marker, more silence."""
        turn = self._turns[-1]
        begin = self._pushed
        self._push(np.zeros(-begin % FRAME_SAMPLES + _TAIL_FRAMES * FRAME_SAMPLES, np.float32))
        try:
            self._stream.mark(0)
        except ValueError as exc:
            raise Refusal(429, str(exc), code="rate_limit_exceeded") from exc
        self._push(np.zeros(self._stream.delay_steps * FRAME_SAMPLES, np.float32))
        self._silences.append((begin, self._pushed - begin))
        turn.samples, self._boundary = self._appended - self._boundary, self._appended
        self._turns.append(_Turn())

    def _push(self, pcm: Samples) -> None:
        self._pushed += len(pcm)
        self._stream.push(pcm)

    def _client_ms(self, stream_ms: float) -> int:
        """Return the time in the client's sound of a time in the stream."""
        at = stream_ms * SAMPLE_RATE_HZ / 1000
        silence = self._passed_silence + sum(
            min(length, max(0, at - begin)) for begin, length in self._silences
        )
        return max(0, round((at - silence) * 1000 / SAMPLE_RATE_HZ))

    def _committed_event(self, turn: _Turn) -> Event:
        before, self._committed = self._committed, turn.item_id
        return new_event(
            "input_audio_buffer.committed", item_id=turn.item_id, previous_item_id=before
        )


def _completed(turn: _Turn) -> Event:
    seconds = round(turn.samples / SAMPLE_RATE_HZ, 3)
    return new_event(
        f"{_TRANSCRIPTION}.completed",
        item_id=turn.item_id,
        content_index=0,
        transcript=" ".join(turn.words),
        usage={"type": "duration", "seconds": seconds},
    )


def new_event(kind: str, **values: Any) -> Event:
    """Return an event for the client."""
    return {"type": kind, "event_id": f"event_{secrets.token_hex(8)}", **values}
