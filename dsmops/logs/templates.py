"""Lines that differ in their numbers only: understood once, then formatted without being looked at.

A server writes one line per model step, and few others. From the first line of a kind a recipe is
made, by experiment: the slow way runs on the same line at another time and with marked numbers, and
where the marks come out is where the numbers belong. So the fast ways know neither dialects nor
styles, and cannot disagree with the slow one about them. There are two:

- `StepTemplate`, for step lines by the million: one `split` of a block by a pattern gives the
  numbers of all its rows, one `join` the text;
- `ShapeTemplate`, for the other lines that come again: the line's bytes with all digits as 0 are
  the key, and slices give the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from dsmops.logs.clock import FRIENDLY_STAMP, STAMP, Clock
from dsmops.logs.records import LogRecord

STEP = re.compile(r"\d{1,18}(?:\.\d{1,18})?ms(?: (?:step_idx|with_data)=\d{1,18})*", re.ASCII)
"""The message of a step line: nothing in it can be a secret, whatever the numbers."""

_STAMPS = {
    name: re.compile((FRIENDLY_STAMP if name == "friendly" else STAMP).encode())
    for name in ("friendly", "")
}
_NUMBER = re.compile(rb"\x1b\[[0-9;]*m|(?P<number>\d{1,18}(?P<fraction>\.\d{1,18})?)")
_PROBE_MINUTE, _PROBE_SECONDS = "2031-05-07 11:23", "58.469"
_MOST_NUMBERS = 100
_MINUTES_KEPT = 256

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Rendered:
    """What the slow way makes of a line that begins a record."""

    record: LogRecord
    text: str
    """The friendly line, redacted, without its end."""
    hits: Mapping[str, int]
    """Redactions in it: the home folder in the path of the source, say."""


Render = Callable[[bytes], Rendered | None]
"""The slow way, without side effects; None where the line begins no record."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How lines like one raw line are made: `head`, the stamp, `first`, then `parts`, each a text
    or an index into `numbers`.
    """

    stamp: re.Match[bytes]
    stamps: FriendlyStamps
    digits: int
    """So many digits of the fraction of a second are shown."""
    marks: tuple[str, ...]
    """What stands for the numbers in the message of `record`."""
    numbers: tuple[Span, ...]
    """Places of the numbers in the raw line, in order.

    Digits elsewhere, but for those of colours, do not come out.
    """
    head: bytes
    first: bytes
    parts: tuple[bytes | int, ...]
    record: LogRecord
    hits: Mapping[str, int]


class FriendlyStamps:
    """What stands around the seconds in friendly lines, which show milliseconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def digits(self, available: int) -> int:
        """Return how many digits of a fraction of a second are shown."""
        return min(3, available)

    def around(self, minute: datetime, _digits: int, /) -> tuple[str, str]:
        """Return what stands before and after the shown seconds of a minute in UTC."""
        return self.clock.around(minute)


class JsonStamps(FriendlyStamps):
    """What stands around the seconds in JSON, which shows microseconds in UTC."""

    def digits(self, available: int) -> int:
        """Return how many digits of a fraction of a second are shown."""
        return min(6, available)

    def around(self, minute: datetime, digits: int, /) -> tuple[str, str]:
        """Return what stands before and after the shown seconds of a minute in UTC."""
        return f'"time":"{minute:%Y-%m-%dT%H:%M}:', f'{"0" * (6 - digits)}Z"'


