"""A paced speech-to-text stream: a frame every 80 ms, and how long after it its `Step` comes."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence

from dsmops.client.load.pacing import FRAME_S, Window
from dsmops.client.load.websocket import Address, LeanWebSocket
from dsmops.protocol import EndWord, Error, ProtocolError, Ready, Step, decode_stt_answer

_STEP = b"\x84\xa4type\xa4Step"
"""How each known server begins a `Step`; others are decoded."""
_MAX_UNSENT_BYTES = 2 << 20
"""Seventeen seconds of audio that the server did not read."""


class SttRecord:
    """What the streams of one process measured. Times are from the start of `window`.

    `lag_ms` has one value for each frame that was due in the window and answered, `waiting_ms` one
    for each that was not: how long it had waited at the end. `word_lag_ms` is from the end of a
    word, in the audio, to its message, and includes the model's own delay.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.due_s, self.lag_ms = array("f"), array("f")
        self.waiting_due_s, self.waiting_ms = array("f"), array("f")
        self.word_due_s, self.word_lag_ms = array("f"), array("f")
        self.surplus_steps = 0
        self.errors: Counter[str] = Counter()

    def answered(self, due_s: float, now_s: float) -> None:
        if self.window.holds(due_s):
            self.due_s.append(due_s - self.window.from_s)
            self.lag_ms.append((now_s - due_s) * 1000)

    def word(self, due_s: float, now_s: float) -> None:
        if self.window.holds(due_s):
            self.word_due_s.append(due_s - self.window.from_s)
            self.word_lag_ms.append((now_s - due_s) * 1000)

    def waiting(self, due_s: float, now_s: float) -> None:
        if self.window.holds(due_s):
            self.waiting_due_s.append(due_s - self.window.from_s)
            self.waiting_ms.append((now_s - due_s) * 1000)


class SttStream(LeanWebSocket):
    """One stream: it repeats `frames`, whole WebSocket frames, from number `offset` on."""

    def __init__(
        self, address: Address, frames: Sequence[bytes], offset: int, record: SttRecord
    ) -> None:
        super().__init__(address)
        self.start_s = float("inf")
        self._frames, self._offset, self._record = frames, offset, record
        self._sent = self._answered = 0

    def send_due(self) -> float | None:
        if self.ended or self.start_s + self._sent * FRAME_S >= self._record.window.until_s:
            # After the window an answer must not stand for a frame that was in it.
            return None
        if self.unsent_bytes > _MAX_UNSENT_BYTES:
            self.abort("the server does not read")
            return None
        self.send(self._frames[(self._offset + self._sent) % len(self._frames)])
        self._sent += 1
        return self.start_s + self._sent * FRAME_S

    def message(self, payload: bytes, now_s: float) -> None:
        if payload.startswith(_STEP):
            self._step(now_s)
            return
        try:
            answer = decode_stt_answer(payload)
        except ProtocolError:
            self.abort("a message that a moshi-server does not send")
            return
        match answer:
            case Step():
                self._step(now_s)
            case EndWord():
                self._record.word(self.start_s + answer.stop_time, now_s)
            case Ready():
                if not self.ready.done():
                    self.ready.set_result(None)
            case Error():
                self.end(f"Error: {answer.message.splitlines()[0][:120]}")

    def _step(self, now_s: float) -> None:
        # A Python module sends the steps of all streams: no more can be answered than was sent.
        if self._answered >= self._sent:
            self._record.surplus_steps += 1
            return
        self._record.answered(self.start_s + self._answered * FRAME_S, now_s)
        self._answered += 1

    @property
    def is_answered(self) -> bool:
        """Whether all that was sent is answered."""
        return self._answered == self._sent

    def finish(self, now_s: float, until_s: float) -> None:
        """Note the frames that were due before `until_s` and were not answered, sent or not."""
        number = self._answered
        while (due_s := self.start_s + number * FRAME_S) < until_s:
            self._record.waiting(due_s, now_s)
            number += 1
