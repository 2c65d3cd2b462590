"""A text-to-speech stream: one text after another, and when their sound comes.

A listener is imagined who starts to play one frame after the first sound. A frame that comes later
than its turn is an underrun: there is a gap, and the listener plays on from there.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dsmops.client.load.pacing import FRAME_S, Window
from dsmops.client.load.websocket import BINARY, Address, LeanWebSocket, client_frame, clock
from dsmops.protocol import Audio, Eos, Error, ProtocolError, Ready, Text, TtsText, encode
from dsmops.protocol import decode_tts_answer as decode

_AUDIO = b"\x82\xa4type\xa5Audio\xa3pcm\xdc"
"""How each known server begins a frame of sound: behind it the count, as 16 bits."""
_SAMPLES_PER_S = 24_000
_GOOD_CODES = (1000, 1005)
"""Close codes after a whole text: 1000 from our worker, none from moshi-server."""
_BACK_OFF_S = 0.2
"""After a text that failed, so that a dead server is not flooded."""

Open = Callable[[Callable[[], LeanWebSocket]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Utterance:
    """A text as the frames that ask for it, and how many words a server makes of it."""

    frames: tuple[bytes, ...]
    words: int


def utterance(text: str, words: int) -> Utterance:
    """Return what sends `text`, and that it is all."""
    return Utterance(
        tuple(client_frame(BINARY, encode(message)) for message in (Text(text), Eos())), words
    )


class TtsRecord:
    """What the streams of one process measured of texts begun in `window`.

    `speedup` has one value for each whole text, × real time. `waiting_ms` has one for each text
    that had no sound at the end: how long it had waited. `audio_s` is the sound that came in each
    second of the window, of all texts.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.due_s, self.first_audio_ms = array("f"), array("f")
        self.waiting_due_s, self.waiting_ms = array("f"), array("f")
        self.speedup = array("f")
        self.gap_ms = array("f")
        self.audio_s: dict[int, float] = {}
        self.last_audio_s = 0.0
        self.begun = self.with_underruns = 0
        self.errors: Counter[str] = Counter()

    def take(self, turn: TtsTurn, now_s: float) -> None:
        """Add a text that is over, or that the end of the measurement cut."""
        if turn.begin_s == float("inf"):
            return
        self.begun += 1
        begin_s = turn.begin_s - self.window.from_s
        if turn.first_s is None:
            self.waiting_due_s.append(begin_s)
            self.waiting_ms.append((now_s - turn.begin_s) * 1000)
        else:
            self.due_s.append(begin_s)
            self.first_audio_ms.append((turn.first_s - turn.begin_s) * 1000)
        if turn.is_whole and turn.audio_s:
            self.speedup.append(turn.audio_s / max(turn.last_s - turn.begin_s, 1e-6))
        self.gap_ms.extend(turn.gaps_ms)
        self.with_underruns += bool(turn.gaps_ms)


class TtsTurn(LeanWebSocket):
    """One text on one connection."""

    def __init__(self, address: Address, text: Utterance, record: TtsRecord) -> None:
        super().__init__(address)
        self.begin_s = float("inf")
        self.first_s: float | None = None
        self.last_s = self.audio_s = 0.0
        self.gaps_ms: list[float] = []
        self._text, self._record = text, record
        self._words = 0
        self._play_s = 0.0

    def begin(self) -> None:
        """Send the text."""
        self.begin_s = clock()
        for frame in self._text.frames:
            self.send(frame)

    @property
    def is_whole(self) -> bool:
        """Whether the end of the connection was the end of the text, as `client.tts` tells it."""
        if not self.ended or self.begin_s == float("inf"):
            return False
        if self.close_code is None:
            return 0 < self._text.words <= self._words
        return self.close_code in _GOOD_CODES and bool(self.audio_s)

    def message(self, payload: bytes, now_s: float) -> None:
        if payload.startswith(_AUDIO):
            start = len(_AUDIO)
            self._sound(int.from_bytes(payload[start : start + 2], "big"), now_s)
            return
        try:
            answer = decode(payload)
        except ProtocolError:
            self.abort("a message that a moshi-server does not send")
            return
        match answer:
            case Audio():
                self._sound(len(answer.pcm), now_s)
            case TtsText():
                self._words += 1
            case Ready():
                if not self.ready.done():
                    self.ready.set_result(None)
            case Error():
                self.end(f"Error: {answer.message.splitlines()[0][:120]}")

    def _sound(self, samples: int, now_s: float) -> None:
        seconds = samples / _SAMPLES_PER_S
        if self.first_s is None:
            self.first_s = now_s
            self._play_s = now_s + FRAME_S
        elif now_s > self._play_s:
            self.gaps_ms.append((now_s - self._play_s) * 1000)
            self._play_s = now_s
        self._play_s += seconds
        self.last_s = now_s
        self.audio_s += seconds
        if self._record.window.holds(now_s):
            record, at_s = self._record, now_s - self._record.window.from_s
            record.audio_s[int(at_s)] = record.audio_s.get(int(at_s), 0.0) + seconds
            record.last_audio_s = at_s


class TtsStream:
    """Says one text after another, from number `offset` on. `opened` is its first connection."""

    def __init__(
        self, address: Address, texts: Sequence[Utterance], offset: int, record: TtsRecord
    ) -> None:
        self.turn: TtsTurn | None = None
        self.opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._address, self._texts, self._offset, self._record = address, texts, offset, record

    async def run(self, open_: Open, start: asyncio.Event, *, once: bool) -> None:
        """Open, wait for `start`, and say texts until the window is over; with `once`, only one."""
        number = self._offset
        while True:
            text = self._texts[number % len(self._texts)]
            turn = self.turn = TtsTurn(self._address, text, self._record)
            # Bound here: the next round has another `turn`.
            await open_(lambda turn=turn: turn)  # type: ignore[misc]
            if not self.opened.done():
                self.opened.set_result(not turn.ended)
            await start.wait()
            if turn.ended:
                self._record.errors[turn.ended] += 1
                if once:
                    return
                await asyncio.sleep(_BACK_OFF_S)
                self.turn = None
                continue
            if clock() >= self._record.window.until_s:
                return
            turn.begin()
            await turn.over
            self._record.take(turn, clock())
            self.turn = None
            if not turn.is_whole:
                self._record.errors[turn.ended] += 1
                await asyncio.sleep(_BACK_OFF_S)
            number += 1
            if once:
                return