def find_recipe(
    raw: bytes, dialect: str, render: Render, stamps: FriendlyStamps, *, only_message: bool
) -> Recipe | None:
    """Return the recipe of lines like `raw`, or None where the experiment fails.

    `stamps` is of the clock that `render` uses. With `only_message` only numbers of the message
    vary; those of paths and names belong to the template.
    """
    clock = stamps.clock
    stamp = _STAMPS.get(dialect, _STAMPS[""]).search(raw)
    found = [
        match for match in _NUMBER.finditer(raw, stamp.end() if stamp else 0) if match["number"]
    ]
    if stamp is None or len(stamp["seconds"]) < len(_PROBE_SECONDS) or len(found) > _MOST_NUMBERS:
        return None
    numbers = {
        b"7%03d7" % index + (b".77" if match["fraction"] else b""): match.span("number")
        for index, match in enumerate(found)
    }
    shown = render(_probe(raw, stamp, numbers))
    if shown and only_message:
        numbers = {
            mark: span for mark, span in numbers.items() if mark.decode() in shown.record.message
        }
        shown = render(_probe(raw, stamp, numbers))
    minute = clock.minute(_PROBE_MINUTE, stamp["tail"].decode("utf-8", "replace"))
    if shown is None or not isinstance(minute, datetime):
        return None
    digits = stamps.digits(len(stamp["seconds"]) - len("58."))
    before, after = stamps.around(minute, digits)
    seconds = _PROBE_SECONDS.ljust(len("58.") + digits, "1")
    head, found_stamp, rest = shown.text.partition(f"{before}{seconds}{after}")
    parts = (
        re.split(b"(" + b"|".join(map(re.escape, numbers)) + b")", rest.encode() + b"\n")
        if numbers
        else [rest.encode() + b"\n"]
    )
    if not found_stamp or len(set(parts[1::2])) < len(parts[1::2]):
        return None
    order = {mark: index for index, mark in enumerate(numbers)}
    return Recipe(
        stamp=stamp,
        stamps=stamps,
        digits=digits,
        marks=tuple(mark.decode() for mark in numbers),
        numbers=tuple(numbers.values()),
        head=head.encode(),
        first=parts[0],
        parts=tuple(
            order[part] if index % 2 else part for index, part in enumerate(parts[1:], start=1)
        ),
        record=shown.record,
        hits=shown.hits,
    )


def _probe(raw: bytes, stamp: re.Match[bytes], numbers: Mapping[bytes, Span]) -> bytes:
    """Return the raw line at another time, with marks in place of numbers."""
    start, end = stamp.span("seconds")
    minute = _PROBE_MINUTE.encode().replace(b" ", stamp["minute"][10:11])
    changes = [(span, mark) for mark, span in numbers.items()]
    changes += [
        (stamp.span("minute"), minute),
        ((start, end), _PROBE_SECONDS.encode().ljust(end - start, b"1")),
    ]
    for (start, end), text in sorted(changes, reverse=True):
        raw = raw[:start] + text + raw[end:]
    return raw


class StepTemplate:
    """Step lines of one kind.

    `pattern` has a group for the minute, one for the seconds, and one for each number, in this
    order.
    """

    def __init__(self, raw: bytes, dialect: str, recipe: Recipe) -> None:
        self.record, self.hits = recipe.record, recipe.hits
        self.tail = recipe.stamp["tail"].decode("utf-8", "replace")
        self._recipe = recipe
        # JSON has no number that begins with a needless 0.
        whole = rb"(?:0|[1-9]\d{0,17})" if dialect == "json" else rb"\d{1,18}"
        surplus = len(recipe.stamp["seconds"]) - len("58.") - recipe.digits
        groups = [
            (
                recipe.stamp.span("minute"),
                rb"(20\d\d-\d\d-\d\d" + recipe.stamp["minute"][10:11] + rb"\d\d:\d\d)",
            ),
            (
                recipe.stamp.span("seconds"),
                rb"([0-5]\d\.\d{%d})" % recipe.digits + (rb"\d{%d}" % surplus if surplus else b""),
            ),
            *(
                (span, b"(" + whole + (rb"\.\d{1,18}" if b"." in raw[slice(*span)] else b"") + b")")
                for span in recipe.numbers
            ),
        ]
        pattern, done = b"^", 0
        for (start, end), group in groups:
            pattern += re.escape(raw[done:start]) + group
            done = end
        self._pattern = re.compile(pattern + re.escape(raw[done:]) + b"\n", re.MULTILINE)

    def find(self, text: bytes) -> Rows | None:
        """Return the rows of this kind in a text of whole lines, or None where there are none."""
        pieces = self._pattern.split(text)
        return (
            Rows(self, self._recipe, pieces, self._pattern.groups + 1) if len(pieces) > 1 else None
        )


