"""What every model loop is made of: slots lent to streams, and one thread that steps an engine whenever any of them can go on.

That thread is the only one that touches the engine. Everybody else talks to streams, under one lock
that is held for copies only. Nothing here grows without bound: a stream whose events are not
fetched is not stepped, and one that is full wants nothing more.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dsmops.errors import DsmopsError, ModelLoopError

NOT_FINITE = "the model gave numbers that are not finite for this stream"


@dataclass(frozen=True, slots=True)
class Started:
    """The stream has begun, or begun anew: its slot is reset."""


@dataclass(frozen=True, slots=True)
class StreamFailed:
    """The stream is over: its numbers are broken, or the whole loop is. The last event."""

    reason: str


EventT = TypeVar("EventT")
StreamT = TypeVar("StreamT", bound="SlotStream[Any]")
_Work = TypeVar("_Work")


@dataclass(frozen=True, slots=True)
class LoopObserver(Generic[StreamT]):
    """What a loop tells while it works, called on its thread. Exceptions in here end the loop."""

    warming_up: Callable[[], None]
    started: Callable[[int], None]
    """With the number of slots."""
    news: Callable[[Iterable[StreamT]], None]
    """With the streams that have new events, or room again for what they are fed."""
    died: Callable[[DsmopsError], None]


class SlotStream(Generic[EventT]):
    """What a client holds from `open` to `close` of its loop. May be used from any thread."""

    def __init__(self, slot: int, work: threading.Condition, most_events: int) -> None:
        """`work` wakes the loop, and its lock guards everything here; with `most_events` unfetched the stream is not stepped."""
        self.slot = slot
        self.on_news: Callable[[], None] = lambda: None
        """For the observer's `news` to call, wherever it sees fit."""
        self.steps = 0
        self._work = work
        self._most_events = most_events
        self._events: deque[EventT | Started | StreamFailed] = deque()
        self._over = False

    def fetch(self) -> list[EventT | Started | StreamFailed]:
        """Return the events that nobody fetched yet, in order."""
        with self._work:
            events = list(self._events)
            self._events.clear()
            if len(events) >= self._most_events:
                self._work.notify()
            return events

    # What follows is the loop's, which holds the lock.

    @property
    def may_step(self) -> bool:
        """Whether the stream may be stepped: it is not over, and its events are fetched."""
        return not self._over and len(self._events) < self._most_events

    def fail(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._events.append(StreamFailed(reason))


class ModelLoop(ABC, Generic[StreamT]):
    """An engine with its thread. `start`, then open and `close` streams, at last `stop`."""

    def __init__(self, name: str, observer: LoopObserver[StreamT], *, remedy: str) -> None:
        """`name` is for messages; `remedy` is the hint where the loop died of something unforeseen."""
        self.name = name
        self.observer = observer
        self.lock = threading.RLock()
        self.work = threading.Condition(self.lock)
        self.failure: DsmopsError | None = None
        self.slots = 0
        self._remedy = remedy
        self._streams: dict[int, StreamT] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"model-loop-{name}", daemon=True)

    def start(self) -> None:
        """Begin to load and to warm up; the observer's `started` or `died` says how that went."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End the loop after its present step, and return whether it ended. Streams get no more news."""
        with self.lock:
            self._stopping = True
            self.work.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def used_slots(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def close(self, stream: StreamT) -> None:
        """Give the slot back at once. What the stream still holds is dropped."""
        with self.lock:
            if self._streams.get(stream.slot) is stream:
                del self._streams[stream.slot]

    def _lend(self, make: Callable[[int], StreamT]) -> StreamT | None:
        """Return what `make` gives for a free slot, None where there is none or the loop is dead."""
        with self.lock:
            if self.failure is not None or self._stopping:
                return None
            slot = next((slot for slot in range(self.slots) if slot not in self._streams), None)
            if slot is None:
                return None
            stream = self._streams[slot] = make(slot)
            self.work.notify()
            return stream

    @abstractmethod
    def _serve(self) -> None:
        """Open the engine, warm it up, and step it until the loop is to end."""

    def _await(self, next_work: Callable[[], _Work | None]) -> _Work | None:
        """Return what `next_work` gives as soon as it gives something, None when the loop is to end. It is called with the lock held."""
        with self.work:
            work = next_work()
            while work is None and not self._stopping:
                self.work.wait()
                work = next_work()
            return None if self._stopping else work

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as exc:  # noqa: BLE001 whatever ends the loop has to reach every stream and end the process
            self._die(exc)

    def _die(self, exc: Exception) -> None:
        if not isinstance(exc, DsmopsError):
            cause = exc
            exc = ModelLoopError(
                f"the model loop {self.name} died: {type(cause).__name__}: {cause}",
                hint=f"Every stream is lost. {self._remedy}",
            )
            exc.__cause__ = cause
        with self.lock:
            self.failure = exc
            streams = list(self._streams.values())
            for stream in streams:
                stream.fail(exc.message)
        self.observer.died(exc)
        self.observer.news(streams)
