"""What lines and records say, worked out once for all that differ in their time only.

A server says a few things again and again. What a line in its own format says does not depend on
its time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from dsmops.findings import Severity
from dsmops.logs import Clock, LogRecord
from dsmops.logs.failures import FAILURES, FailureSeen, find_failures
from dsmops.logs.reader import Reader
from dsmops.operations.log_report.events import Failed, Said, said_by

_MOST_KNOWN, _KNOWN_CHARS = 4096, 400
_MOST_LINES, _MOST_BYTES = 8192, 600
"""A longer line is read each time, so that the memory stays small on any log."""
_STAMP = re.compile(rb"(?:\x1b\[\d{1,2}m)?(20\d\d-\d\d-\d\dT\d\d:\d\d:[0-5]\d)\.(\d{6})(?=Z)")
_SOME_STAMP = b"2026-01-02T03:04:05.000000"
_DEATHS = ("rust", "process", "python", "cuda")
"""Formats of lines that a process leaves behind when it dies."""


class Meanings:
    """Remembers what messages and lines tell."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, int | None, str], tuple[Said, ...]] = {}
        self._failures: dict[str, tuple[FailureSeen, ...]] = {}

    def of(self, record: LogRecord) -> tuple[Said, ...]:
        """Return what a record and the lines that belong to it tell."""
        said = () if record.format == "text" else self._event(record)
        failures = self.failures_in(record.message)
        for line in record.continuation:
            failures += self.failures_in(line)
        if not failures:
            return said
        may_end = "model_loop" in record.message or record.format in _DEATHS
        return said + tuple(
            Failed(seen, may_end and FAILURES[seen.name].severity is Severity.ERROR)
            for seen in failures
        )

    def _event(self, record: LogRecord) -> tuple[Said, ...]:
        key = (record.target or "", record.line, record.message)
        said = self._said.get(key)
        if said is None:
            said = said_by(*key)
            if len(self._said) >= _MOST_KNOWN:
                self._said.clear()
            if len(record.message) <= _KNOWN_CHARS:
                self._said[key] = said
        return said

    def failures_in(self, line: str) -> tuple[FailureSeen, ...]:
        """Return the known failures that a line tells of. Causes and traces repeat."""
        known = self._failures.get(line)
        if known is None:
            known = tuple(find_failures([line.encode("utf-8", "surrogatepass")]))
            if len(self._failures) >= _MOST_KNOWN:
                self._failures.clear()
            if len(line) <= _KNOWN_CHARS:
                self._failures[line] = known
        return known


class KnownLine:
    """What a line that begins an event says, but for its time."""

    __slots__ = ("_record", "level", "line", "may_be_step", "said")

    def __init__(self, record: LogRecord, said: tuple[Said, ...]) -> None:
        self._record = record
        self.level, self.line, self.said = record.level, record.line, said
        self.may_be_step = "step_idx" in record.message
        """Whether it may name the time of a step."""

    def record(self, at: datetime) -> LogRecord:
        """Return the record of such a line, written at a time."""
        of = self._record
        return LogRecord(of.format, of.message, at, of.level, of.target, of.file, of.line, of.spans)


class LineMemory:
    """Remembers lines in the server's own format."""

    def __init__(self, meanings: Meanings) -> None:
        self._meanings = meanings
        self._reader = Reader(Clock(UTC))
        self._lines: dict[bytes, KnownLine | None] = {}
        """By what follows the time of a line; None where it has to be read each time."""

    def event(self, raw: bytes) -> tuple[KnownLine, datetime] | None:
        """Return what a line in the server's own format says, and when it was written.

        None where the reader has to say.
        """
        stamp = _STAMP.match(raw)
        if stamp is None or len(raw) > _MOST_BYTES:
            return None
        rest = raw[stamp.end() :]
        known = self._lines.get(rest)
        if known is None:
            if rest in self._lines:
                return None
            if len(self._lines) >= _MOST_LINES:
                self._lines.clear()
            known = self._lines[rest] = self._read(rest)
        second = _second(stamp[1]) if known else None
        return (known, second.replace(microsecond=int(stamp[2]))) if known and second else None

    def _read(self, rest: bytes) -> KnownLine | None:
        record = self._reader.line(_SOME_STAMP + rest).record
        if record is None or record.format != "tracing" or record.service or record.continuation:
            return None
        return KnownLine(record, self._meanings.of(record))


@lru_cache(maxsize=64)
def _second(text: bytes) -> datetime | None:
    try:
        return datetime.fromisoformat(text.decode()).replace(tzinfo=UTC)
    except ValueError:
        return None
