"""Step lines of a block, taken apart by their columns: thousands of lines at a time.

A step line as the server writes it has its numbers at the same places as any other of its length.
So one line is taken apart by a pattern, and what it taught reads all others like it as a table of
bytes. Lines that no layout fits are left to the caller.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmops.logs.columns import Bytes, Numbers, line_bounds, row, table_of

_COLOUR = rb"(?:\x1b\[\d{1,2}m)*"
_STEP = re.compile(
    rb"^" + _COLOUR + rb"(?P<day>20\d\d-\d\d-\d\d)T(?P<clock>\d\d:\d\d:\d\d)"
    + rb"\.(?P<fraction>\d{1,9})Z" + _COLOUR
    + rb" +" + _COLOUR + rb" *[A-Z]{4,5}" + _COLOUR + rb" " + _COLOUR
    + rb"(?P<target>[a-z_]\w{0,99}(?:::\w{1,99}){0,9})" + _COLOUR + rb":"
    + rb"[^\"\n]{1,400}? (?P<ms>\d{1,9}(?:\.\d{1,3})?)ms " + _COLOUR + rb"step_idx" + _COLOUR
    + rb"=" + _COLOUR + rb"(?P<index>\d{1,18})(?: " + _COLOUR + rb"with_data" + _COLOUR + rb"="
    + _COLOUR + rb"(?P<streams>\d{1,9}))?\s*$"
)  # fmt: skip
"""What a client sent stands in quotes, so it cannot pass for a step."""
_MOST_LAYOUTS = 12
"""Of one length: numbers of other widths, of other modules."""
_MOST_LENGTHS = 200
_LINE_BYTES = 1000


@dataclass(frozen=True, slots=True)
class StepRows:
    """Steps of one module, in the order of the log.

    By step: `lines` is the number of its line in the block, `at_us` when it ended, in microseconds
    since the epoch, `took_us` how long it took, and `streams` how many streams had data, -1 where
    the line does not say.
    """

    target: str
    lines: Numbers
    at_us: Numbers
    took_us: Numbers
    streams: Numbers

    def between(self, since: datetime | None, until: datetime | None) -> StepRows:
        """Return those that ended from `since` on and before `until`."""
        chosen = np.ones(len(self.lines), np.bool_)
        if since is not None:
            chosen &= self.at_us >= int(since.timestamp() * 1e6)
        if until is not None:
            chosen &= self.at_us < int(until.timestamp() * 1e6)
        columns = (self.lines, self.at_us, self.took_us, self.streams)
        return StepRows(self.target, *(column[chosen] for column in columns))

    def last_at(self, before: datetime) -> datetime | None:
        """Return when the last step until a time ended."""
        place = int(np.searchsorted(self.at_us, int(before.timestamp() * 1e6), side="right"))
        if not place:
            return None
        return datetime.fromtimestamp(int(self.at_us[place - 1]) / 1e6, UTC)


def step_rows(target: str, steps: Sequence[tuple[int, int, int]]) -> StepRows:
    """Return steps that were read one by one: when, how long, both in microseconds; streams."""
    at_us, took_us, streams = (np.array(column, np.int64) for column in zip(*steps, strict=True))
    return StepRows(target, np.zeros(len(steps), np.int64), at_us, took_us, streams)


@dataclass(frozen=True, slots=True)
class Scanned:
    """A block taken apart: its steps by module, and its other lines with their numbers."""

    lines: int
    steps: list[StepRows]
    others: list[tuple[int, bytes]]


class _Layout:
    """Where the numbers stand in lines like one line."""

    def __init__(self, raw: bytes, match: re.Match[bytes]) -> None:
        self.target = match["target"].decode()
        low, spread = bytearray(raw), bytearray(len(raw))
        day, clock = match.start("day"), match.start("clock")
        fraction, ms = match.span("fraction"), match.span("ms")
        self.day = [day + place for place in (0, 1, 2, 3, 5, 6, 8, 9)]
        self.clock = [clock + place for place in (0, 1, 3, 4, 6, 7)]
        self.fraction = list(range(*fraction))
        point = raw.find(b".", *ms)
        self.ms = [place for place in range(*ms) if place != point]
        self.ms_us = 10 ** (3 - (ms[1] - point - 1 if point >= 0 else 0))
        """Microseconds that the last digit of the step time stands for."""
        self.streams = list(range(*match.span("streams"))) if match["streams"] else []
        index = range(*match.span("index"))
        for places in (self.day, self.clock, self.fraction, self.ms, self.streams, index):
            for place in places:
                low[place], spread[place] = ord("0"), 9
        self.low, self.spread = row(bytes(low)), row(bytes(spread))

    def read(self, table: Bytes, lines: Numbers) -> tuple[StepRows, NDArray[np.bool_]]:
        """Return the rows of a table that are such lines, and which ones those are."""
        fits: Any = ((table - self.low) <= self.spread).all(axis=1)
        days, places = np.unique(_number(table[fits], self.day), return_inverse=True)
        day_s = np.array([_day_s(int(day)) for day in days], np.int64)[places]
        clock = _number(table[fits], self.clock)
        hour, minute, second = clock // 10_000, clock // 100 % 100, clock % 100
        exists = (day_s >= 0) & (hour < 24) & (minute < 60) & (second < 60)
        second_s = (day_s + hour * 3600 + minute * 60 + second)[exists]
        fits[np.flatnonzero(fits)[~exists]] = False
        table, lines = table[fits], lines[fits]
        micros = _number(table, self.fraction[:6]) * 10 ** max(0, 6 - len(self.fraction))
        streams = (
            _number(table, self.streams) if self.streams else np.full(len(lines), -1, np.int64)
        )
        took_us = _number(table, self.ms) * self.ms_us
        return StepRows(self.target, lines, second_s * 1_000_000 + micros, took_us, streams), fits


class StepScanner:
    """Finds the step lines of one log, block by block."""

    def __init__(self) -> None:
        self._layouts: dict[int, list[_Layout]] = {}

    def scan(self, block: bytes) -> Scanned:
        """Return the steps of a block of whole lines, and its other lines."""
        starts, ends = line_bounds(block)
        lengths = ends - starts
        left = np.ones(len(ends), np.bool_)
        found: list[StepRows] = []

        def take(length: int, layouts: list[_Layout]) -> None:
            group = np.flatnonzero((lengths == length) & left)
            if not len(group):
                return
            table = table_of(block, starts[group], length)
            for layout in layouts:
                steps, fits = layout.read(table, group)
                if len(steps.lines):
                    found.append(steps)
                    left[steps.lines] = False
                    group, table = group[~fits], table[~fits]

        for length, layouts in self._layouts.items():
            take(length, layouts)
        others: list[tuple[int, bytes]] = []
        for number in np.flatnonzero(left).tolist():
            if not left[number]:
                continue
            raw = block[starts[number] : ends[number]]
            if b"step_idx" in raw and (layout := self._learn(raw)):
                take(len(raw), [layout])
            if left[number]:
                others.append((number, raw))
        return Scanned(len(ends), _by_module(found), others)

    def _learn(self, raw: bytes) -> _Layout | None:
        """Return the layout of a step line, and remember it."""
        match = _STEP.match(raw) if len(raw) <= _LINE_BYTES else None
        if match is None:
            return None
        layout = _Layout(raw, match)
        known = self._layouts.get(len(raw), [])
        if len(known) < _MOST_LAYOUTS and (known or len(self._layouts) < _MOST_LENGTHS):
            self._layouts[len(raw)] = [*known, layout]
        return layout


def _by_module(found: list[StepRows]) -> list[StepRows]:
    """Return the steps of each module together, all in the order of the log."""
    joined = []
    for target in dict.fromkeys(steps.target for steps in found):
        parts = [steps for steps in found if steps.target == target]
        lines, at_us, took_us, streams = (
            np.concatenate(columns)
            for columns in zip(
                *((part.lines, part.at_us, part.took_us, part.streams) for part in parts),
                strict=True,
            )
        )
        order = np.argsort(lines, kind="stable")
        joined.append(StepRows(target, lines[order], at_us[order], took_us[order], streams[order]))
    return sorted(joined, key=lambda steps: int(steps.lines[0]))


def _number(table: Bytes, places: list[int]) -> Numbers:
    """Return the numbers whose digits stand in some columns of a table."""
    total = np.zeros(len(table), np.int64)
    for place in places:
        total *= 10
        total += table[:, place] - np.uint8(ord("0"))
    return total


def _day_s(day: int) -> int:
    """Return when a day given as 20260102 begins, in seconds since the epoch; -1 for no day."""
    try:
        return int(datetime(day // 10_000, day // 100 % 100, day % 100, tzinfo=UTC).timestamp())
    except ValueError:
        return -1
