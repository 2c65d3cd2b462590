"""Frames on an absolute clock, and how late this process itself is.

Frame k of a stream is due at start + k · 80 ms, whatever happened before. A process that was held
up sends what is due at once, and nothing is shifted. How late each frame left, and how late a timer
of 10 ms ran, is the jitter of the process itself: an answer waits as long before it is seen.
"""

from __future__ import annotations

import asyncio
import heapq
from array import array
from typing import Protocol

from dsmops.client.load.websocket import clock
from dsmops.models import FRAME_MS

FRAME_S = FRAME_MS / 1000
TIMER_S = 0.01
_MOST_AT_ONCE = 64
"""Frames sent before what has come is read."""


class Window:
    """The time that is measured, of `clock`. Nothing is in it until it is set."""

    def __init__(self) -> None:
        self.from_s = self.until_s = float("inf")

    def holds(self, at_s: float) -> bool:
        return self.from_s <= at_s < self.until_s


class Paced(Protocol):
    """A stream that sends a frame when one is due."""

    def send_due(self) -> float | None:
        """Send the frame that is due; return when the next one is, None for none."""


class Pacer:
    """Sends the frames of all streams of a process. `jitter_ms` is of frames due in `window`."""

    def __init__(self, window: Window) -> None:
        self.jitter_ms = array("f")
        self._window = window
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[float, int, Paced]] = []
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = clock() + TIMER_S
        self._on_timerer = self._loop.call_at(self._timer_due_s, self._on_timer)

    def add(self, stream: Paced, first_due_s: float) -> None:
        """Let `stream` send from `first_due_s` on."""
        self._number += 1
        heapq.heappush(self._due, (first_due_s, self._number, stream))
        self._schedule()

    def stop(self) -> None:
        """Send nothing more."""
        self._due.clear()
        self._on_timerer.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._due[0][0], self._send) if self._due else None

    def _send(self) -> None:
        due, window = self._due, self._window
        for _ in range(_MOST_AT_ONCE):
            now_s = clock()
            if not due or due[0][0] > now_s:
                break
            due_s, number, stream = due[0]
            if window.from_s <= due_s < window.until_s:
                self.jitter_ms.append((now_s - due_s) * 1000)
            next_s = stream.send_due()
            if next_s is None:
                heapq.heappop(due)
            else:
                heapq.heapreplace(due, (next_s, number, stream))
        self._timer = None
        self._schedule()

    def _on_timer(self) -> None:
        now_s = clock()
        if self._window.holds(self._timer_due_s):
            self.jitter_ms.append((now_s - self._timer_due_s) * 1000)
        # Times that were missed are late, too, each by its own amount.
        while (due_s := self._timer_due_s + TIMER_S) <= now_s:
            self._timer_due_s = due_s
            if self._window.holds(due_s):
                self.jitter_ms.append((now_s - due_s) * 1000)
        self._timer_due_s = due_s
        self._on_timerer = self._loop.call_at(due_s, self._on_timer)
