"""Raw log in, friendly log out, block after block of whole lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dsmops.logs.filters import Filter, Sieve
from dsmops.logs.formats import DIALECTS
from dsmops.logs.learning import Templates
from dsmops.logs.reader import Grouping, Line, Reader
from dsmops.logs.records import LogRecord
from dsmops.logs.redaction import Redactor, shape_of
from dsmops.logs.render import Style, render, render_line, render_text
from dsmops.logs.templates import STEP, FriendlyStamps, JsonStamps, Rendered, Rows
from dsmops.logs.wrappers import AUTO, Unwrapper

_REST_OF_MINUTE = timedelta(seconds=59, microseconds=999_999)


@dataclass(slots=True)
class Counts:
    """What was in a log so far: lines, events, lines of no dialect, and of the events those that
    were written.
    """

    lines: int = 0
    records: int = 0
    unparsed_lines: int = 0
    records_written: int = 0

    def add(self, other: Counts) -> None:
        """Add what was in a later part of the log."""
        self.lines += other.lines
        self.records += other.records
        self.unparsed_lines += other.unparsed_lines
        self.records_written += other.records_written

    def add_records(self, count: int, *, written: bool) -> None:
        """Count records of one line each."""
        self.lines += count
        self.records += count
        self.records_written += count * written


@dataclass(frozen=True, slots=True)
class Outcome:
    """What formatting a part of a log came to, but for its text."""

    counts: Counts
    redactions: Counter[str]
    read_bytes: int
    leaves_open: bool
    """A PEM block or a list has not ended, or events of containers may go on."""
    clock_last: datetime | None
    clock_guessed: bool


class Formatter:
    """Formats one log; `feed` takes its blocks in order.

    Where blocks are cut makes no difference to the bytes that come out.
    """

    def __init__(
        self,
        style: Style,
        *,
        redactor: Redactor | None = None,
        wanted: Filter | None = None,
        wrapper: str = AUTO,
    ) -> None:
        """`wrapper` is a name of `WRAPPERS`, `auto` or `none`."""
        self.counts = Counts()
        self.read_bytes = 0
        self._style, self._aside = (replace(style, clock=style.clock.fresh()) for _ in range(2))
        self._redactor = redactor
        self._unwrapper = Unwrapper(wrapper)
        self._sieve = Sieve(wanted or Filter())
        self._reader = Reader(self._style.clock)
        self._grouping = Grouping()
        stamps = (JsonStamps if style.jsonl else FriendlyStamps)(self._aside.clock)
        self._templates = Templates(self._render_aside, stamps)

    @property
    def redactions(self) -> Counter[str]:
        """How often each rule hit. Never the values."""
        return self._redactor.counts if self._redactor else Counter()

    def feed(self, block: bytes) -> bytes:
        """Return the friendly text of a block of whole lines.

        A last line without its end is taken as whole.
        """
        self.read_bytes += len(block)
        return self._feed(self._unwrapper.feed(block))

    def _feed(self, block: bytes) -> bytes:
        out = self._json_block(block) if self._style.jsonl else self._convert(block)
        self._templates.sort()
        return out

    def flush(self) -> bytes:
        """Return what was held back to see whether more belongs to it, at the end or in a pause."""
        out = self._feed(rest) if (rest := self._unwrapper.flush()) else b""
        return out + b"".join(map(self._json, self._grouping.finish()))

    def outcome(self) -> Outcome:
        """Return what this log came to, for a formatter that `take`s it as a part of its own."""
        clock = self._style.clock
        return Outcome(
            self.counts,
            self.redactions,
            self.read_bytes,
            self._leaves_open(),
            clock.last,
            clock.guessed,
        )

    def can_take(self, part: Outcome) -> bool:
        """Return whether another formatter made of the next part of this log, which begins with a
        record, what this one would have.

        False also where what comes after that part depends on more than an outcome tells.
        """
        return not (
            self._leaves_open()
            or part.leaves_open
            or (part.clock_guessed and self._style.clock.last)
        )

    def take(self, part: Outcome) -> None:
        """Take over what another formatter made of the next part of this log."""
        self.counts.add(part.counts)
        self.redactions.update(part.redactions)
        self.read_bytes += part.read_bytes
        self._style.clock.last = part.clock_last or self._style.clock.last

    def _leaves_open(self) -> bool:
        return self._reader.knows_services or (
            self._redactor is not None and self._redactor.inside_block
        )

    # --- line by line -----------------------------------------------------------------------------

    def _read(self, raw: bytes) -> Line:
        line = self._reader.line(raw)
        self.counts.lines += 1
        self.counts.records += line.record is not None and line.record.format != "text"
        self.counts.unparsed_lines += line.is_text
        return line

    def _json_lines(self, block: bytes) -> bytes:
        out: list[bytes] = []
        lines = _split(block)
        for index, raw in enumerate(lines):
            line = self._read(raw)
            if self._sieve.keeps(line):
                out += map(self._json, self._grouping.add(line))
            record = line.record
            if (
                record is not None
                and record.format in DIALECTS
                and STEP.fullmatch(record.message)
                and self._templates.learn_step(raw, record.format)
            ):
                rest = block[sum(map(len, lines[: index + 1])) + index + 1 :]
                return b"".join(out) + (self._json_block(rest) if rest else b"")
        return b"".join(out)

    def _json(self, record: LogRecord) -> bytes:
        self.counts.records_written += record.format != "text"
        if self._redactor:
            record = redacted_record(record, self._redactor)
        return render(record, self._style).encode() + b"\n"

    def _lines(self, text: bytes) -> bytes:
        lines = _split(text)
        out: list[bytes] = []
        for index, raw in enumerate(lines):
            shape = shape_of(raw)
            shown = self._seen_before(raw, shape)
            if shown is not None:
                out.append(shown)
                continue
            line = self._read(raw)
            if self._sieve.keeps(line):
                self.counts.records_written += line.record is not None and not line.is_text
                out.append(_shown(line, self._style, self._redactor))
            record = line.record
            if record is None or record.time is None:
                if (
                    line.continues
                    and not self._sieve.active
                    and not self._reader.in_traceback(line.service)
                ):
                    self._templates.learn_continuation(
                        raw, line.service, out[-1], _shown(line, self._style, None)
                    )
            elif record.format not in DIALECTS:
                pass
            elif not STEP.fullmatch(record.message):
                self._templates.learn_shape(raw, shape, record.format)
            elif self._templates.learn_step(raw, record.format):
                rest = text[sum(map(len, lines[: index + 1])) + index + 1 :]
                return b"".join(out) + (self._convert(rest) if rest else b"")
        return b"".join(out)

    # --- the fast ways ----------------------------------------------------------------------------

    def _seen_before(self, raw: bytes, shape: bytes) -> bytes | None:
        """Return the friendly text of a line like one that came before, or None where it has to be
        looked at.

        Of a line that is not wanted nothing is left.
        """
        inside_block = self._redactor is not None and self._redactor.inside_block
        kind = None if inside_block else self._templates.shapes.get(shape)
        if kind:
            shown = None if self._sieve.limits_time else kind.format(raw, self._style.clock)
            if shown is None:
                return None
            self._reader.begin(kind.record.service, kind.record.level)
            kept = True
            if self._sieve.active:
                kept = self._sieve.wanted.wants(kind.record)
                self._sieve.begin(kind.record.service, in_time=True, wants=kept)
            self.counts.add_records(1, written=kept)
            return shown if kept else b""
        service, shown = self._templates.continuations.get(raw, (None, None))
        if shown is None or self._reader.in_traceback(service) or inside_block:
            return None
        self.counts.lines += 1
        return shown

    def _convert(self, text: bytes, kind: int = 0) -> bytes:
        """Return the friendly text of whole lines: rows of step kinds from number `kind` on in
        bulk, what is between line by line.
        """
        rows, begins, in_time, kind = self._rows(text, kind)
        if rows is None or begins is None:
            return self._lines(text)
        wants = self._sieve.wanted.wants(rows.template.record)
        kept = in_time and wants
        for number, piece in enumerate(rows.between):
            if number and (piece or number == rows.count):
                self._stand_after(rows, number - 1, in_time, wants)
            if piece:
                rows.between[number] = self._convert(piece, kind)
        self._templates.took(rows)
        self.counts.add_records(rows.count, written=kept)
        if not kept:
            return b"".join(rows.between)
        self.redactions.update(
            {rule: hits * rows.count for rule, hits in rows.template.hits.items()}
        )
        return rows.join(begins)

    def _rows(
        self, text: bytes, kind: int
    ) -> tuple[Rows | None, dict[bytes, datetime] | None, bool, int]:
        """Return the rows of the first template from number `kind` on that has any in a text.

        With them: when their minutes begin, whether those are wanted, and the number of the next
        template. No rows where a minute occurs twice or never, or a time limit is among them, so
        that each line has to be looked at.
        """
        rows = None
        while rows is None and kind < len(self._templates.steps):
            rows = self._templates.steps[kind].find(text)
            kind += 1
        begins = rows.begins(self._style.clock) if rows else None
        wanted = self._sieve.wanted
        fates = {
            wanted.in_time(begin, begin + _REST_OF_MINUTE) for begin in (begins or {}).values()
        }
        if rows is None or begins is None or len(fates) != 1 or None in fates:
            return None, None, False, kind
        return rows, begins, True in fates, kind

    def _json_block(self, text: bytes, kind: int = 0) -> bytes:
        """Return the JSON Lines of whole lines: rows in bulk, what is between line by line.

        An event is complete when the next one begins. So the text of a row is written when a row
        follows at once; a row before other lines waits, as a record, for what may belong to it.
        """
        rows, begins, in_time, kind = self._rows(text, kind)
        if rows is None or begins is None:
            return self._json_lines(text)
        wants = self._sieve.wanted.wants(rows.template.record)
        kept, service = in_time and wants, rows.template.record.service
        texts = rows.texts(begins) if kept else []
        out: list[bytes] = []
        written = 0
        for number, piece in enumerate(rows.between):
            if number and kept:
                out += map(self._json, self._grouping.complete(service))
                if piece or number == rows.count:
                    self._grouping.begin(rows.record(number - 1, begins))
                else:
                    out.append(texts[number - 1])
                    written += 1
            if number and (piece or number == rows.count):
                self._stand_after(rows, number - 1, in_time, wants)
            if piece:
                out.append(self._json_block(piece, kind))
        self._templates.took(rows)
        self.counts.add_records(rows.count, written=False)
        self.counts.records_written += written
        self.redactions.update({rule: hits * written for rule, hits in rows.template.hits.items()})
        return b"".join(out)

    def _stand_after(self, rows: Rows, number: int, in_time: bool, wants: bool) -> None:
        """Leave behind what the slow way would have left after a row."""
        record = rows.template.record
        self._reader.begin(record.service, record.level)
        self._sieve.begin(record.service, in_time=in_time, wants=wants)
        if not rows.template.tail:
            self._style.clock.instant(
                rows.minutes[number].decode(), rows.seconds[number].decode(), ""
            )

    def _render_aside(self, raw: bytes) -> Rendered | None:
        """Go the slow way and leave nothing behind, for experiments."""
        line = Reader(self._aside.clock).line(raw)
        if line.record is None or line.record.time is None or line.record.continuation:
            return None
        redactor = self._redactor.fresh() if self._redactor else None
        if self._aside.jsonl:
            record = redacted_record(line.record, redactor) if redactor else line.record
            text = render(record, self._aside)
        else:
            text = _shown(line, self._aside, redactor).decode().removesuffix("\n")
        return Rendered(line.record, text, redactor.counts if redactor else {})


def _split(block: bytes) -> list[bytes]:
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def _shown(line: Line, style: Style, redactor: Redactor | None) -> bytes:
    """Return a line as it is written, with its line end.

    A record that came with its continuation becomes several.
    """
    record = line.record or LogRecord("text", line.text)
    if redactor:
        record = redacted_record(record, redactor)
    shown = [
        render_line(record, style),
        *(render_text(text, style) for text in record.continuation),
    ]
    if line.prefix:
        shown = [f"{line.prefix} {text}".rstrip() for text in shown]
    return ("\n".join(shown) + "\n").encode()


def redacted_record(record: LogRecord, redactor: Redactor) -> LogRecord:
    of_message = redactor.line if record.time is None else redactor.message
    file, spans = (text and redactor.part(text) for text in (record.file, record.spans))
    message, continuation = (
        of_message(record.message),
        tuple(map(redactor.line, record.continuation)),
    )
    if (file, spans, message, continuation) == (
        record.file,
        record.spans,
        record.message,
        record.continuation,
    ):
        return record
    return replace(record, file=file, spans=spans, message=message, continuation=continuation)
