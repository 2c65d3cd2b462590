"""Python's garbage collector, run only when no frame waits for its step.

A collection stops every thread of the process. With Python's own schedule, collections ran in the
middle of steps: at 256 paced streams on an H200 the p99 latency was 209 ms, and 35 ms without them.
So Python's schedule is off while a server runs. What is loaded is frozen: no later collection
visits it. A model loop that has nothing to do asks for a collection, and gets a short one.

Connections and streams are made without reference cycles, so that little is left to collect.
tests/worker/serving/test_collector.py checks this.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

YOUNG_OBJECTS = 2_000
"""New objects after which the youngest generation is collected, in an idle moment; about 0.2 ms."""
MOST_YOUNG_OBJECTS = 200_000
"""New objects after which it is collected even where no loop is ever idle; some 10 ms."""
FULL_EVERY_S = 60.0
"""Between two collections of all that is not frozen, about 0.1 ms for each open connection."""
_FULL_SHARE = 1e-3
"""Of the time at most for such collections."""


class Loop(Protocol):
    """What a collector asks of a model loop."""

    rests: bool


class FullCollections:
    """Collects all that is not frozen, now and then.

    asyncio's transports are cycles, and aiohttp leaves others when clients hang up. Such a cycle
    holds what its client has sent. Where some stream is always open, a server that waited for a
    moment without streams grew by 8 MiB a minute under attacks.
    """

    def __init__(self) -> None:
        self._next_s = time.monotonic() + FULL_EVERY_S

    def collect(self) -> bool:
        """Collect where that is due, and return whether it was."""
        begin_s = time.monotonic()
        if begin_s < self._next_s:
            return False
        gc.collect()
        end_s = time.monotonic()
        self._next_s = end_s + max(FULL_EVERY_S, (end_s - begin_s) / _FULL_SHARE)
        return True


class Collector:
    """Decides when to collect, for the loops of one server. Any loop's thread may call it."""

    def __init__(self) -> None:
        self.loops: list[Loop] = []
        self._lock = threading.Lock()
        self._full = FullCollections()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Freeze what exists, and turn automatic collections off inside the block."""
        was_enabled = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            yield
        finally:
            gc.unfreeze()
            if was_enabled:
                gc.enable()

    def collect_idle(self) -> None:
        """Collect what is due, unless a frame waits in any loop. The caller's loop rests."""
        if gc.isenabled() or not all(loop.rests for loop in self.loops):
            return
        if not self._lock.acquire(blocking=False):
            return
        try:
            if not self._full.collect() and gc.get_count()[0] >= YOUNG_OBJECTS:
                # Survivors move on to the second generation, which is as small.
                gc.collect(1)
        finally:
            self._lock.release()

    def collect_busy(self) -> None:
        """Collect where a loop has not been idle for so long that memory would grow."""
        if not gc.isenabled() and gc.get_count()[0] >= MOST_YOUNG_OBJECTS:
            gc.collect(0)
