"""Lines that differ in their numbers only: understood once, then copied.

A server writes one line per model step, and few others. From the first line of a kind a recipe is
made, by experiment: the slow way runs on the same line at another time and with marked numbers, and
where the marks come out is where the numbers belong. So the fast ways know neither dialects nor
styles, and cannot disagree with the slow one about them.

A `Template` is such a recipe for lines of one form (all digits as 0, and the letters of long
hexadecimal words): which of them may differ, and where they come out. `bulk` uses it for many lines
at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from dsmops.logs.clock import FRIENDLY_STAMP, STAMP, Clock
from dsmops.logs.records import LogRecord

STEP = re.compile(r"\d{1,18}(?:\.\d{1,18})?ms(?: (?:step_idx|with_data)=\d{1,18})*", re.ASCII)
"""The message of a step line: nothing in it can be a secret, whatever the numbers."""

_STAMPS = {
    name: re.compile((FRIENDLY_STAMP if name == "friendly" else STAMP).encode())
    for name in ("friendly", "")
}
HEX_WORD = re.compile(rb'(?<=")[0-9a-f]{32,}(?=")')
"""An identifier that is another one on each line. Within quotes it is what it is to any dialect."""
_NUMBER = re.compile(
    rb"\x1b\[[0-9;]*m|(?P<number>" + HEX_WORD.pattern + rb"|\d{1,18}(?P<fraction>\.\d{1,18})?)"
)
_PROBE_MINUTE, _PROBE_SECONDS = "2031-05-07 11:23", "58.469"
_MOST_NUMBERS = 100
_MINUTES_KEPT, _SIDES_KEPT = 4096, 64
"""Of all kinds together, and of each."""

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
    """How lines like one raw line are made.

    The text is `head`, the stamp, `first`, then `parts`, each a text or an index into `numbers`.
    """

    stamp: re.Match[bytes]
    stamps: FriendlyStamps
    digits: int
    """So many digits of the fraction of a second are shown."""
    numbers: tuple[Span, ...]
    """Places of the numbers in the raw line, in order.

    Digits elsewhere, but for those of colours, do not come out.
    """
    head: bytes
    first: bytes
    parts: tuple[bytes | int, ...]
    record: LogRecord
    hits: Mapping[str, int]


class Stamp(NamedTuple):
    """What stands around the seconds in the stamps of a minute, and when it begins, in UTC."""

    before: bytes
    after: bytes
    begin: datetime


class FriendlyStamps:
    """What stands around the seconds in friendly lines, which show milliseconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._stamps: dict[tuple[bytes, str, int], Stamp | None] = {}

    def stamp(self, minute: bytes, tail: str, digits: int) -> Stamp | None:
        """Return the stamp of a minute of a raw log, or None where it occurs twice or never.

        All kinds of lines share the minutes of their log.
        """
        key = (minute, tail, digits)
        if key not in self._stamps:
            if len(self._stamps) >= _MINUTES_KEPT:
                self._stamps.clear()
            begin = self.clock.minute(minute.decode(), tail)
            if minute.startswith(b"20") and isinstance(begin, datetime):
                before, after = self.around(begin, digits)
                self._stamps[key] = Stamp(before.encode(), after.encode(), begin)
            else:
                self._stamps[key] = None
        return self._stamps[key]

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


class Sides(NamedTuple):
    """What stands around the seconds in the lines of one minute, and when it begins, in UTC."""

    before: bytes
    after: bytes
    begin: datetime
    line: bytes
    """A whole line with blanks where its digits belong."""


_UNKNOWN = Sides(b"", b"", datetime.min, b"")


