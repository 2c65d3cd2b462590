"""Raw log in, friendly log out, block after block of whole lines."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from dsmops.logs.blocks import few_lines
from dsmops.logs.filters import Filter, Sieve, SieveState
from dsmops.logs.formats import DIALECTS
from dsmops.logs.learning import Templates
from dsmops.logs.reader import Grouping, GroupingState, Line, Reader, ReaderState, Row
from dsmops.logs.records import LogRecord
from dsmops.logs.redaction import Redactor
from dsmops.logs.render import Style, render, render_line, render_text
from dsmops.logs.templates import STEP, FriendlyStamps, JsonStamps, Rendered, Template
from dsmops.logs.wrappers import AUTO, Unwrapper

if TYPE_CHECKING:
    from dsmops.logs.bulk import Bulk

BULK_FROM_BYTES = 2 << 20
"""The bulk way needs numpy, which takes longer to start than a small log to format."""
_BULK_BYTES = 16 << 10
"""A smaller block, as of a log that is followed, is formatted line by line."""
_MOST_ROUNDS, _MOST_OTHERS, _MOST_LESSONS_AT_ONCE = 4, 12, 100
"""While more than a 12th of a block has an unknown form, the first 100 of those lines are learnt
from, and the block is read again."""
_LONG_BYTES = 16 << 10
_REPEATING_BYTES = 16 << 10
"""Smaller blocks are not compared with those before."""
_MOST_SKETCHES, _MOST_BLOCKS, _MOST_SHOWN_BYTES = 16, 4, 32 << 20
"""What is kept of blocks that come again. What repeats begins at other places in other blocks."""
_SKETCH_BYTES = 256
_REST_OF_MINUTE = timedelta(seconds=59, microseconds=999_999)


@dataclass(slots=True)
class Counts:
    """The counts of a log so far.

    Lines, events, lines of an unknown format, and written events.
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

    def since(self, before: Counts) -> Counts:
        """Return what was counted after `before`."""
        return Counts(
            self.lines - before.lines,
            self.records - before.records,
            self.unparsed_lines - before.unparsed_lines,
            self.records_written - before.records_written,
        )

    def add_records(self, count: int, *, written: bool) -> None:
        """Count records of one line each."""
        self.lines += count
        self.records += count
        self.records_written += count * written


@dataclass(frozen=True, slots=True)
class FormatTotals:
    """The totals of formatting a part of a log: all results but its text."""

    counts: Counts
    redactions: Counter[str]
    read_bytes: int
    leaves_open: bool
    """A PEM block or a list has not ended, or events of containers may go on."""
    clock_last: datetime | None
    clock_guessed: bool


@dataclass(frozen=True, slots=True)
class _State:
    """All that the text of a block depends on beside the block itself."""

    clock_last: datetime | None
    clock_guessed: bool
    reader: ReaderState
    grouping: GroupingState
    sieve: SieveState


class _Block(NamedTuple):
    """A block that came before: what was written for it, and what changed."""

    block: bytes
    before: _State
    shown: bytes
    counts: Counts
    hits: Counter[str]
    after: _State


