"""Raw log in, friendly log out, block after block of whole lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dsmops.logs.filters import Filter
from dsmops.logs.reader import Grouping, Line, Reader
from dsmops.logs.records import LogRecord
from dsmops.logs.redaction import Redactor
from dsmops.logs.render import Style, render, render_line, render_text
from dsmops.logs.step_lines import STEP, Rendered, Rows, StepLine

_REST_OF_MINUTE = timedelta(seconds=59, microseconds=999_999)
_MOST_KINDS = 8
_MOST_LESSONS = 64
"""Experiments on lines that no kind fits are given up after so many."""


@dataclass(slots=True)
class Counts:
    """What was in a log so far: lines, events, lines of no dialect, and of the events those that were written."""

    lines: int = 0
    records: int = 0
    unparsed_lines: int = 0
    records_written: int = 0


class Formatter:
    """Formats one log; `feed` takes its blocks in order. Where blocks are cut makes no difference to the bytes that come out."""

    def __init__(self, style: Style, *, redactor: Redactor | None = None, wanted: Filter | None = None) -> None:
        self.counts = Counts()
        self._style = style
        self._redactor = redactor
        self._wanted = wanted or Filter()
        self._reader = Reader(style.clock)
        self._grouping = Grouping()
        self._probe_style = replace(style, clock=style.clock.fresh())
        self._kinds: list[StepLine] = []
        self._found: Counter[StepLine] = Counter()
        self._lessons = 0

    @property
    def redactions(self) -> Counter[str]:
        """How often each rule hit. Never the values."""
        return self._redactor.counts if self._redactor else Counter()

    def feed(self, block: bytes) -> bytes:
        """Return the friendly text of a block of whole lines. A last line without its end is taken as whole."""
        if self._style.jsonl:
            return self._json_lines(block)
        out = self._convert(block)
        self._kinds.sort(key=lambda kind: -self._found[kind])
        self._found.clear()
        return out

    def flush(self) -> bytes:
        """Return what was held back to see whether more lines belong to it: the end of the log, or a pause in it."""
        return b"".join(map(self._json, self._grouping.finish()))

    # --- line by line ------------------------------------------------------------------------------------------------------------

    def _read(self, raw: bytes) -> Line:
        line = self._reader.line(raw)
        self.counts.lines += 1
        self.counts.records += line.record is not None
        self.counts.unparsed_lines += line.is_text
        return line

    def _json_lines(self, block: bytes) -> bytes:
        out: list[bytes] = []
        for raw in _split(block):
            line = self._read(raw)
            if self._wanted.keeps(line):
                out += map(self._json, self._grouping.add(line))
        return b"".join(out)

    def _json(self, record: LogRecord) -> bytes:
        self.counts.records_written += record.format != "text"
        if self._redactor:
            record = _redacted(record, self._redactor)
        return render(record, self._style).encode() + b"\n"

    def _lines(self, text: bytes) -> bytes:
        lines = _split(text)
        out: list[bytes] = []
        for index, raw in enumerate(lines):
            line = self._read(raw)
            if self._wanted.keeps(line):
                self.counts.records_written += line.record is not None
                out.append(_shown(line, self._style, self._redactor))
            if line.record and STEP.fullmatch(line.record.message) and self._learn(raw):
                rest = text[sum(map(len, lines[: index + 1])) + index + 1 :]
                return b"".join(out) + (self._convert(rest) if rest else b"")
        return b"".join(out)

    # --- rows of step lines ------------------------------------------------------------------------------------------------------

    def _convert(self, text: bytes, kind: int = 0) -> bytes:
        """Return the friendly text of whole lines: rows of the kinds from `kind` on in bulk, what is between them line by line."""
        rows = None
        while rows is None and kind < len(self._kinds):
            rows = self._kinds[kind].find(text)
            kind += 1
        decided = self._decide(rows) if rows else None
        if rows is None or decided is None:
            return self._lines(text)
        around, in_time = decided
        kept = in_time and self._wanted.wants(rows.kind.record)
        for number, piece in enumerate(rows.between):
            if number and (piece or number == rows.count):
                self._stand_after(rows, number - 1, in_time, kept)
            if piece:
                rows.between[number] = self._convert(piece, kind)
        self._found[rows.kind] += rows.count
        self.counts.lines += rows.count
        self.counts.records += rows.count
        if not kept:
            return b"".join(rows.between)
        self.counts.records_written += rows.count
        self.redactions.update({rule: hits * rows.count for rule, hits in rows.kind.hits.items()})
        return rows.join(around)

    def _decide(self, rows: Rows) -> tuple[dict[bytes, tuple[str, str]], bool] | None:
        """Return how each minute of the rows is shown, and whether they are in the wanted time.

        None where only looking at each line tells: a minute that occurs twice or never, or a time limit among the rows.
        """
        around, in_time = {}, set()
        for minute in set(rows.minutes):
            begin = self._style.clock.minute(minute.decode(), rows.kind.tail)
            if not isinstance(begin, datetime):
                return None
            around[minute] = self._style.clock.around(begin)
            in_time.add(self._wanted.in_time(begin, begin + _REST_OF_MINUTE))
        only = in_time.pop()
        return None if in_time or only is None else (around, only)

    def _stand_after(self, rows: Rows, number: int, in_time: bool, kept: bool) -> None:
        """Leave behind what the slow way would have left after a row."""
        record = rows.kind.record
        self._reader.begin(record.service, record.level)
        self._wanted.begin(record.service, in_time, kept)
        if not rows.kind.tail:
            self._style.clock.instant(rows.minutes[number].decode(), rows.seconds[number].decode(), "")

    def _learn(self, raw: bytes) -> bool:
        """Make a kind of a step line that no kind fits, and return whether that worked."""
        row = raw + b"\n"
        if self._lessons == _MOST_LESSONS or len(self._kinds) == _MOST_KINDS or any(kind.find(row) for kind in self._kinds):
            return False
        self._lessons += 1
        kind = StepLine.learn(raw, self._rendered_alone, self._probe_style.clock)
        rows, wanted = kind and kind.find(row), self._rendered_alone(raw)
        decided = rows and self._decide(rows)
        # The proof of the recipe: the line it was learnt from.
        if not (kind and rows and decided and wanted) or rows.join(decided[0]) != f"{wanted.text}\n".encode():
            return False
        self._kinds.append(kind)
        return True

    def _rendered_alone(self, raw: bytes) -> Rendered | None:
        line = Reader(self._probe_style.clock).line(raw)
        if line.record is None or line.record.continuation or not STEP.fullmatch(line.record.message):
            return None
        redactor = self._redactor and self._redactor.fresh()
        text = _shown(line, self._probe_style, redactor).decode().removesuffix("\n")
        return Rendered(line.record, text, redactor.counts if redactor else {})


def _split(block: bytes) -> list[bytes]:
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def _shown(line: Line, style: Style, redactor: Redactor | None) -> bytes:
    """Return a line as it is written, with its line end; a record that came with its continuation becomes several."""
    shown = [render_line(line.record, style)] if line.record else [render_text(line.text, style)]
    if line.record:
        shown += (render_text(text, style) for text in line.record.continuation)
    if redactor:
        shown = [redactor.line(text) for text in shown]
    return "".join(f"{line.prefix} {text}".rstrip() + "\n" if line.prefix else f"{text}\n" for text in shown).encode()


def _redacted(record: LogRecord, redactor: Redactor) -> LogRecord:
    return replace(
        record,
        file=record.file and redactor.line(record.file),
        spans=record.spans and redactor.line(record.spans),
        message=redactor.line(record.message),
        continuation=tuple(map(redactor.line, record.continuation)),
    )
