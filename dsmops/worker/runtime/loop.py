"""What both model loops share: slots lent to streams, and one thread that steps an engine.

The thread steps whenever any stream can go on. It alone touches the engine. Nothing here grows
without bound: a stream whose events are not fetched is not stepped, and a full one takes nothing
more.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dsmops.errors import DsmopsError, ModelLoopError
from dsmops.worker.runtime.bell import Bell
from dsmops.worker.runtime.board import LoopBoard
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
StreamT = TypeVar("StreamT", bound="Stream[Any]")
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


class Stream(ABC, Generic[EventT]):
    """What a client holds of a model loop, from `open` to `close`. Any thread may use it."""

    def __init__(self, slot: int, most_events: int) -> None:
        """With `most_events` events not fetched the stream is not stepped."""
        self.slot = slot
        self.on_news: Callable[[], None] = _ignore
        """Called when there are new events, or input is taken again. Set it back to `_ignore` by
        `let_go` at the end."""
        self.steps = 0
        self._most_events = most_events
        self._events: deque[EventT | Started | StreamFailed] = deque()
        self._over = False

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """Whether it wants no more for now; `on_news` says when to look again.

        What is sent all the same is taken.
        """

    @abstractmethod
    def fetch(self) -> list[EventT | Started | StreamFailed]:
        """Return the events that were not fetched yet, in order."""

    @abstractmethod
    def fail(self, reason: str) -> None:
        """End the stream: `StreamFailed` is its last event."""

    def let_go(self) -> None:
        """Forget who listens, so that stream and listener do not hold each other."""
        self.on_news = _ignore

    def _end(self, event: EventT | StreamFailed) -> bool:
        """Add the last event, and return whether the stream was not over yet."""
        ends, self._over = not self._over, True
        if ends:
            self._events.append(event)
        return ends


def _ignore() -> None:
    pass


class ModelLoop(ABC, Generic[StreamT]):
    """An engine with its thread. `start`, then open and `close` streams, at last `stop`."""

    def __init__(self, name: str, observer: LoopObserver[StreamT], *, remedy: str) -> None:
        """`name` is for messages. `remedy` is the hint where the loop died of a bug."""
        self.name = name
        self.observer = observer
        self.lock = threading.RLock()
        self.bell = Bell()
        """Rings when there may be work."""
        self.board = LoopBoard()
        self.failure: DsmopsError | None = None
        self.slots = 0
        self.device = ""
        """What messages call its device; nothing where there is one."""
        self.collector = Collector()
        self.rests = False
        """Whether the loop has nothing to do: no frame waits for its step."""
        self._remedy = remedy
        self._streams: dict[int, StreamT] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"model-loop-{name}", daemon=True)

    def start(self) -> None:
        """Begin to load and to warm up. The observer's `started` or `died` reports the result."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End the loop after its present step, and return whether it ended."""
        self._stopping = True
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def probe(self) -> None:
        """Ask for a step as soon as there is nothing else to do; `board` shows it."""
        self.board.ask_for_step()
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
        """Let the loop look for work."""
        self.rests = False
        self.bell.ring()

    def _lend(self, make: Callable[[int], StreamT], slot: int | None) -> StreamT | None:
        """Return what `make` gives for a free slot: this one, or the first.

        None where no slot is free or the loop is dead.
        """
        with self.lock:
            if self.failure is not None or self._stopping:
                return None
            free = (free for free in range(self.slots) if free not in self._streams)
            slot = next(free, None) if slot is None else slot
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
        while not self._stopping:
            with self.lock:
                work = next_work()
            if work is not None:
                self.collector.collect_busy()
                return work
            if self.board.step_is_wanted:
                # Answered before the step: who asks during it gets another.
                self.board.answer()
                self._step_without_streams()
                self.board.note_step()
                continue
            self.rests = True
            self.collector.collect_idle()
            self.bell.wait()
            self.rests = False
        return None

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as exc:  # noqa: BLE001 whatever ends the loop has to reach every stream and end the process
            self.die(exc)

    def die(self, exc: Exception) -> None:
        """End the loop for a failure. Every stream gets the reason. Any thread may call it."""
        self._stopping = True
        self.wake()
        if not isinstance(exc, DsmopsError):
            cause = exc
            exc = ModelLoopError(
                f"the model loop {self.name} died: {type(cause).__name__}: {cause}",
                hint=f"Every stream is lost. {self._remedy}",
            )
            exc.__cause__ = cause
        with self.lock:
            if self.failure is not None:
                return
            self.failure = exc
            streams = list(self._streams.values())
            for stream in streams:
                stream.fail(exc.message)
        self.observer.died(exc)
        self.observer.news(streams)
