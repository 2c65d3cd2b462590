"""What lines say, worked out once for all lines that differ in their time only.

A server says a few things again and again. What a line in its own format says does not depend on
its time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

from dsmops.logs import Clock, LogRecord
from dsmops.logs.reader import Reader
from dsmops.operations.log_report.events import begins_run

_MOST_LINES = 8192
_MOST_BYTES = 600
"""A longer line is read each time, so that the memory stays small on any log."""
_STAMP = re.compile(rb"(?:\x1b\[\d{1,2}m)?(20\d\d-\d\d-\d\dT\d\d:\d\d:[0-5]\d)\.(\d{6})(?=Z)")
_SOME_STAMP = b"2026-01-02T03:04:05.000000"


class KnownLine:
    """What a line that begins an event says, but for its time."""

    __slots__ = ("_record", "is_only_event", "level", "line", "message", "target")

    def __init__(self, record: LogRecord, *, is_only_event: bool) -> None:
        """`is_only_event`: it begins no run, names no step, and tells of no failure."""
        self._record, self.is_only_event = record, is_only_event
        self.level, self.target = record.level, record.target or ""
        self.line, self.message = record.line, record.message

    def record(self, at: datetime | None) -> LogRecord:
        """Return the record of such a line, written at a time."""
        of = self._record
        return LogRecord(of.format, of.message, at, of.level, of.target, of.file, of.line, of.spans)


class LineMemory:
    """Remembers lines of one log."""

    def __init__(self, is_harmless: Callable[[str], bool]) -> None:
        """`is_harmless` says whether a message tells of no failure."""
        self._is_harmless = is_harmless
        self._reader = Reader(Clock(UTC))
        self._events: dict[bytes, KnownLine | None] = {}
        """By what follows the time of a line; None where it has to be read each time."""

    def event(self, raw: bytes) -> tuple[KnownLine, datetime] | None:
        """Return what a line in the server's own format says, and when it was written.

        None where the reader has to say.
        """
        stamp = _STAMP.match(raw)
        if stamp is None or len(raw) > _MOST_BYTES:
            return None
        rest = raw[stamp.end() :]
        if rest in self._events:
            known = self._events[rest]
        else:
            if len(self._events) >= _MOST_LINES:
                self._events.clear()
            known = self._events[rest] = self._read(rest)
        second = _second(stamp[1]) if known else None
        return (known, second.replace(microsecond=int(stamp[2]))) if known and second else None

    def _read(self, rest: bytes) -> KnownLine | None:
        record = self._reader.line(_SOME_STAMP + rest).record
        if record is None or record.format != "tracing" or record.service or record.continuation:
            return None
        message = record.message
        return KnownLine(
            record,
            is_only_event=not begins_run(message)
            and "step_idx" not in message
            and self._is_harmless(message),
        )


@lru_cache(maxsize=64)
def _second(text: bytes) -> datetime | None:
    try:
        return datetime.fromisoformat(text.decode()).replace(tzinfo=UTC)
    except ValueError:
        return None
