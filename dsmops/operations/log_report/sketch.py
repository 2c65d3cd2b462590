"""Percentiles of any number of times in constant memory, by DDSketch."""

from __future__ import annotations

from ddsketch import LogCollapsingHighestDenseDDSketch

from dsmops.models import FRAME_MS
from dsmops.operations.log_report.result import Times

ACCURACY = 0.01
"""Relative: a percentile of 50 ms is off by half a millisecond at most."""
_MOST_BINS = 2048


class Sketch:
    """Times in milliseconds, summarised."""

    __slots__ = ("_sketch", "count", "max_ms", "over")

    def __init__(self) -> None:
        self.count = self.over = 0
        self.max_ms = 0.0
        self._sketch = LogCollapsingHighestDenseDDSketch(ACCURACY, _MOST_BINS)

    def add(self, ms: float, count: int = 1, *, is_over: bool | None = None) -> None:
        """Take a time, as often as it was seen.

        `is_over` says whether it was longer than a frame where `ms` is only near it.
        """
        self.count += count
        self.over += count * (ms > FRAME_MS if is_over is None else is_over)
        self.max_ms = max(self.max_ms, ms)
        self._sketch.add(ms, count)

    def merge(self, other: Sketch) -> None:
        """Take all times of another."""
        self.count += other.count
        self.over += other.over
        self.max_ms = max(self.max_ms, other.max_ms)
        self._sketch.merge(other._sketch)

    def quantile_ms(self, share: float) -> float:
        """Return the time that `share` of all do not exceed, never above the largest."""
        found = self._sketch.get_quantile_value(share) or 0.0
        return round(min(found, self.max_ms), 2)

    def times(self) -> Times | None:
        """Return the spread, None for no times."""
        if not self.count:
            return None
        p50_ms, p95_ms, p99_ms = map(self.quantile_ms, (0.5, 0.95, 0.99))
        return Times(self.count, p50_ms, p95_ms, p99_ms, self.max_ms, self.over)
