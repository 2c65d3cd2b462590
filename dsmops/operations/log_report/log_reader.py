"""Logs to what they tell, batch by batch, in one pass and in constant memory.

Lines of steps, of which there are millions, are read by their columns. All others go through the
reader that `format-log` uses, whatever their dialect; those that differ in their time only go
through it once, see `LineMemory`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain

from dsmops.logs import Clock, LogRecord
from dsmops.logs.blocks import cut_blocks, few_lines
from dsmops.logs.reader import Grouping, Reader, records_of
from dsmops.logs.step_rows import StepRows, StepScanner, step_rows
from dsmops.logs.wrappers import AUTO, Unwrapper
from dsmops.operations.log_report.events import Batch, Began, Said
from dsmops.operations.log_report.meanings import KnownLine, LineMemory, Meanings

_STEP_MESSAGE = re.compile(
    r"(\d{1,9}(?:\.\d{1,6})?)ms step_idx=\d{1,18}(?: with_data=(\d{1,9}))?\s*"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STEP = KnownLine(LogRecord("steps", "", level="INFO"), ())
"""Stands for a step line, which is counted already, while lines may still belong to it."""


class Learned:
    """What some logs taught about the form and the meaning of lines. It only saves work."""

    def __init__(self) -> None:
        self.scanner = StepScanner()
        self.meanings = Meanings()
        self.lines = LineMemory(self.meanings)


class LogReader:
    """Reads one log."""

    def __init__(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        learned: Learned | None = None,
        wrapper: str = AUTO,
    ) -> None:
        """`wrapper` is one of `WRAPPERS`, `auto` or `none`."""
        self._since, self._until = since, until
        self._learned = learned or Learned()
        self._clock = Clock()
        self._reader, self._grouping = Reader(self._clock), Grouping()
        self._unwrapper = Unwrapper(wrapper)
        self._batch = Batch()
        self._open: tuple[KnownLine, datetime] | None = None
        """A known line whose event is not complete. Where there is one, `_grouping` holds nothing
        of the same container."""
        self._steps: list[StepRows] = []
        """Of this block, and up to which of its lines they were noted."""
        self._steps_noted = 0
        self._late: dict[tuple[str | None, str], list[tuple[int, int, int]]] = {}
        """Steps of other dialects: time and duration in microseconds, streams."""

    def read(self, chunks: Iterable[bytes]) -> Iterator[Batch]:
        """Yield what a whole log tells."""
        known: deque[tuple[bytes, int, int]] = deque(maxlen=4)
        for block in chain.from_iterable(map(few_lines, cut_blocks(chunks))):
            batch = self._batch
            batch.read_bytes = len(block)
            # What repeats for gigabytes, as in a decompression bomb, is looked at once: blocks of
            # text in which nothing counts but its lines.
            if again := next((found for found in known if found[0] == block), None):
                _, batch.lines, batch.text_lines = again
                yield self._taken()
                continue
            self._block(self._unwrapper.feed(block))
            if self._is_inside_more_than_text() or batch.has_news:
                known.clear()
            else:
                # The last line is still open. What it says must be counted before the block is
                # known.
                self._finish()
                if not batch.has_news:
                    known.append((block, batch.lines, batch.text_lines))
            yield self._taken()
        self._block(self._unwrapper.flush())
        self._finish()
        yield self._taken()

    def _is_inside_more_than_text(self) -> bool:
        """Return whether something other than a line of text goes on after a block."""
        return (
            self._unwrapper.active
            or self._open is not None
            or self._grouping.holds_event
            or self._reader.inside_event
        )

    @property
    def knows_containers(self) -> bool:
        """Whether there were lines of containers, or may be, so that later lines depend on them."""
        return self._unwrapper.active or self._reader.knows_services

    @property
    def clock_guessed(self) -> bool:
        """Whether the first time without a zone could be two. Then those before would matter."""
        return self._clock.guessed

    @property
    def has_local_times(self) -> bool:
        """Whether there was a time without a zone."""
        return self._clock.last is not None

    def _taken(self) -> Batch:
        batch, self._batch = self._batch, Batch()
        return batch

    def _block(self, block: bytes) -> None:
        if not block:
            return
        scanned = self._learned.scanner.scan(block)
        self._batch.lines += scanned.lines
        self._steps, self._steps_noted = [*map(self._within, scanned.steps)], 0
        known_line = self._learned.lines.event
        expected = 0
        for number, raw in scanned.others:
            if number > expected:
                # A step is an event, too: it ends the one before.
                self._complete(expected)
                self._open = _STEP, _EPOCH
            expected = number + 1
            if found := known_line(raw):
                self._complete(number)
                self._open = found
            else:
                self._line(raw, number)
        if scanned.lines > expected:
            self._complete(expected)
            self._open = _STEP, _EPOCH
        self._note_steps(scanned.lines)
        self._batch.steps += ((None, rows) for rows in self._steps if len(rows.lines))
        self._steps = []
        self._take_late()

    def _within(self, rows: StepRows) -> StepRows:
        if self._since is None and self._until is None:
            return rows
        return rows.between(self._since, self._until)

    def _complete(self, number: int) -> None:
        """Say what is open: an event without a container begins on a line of this block."""
        if self._open is not None:
            known, at = self._open
            self._open = None
            if known is _STEP:
                return
            if known.may_be_step:
                self._record(known.record(at), number)
            elif self._holds(at):
                self._batch.is_worker |= known.line == 0
                self._say(at, None, known.said, number)
        else:
            for record in records_of(self._grouping.complete(None)):
                self._record(record, number)

    def _line(self, raw: bytes, number: int) -> None:
        """Take a line of which nothing is known."""
        if self._open is not None:
            known, at = self._open
            self._open = None
            self._reader.begin(None, known.level)
            self._grouping.open(known.record(at))
        for record in records_of(self._grouping.add(self._reader.line(raw))):
            self._record(record, number)

    def _finish(self) -> None:
        """Say what is still open."""
        self._complete(0)
        for record in records_of(self._grouping.finish()):
            self._record(record, 0)
        self._take_late()

    def _record(self, record: LogRecord, number: int) -> None:
        at = record.time
        if record.format == "steps" or (at is not None and not self._holds(at)):
            return
        match = _STEP_MESSAGE.fullmatch(record.message) if "step_idx" in record.message else None
        if match is None:
            if record.format == "text":
                self._batch.text_lines += 1
            else:
                self._batch.is_worker |= record.line == 0
            self._say(at, record.service, self._learned.meanings.of(record), number)
        elif at is not None:
            self._say(at, None, (), number)
            key = (record.service, record.target or "batched_asr")
            self._late.setdefault(key, []).append(
                (
                    (at - _EPOCH) // timedelta(microseconds=1),
                    round(float(match[1]) * 1000),
                    int(match[2]) if match[2] else -1,
                )
            )

    def _say(
        self, at: datetime | None, service: str | None, said: tuple[Said, ...], number: int
    ) -> None:
        """Take note of an event; `number` is the line of this block before which it was said."""
        if said and isinstance(said[0], Began):
            # The steps before a start belong to the run before.
            self._note_steps(number)
        elif not said:
            if at is None:
                return
            before = self._batch.said[-1] if self._batch.said else None
            if before is not None and before[0] is not None and not before[2]:
                # Of events that say nothing, one after the other, only the last time matters.
                self._batch.said[-1] = (max(at, before[0]), None, ())
                return
        self._batch.said.append((at, service, said))

    def _note_steps(self, number: int) -> None:
        """Note until when there were steps before a line of this block."""
        begin, self._steps_noted = self._steps_noted, max(number, self._steps_noted)
        for rows in self._steps:
            first, last = rows.lines.searchsorted((begin, number)).tolist()
            if first < last:
                last_us = int(rows.at_us[first:last].max())
                self._say(_EPOCH + timedelta(microseconds=last_us), None, (), number)

    def _take_late(self) -> None:
        for (service, target), rows in self._late.items():
            self._batch.steps.append((service, step_rows(target, rows)))
        self._late.clear()

    def _holds(self, at: datetime) -> bool:
        return (self._since is None or at >= self._since) and (
            self._until is None or at < self._until
        )