def _sketch(block: bytes) -> tuple[bytes, ...]:
    """Return a few pieces of a block. Only equal blocks are likely to have equal ones."""
    places = range(0, len(block), max(1, len(block) // 4))
    return (b"%d" % len(block), *(block[place : place + _SKETCH_BYTES] for place in places))


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
        bulk_from_bytes: int = BULK_FROM_BYTES,
    ) -> None:
        """`wrapper` is a name of `WRAPPERS`, `auto` or `none`.

        After so many bytes as `bulk_from_bytes` known lines are formatted in bulk.
        """
        self.counts = Counts()
        self.read_bytes = 0
        self._style, self._aside = (replace(style, clock=style.clock.fresh()) for _ in range(2))
        self._redactor = redactor
        self._unwrapper = Unwrapper(wrapper)
        self._sieve = Sieve(wanted or Filter())
        self._reader = Reader(self._style.clock)
        self._grouping = Grouping()
        stamps = (JsonStamps if style.jsonl else FriendlyStamps)(self._aside.clock)
        self._templates = Templates(
            self._render_aside, stamps, None if style.jsonl else self._render_unredacted
        )
        self._bulk_from_bytes = bulk_from_bytes
        self._long: tuple[bytes, Line, bytes, Counter[str]] | None = None
        """The last long line of no dialect, what it is, what was written for it, and its hits."""
        self._sketches: deque[tuple[bytes, ...]] = deque(maxlen=_MOST_SKETCHES)
        """Of the last blocks, to see which come again without keeping all of them."""
        self._blocks: deque[_Block] = deque(maxlen=_MOST_BLOCKS)
        """The last blocks that came again."""

    @property
    def redactions(self) -> Counter[str]:
        """How often each rule hit. Never the values."""
        return self._redactor.counts if self._redactor else Counter()

    def feed(self, block: bytes) -> bytes:
        """Return the friendly text of a block of whole lines.

        A last line without its end is taken as whole.
        """
        self.read_bytes += len(block)
        if len(block) < _REPEATING_BYTES:
            return self._feed_anew(self._unwrapper.feed(block))
        if self._is_big():
            from dsmops.logs.columns import count_lines

            parts = few_lines(block, count_lines)
        else:
            parts = few_lines(block)
        # Each part for itself: a wrapper may begin in one of them.
        return b"".join(self._feed_or_repeat(self._unwrapper.feed(part)) for part in parts)

    def _feed_or_repeat(self, block: bytes) -> bytes:
        """Return the text of a block. Of what repeats for gigabytes, as in a bomb, each block is
        looked at twice.
        """
        before = self._state()
        if before is None:
            return self._feed_anew(block)
        for same in self._blocks:
            if same.before == before and same.block == block:
                self.counts.add(same.counts)
                self.redactions.update(same.hits)
                self._return_to(same.after)
                return same.shown
        counts, hits = replace(self.counts), self.redactions.copy()
        shown = self._feed_anew(block)
        sketch = _sketch(block)
        if sketch not in self._sketches:
            self._sketches.append(sketch)
        elif (after := self._state()) and len(shown) <= _MOST_SHOWN_BYTES:
            self._blocks.append(
                _Block(
                    block, before, shown, self.counts.since(counts), self.redactions - hits, after
                )
            )
        return shown

    def _state(self) -> _State | None:
        """Return all that the text of the next block depends on beside the block.

        None where that is too much to compare.
        """
        clock = self._style.clock
        if self._unwrapper.active or (self._redactor and self._redactor.inside_block):
            return None
        reader, grouping = self._reader.state(), self._grouping.state()
        if reader is None or grouping is None:
            return None
        return _State(clock.last, clock.guessed, reader, grouping, self._sieve.state())

    def _return_to(self, state: _State) -> None:
        clock = self._style.clock
        clock.last, clock.guessed = state.clock_last, state.clock_guessed
        self._reader.return_to(state.reader)
        self._grouping.return_to(state.grouping)
        self._sieve.return_to(state.sieve)

    def _feed_anew(self, block: bytes) -> bytes:
        out: list[bytes] = []
        while block:
            # What is left begins with the first line of a wrapper.
            rest = self._feed_bare(block, out)
            block = self._unwrapper.feed(block[-rest:]) if rest else b""
        return b"".join(out)

    def _feed_bare(self, block: bytes, out: list[bytes]) -> int:
        """Format lines up to the first that is wrapped, and return how many bytes are left."""
        if len(block) >= _BULK_BYTES and self._is_big():
            rest = _BulkRun(self, block, self._bulk_of(block), out).run()
            self._templates.sort()
            return rest
        place = 0
        for raw in _split(block):
            if not self._line(raw, out):
                return len(block) - place
            place += len(raw) + 1
        return 0

    def _is_big(self) -> bool:
        """Return whether this log is worth the start of the bulk way."""
        return self.read_bytes >= self._bulk_from_bytes

    def flush(self) -> bytes:
        """Return what was held back to see whether more belongs to it, at the end or in a pause."""
        out = self._feed_anew(rest) if (rest := self._unwrapper.flush()) else b""
        return out + b"".join(map(self._json, self._grouping.finish()))

    def totals(self) -> FormatTotals:
        """Return what this log came to, for a formatter that `take`s it as a part of its own."""
        clock = self._style.clock
        return FormatTotals(
            self.counts,
            self.redactions,
            self.read_bytes,
            self._leaves_open(),
            clock.last,
            clock.guessed,
        )

    def can_take(self, part: FormatTotals) -> bool:
        """Return whether another formatter's totals of the next part are right for this log.

        They are what this formatter would have made. The part begins with a record. False also
        where what comes after that part depends on more than the totals show.
        """
        return not (
            self._leaves_open()
            or part.leaves_open
            or (part.clock_guessed and self._style.clock.last)
        )

    def take(self, part: FormatTotals) -> None:
        """Take over what another formatter made of the next part of this log."""
        self.counts.add(part.counts)
        self.redactions.update(part.redactions)
        self.read_bytes += part.read_bytes
        self._style.clock.last = part.clock_last or self._style.clock.last

    def _leaves_open(self) -> bool:
        return (
            self._reader.knows_services
            or self._unwrapper.is_open
            or (self._redactor is not None and self._redactor.inside_block)
        )

    # --- line by line -----------------------------------------------------------------------------

    def _line(self, raw: bytes, out: list[bytes]) -> bool:
        """Put the text of one line into `out`.

        Return False where a wrapper begins at the line, and nothing was done.
        """
        if len(raw) > _LONG_BYTES:
            if self._again(raw, out):
                return True
        elif not self._style.jsonl:
            shown = self._seen_before(raw)
            if shown is not None:
                out.append(shown)
                return True
        if self._unwrapper.begins_at(raw):
            return False
        if len(raw) > _LONG_BYTES:
            self._long_line(raw, out)
        else:
            self._learn(raw, self._slow_line(raw, out), out)
        return True

    def _slow_line(self, raw: bytes, out: list[bytes]) -> Line:
        line = self._reader.line(raw)
        self.counts.lines += 1
        self.counts.records += line.record is not None and line.record.format != "text"
        self.counts.unparsed_lines += line.is_text
        if self._sieve.keeps(line):
            if self._style.jsonl:
                out += map(self._json, self._grouping.add(line))
            else:
                self.counts.records_written += line.record is not None and not line.is_text
                out.append(_shown(line, self._style, self._redactor))
        return line

    def _learn(self, raw: bytes, line: Line, out: list[bytes]) -> None:
        """Learn from a line that went the slow way."""
        record = line.record
        if record is not None and record.time is not None:
            if record.format in DIALECTS and record.level is not None:
                is_step = STEP.fullmatch(record.message) is not None
                self._templates.learn(raw, record.format, is_step=is_step)
        elif (
            record is None and not self._style.jsonl and not self._reader.in_traceback(line.service)
        ):
            unredacted = _shown(line, self._style, None)
            shown = out[-1] if self._sieve.keeps(line) else unredacted
            self._templates.learn_continuation(
                raw, line.service, shown, unredacted, is_text=line.is_text
            )

    def _long_line(self, raw: bytes, out: list[bytes]) -> None:
        """Put a long line into `out`.

        Of lines that repeat for gigabytes, as in a bomb, each is examined once.
        """
        plain, hits = not self._inside_anything(), self.redactions.copy()
        line = self._slow_line(raw, out)
        self._long = None
        if (
            plain
            and line.is_text
            and line.record is None
            and not self._sieve.active
            and not self._inside_anything()
        ):
            shown = b"" if self._style.jsonl else out[-1]
            self._long = (raw, line, shown, self.redactions - hits)

    def _inside_anything(self) -> bool:
        """Return whether a line may mean something else than the same line somewhere else."""
        return self._reader.inside_event or bool(self._redactor and self._redactor.inside_block)

    def _again(self, raw: bytes, out: list[bytes]) -> bool:
        """Return whether a long line is the last long one once more; then it is put into `out`."""
        if self._long is None or self._sieve.active or self._long[0] != raw:
            return False
        if self._inside_anything():
            return False
        _, line, shown, hits = self._long
        self.counts.lines += 1
        self.counts.unparsed_lines += 1
        if self._style.jsonl:
            out += map(self._json, self._grouping.add(line))
        else:
            self.redactions.update(hits)
            out.append(shown)
        return True

    def _json(self, item: LogRecord | Row) -> bytes:
        if isinstance(item, Row):
            self.counts.records_written += 1
            self.redactions.update(item.hits)
            return item.text
        self.counts.records_written += item.format != "text"
        if self._redactor:
            item = redacted_record(item, self._redactor)
        return render(item, self._style).encode() + b"\n"

    # --- the fast ways ----------------------------------------------------------------------------

    def _seen_before(self, raw: bytes) -> bytes | None:
        """Return the friendly text of a line like an earlier one, or None for a new one.

        The text of a line that is not wanted is empty.
        """
        inside_block = self._redactor is not None and self._redactor.inside_block
        for kind in self._templates.like(raw):
            if (inside_block and not kind.is_step) or self._sieve.limits_time:
                return None
            shown = kind.format(raw, self._style.clock)
            if shown is None:
                continue
            wants = self._wants(kind)
            self._stand_at(kind, in_time=True, wants=wants)
            self.counts.add_records(1, written=wants)
            if not wants:
                return b""
            if kind.hits:
                self.redactions.update(kind.hits)
            if kind.message_bytes and self._redactor:
                place = len(shown) - kind.message_bytes - 1
                message = shown[place:-1].decode()
                redacted = self._redactor.message(message)
                if redacted is not message:
                    shown = shown[:place] + redacted.encode() + b"\n"
            return shown
        service, known = self._templates.continuations.get(raw, (None, None))
        if known is None or self._reader.in_traceback(service) or inside_block:
            return None
        self.counts.lines += 1
        self.counts.unparsed_lines += raw in self._templates.texts
        return known if self._sieve.keeps_more_of(service) else b""

    def _wants(self, kind: Template) -> bool:
        return not self._sieve.active or self._sieve.wanted.wants(kind.record)

    def _stand_at(self, kind: Template, *, in_time: bool, wants: bool) -> None:
        """Leave behind what the slow way would have left after a line of a kind."""
        self._reader.begin(kind.record.service, kind.record.level)
        if self._sieve.active:
            self._sieve.begin(kind.record.service, in_time=in_time, wants=wants)

    def _bulk_of(self, block: bytes) -> Bulk:
        # It needs numpy, which takes longer to start than a small log to format.
        from dsmops.logs.bulk import find_rows

        limits = self._sieve.limits_time

        def fate(kind: Template, begin: datetime) -> bool | None:
            if not self._sieve.active:
                return True
            in_time = not limits or self._sieve.wanted.in_time(begin, begin + _REST_OF_MINUTE)
            return in_time and self._wants(kind) if in_time is not None else None

        every, plain = not self._style.jsonl, not self._style.jsonl and not self._sieve.active
        for _ in range(_MOST_ROUNDS):
            # In JSON an event waits for the next of its service: there it is rows of one service.
            service = next((kind.record.service for kind in self._templates), None)
            bulk = find_rows(
                block,
                self._templates,
                fate,
                self._leaves,
                services=None if every else (service,),
                continuations=plain,
            )
            others = bulk.others
            if len(others) * _MOST_OTHERS < len(bulk.labels) or not self._learn_from(
                bulk.lines(block, others[:_MOST_LESSONS_AT_ONCE])
            ):
                break
        return bulk

    def _leaves(self, message: bytes) -> bool:
        return self._redactor is None or self._redactor.leaves(message.decode())

    def _learn_from(self, lines: list[bytes]) -> bool:
        """Return whether lines of an unknown form taught a new form.

        When a number grows by a digit, all lines of a block may have a new form.
        """
        known = self._templates.count
        for raw in lines:
            if any(kind.fits(raw) for kind in self._templates.like(raw)):
                continue
            found = self._render_aside(raw)
            if (
                found
                and found.record.format in DIALECTS
                and found.record.level is not None
                and self._reader.knows(found.record.service)
            ):
                is_step = STEP.fullmatch(found.record.message) is not None
                self._templates.learn(raw, found.record.format, is_step=is_step)
        return self._templates.count > known

    def _render_aside(self, raw: bytes) -> Rendered | None:
        """Go the slow way and leave nothing behind, for experiments."""
        return self._render_with(raw, self._redactor.fresh() if self._redactor else None)

    def _render_unredacted(self, raw: bytes) -> Rendered | None:
        return self._render_with(raw, None)

    def _render_with(self, raw: bytes, redactor: Redactor | None) -> Rendered | None:
        line = Reader(self._aside.clock).line(raw)
        if line.record is None or line.record.time is None or line.record.continuation:
            return None
        if self._aside.jsonl:
            record = redacted_record(line.record, redactor) if redactor else line.record
            text = render(record, self._aside)
        else:
            text = _shown(line, self._aside, redactor).decode().removesuffix("\n")
        return Rendered(line.record, text, redactor.counts if redactor else {})


class _BulkRun:
    """One block formatted in bulk.

    The text of known rows is copied. Lines between them, and rows that differ from their form, go
    line by line.
    """

    def __init__(self, formatter: Formatter, block: bytes, bulk: Bulk, out: list[bytes]) -> None:
        self._formatter, self._block, self._bulk, self._out = formatter, block, bulk, out
        self._templates = [kind if isinstance(kind, Template) else None for kind in bulk.kinds]
        self._services = {kind.record.service for kind in self._templates if kind}
        self._jsonl = formatter._style.jsonl
        self._local = any(kind and not kind.tail for kind in self._templates)
        self._taken_back: Counter[int] = Counter()
        """Rows by their kind that were looked at line by line all the same, or wait."""
        self._kept_back: Counter[int] = Counter()

    def run(self) -> int:
        """Put the text of the block into `out`, and return how many bytes are left.

        It stops at the first line that is wrapped.
        """
        at, rest = 0, 0
        for line in (*self._bulk.others, len(self._bulk.labels)):
            if line > at:
                self._rows(at, line)
            if line < len(self._bulk.labels) and not self._formatter._line(
                self._raw(line), self._out
            ):
                rest = len(self._block) - int(self._bulk.starts[line])
                self._bulk.cut(line)
                break
            at = line + 1
        self._count()
        return rest

    def _count(self) -> None:
        counts, kept = self._bulk.counts(), self._bulk.kept_counts()
        formatter = self._formatter
        for label, kind in enumerate(self._templates):
            lines = counts[label] - self._taken_back[label]
            formatter.counts.lines += lines
            if kind:
                written = kept[label] - self._kept_back[label]
                formatter.counts.records += lines
                formatter.counts.records_written += written
                if kind.hits and written:
                    hits = {rule: count * written for rule, count in kind.hits.items()}
                    formatter.redactions.update(hits)
            elif self._bulk.kinds[label] in formatter._templates.texts:
                formatter.counts.unparsed_lines += lines

    def _raw(self, line: int) -> bytes:
        return self._block[self._bulk.starts[line] : self._bulk.ends[line]]

    def _rows(self, begin: int, end: int) -> None:
        """Put lines of known kinds, and look at those that a block or a traceback may reach."""
        while begin < end:
            if self._jsonl and self._bulk.last_kept(begin, end) >= begin:
                for service in self._services:
                    done = self._formatter._grouping.complete(service)
                    self._out += map(self._formatter._json, done)
            stop = self._first_to_look_at(begin, end)
            self._put(begin, stop)
            if stop < end:
                label = int(self._bulk.labels[stop])
                self._taken_back[label] += 1
                self._kept_back[label] += bool(self._bulk.kept[stop])
                self._formatter._line(self._raw(stop), self._out)
            begin = stop + 1

    def _first_to_look_at(self, begin: int, end: int) -> int:
        formatter = self._formatter
        for service in formatter._templates.services:
            if formatter._reader.in_traceback(service):
                return begin
        if formatter._redactor is not None and formatter._redactor.inside_block:
            steps = [kind is not None and kind.is_step for kind in self._templates]
            for place, label in enumerate(self._bulk.labels[begin:end].tolist()):
                if not steps[label]:
                    return begin + place
        return end

    def _put(self, begin: int, end: int) -> None:
        if begin >= end:
            return
        bulk, last = self._bulk, end
        if self._jsonl:
            # The last event waits for lines that may belong to it.
            last = bulk.last_kept(begin, end)
            if last < begin:
                last = begin
            else:
                self._hold(last)
        self._out.append(bulk.text[bulk.offsets[begin] : bulk.offsets[last]].tobytes())
        self._stand_after(begin, end)

    def _hold(self, line: int) -> None:
        bulk, label = self._bulk, int(self._bulk.labels[line])
        kind = self._templates[label]
        if kind is None:
            return
        self._kept_back[label] += 1
        text = bulk.text[bulk.offsets[line] : bulk.offsets[line + 1]].tobytes()
        clock = self._formatter._aside.clock
        self._formatter._grouping.hold(
            kind.record.service, Row(text, kind.hits, self._raw(line), clock)
        )

    def _stand_after(self, begin: int, end: int) -> None:
        """Leave behind what the slow way would have left after the rows before `end`."""
        formatter = self._formatter
        left, local = set(self._services), self._local
        for line in range(end - 1, begin - 1, -1):
            kind = self._templates[self._bulk.labels[line]]
            if kind is None:
                continue
            raw = b""
            if kind.record.service in left:
                left.discard(kind.record.service)
                in_time = True
                if formatter._sieve.limits_time:
                    raw = self._raw(line)
                    sides = kind.sides(raw[kind.minute])
                    last = sides.begin + _REST_OF_MINUTE if sides else None
                    in_time = bool(
                        sides and last and formatter._sieve.wanted.in_time(sides.begin, last)
                    )
                formatter._stand_at(kind, in_time=in_time, wants=formatter._wants(kind))
            if local and not kind.tail:
                raw = raw or self._raw(line)
                formatter._style.clock.instant(
                    raw[kind.minute].decode(), raw[kind.seconds].decode(), ""
                )
                local = False
            if not left and not local:
                return


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
