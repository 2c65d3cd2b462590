"""The bulk path: step lines by the million, without looking at each.

A server writes one line per model step, so nearly all of a big log is one line with other numbers in it. The first such line is
understood the slow way; from it a pattern of the raw line and a recipe of the friendly one are made. One `split` of a block by the
pattern gives all numbers of all rows, and one `join` the friendly text. What lies between rows goes the slow way.

The recipe is found by experiment: the slow way runs on the same line with marked numbers, and where the marks come out is where the
numbers belong. So the bulk path knows neither dialects nor styles, and cannot disagree with the slow way about them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dsmops.logs.clock import FRIENDLY_STAMP, STAMP, Clock
from dsmops.logs.records import LogRecord

STEP = re.compile(r"\d{1,18}(?:\.\d{1,18})?ms(?: (?:step_idx|with_data)=\d{1,18})*", re.ASCII)
"""The message of a step line: nothing in it can be a secret, whatever the numbers."""

_STAMPS = tuple(re.compile(pattern.encode()) for pattern in (FRIENDLY_STAMP, STAMP))
_NUMBER = re.compile(rb"\x1b\[[0-9;]*m|(?P<number>\d{1,18}(?P<fraction>\.\d{1,18})?)")
_PROBE_MINUTE, _PROBE_SECOND, _PROBE_MILLIS = "2031-05-07 11:23", "58", "469"

Render = Callable[[bytes], "Rendered | None"]
"""The slow way, without side effects: what a raw line becomes, or None where it begins no record."""

_MOST_NUMBERS = 100


@dataclass(frozen=True, slots=True)
class Rendered:
    """What the slow way makes of a line."""

    record: LogRecord
    text: str
    """The friendly line, redacted, without its end."""
    hits: Mapping[str, int]
    """Redactions in it: the home folder in the path of the source, say."""


@dataclass(frozen=True, slots=True, eq=False)
class StepLine:
    """Step lines of one kind: where the numbers are in the raw line, and what the friendly one is made of.

    `pattern` has a group for the minute, one for the seconds, and one for each number, in this order. The friendly line is `head`, the
    stamp, `first`, and the parts of `recipe`, each a fixed text or the number of a group; the last one ends the line.
    """

    pattern: re.Pattern[bytes]
    tail: str
    head: str
    first: bytes
    recipe: tuple[bytes | int, ...]
    record: LogRecord
    hits: Mapping[str, int]

    @classmethod
    def learn(cls, raw: bytes, render: Render, clock: Clock) -> StepLine | None:
        """Return the kind of rows that `raw` is one of, or None where the experiment fails.

        `clock` is the one that `render` uses.
        """
        stamp = next(filter(None, (pattern.search(raw) for pattern in _STAMPS)), None)
        if stamp is None or len(stamp["seconds"]) < len("00.000"):
            return None
        tail = stamp["tail"].decode()
        numbers = [found for found in _NUMBER.finditer(raw) if found["number"] and not stamp.start() <= found.start() < stamp.end()]
        marks = {b"7%03d7" % index + (b".77" if found["fraction"] else b""): found for index, found in enumerate(numbers)}
        everywhere = render(_probe(raw, stamp, marks))
        minute = clock.minute(_PROBE_MINUTE, tail)
        if everywhere is None or not isinstance(minute, datetime) or len(numbers) > _MOST_NUMBERS:
            return None
        # Numbers that come out in the message vary from row to row; those of paths and names belong to the kind.
        marks = {mark: found for mark, found in marks.items() if mark.decode() in everywhere.record.message}
        shown = render(_probe(raw, stamp, marks))
        if shown is None or not marks or min(found.start() for found in marks.values()) < stamp.start():
            return None
        before, after = clock.around(minute)
        head, found_stamp, rest = shown.text.partition(f"{before}{_PROBE_SECOND}.{_PROBE_MILLIS}{after}")
        parts = re.split(b"(" + b"|".join(map(re.escape, marks)) + b")", rest.encode() + b"\n")
        if not found_stamp or sorted(parts[1::2]) != sorted(marks):
            return None
        groups = {mark: number for number, mark in enumerate(marks, start=3)}
        first, *recipe = parts
        pattern = _pattern(raw, stamp, list(marks.values()))
        return cls(pattern, tail, head, first, tuple(groups.get(part, part) for part in recipe), shown.record, shown.hits)

    def find(self, text: bytes) -> Rows | None:
        """Return the rows of this kind in a text of whole lines, or None where there are none."""
        pieces = self.pattern.split(text)
        return Rows(self, pieces) if len(pieces) > 1 else None


class Rows:
    """The rows of one kind in a text, as columns. `between[i]` is what stands before row i; its last item is what follows the last."""

    def __init__(self, kind: StepLine, pieces: list[Any]) -> None:
        width = kind.pattern.groups + 1
        self.kind = kind
        self.count = len(pieces) // width
        self.between: list[bytes] = pieces[::width]
        self.columns: list[list[bytes]] = [pieces[group::width] for group in range(1, width)]
        self.minutes, self.seconds, *_ = self.columns

    def join(self, around: Mapping[bytes, tuple[str, str]]) -> bytes:
        """Return the friendly text of rows and what is between them. `around` has `Clock.around` for each minute in the column."""
        first, rest = self.kind.first, self.kind.recipe
        before = {minute: (self.kind.head + sides[0]).encode() for minute, sides in around.items()}
        after = {minute: sides[1].encode() + first for minute, sides in around.items()}
        parts = [
            map(before.__getitem__, self.minutes),
            self.seconds,
            map(after.__getitem__, self.minutes),
            *(self.columns[part - 1] if isinstance(part, int) else [part] * self.count for part in rest),
        ]
        width = len(parts) + 1
        out = [b""] * (self.count * width + 1)
        out[::width] = self.between
        for place, column in enumerate(parts, start=1):
            out[place::width] = column
        return b"".join(out)


def _probe(raw: bytes, stamp: re.Match[bytes], marks: Mapping[bytes, re.Match[bytes]]) -> bytes:
    """Return the raw line at another time, with marks in place of some numbers."""
    seconds = stamp.span("seconds")
    fraction = _PROBE_MILLIS.ljust(seconds[1] - seconds[0] - len("00."), "1")
    minute = _PROBE_MINUTE.encode().replace(b" ", stamp["minute"][10:11])
    changes = [(found.span("number"), mark) for mark, found in marks.items()]
    changes += [(stamp.span("minute"), minute), (seconds, f"{_PROBE_SECOND}.{fraction}".encode())]
    for (start, end), text in sorted(changes, reverse=True):
        raw = raw[:start] + text + raw[end:]
    return raw


def _pattern(raw: bytes, stamp: re.Match[bytes], varying: list[re.Match[bytes]]) -> re.Pattern[bytes]:
    # JSON has no number that begins with a needless 0.
    whole = rb"(?:0|[1-9]\d{0,17})" if raw.lstrip().startswith(b"{") else rb"\d{1,18}"
    surplus = len(stamp["seconds"]) - len("00.000")
    groups = [
        (stamp.span("minute"), rb"(20\d\d-\d\d-\d\d" + stamp["minute"][10:11] + rb"\d\d:\d\d)"),
        (stamp.span("seconds"), rb"([0-5]\d\.\d{3})" + (rb"\d{%d}" % surplus if surplus else b"")),
        *((found.span("number"), b"(" + whole + (rb"\.\d{1,18}" if found["fraction"] else b"") + b")") for found in varying),
    ]
    pattern, done = b"^", 0
    for (start, end), group in groups:
        pattern += re.escape(raw[done:start]) + group
        done = end
    return re.compile(pattern + re.escape(raw[done:]) + b"\n", re.MULTILINE)
