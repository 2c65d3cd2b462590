"""How far ahead of a server's answers a client sends audio.

moshi-server takes all that it is sent, and keeps it. A client that sends a long recording as fast
as the network carries it would fill the memory of both sides, and on a slow server it would then
wait for many minutes without anything to send.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

from dsmops.models import FRAME_MS
from dsmops.protocol import EndWord, Marker, Step, SttAnswer, Word

FRAME_S = FRAME_MS / 1000
SEND_AHEAD_S = 60.0
_MARKER_EVERY_S = 5.0


class SendWindow:
    """Counts frames sent and frames answered.

    A model with pause detection answers each frame with a `Step`. One without says where it is by
    its words and by the markers that it returns, so until a first `Step` comes, the sender adds a
    marker every few seconds of audio.
    """

    def __init__(self, ahead_s: float = SEND_AHEAD_S) -> None:
        self._most = max(1, round(ahead_s / FRAME_S))
        self._marker_every = max(1, round(min(_MARKER_EVERY_S, ahead_s / 4) / FRAME_S))
        self._sent = self._answered = self._marked = self._steps = 0
        self._markers: deque[tuple[int, int]] = deque()
        self._next_id = 1
        self._moved = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return self._sent - self._answered >= self._most

    def sent(self, frames: int) -> None:
        """Count frames that were sent."""
        self._sent += frames

    def due_marker(self) -> Marker | None:
        """Return the marker to send now, None for none."""
        if self._steps or self._sent - self._marked < self._marker_every:
            return None
        self._marked = self._sent
        marker = Marker(self._next_id)
        self._next_id += 1
        self._markers.append((marker.id, self._sent))
        return marker

    def take(self, answer: SttAnswer) -> None:
        """Note how far the server is by what it answered."""
        match answer:
            case Step():
                # A Python module sends the steps of all streams: no more can be answered than sent.
                self._steps = min(self._steps + 1, self._sent)
                self._answer(self._steps)
            case Marker():
                while self._markers and self._markers[0][0] <= answer.id:
                    self._answer(self._markers.popleft()[1])
            case Word():
                self._answer(int(answer.start_time / FRAME_S))
            case EndWord():
                self._answer(int(answer.stop_time / FRAME_S))

    def _answer(self, frames: int) -> None:
        self._answered = min(max(self._answered, frames), self._sent)
        self._moved.set()

    def moved(self) -> Coroutine[Any, Any, object]:
        """Return what waits for the next answer that says where the server is."""
        # Cleared here and not in the coroutine: an answer may come before that runs.
        self._moved.clear()
        return self._moved.wait()
