"""Which numbers of streams to measure, one after another: a list, or a search for the knee."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MOST_STREAMS = 100_000
_CLOSE_ENOUGH = 0.05
"""The search ends when the largest number that held and the smallest that failed are so close."""


@dataclass(frozen=True, slots=True)
class Levels:
    """`listed` numbers of streams in that order, or a search from the first to the last of them.

    A list ends at the first number at which a limit fails. A search doubles from its first number
    until a limit fails, and then halves the gap.
    """

    listed: tuple[int, ...]
    is_search: bool

    def next(self, held: Mapping[int, bool]) -> int | None:
        """Return what to measure now, None for nothing more, given which numbers held."""
        if not self.is_search:
            if not all(held.values()):
                return None
            return next((number for number in self.listed if number not in held), None)
        first, last = self.listed
        good = max((number for number, has_held in held.items() if has_held), default=0)
        bad = min((number for number, has_held in held.items() if not has_held), default=None)
        if bad is None:
            step = min(last, good * 2 or first)
            return None if good == last else step
        if bad == first or bad - good <= max(1, _CLOSE_ENOUGH * bad):
            return None
        return (good + bad) // 2


def parse_levels(text: str) -> Levels:
    """Return what `64`, `1,8,64` or `1..400` asks for.

    Raises:
        ValueError: the text is not such a list or range; the message says why.
    """
    search = re.fullmatch(r"\s*(\d{1,9})\s*\.\.\s*(\d{1,9})\s*", text)
    if search is None and not re.fullmatch(r"\s*\d{1,9}\s*(,\s*\d{1,9}\s*)*", text):
        raise ValueError(f"{text!r} is not a number of streams: write 64, 1,8,64 or 1..400")
    numbers = tuple(map(int, search.groups() if search else text.split(",")))
    if min(numbers) < 1 or max(numbers) > MOST_STREAMS:
        raise ValueError(f"{text}: numbers of streams are from 1 to {MOST_STREAMS:,}")
    if search and numbers[0] > numbers[1]:
        raise ValueError(f"{text}: the first number is larger than the last")
    if search is None:
        return Levels(tuple(dict.fromkeys(numbers)), False)
    return Levels(numbers, True) if numbers[0] < numbers[1] else Levels(numbers[:1], False)
