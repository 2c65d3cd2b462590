"""The starts of servers, and how each ended."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from dsmops.operations.log_report.result import ServerRun

_MOST_RUNS = 1000


class Runs:
    """Takes what servers say of their starts, in its order."""

    def __init__(self) -> None:
        self.source = ""
        """Name of the log that is being read."""
        self._runs: list[ServerRun] = []
        self._started: datetime | None = None
        self._last_line: datetime | None = None
        """Of the current run."""

    def begin(self, at: datetime | None, *, is_second: bool) -> bool:
        """Take a start, and return whether it is one.

        A server may say so by two lines. `is_second` is for the one that comes second if both do.
        """
        last = self._runs[-1] if self._runs else None
        has_begun = last is not None and last.started is not None and not self._last_line
        if has_begun and is_second:
            return False
        self._end()
        del self._runs[: max(0, len(self._runs) - _MOST_RUNS + 1)]
        self._runs.append(ServerRun(self.source, at, None, None, None, None, None))
        self._started, self._last_line = at, None
        return True

    def ready(self, at: datetime | None, slots: int | None) -> None:
        """Take the start of a model loop, of so many slots."""
        run = self._current(at)
        size = run.batch_size if slots is None else (run.batch_size or 0) + slots
        self._runs[-1] = replace(run, ready=run.ready or at, batch_size=size)

    def listening(self, at: datetime | None) -> None:
        """Take the opening of the port."""
        run = self._current(at)
        self._runs[-1] = replace(run, listening=run.listening or at)

    def _current(self, at: datetime | None) -> ServerRun:
        if not self._runs:
            # The log begins after the start of the server.
            self._runs.append(ServerRun(self.source, None, None, None, at, None, None))
            self._last_line = at
        return self._runs[-1]

    def seen(self, at: datetime | None) -> None:
        """Note that the current run still wrote something."""
        if at is None or not self._runs or (self._started is not None and at < self._started):
            return
        if self._last_line is None or at > self._last_line:
            self._last_line = at

    def die(self, failure: str) -> None:
        """Take a failure after which no stream is served."""
        if self._runs:
            run = self._runs[-1]
            self._runs[-1] = replace(run, died_of=run.died_of or failure)

    def _end(self) -> None:
        if self._runs:
            self._runs[-1] = replace(self._runs[-1], last_line=self._last_line)

    def all(self) -> tuple[ServerRun, ...]:
        """Return all runs."""
        self._end()
        return tuple(self._runs)
