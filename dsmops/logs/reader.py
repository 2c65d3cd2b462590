"""Lines to records: which line begins an event, and which belong to the event before.

A line continues its event when it is blank or indented, names a cause, or is part of a Python
traceback. What is left is text of no dialect: Python prints, download bars. Nothing here raises on
any input, and no line is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from dsmops.logs.clock import Clock
from dsmops.logs.formats import FORMATS
from dsmops.logs.plain_text import clean, decode
from dsmops.logs.records import LogRecord

_SERVICE = re.compile(
    r"(?P<prefix>(?P<service>[A-Za-z0-9][\w.@/-]{0,99}) +\|)(?: (?P<text>.*))?", re.ASCII
)
"""What `docker compose logs` and `docker service logs` put in front: a name, padded, and a bar."""

_COLLECTED = re.compile(rb"\x1e(20[0-9T:.-]{24})Z\x1e")
"""The collector's time before a line that bears none, see `wrappers`."""

_MOST_REPEATING, _REPEATING_BYTES = 1024, 600

MOST_SERVICES = 1000
"""More names before a bar are a printed table, not containers. This bounds the memory too."""

_TRACEBACK = "Traceback (most recent call last):"
_CONTINUES = re.compile(
    r"$|[ \t]|Caused by:|[Ss]tack backtrace:"
    r"|note: (?:Some details are omitted, )?run with `RUST_BACKTRACE"
    r"|During handling of the above exception|The above exception was the direct cause"
    r"|CUDA kernel errors might be|For debugging consider passing CUDA_"
    r"|Compile with `TORCH_USE_CUDA|Exception raised from \S+ at |frame #\d{1,4}: "
    r"|(?:Current t|T)hread 0x[0-9a-f]+ (?:\[.*\] )?\(most recent call first\):"
    r"|Extension modules: "
)

_PANIC = r"thread '[^']*' (?:\(\d{1,9}\) )?panicked at .*:$"
_DEATHS = {
    "rust": re.compile(
        r"thread '[^']*' (?:\(\d{1,9}\) )?panicked at |fatal runtime error: |Error: "
        r"|thread (?:caused non-unwinding panic|panicked while processing panic"
        r"|'[^']*' (?:\(\d{1,9}\) )?has overflowed its stack)"
    ),
    "process": re.compile(
        r"memory allocation of \d{1,20} bytes failed|(?:free|malloc|realloc|munmap_chunk)\(\): "
        r"|double free or corruption|corrupted (?:size|double-linked|unsorted)"
        r"|\*\*\* (?:stack smashing|buffer overflow) detected"
        r"|terminate called (?:after|without|recursively)|Out of memory: Killed process"
        r"|\S{1,300}: line \d{1,9}:\s{1,9}\d{1,10} (?:Segmentation fault|Aborted|Bus error"
        r"|Killed)\s"
        r"|(?:Segmentation fault|Aborted|Bus error|Killed"
        r"|Illegal instruction|Floating point exception"
        r"|Trace/breakpoint trap)(?: \(core dumped\).*|$)"
        # The loader, systemd, docker compose; the kernel; a container's start.
        r"|[^\s:]{1,300}+(?:: (?:error while loading shared libraries|symbol lookup error): "
        r"|: (?:Main process exited, code=(?:killed|dumped|exited, status=[1-9])"
        r"|Failed with result '"
        r"|A process of this unit has been killed by the OOM killer)| exited with code [1-9])"
        r"|[^\s\[]{1,100}+\[\d{1,10}\]: segfault at |traps: \S{1,100} |NVRM: Xid "
        r"|exec \S{1,300} exec format error"
    ),
    "cuda": re.compile(
        r"\S{1,300}:\d{1,9}: .*Assertion .*failed|.*device-side assert triggered|CUDA error"
        r"|.*: Assertion `.*' failed\.|GGML_ASSERT|ggml_cuda_|cuda(?:Error|GetLastError)\w*[:(]"
    ),
    "python": re.compile(
        r"Fatal Python error: |Exception in thread |Exception ignored in: |(?:CRITICAL|FATAL"
        r"|ERROR)[: ]"
    ),
}
_MAY_DIE = re.compile("|".join(pattern.pattern for pattern in _DEATHS.values()))
"""Lines that report a server's death. They have no level: their format makes them level ERROR."""


class Line(NamedTuple):
    """A line as the reader understands it.

    Exactly one of three: it begins an event, it continues one, or it is mere text.
    """

    text: str
    """The cleaned line, without `prefix`."""
    prefix: str
    """`stt-1  |` of docker compose, or empty."""
    service: str | None
    record: LogRecord | None
    """The event that begins here. What kills a server is one, of level ERROR and without a time of
    its own: a panic, an error of `main`, a signal, a traceback that no error announced."""
    continues: bool

    @property
    def is_text(self) -> bool:
        return (self.record is None and not self.continues) or (
            self.record is not None and self.record.format == "text"
        )


