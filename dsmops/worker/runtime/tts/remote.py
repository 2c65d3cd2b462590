"""TTS streams whose model loop is in another process.

`RemoteTtsStream` is a front's end. `TtsPorter` moves messages between the rings and the streams of
the loop. The front turns text into tokens. Words cross as JSON, sound and voices as float32.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmops.errors import InputError
from dsmops.worker.runtime.bell import Bell
from dsmops.worker.runtime.loop import Started, StreamFailed
from dsmops.worker.runtime.shared import fence
from dsmops.worker.runtime.tts.interface import TtsRequest, TtsTokenizer
from dsmops.worker.runtime.tts.loop import (
    MOST_WAITING_WORDS,
    TtsConversation,
    TtsEnded,
    TtsEvent,
    TtsLoop,
    TtsRefused,
    TtsStream,
    require_short,
    text_after_end,
)
from dsmops.worker.runtime.tts.machine import TtsEntry
from dsmops.worker.runtime.tts.rings import STREAM_NUMBERS, TtsRings
from dsmops.worker.runtime.tts.script import TtsTextStream
from dsmops.worker.runtime.tts.utterance import TtsAudio, TtsWord

_MOST_EVENTS = 250
"""Events that a front holds for a client that does not fetch them."""
_TOKENS_AT_ONCE = 4_000
"""Tokens in one message, up to a whole word. What reads it keeps the model loop waiting."""


class _Kind(IntEnum):
    VOICE = 1
    """A voice of the next request: float32, its shape first."""
    OPEN = 2
    CHANGE = 3
    TEXT = 4
    LAST_TEXT = 5
    STARTED = 6
    WORD = 7
    AUDIO = 8
    ENDED = 9
    FAILED = 10
    REFUSED = 11


class RemoteTtsStream(TtsConversation):
    """A slot of a loop in another process, from its opening to its closing."""

    def __init__(
        self,
        rings: TtsRings,
        slot: int,
        owner: int,
        request: TtsRequest,
        *,
        tokenizer: TtsTokenizer,
        padding_between: int,
        wake: Callable[[], None],
    ) -> None:
        """Take the rings of `slot`, which no other stream holds, for the front `owner`.

        `wake` wakes the porter on the other side.
        """
        super().__init__(slot, _MOST_EVENTS)
        self._rings, self._wake = rings, wake
        self._text = TtsTextStream(tokenizer, padding_between=padding_between)
        self._lock = threading.RLock()
        self._outbox: deque[tuple[int, bytes]] = deque()
        self._unsent_words = 0
        self._is_closed = self._has_text = self._is_let_go = False
        self._number = int(rings.opened[slot] + 1) % STREAM_NUMBERS
        rings.owner[slot] = owner
        rings.waiting_words[slot] = 0
        rings.opened[slot] = self._number
        rings.active[slot] = 1
        self._send_request(_Kind.OPEN, request)

    @property
    def is_full(self) -> bool:
        """Whether it wants no more text for now."""
        return self._unsent_words + int(self._rings.waiting_words[self.slot]) >= MOST_WAITING_WORDS

    @property
    def skipped(self) -> int:
        return self._text.skipped.total()

    def change_request(self, request: TtsRequest) -> None:
        with self._lock:
            if self._has_text or self._is_closed:
                raise InputError(
                    "the voice came after the text had begun",
                    hint="Send it before the first word.",
                    code="speech.order",
                )
            self._send_request(_Kind.CHANGE, request)

    def add_text(self, text: str) -> None:
        require_short(text)
        self._has_text = True
        self._send_entries(self._text.take(text))

    def end_text(self) -> None:
        if not self._is_closed:
            self._send_entries(self._text.close(), last=True)

    def fetch(self) -> list[TtsEvent]:
        """Return the events that were not fetched yet, in order."""
        with self._lock:
            # First, and all of it: no bell rings for what has left the ring, or stays there.
            self._receive(inf)
            events: list[TtsEvent] = list(self._events)
            self._events.clear()
            return events

    def fail(self, reason: str) -> None:
        with self._lock:
            self._end(StreamFailed(reason))

    def let_go(self) -> None:
        """Leave the rings to the slot's next stream.

        A thread may still be tokenizing text for this one. What it adds is dropped.
        """
        super().let_go()
        with self._lock:
            self._is_let_go = True
            self._outbox.clear()

    @property
    def has_unsent(self) -> bool:
        """Whether something waits for space on its way to the loop."""
        return bool(self._outbox)

    def read_news(self) -> None:
        """Take what the other side sent, as long as events are fetched; send what still waits."""
        self._receive(_MOST_EVENTS)

    def _receive(self, most_events: float) -> None:
        """Take what the other side sent until this many events wait; send what still waits."""
        with self._lock:
            if self._is_let_go:
                return
            self._flush()
            while not self._over and len(self._events) < most_events:
                message = self._rings.output.take(self.slot, self._number)
                if message is None:
                    break
                self._note(*message)
        # The other side may have more, for which there was no space.
        fence()
        if self._rings.blocked[self.slot]:
            self._wake()

    def _note(self, kind: int, body: bytes) -> None:
        match kind:
            case _Kind.STARTED:
                self._events.append(Started())
            case _Kind.WORD:
                self._events.append(TtsWord(*json.loads(body)))
            case _Kind.AUDIO:
                self.steps += 1
                self._events.append(TtsAudio(np.frombuffer(body, np.float32)))
            case _Kind.ENDED:
                self.steps = int.from_bytes(body, "little")
                self._end(TtsEnded())
            case _Kind.FAILED:
                self._end(StreamFailed(body.decode()))
            case _Kind.REFUSED:
                message, hint, code = json.loads(body)
                self._end(TtsRefused(InputError(message, hint=hint, code=code)))

    def _send_request(self, kind: _Kind, request: TtsRequest) -> None:
        with self._lock:
            for voice in request.voices:
                shape = json.dumps(voice.shape).encode()
                head = len(shape).to_bytes(2, "little") + shape
                self._send(_Kind.VOICE, head + voice.astype(np.float32).tobytes())
            self._send(
                kind,
                json.dumps(
                    [request.cfg, request.seed, request.temperature, request.padding_bonus]
                ).encode(),
            )

    def _send_entries(self, entries: Iterable[TtsEntry], *, last: bool = False) -> None:
        messages: list[list[TtsEntry]] = [[]]
        tokens = 0
        for entry in entries:
            if tokens >= _TOKENS_AT_ONCE:
                messages.append([])
                tokens = 0
            messages[-1].append(entry)
            tokens += 1 + len(entry.tokens)
        with self._lock:
            if self._is_closed:
                raise text_after_end()
            self._is_closed = last
            self._unsent_words += sum(map(len, messages))
            for message in filter(None, messages):
                values = [[entry.tokens, entry.text, entry.padding] for entry in message]
                self._send(_Kind.TEXT, json.dumps(values).encode())
            if last:
                self._send(_Kind.LAST_TEXT, b"")

    def _send(self, kind: _Kind, body: bytes) -> None:
        if not self._is_let_go:
            self._outbox.append((kind, body))
            self._flush()

    def _flush(self) -> None:
        if not self._outbox:
            return
        while self._outbox and self._rings.input.put(self.slot, self._number, *self._outbox[0]):
            self._outbox.popleft()
        if not self._outbox:
            self._unsent_words = 0
        # Also where nothing had space: the messages of an earlier stream may fill the ring.
        self._wake()


@dataclass(slots=True)
class _Served:
    """A stream of the loop for a front elsewhere."""

    number: int
    stream: TtsStream | None
    voices: list[NDArray[np.float32]]
    outbox: deque[tuple[int, bytes]]
    ended: bool = False


class TtsPorter:
    """Moves messages between the rings and a loop's streams. `news` is the loop's observer's.

    A thread of its own waits for the bell that fronts ring.
    """

    def __init__(self, rings: TtsRings, bell: Bell, tell: Callable[[set[int]], None]) -> None:
        """`tell` rings the bells of the fronts with these numbers."""
        self._rings, self._bell, self._tell = rings, bell, tell
        self._loop: TtsLoop | None = None
        self._lock = threading.Lock()
        self._served: dict[int, _Served] = {}
        self._is_served = np.zeros(rings.slots, np.bool_)
        """The slots in `_served`."""
        self._by_stream: dict[TtsStream, int] = {}

    def start(self, loop: TtsLoop) -> None:
        """Serve a loop that has started."""
        self._loop = loop
        threading.Thread(
            target=self._run, args=[loop], name=f"porter-{loop.name}", daemon=True
        ).start()

    def news(self, streams: Iterable[TtsStream]) -> None:
        """Send what the loop's streams have. Called on the loop's thread."""
        with self._lock:
            slots = [
                slot for stream in streams if (slot := self._by_stream.get(stream)) is not None
            ]
            owners = {int(self._rings.owner[slot]) for slot in slots if self._send_events(slot)}
        if owners:
            self._tell(owners)

    def _run(self, loop: TtsLoop) -> None:
        try:
            while True:
                self._bell.wait()
                self._attend_all()
                if loop.board.step_is_wanted:
                    loop.wake()
        except Exception as exc:  # noqa: BLE001 without its porter the loop serves no one
            loop.die(exc)

    def _attend_all(self) -> None:
        with self._lock:
            owners = {
                int(self._rings.owner[slot]) for slot in self._waiting_slots() if self._attend(slot)
            }
        if owners:
            self._tell(owners)

    def _waiting_slots(self) -> list[int]:
        """Return the slots that were opened or closed, or for which something waits."""
        rings = self._rings
        slots: list[int] = np.flatnonzero(
            ((rings.active > 0) != self._is_served)
            | rings.input.with_messages()
            | (rings.blocked > 0)
        ).tolist()
        return slots

    def _attend(self, slot: int) -> bool:
        """Do what a slot's messages ask for, and return whether its front has news."""
        rings = self._rings
        # In this order: what is active has its number already.
        is_active, number = bool(rings.active[slot]), int(rings.opened[slot])
        served = self._served.get(slot)
        if served is not None and (not is_active or served.number != number):
            self._drop(slot, served)
            served = None
        if not is_active:
            return False
        # A front whose ring was full may go on, also where an earlier stream had filled it.
        made_space = served is None
        if served is None:
            served = self._served[slot] = _Served(number, None, [], deque())
            self._is_served[slot] = True
        while (message := rings.input.take(slot, number)) is not None:
            made_space = True
            if not served.ended:
                self._obey(slot, served, *message)
        return self._send_events(slot) or made_space

    def _obey(self, slot: int, served: _Served, kind: int, body: bytes) -> None:
        loop, stream = self._loop, served.stream
        if loop is None:
            return
        try:
            match kind:
                case _Kind.VOICE:
                    served.voices.append(_voice(body))
                case _Kind.OPEN:
                    served.stream = loop.open(_request(served, body), slot)
                    if served.stream is None:
                        self._refuse(served, _Kind.FAILED, b"no free channels")
                    else:
                        self._by_stream[served.stream] = slot
                case _Kind.CHANGE if stream is not None:
                    stream.change_request(_request(served, body))
                case _Kind.TEXT if stream is not None:
                    stream.extend(
                        [
                            TtsEntry(tuple(tokens), text, pad)
                            for tokens, text, pad in json.loads(body)
                        ]
                    )
                case _Kind.LAST_TEXT if stream is not None:
                    stream.extend([], last=True)
        except InputError as exc:
            body = json.dumps([exc.message, exc.hint, exc.code]).encode()
            self._refuse(served, _Kind.REFUSED, body)

    def _refuse(self, served: _Served, kind: _Kind, body: bytes) -> None:
        served.ended = True
        served.outbox.append((kind, body))

    def _send_events(self, slot: int) -> bool:
        """Send what a slot's stream has, as far as there is space; return whether anything was.

        What has no space stays with the stream, which is not stepped then.
        """
        served = self._served.get(slot)
        if served is None:
            return False
        blocked, sent = self._rings.blocked, False
        while served.outbox or self._fetch(slot, served):
            if self._rings.output.put(slot, served.number, *served.outbox[0]):
                served.outbox.popleft()
                sent = True
            elif blocked[slot]:
                return sent
            else:
                # And once more: the front may have made space before it saw that it must ring.
                blocked[slot] = 1
                fence()
        blocked[slot] = 0
        return sent

    def _fetch(self, slot: int, served: _Served) -> bool:
        """Move the events of a slot's stream into its outbox; return whether there were any."""
        if served.stream is None:
            return False
        served.outbox.extend(_message(event, served.stream) for event in served.stream.fetch())
        self._rings.waiting_words[slot] = served.stream.waiting_words
        return bool(served.outbox)

    def _drop(self, slot: int, served: _Served) -> None:
        del self._served[slot]
        self._is_served[slot] = False
        self._rings.blocked[slot] = 0
        if served.stream is not None and self._loop is not None:
            self._by_stream.pop(served.stream, None)
            self._loop.close(served.stream)


def _voice(body: bytes) -> NDArray[np.float32]:
    end = 2 + int.from_bytes(body[:2], "little")
    return np.frombuffer(body, np.float32, offset=end).reshape(json.loads(body[2:end]))


def _request(served: _Served, body: bytes) -> TtsRequest:
    cfg, seed, temperature, padding_bonus = json.loads(body)
    voices, served.voices = tuple(served.voices), []
    return TtsRequest(voices, cfg, seed, temperature, padding_bonus)


def _message(event: Any, stream: TtsStream) -> tuple[int, bytes]:
    match event:
        case Started():
            return _Kind.STARTED, b""
        case TtsWord():
            return _Kind.WORD, json.dumps([event.text, event.start_s, event.stop_s]).encode()
        case TtsAudio():
            return _Kind.AUDIO, event.pcm.tobytes()
        case TtsEnded():
            return _Kind.ENDED, stream.steps.to_bytes(8, "little")
        case StreamFailed():
            return _Kind.FAILED, event.reason.encode()[:8000]
    raise AssertionError(event)
