"""Logs to a report, in one pass and in constant memory.

Lines of steps, of which there are millions, are read by their columns. All others go through the
reader that `format-log` uses, whatever their dialect; those that differ in their time only go
through it once, see `LineMemory`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path

from dsmops.logs import Clock, LogRecord
from dsmops.logs.blocks import cut_blocks, few_lines, gathered
from dsmops.logs.reader import Grouping, Reader, Row
from dsmops.logs.step_rows import StepRows, StepScanner, step_rows
from dsmops.logs.wrappers import Unwrapper
from dsmops.operations.log_report.capacity import NOTHING, Served, with_capacity
from dsmops.operations.log_report.collector import Collector
from dsmops.operations.log_report.events import Event, begins_run
from dsmops.operations.log_report.line_memory import KnownLine, LineMemory
from dsmops.operations.log_report.result import LogReport
from dsmops.operations.log_report.sources import logs_of
from dsmops.progress import SILENT, Progress
from dsmops.publish.store import StoreOptions

_STEP_MESSAGE = re.compile(
    r"(\d{1,9}(?:\.\d{1,6})?)ms step_idx=\d{1,18}(?: with_data=(\d{1,9}))?\s*"
)
_CLOCK = Clock()


def read_logs(
    sources: Sequence[Path | str],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    options: StoreOptions | None = None,
    known: Served = NOTHING,
    on_note: Callable[[str], object] = lambda _: None,
    progress: Progress = SILENT,
) -> LogReport:
    """Read logs and return what they say together. `sources` are those of `logs_of`.

    `options` are for stores. `known` is what else is known: the card, the model.

    Raises:
        SourceError, FileAccessError: one of them is not there, or cannot be read.
        InputError: there is no log in a folder or a store, or compressed data is damaged.
        CredentialsError, RemoteError: a store cannot be read.
    """
    collector = Collector()
    names = []
    with logs_of(sources, options=options, on_note=on_note, progress=progress) as logs:
        for name, chunks in logs:
            names.append(name)
            collector.source = name
            LogReader(collector, since, until).read(chunks)
    report = replace(collector.report(tuple(names)), since=since, until=until)
    return with_capacity(report, known, collector.engines, is_worker=collector.is_worker)


@dataclass(frozen=True, slots=True)
class _Held(Row):
    """A known line, until its event is complete. A row that stays alone comes out as it was held.

    Of the steps it is None: they are counted already.
    """

    known: KnownLine | None = None
    at: datetime | None = None

    def record(self) -> LogRecord:
        """Return the record, to which lines belong after all."""
        return LogRecord("steps", "") if self.known is None else self.known.record(self.at)


_STEPS = _Held(b"", {}, b"", _CLOCK)


class LogReader:
    """Reads one log. A run of the server goes on in the next one, which rotation has begun."""

    def __init__(
        self, collector: Collector, since: datetime | None, until: datetime | None
    ) -> None:
        self._collector = collector
        self._since, self._until = since, until
        self._reader, self._grouping = Reader(Clock()), Grouping()
        self._scanner = StepScanner()
        self._memory = LineMemory(lambda line: not collector.failures_in(line))
        self._late: dict[tuple[str | None, str], list[tuple[int, int, int]]] = {}
        """Steps of other dialects: time and duration in microseconds, streams."""
        self._steps_here: list[StepRows] = []

    def read(self, chunks: Iterable[bytes]) -> None:
        """Read a whole log."""
        collector, unwrapper = self._collector, Unwrapper()
        known: deque[tuple[bytes, int, int]] = deque(maxlen=4)
        for block in chain.from_iterable(map(few_lines, cut_blocks(gathered(chunks)))):
            # What repeats for gigabytes, as in a decompression bomb, is looked at once: blocks of
            # text in which nothing counts but its lines.
            if again := next((found for found in known if found[0] == block), None):
                collector.lines += again[1]
                collector.text_lines += again[2]
                continue
            before = collector.lines, collector.text_lines, collector.changes
            self._block(unwrapper.feed(block))
            if unwrapper.active or self._reader.inside_event or collector.changes != before[2]:
                known.clear()
                continue
            # The last line is still open. What it says must be counted before the block is known.
            self._finish()
            if collector.changes == before[2]:
                lines, text_lines = collector.lines, collector.text_lines
                known.append((block, lines - before[0], text_lines - before[1]))
        self._block(unwrapper.flush())
        self._finish()

    def _block(self, block: bytes) -> None:
        if not block:
            return
        scanned = self._scanner.scan(block)
        collector, reader, grouping = self._collector, self._reader, self._grouping
        collector.lines += scanned.lines
        self._steps_here = scanned.steps
        expected = 0
        for number, raw in scanned.others:
            if number > expected:
                # A step is an event, too: it ends the one before.
                self._complete(grouping.complete(None))
                grouping.hold(None, _STEPS)
                reader.begin(None, "INFO")
            expected = number + 1
            if found := self._memory.event(raw):
                known, at = found
                self._complete(grouping.complete(None))
                reader.begin(None, known.level)
                grouping.hold(None, _Held(b"", {}, b"", _CLOCK, known, at))
            else:
                self._complete(grouping.add(reader.line(raw)))
        for steps in scanned.steps:
            self._steps(None, steps)
        self._take_late()

    def _finish(self) -> None:
        """Take the events that are still open."""
        self._complete(self._grouping.finish())
        self._take_late()

    def _take_late(self) -> None:
        for (service, target), rows in self._late.items():
            self._steps(service, step_rows(target, rows))
        self._late.clear()

    def _complete(self, items: Iterable[LogRecord | Row]) -> None:
        for item in items:
            if not isinstance(item, _Held):
                self._record(item.record() if isinstance(item, Row) else item)
            elif item.known is None:
                continue
            elif not item.known.is_only_event:
                self._record(item.record())
            elif self._holds(item.at):
                known = item.known
                self._collector.event(None, Event(item.at, known.target, known.line, known.message))

    def _record(self, record: LogRecord) -> None:
        if record.format == "steps":
            return
        at = record.time
        if at is not None and not self._holds(at):
            return
        match = _STEP_MESSAGE.fullmatch(record.message) if "step_idx" in record.message else None
        if at is not None and begins_run(record.message):
            # Steps are taken after the events of their block. Those before a start belong to the
            # run before.
            for steps in self._steps_here:
                self._collector.seen(steps.last_at(at))
        if match is None:
            self._collector.record(record)
        elif at is not None:
            key = (record.service, record.target or "batched_asr")
            self._late.setdefault(key, []).append(
                (
                    int(at.timestamp() * 1_000_000),
                    round(float(match[1]) * 1000),
                    int(match[2]) if match[2] else -1,
                )
            )

    def _steps(self, service: str | None, rows: StepRows) -> None:
        if self._since is not None or self._until is not None:
            rows = rows.between(self._since, self._until)
        self._collector.steps(service, rows)

    def _holds(self, at: datetime | None) -> bool:
        if at is None:
            return self._since is None and self._until is None
        return (self._since is None or at >= self._since) and (
            self._until is None or at < self._until
        )