@dataclass(slots=True)
class _Event:
    """What the reader remembers of the event that a service is in."""

    is_error: bool = False
    in_traceback: bool = False
    """Whether the next line belongs to the event whatever it looks like."""
    panicked: bool = False
    """Whether the next line is the message of a panic."""


_MOST_SERVICES_TO_COMPARE, _MOST_LINES_TO_COMPARE = 32, 1000
ReaderState = dict[str | None, _Event]
GroupingState = dict[str | None, "tuple[LogRecord, tuple[str, ...], int] | Row | None"]


class Reader:
    """Understands the lines of one log, in order. Containers of docker compose are kept apart."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._formats = list(FORMATS)
        self._events: dict[str | None, _Event] = {}
        self._repeating: dict[bytes, Line] = {}
        """Lines of which each is always the same: causes, what a Python module prints."""

    def line(self, raw: bytes) -> Line:
        """Return what a line without its line end is."""
        is_inside = self.in_traceback(None)
        if not is_inside and (known := self._repeating.get(raw)):
            return known
        line = self._examined(raw)
        # What continues an event, and text, depends on nothing before and changes nothing.
        is_plain = line.record is None and line.service is None and len(raw) <= _REPEATING_BYTES
        if is_plain and not is_inside and not self.in_traceback(None):
            if len(self._repeating) >= _MOST_REPEATING:
                self._repeating.clear()
            self._repeating[raw] = line
        return line

    def _examined(self, raw: bytes) -> Line:
        collected = None
        if raw.startswith(b"\x1e") and (stamp := _COLLECTED.match(raw)):
            collected = self._collected(stamp[1].decode())
            raw = raw[stamp.end() :]
        text = clean(decode(raw))
        prefix, service = "", None
        record = self._parse(text)
        if (
            record is None
            and (found := _SERVICE.fullmatch(text))
            and self._may_be_service(found["service"])
        ):
            prefix, service, text = found["prefix"], found["service"], found["text"] or ""
            record = self._parse(text)
            record = record and replace(record, service=service)
        if record is not None:
            self.begin(service, record.level)
            return Line(text, prefix, service, record, continues=False)
        event = self._events.setdefault(service, _Event())
        if (text == _TRACEBACK and not event.is_error) or (death := self._death(text, event)):
            event.is_error = True
            event.in_traceback = text == _TRACEBACK
            event.panicked = re.match(_PANIC, text) is not None
            name = "python" if text == _TRACEBACK else death
            record = LogRecord(name, text, collected, "ERROR", service=service)
            return Line(text, prefix, service, record, continues=False)
        continues = (
            bool(_CONTINUES.match(text))
            or text == _TRACEBACK
            or event.in_traceback
            or event.panicked
        )
        event.panicked = False
        # The first line of a traceback that is not indented names the exception, and ends it.
        event.in_traceback = text == _TRACEBACK or (
            event.in_traceback and bool(_CONTINUES.match(text))
        )
        if collected and not continues:
            record = LogRecord("text", text, collected, service=service)
        return Line(text, prefix, service, record, continues)

    def state(self) -> ReaderState | None:
        """Return a copy of what earlier lines left behind, for `return_to`; None if it is much."""
        if len(self._events) > _MOST_SERVICES_TO_COMPARE:
            return None
        return {service: replace(event) for service, event in self._events.items()}

    def return_to(self, state: ReaderState) -> None:
        """Stand where `state` was taken."""
        self._events = {service: replace(event) for service, event in state.items()}

    @staticmethod
    def _death(text: str, event: _Event) -> str:
        """Return the format of a line that tells of a death, or an empty string."""
        if event.in_traceback or not text or not _MAY_DIE.match(text):
            return ""
        return next((name for name, pattern in _DEATHS.items() if pattern.match(text)), "")

    def _collected(self, stamp: str) -> datetime | None:
        try:
            return datetime.fromisoformat(stamp).replace(tzinfo=UTC)
        except ValueError:
            return None

    @property
    def knows_services(self) -> bool:
        """Whether there were lines of docker compose.

        Each of its containers has an event that may go on.
        """
        return any(self._events.keys() - {None})

    @property
    def inside_event(self) -> bool:
        """Whether the next line of some service may belong to an event whatever it looks like."""
        return any(event.in_traceback or event.panicked for event in self._events.values())

    def knows(self, service: str | None) -> bool:
        """Return whether a service had a line before. Without a service every line does."""
        return service is None or service in self._events

    def begin(self, service: str | None, level: str | None) -> None:
        """Take note that an event began, for a caller that read its line without the reader."""
        event = self._events.get(service) or self._events.setdefault(service, _Event())
        event.is_error, event.in_traceback, event.panicked = level == "ERROR", False, False

    def in_traceback(self, service: str | None) -> bool:
        """Return whether any next line of a service may belong to its event."""
        event = self._events.get(service)
        return event is not None and (event.in_traceback or event.panicked)

    def _may_be_service(self, name: str) -> bool:
        return name in self._events or len(self._events) < MOST_SERVICES

    def _parse(self, text: str) -> LogRecord | None:
        for index, dialect in enumerate(self._formats):
            if record := dialect.parse(text, self._clock):
                if index:  # What hit last is tried first.
                    self._formats.insert(0, self._formats.pop(index))
                return record
        return None


def parse(lines: Iterable[bytes], clock: Clock | None = None) -> Iterator[LogRecord]:
    """Yield the records of a log whose lines come without line ends.

    The default clock takes the machine's zone for stamps without one. Lines that belong to an event
    are in its `continuation`. A line of no dialect is a record of format `text`. Records come in
    the order in which they are complete, so containers of docker compose may overtake each other,
    never themselves.
    """
    grouping = Grouping()
    reader = Reader(clock or Clock())
    for raw in lines:
        yield from records_of(grouping.add(reader.line(raw)))
    yield from records_of(grouping.finish())


def records_of(items: Iterable[LogRecord | Row]) -> Iterator[LogRecord]:
    """Return rows among records as records."""
    return (item.record() if isinstance(item, Row) else item for item in items)


@dataclass(frozen=True, slots=True)
class Row:
    """A line that begins an event and was formatted in bulk, until the event is complete."""

    text: bytes
    """What is written for it, if nothing else belongs to its event."""
    hits: Mapping[str, int]
    raw: bytes
    clock: Clock

    def record(self) -> LogRecord:
        """Return the record that the line begins."""
        line = Reader(self.clock).line(self.raw)
        return line.record or LogRecord("text", line.text)


MOST_EVENT_CHARS = 4 << 20
"""An event of more text is several: no backtrace is so long, but a bomb of empty lines is."""
_LINE_CHARS = 64
"""What a line takes beside its characters."""


class _Open:
    """A record that lines may still belong to."""

    def __init__(
        self, record: LogRecord, lines: Iterable[str] = (), room: int = MOST_EVENT_CHARS
    ) -> None:
        self.record = record
        self.lines = [*(lines or record.continuation)]
        self.room = room

    def take(self, text: str) -> bool:
        """Take a line, and return whether there is room for more."""
        self.lines.append(text)
        self.room -= len(text) + _LINE_CHARS
        return self.room > 0

    def whole(self) -> LogRecord:
        return replace(self.record, continuation=tuple(self.lines)) if self.lines else self.record


class Grouping:
    """Gathers lines into whole records. A row that stays alone comes out as it was held."""

    def __init__(self) -> None:
        self._open: dict[str | None, _Open | Row | None] = {}

    def state(self) -> GroupingState | None:
        """Return a copy of what is open, for `return_to`; None if it is much."""
        found: GroupingState = {}
        for service, pending in self._open.items():
            if isinstance(pending, _Open):
                if len(pending.lines) > _MOST_LINES_TO_COMPARE:
                    return None
                found[service] = (pending.record, tuple(pending.lines), pending.room)
            else:
                found[service] = pending
        return found if len(found) <= _MOST_SERVICES_TO_COMPARE else None

    def return_to(self, state: GroupingState) -> None:
        """Stand where `state` was taken."""
        self._open = {
            service: _Open(*pending) if isinstance(pending, tuple) else pending
            for service, pending in state.items()
        }

    def add(self, line: Line) -> Iterator[LogRecord | Row]:
        """Take a line, and yield the record that it completes."""
        pending = self._open.get(line.service)
        if line.continues and pending:
            if isinstance(pending, Row):
                pending = self._open[line.service] = _Open(pending.record())
            if not pending.take(line.text):
                yield from self.complete(line.service)
            return
        if pending:
            yield _whole(pending)
        record = line.record or LogRecord("text", line.text, service=line.service)
        self._open[line.service] = _Open(record)

    def complete(self, service: str | None) -> Iterator[LogRecord | Row]:
        """Yield the open record of a service: its next event begins."""
        pending = self._open.get(service)
        self._open[service] = None  # It keeps its place for `finish`.
        if pending:
            yield _whole(pending)

    def hold(self, service: str | None, row: Row) -> None:
        """Open the record of a row, for the lines that may belong to it."""
        self._open[service] = row

    def open(self, record: LogRecord) -> None:
        """Open the record of a line that was read without `add`. Its service has none open."""
        self._open[record.service] = _Open(record)

    @property
    def holds_event(self) -> bool:
        """Whether something other than a line of text is open."""
        return any(
            isinstance(pending, Row) or pending.record.format != "text"
            for pending in self._open.values()
            if pending
        )

    def finish(self) -> Iterator[LogRecord | Row]:
        """Yield what is still open; the log ends here."""
        for pending in self._open.values():
            if pending:
                yield _whole(pending)
        self._open.clear()


def _whole(pending: _Open | Row) -> LogRecord | Row:
    return pending if isinstance(pending, Row) else pending.whole()