class Rows:
    """The rows of one kind in a text, as columns. `between[i]` is what stands before row i.

    Its last item is what follows the last.
    """

    def __init__(
        self, template: StepTemplate, recipe: Recipe, pieces: list[Any], width: int
    ) -> None:
        self.template = template
        self.count = len(pieces) // width
        self.between: list[bytes] = pieces[::width]
        self.minutes: list[bytes] = pieces[1::width]
        self.seconds: list[bytes] = pieces[2::width]
        self._numbers: list[list[bytes]] = [pieces[group::width] for group in range(3, width)]
        self._recipe = recipe

    def begins(self, clock: Clock) -> dict[bytes, datetime] | None:
        """Return the UTC time at which each minute in the column begins.

        None where one occurs twice or never.
        """
        found = {
            minute: clock.minute(minute.decode(), self.template.tail)
            for minute in set(self.minutes)
        }
        begins = {minute: begin for minute, begin in found.items() if isinstance(begin, datetime)}
        return begins if len(begins) == len(found) else None

    def join(self, begins: Mapping[bytes, datetime]) -> bytes:
        """Return the text of rows and what is between them, by what `begins` returned."""
        columns = [self.between[:-1], *self._columns(begins)]
        out = [b""] * (self.count * len(columns))
        for place, column in enumerate(columns):
            out[place :: len(columns)] = column
        return b"".join(out) + self.between[-1]

    def texts(self, begins: Mapping[bytes, datetime]) -> list[bytes]:
        """Return the text of each row."""
        return list(map(b"".join, zip(*self._columns(begins), strict=True)))

    def record(self, number: int, begins: Mapping[bytes, datetime]) -> LogRecord:
        """Return the record of a row, as the slow way reads it."""
        record, seconds = self._recipe.record, self.seconds[number].decode()
        message = record.message
        for column, mark in enumerate(self._recipe.marks):
            message = message.replace(mark, self._numbers[column][number].decode(), 1)
        time = begins[self.minutes[number]] + timedelta(
            seconds=int(seconds[:2]), microseconds=int(seconds[3:9].ljust(6, "0"))
        )
        return replace(record, message=message, time=time)

    def _columns(self, begins: Mapping[bytes, datetime]) -> list[Iterable[bytes]]:
        """Return the columns of which the text of rows is made."""
        recipe = self._recipe
        around = {
            minute: recipe.stamps.around(begin, recipe.digits) for minute, begin in begins.items()
        }
        before = {minute: recipe.head + sides[0].encode() for minute, sides in around.items()}
        after = {minute: sides[1].encode() + recipe.first for minute, sides in around.items()}
        return [
            map(before.__getitem__, self.minutes),
            self.seconds,
            map(after.__getitem__, self.minutes),
            *(
                self._numbers[part] if isinstance(part, int) else [part] * self.count
                for part in recipe.parts
            ),
        ]


class ShapeTemplate:
    """Lines of one shape, which is a line's bytes with all digits as 0.

    Not for JSON, where it matters which digit a number begins with.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.record = recipe.record
        self._recipe = recipe
        self._minute, self._seconds = (
            slice(*recipe.stamp.span(part)) for part in ("minute", "seconds")
        )
        self._tail = recipe.stamp["tail"].decode("utf-8", "replace")
        self._parts = [
            slice(*recipe.numbers[part]) if isinstance(part, int) else part for part in recipe.parts
        ]
        self._sides: dict[bytes, tuple[bytes, bytes]] = {}
        # No source line begins with 0, so such a number says that the line is of another kind.
        places = {f"7{index:03d}7": start for index, (start, _) in enumerate(recipe.numbers)}
        self._source_line = places.get(str(recipe.record.line))

    def format(self, raw: bytes, clock: Clock) -> bytes | None:
        """Return the friendly line with its end, or None where the digits make no stamp, and the
        slow way has to tell.
        """
        minute, seconds = raw[self._minute], raw[self._seconds]
        sides = self._sides.get(minute) or self._look_up(minute, clock)
        if (
            sides is None
            or seconds >= b"60"
            or (self._source_line and raw[self._source_line] == ord("0"))
        ):
            return None
        if not self._tail:
            clock.instant(minute.decode(), seconds.decode(), "")
        numbers = [raw[part] if isinstance(part, slice) else part for part in self._parts]
        return b"".join((sides[0], seconds[: len(_PROBE_SECONDS)], sides[1], *numbers))

    def _look_up(self, minute: bytes, clock: Clock) -> tuple[bytes, bytes] | None:
        begin = clock.minute(minute.decode(), self._tail)
        if not minute.startswith(b"20") or not isinstance(begin, datetime):
            return None
        before, after = clock.around(begin)
        if len(self._sides) >= _MINUTES_KEPT:
            self._sides.clear()
        self._sides[minute] = (
            self._recipe.head + before.encode(),
            after.encode() + self._recipe.first,
        )
        return self._sides[minute]
