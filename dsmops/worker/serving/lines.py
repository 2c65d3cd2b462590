"""Model loops of other processes, as a front sees them.

What front and loop share is made by the supervisor before it starts either. A front reads its bell
in its event loop, and then looks which of its streams have news.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dsmops.errors import DsmopsError
from dsmops.worker.runtime.bell import Bell
from dsmops.worker.runtime.board import LoopBoard
from dsmops.worker.runtime.loop import Stream
from dsmops.worker.runtime.stt.interface import SttTokenizer
from dsmops.worker.runtime.stt.lanes import SttLanes
from dsmops.worker.runtime.stt.stream import SttStream
from dsmops.worker.runtime.tts.interface import TtsRequest, TtsTokenizer
from dsmops.worker.runtime.tts.remote import RemoteTtsStream
from dsmops.worker.runtime.tts.rings import TtsRings

MOST_HEADS = 16
"""Pause probabilities that a speech-to-text model may have; published ones have 4 or none."""


@dataclass(slots=True)
class Shared:
    """What the processes of one model loop share. `exchange` holds the streams' data."""

    exchange: SttLanes | TtsRings
    bell: Bell = field(default_factory=Bell)
    """Rung for the loop."""
    board: LoopBoard = field(default_factory=LoopBoard)

    def release(self, slot: int) -> None:
        """Take a slot from a front that has ended."""
        self.exchange.active[slot] = 0
        self.bell.ring()


class RemoteLine:
    """What lines of both kinds have in common. Event loop only."""

    def __init__(self, device: str, shared: Shared) -> None:
        self.device = device
        self.failure: DsmopsError | None = None
        self.board = shared.board
        self._shared = shared
        self._streams: dict[int, Any] = {}

    @property
    def slots(self) -> int:
        """Slots of the loop."""
        return self._shared.exchange.slots

    @property
    def used_slots(self) -> int:
        """Slots that any front's stream holds."""
        return int(self._shared.exchange.active.sum())

    def probe(self) -> None:
        """Ask for a step as soon as there is nothing else to do; `board` shows it."""
        self.board.ask_for_step()
        self._shared.bell.ring()

    def close(self, stream: Stream[Any]) -> None:
        """End a stream. Its slot may be lent again then."""
        stream.let_go()
        if self._streams.get(stream.slot) is stream:
            del self._streams[stream.slot]
            self._shared.release(stream.slot)

    def fail(self, exc: DsmopsError) -> None:
        """Tell every stream that the loop has died."""
        self.failure = exc
        for stream in list(self._streams.values()):
            stream.fail(exc.message)
            stream.on_news()


class RemoteSttLine(RemoteLine):
    """A speech-to-text loop in another process."""

    def __init__(
        self,
        device: str,
        shared: Shared,
        lanes: SttLanes,
        owner: int,
        tokenizer: SttTokenizer,
        on_marker: Callable[[int, int], None],
    ) -> None:
        super().__init__(device, shared)
        self._lanes, self._owner = lanes, owner
        self._tokenizer, self._on_marker = tokenizer, on_marker

    def open(self, slot: int) -> SttStream | None:
        """Return a stream in a slot that was lent, None where the loop is dead."""
        if self.failure is not None:
            return None
        stream = self._streams[slot] = SttStream(
            self._lanes,
            slot,
            self._owner,
            tokenizer=self._tokenizer,
            wake=self._shared.bell.ring,
            on_marker=self._on_marker,
        )
        return stream

    def read_news(self) -> None:
        """Hand out what the loop did."""
        for slot in self._lanes.with_news(self._owner):
            stream = self._streams.get(slot)
            if stream is not None:
                stream.read_news()
                stream.on_news()


class RemoteTtsLine(RemoteLine):
    """A text-to-speech loop in another process."""

    def __init__(
        self,
        device: str,
        shared: Shared,
        rings: TtsRings,
        owner: int,
        tokenizer: TtsTokenizer,
        padding_between: int,
    ) -> None:
        super().__init__(device, shared)
        self._rings, self._owner = rings, owner
        self._tokenizer, self._padding_between = tokenizer, padding_between

    def open(self, request: TtsRequest, slot: int) -> RemoteTtsStream | None:
        """Return a stream in a slot that was lent, None where the loop is dead.

        A request that its engine cannot follow comes back as the stream's first event.
        """
        if self.failure is not None:
            return None
        stream = self._streams[slot] = RemoteTtsStream(
            self._rings,
            slot,
            self._owner,
            request,
            tokenizer=self._tokenizer,
            padding_between=self._padding_between,
            wake=self._shared.bell.ring,
        )
        return stream

    def read_news(self) -> None:
        """Hand out what the loop did."""
        unsent = {slot for slot, stream in self._streams.items() if stream.has_unsent}
        for slot in {*self._rings.with_news(self._owner), *unsent}:
            stream = self._streams.get(slot)
            if stream is not None:
                stream.read_news()
                stream.on_news()
