"""Log lines about events that any client can cause at any rate.

They are counted, and written every few seconds.
"""

from __future__ import annotations

import asyncio

from dsmops.worker.serving.logs import MAIN, Log

EVERY_S = 10.0


class Tally:
    """One such line.

    The first event is written at once, later ones as a number. Event loop only.
    """

    def __init__(self, log: Log, message: str, *, every_s: float = EVERY_S) -> None:
        self._log, self._message, self._every_s = log, message, every_s
        self._count = 0
        self._resting: asyncio.TimerHandle | None = None

    def add(self) -> None:
        """Count one event."""
        self._count += 1
        if self._resting is None:
            self._write()

    def _write(self) -> None:
        self._resting = None
        if not self._count:
            return
        self._log.warn(MAIN, self._message, count=self._count)
        self._count = 0
        self._resting = asyncio.get_running_loop().call_later(self._every_s, self._write)
