"""What both model loops share: slots lent to streams, and one thread that steps an engine.

The thread steps whenever any stream can go on. It alone touches the engine. All other threads use
streams, under one lock that is held for copies only. Nothing here grows without bound: a stream
whose events are not fetched is not stepped, and a full one takes nothing more.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, TypeVar

from dsmops.errors import DsmopsError, ModelLoopError
from dsmops.worker.runtime.collector import Collector

NOT_FINITE = "the model gave numbers that are not finite for this stream"


@dataclass(frozen=True, slots=True)
class Started:
    """The stream has begun, or has begun again: its slot is reset."""


@dataclass(frozen=True, slots=True)
class StreamFailed:
    """The stream is over: its numbers are broken, or the whole loop is. The last event."""

    reason: str


EventT = TypeVar("EventT")
StreamT = TypeVar("StreamT", bound="SlotStream[Any]")
_Work = TypeVar("_Work")


@dataclass(frozen=True, slots=True)
class LoopObserver(Generic[StreamT]):
    """What a loop calls while it works, on its thread. An exception in here ends the loop."""

    warming_up: Callable[[], None]
    started: Callable[[int], None]
    """With the number of slots."""
    news: Callable[[Iterable[StreamT]], None]
    """With the streams that have new events, or take input again."""
    died: Callable[[DsmopsError], None]


class SlotStream(Generic[EventT]):
    """What a client holds from `open` to `close` of its loop. Any thread may use it."""

    def __init__(self, loop: ModelLoop[Any], slot: int, most_events: int) -> None:
        """The lock of `loop` guards everything here.

        With `most_events` events not fetched the stream is not stepped.
        """
        self.slot = slot
        self.on_news: Callable[[], None] = _ignore
        """Called by the observer's `news`. Set it back to `_ignore` by `let_go` at the end."""
        self.steps = 0
        self._model_loop = loop
        self._most_events = most_events
        self._events: deque[EventT | Started | StreamFailed] = deque()
        self._over = False

    def fetch(self) -> list[EventT | Started | StreamFailed]:
        """Return the events that were not fetched yet, in order."""
        with self._model_loop.lock:
            events = list(self._events)
            self._events.clear()
            if len(events) >= self._most_events:
                self._model_loop.wake()
            return events

    def let_go(self) -> None:
        """Forget who listens, so that stream and listener do not hold each other."""
        self.on_news = _ignore

    # The loop calls what follows, with its lock held.

    @property
    def may_step(self) -> bool:
        """Whether the stream may be stepped: it is not over, and its events are fetched."""
        return not self._over and len(self._events) < self._most_events

    def fail(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._events.append(StreamFailed(reason))


def _ignore() -> None:
    pass


class ModelLoop(ABC, Generic[StreamT]):
    """An engine with its thread. `start`, then open and `close` streams, at last `stop`."""

    def __init__(self, name: str, observer: LoopObserver[StreamT], *, remedy: str) -> None:
        """`name` is for messages. `remedy` is the hint where the loop died of a bug."""
        self.name = name
        self.observer = observer
        self.lock = threading.RLock()
        self.work = threading.Condition(self.lock)
        self.failure: DsmopsError | None = None
        self.slots = 0
        self.collector = Collector()
        self.rests = False
        """Whether the loop has nothing to do: no frame waits for its step."""
        self.last_step_s = -inf
        """When the last step ended, by `time.monotonic`."""
        self._remedy = remedy
        self._streams: dict[int, StreamT] = {}
        self._stopping = False
        self._probe_wanted = False
        self._thread = threading.Thread(target=self._run, name=f"model-loop-{name}", daemon=True)

    def start(self) -> None:
        """Begin to load and to warm up. The observer's `started` or `died` reports the result."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End the loop after its present step, and return whether it ended."""
        with self.lock:
            self._stopping = True
            self.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def probe(self) -> None:
        """Ask for a step as soon as there is nothing else to do; `last_step_s` shows it."""
        with self.lock:
            self._probe_wanted = True
            self.wake()

    @property
    def used_slots(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def close(self, stream: StreamT) -> None:
        """Give the slot back at once. What the stream still holds is dropped."""
        stream.let_go()
        with self.lock:
            if self._streams.get(stream.slot) is stream:
                del self._streams[stream.slot]

    def wake(self) -> None:
        """Let the loop look for work. The caller holds the lock."""
        self.rests = False
        self.work.notify()

    def _lend(self, make: Callable[[int], StreamT]) -> StreamT | None:
        """Return what `make` gives for a free slot.

        None where no slot is free or the loop is dead.
        """
        with self.lock:
            if self.failure is not None or self._stopping:
                return None
            slot = next((slot for slot in range(self.slots) if slot not in self._streams), None)
            if slot is None:
                return None
            stream = self._streams[slot] = make(slot)
            self.wake()
            return stream

    @abstractmethod
    def _serve(self) -> None:
        """Open the engine, warm it up, and step it until the loop is to end."""

    @abstractmethod
    def _step_without_streams(self) -> None:
        """Step the engine with no slot marked, which changes nothing but shows that it works."""

    def _await(self, next_work: Callable[[], _Work | None]) -> _Work | None:
        """Return the first work that `next_work` gives, None when the loop must end.

        `next_work` is called with the lock held.
        """
        while True:
            with self.work:
                work = next_work()
                if work is None and not self._stopping and not self._probe_wanted:
                    self.rests = True
                    # With the lock held no frame can arrive meanwhile.
                    self.collector.collect_idle()
                    while work is None and not self._stopping and not self._probe_wanted:
                        self.work.wait()
                        work = next_work()
                    self.rests = False
                else:
                    self.collector.collect_busy()
                if self._stopping:
                    return None
                if work is not None:
                    return work
                self._probe_wanted = False
            self._step_without_streams()
            self._note_step()

    def _note_step(self) -> None:
        self.last_step_s = time.monotonic()

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
