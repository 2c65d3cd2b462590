"""Statistics of the step lines of a log: step times, and since when they are too slow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from dsmops.logs.plain_text import without_colours

FRAME_MS = 80.0
"""A step serves one frame of 80 ms; a slower one lets every stream fall behind."""
_LINE = re.compile(
    r"^(?P<time>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)?[^\"]*? (?P<ms>\d{1,9}(?:\.\d{1,6})?)ms"
    r" step_idx=\d{1,18} with_data=(?P<streams>\d{1,9})\s*$",
    re.ASCII,
)
_JSON_LINE = re.compile(
    r"^\{\"timestamp\":\"(?P<time>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)[^\"]*\""
    r"[^\\]*?\"message\":\"(?P<ms>\d{1,9}(?:\.\d{1,6})?)ms\",\"step_idx\":\d{1,18},"
    r"\"with_data\":(?P<streams>\d{1,9})\b",
    re.ASCII,
)
"""Both as the server writes them: what a client sent stands in quotes, and cannot pass for them."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """The steps of a log.

    `slow` counts those above 80 ms. `slow_since` and `slow_line` are time (as the log writes it)
    and line, from 1, of the first step since when half of all steps are slow, until the end; where
    they have become fast again, of the first slow step. `most_streams` is how many streams had data
    at most in a slow step.
    """

    steps: int
    slow: int
    p50_ms: float
    p95_ms: float
    slow_since: str | None = None
    slow_line: int = 0
    is_slow_at_end: bool = False
    most_streams: int = 0

    @property
    def slow_share(self) -> float:
        """Which part of all steps is slow."""
        return self.slow / self.steps


def read_steps(lines: Iterable[bytes]) -> StepTimes | None:
    """Return the step times in lines without line ends, in any dialect; None without any."""
    found: list[tuple[float, int, str | None, int]] = []
    for number, raw in enumerate(lines, start=1):
        if b"step_idx" not in raw or len(raw) > 4096:
            continue
        text = without_colours(raw.decode("utf-8", "replace"))
        if match := _LINE.search(text) or _JSON_LINE.search(text):
            found.append((float(match["ms"]), int(match["streams"]), match["time"], number))
    if not found:
        return None
    ordered = sorted(step[0] for step in found)
    slow = [step for step in found if step[0] > FRAME_MS]
    first = _slow_until_the_end(found)
    _, _, since, line = first or (slow[0] if slow else (0.0, 0, None, 0))
    return StepTimes(
        steps=len(found),
        slow=len(slow),
        p50_ms=_nearest_rank(ordered, 0.5),
        p95_ms=_nearest_rank(ordered, 0.95),
        slow_since=since,
        slow_line=line,
        is_slow_at_end=first is not None,
        most_streams=max((step[1] for step in slow), default=0),
    )


def _slow_until_the_end(
    found: list[tuple[float, int, str | None, int]],
) -> tuple[float, int, str | None, int] | None:
    """Return the first slow step from which on at least half of the steps are slow."""
    first, slow = None, 0
    for count, step in enumerate(reversed(found), start=1):
        is_slow = step[0] > FRAME_MS
        slow += is_slow
        if is_slow and 2 * slow >= count:
            first = step
    return first


def _nearest_rank(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