class Template:
    """Lines of one form, with the digits that may differ."""

    def __init__(
        self,
        raw: bytes,
        dialect: str,
        recipe: Recipe,
        *,
        is_step: bool = False,
        message_bytes: int = 0,
    ) -> None:
        """`message_bytes`: the line ends with so long a message, which is yet to be redacted."""
        self.record, self.hits, self.is_step = recipe.record, recipe.hits, is_step
        self.message_bytes = message_bytes
        self.length = len(raw)
        self.rows = 0
        """How many lines it formatted since the last look."""
        self.minute, self.seconds = (
            slice(*recipe.stamp.span(part)) for part in ("minute", "seconds")
        )
        self.shown_seconds = slice(
            self.seconds.start, self.seconds.start + len("58.") + recipe.digits
        )
        self.tail = recipe.stamp["tail"].decode("utf-8", "replace")
        self.parts: list[slice | bytes] = [
            slice(*recipe.numbers[part]) if isinstance(part, int) else part for part in recipe.parts
        ]
        self._stamps, self._digits = recipe.stamps, recipe.digits
        self._head, self._first = recipe.head, recipe.first
        seconds = b" " * (self.shown_seconds.stop - self.shown_seconds.start)
        parts = (
            b" " * (part.stop - part.start) if isinstance(part, slice) else part
            for part in self.parts
        )
        self._seconds, self._rest = seconds, recipe.first + b"".join(parts)
        self._sides: dict[bytes, Sides | None] = {}
        self.low, self.spread = _bounds(raw, dialect, recipe)
        self.hex_words = tuple(slice(*word.span()) for word in HEX_WORD.finditer(raw))
        """Where the least and the greatest byte are those of digits and of a to f, and what is
        between them does not fit."""
        # What the form does not tell: which digits have to be the same, and which not 0.
        self._fixed = [
            (slice(*found.span()), found[0])
            for found in re.finditer(rb"\x1b\[[0-9;]*m|\d+", raw)
            if not found[0].startswith(b"\x1b") and not any(self.spread[slice(*found.span())])
        ]
        self._leading = [
            place
            for place, (low, spread) in enumerate(zip(self.low, self.spread, strict=True))
            if low == ord("1") and spread
        ]

    def fits(self, raw: bytes) -> bool:
        """Return whether a line of this form has the digits that its kind has to have."""
        for part, digits in self._fixed:
            if raw[part] != digits:
                return False
        return all(raw[place] != ord("0") for place in self._leading)

    def format(self, raw: bytes, clock: Clock) -> bytes | None:
        """Return the text of a line of this form with its end.

        None where the slow way has to decide.
        """
        seconds = raw[self.seconds]
        sides = self.sides(raw[self.minute])
        if sides is None or seconds >= b"60" or not self.fits(raw):
            return None
        if not self.tail:
            clock.instant(raw[self.minute].decode(), seconds.decode(), "")
        numbers = [raw[part] if isinstance(part, slice) else part for part in self.parts]
        return b"".join((sides.before, raw[self.shown_seconds], sides.after, *numbers))

    def sides(self, minute: bytes) -> Sides | None:
        """Return what stands around the seconds, or None where a minute occurs twice or never."""
        found = self._sides.get(minute, _UNKNOWN)
        if found is _UNKNOWN:
            if len(self._sides) >= _SIDES_KEPT:
                self._sides.clear()
            found = self._sides[minute] = self._look_up(minute)
        return found

    def _look_up(self, minute: bytes) -> Sides | None:
        stamp = self._stamps.stamp(minute, self.tail, self._digits)
        if stamp is None:
            return None
        before, after, begin = stamp
        head = self._head + before
        line = head + self._seconds + after + self._rest
        return Sides(head, after + self._first, begin, line)


def _bounds(raw: bytes, dialect: str, recipe: Recipe) -> tuple[bytes, bytes]:
    """Return the least value of each byte of a line, and how much more it may be."""
    low, spread = bytearray(raw), bytearray(len(raw))

    def let(places: Iterable[int], least: int, most: int) -> None:
        for place in places:
            if ord("0") <= raw[place] <= ord("9"):
                low[place], spread[place] = ord("0") + least, most - least

    begin, end = recipe.stamp.span("minute")
    let(range(begin + 2, end), 0, 9)  # It begins with 20.
    begin, end = recipe.stamp.span("seconds")
    let(range(begin, end), 0, 9)
    let([begin], 0, 5)
    # JSON has no number that begins with a needless 0, and no source line begins with one.
    places = {f"7{index:03d}7": begin for index, (begin, _) in enumerate(recipe.numbers)}
    source_line = places.get(str(recipe.record.line))
    for begin, end in recipe.numbers:
        let(range(begin, end), 0, 9)
        whole = raw[begin:end].partition(b".")[0]
        if (dialect == "json" and len(whole) > 1) or begin == source_line:
            let([begin], 1, 9)
    for word in HEX_WORD.finditer(raw):
        low[slice(*word.span())] = b"0" * len(word[0])
        spread[slice(*word.span())] = bytes([ord("f") - ord("0")]) * len(word[0])
    return bytes(low), bytes(spread)
