"""Percentiles of what was measured, and whether two runs differ by more than noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import comb
from statistics import fmean, median

GROUPS = 10
"""Parts of a run that are compared with those of another. Neighbouring seconds are alike, so
a second does not count by itself."""
_FEWEST_GROUPS = 5
"""Below, no order of the values is rarer than `_RARE`."""
_RARE = 0.01


def percentile(rising: Sequence[float], percent: int) -> float:
    """Return the smallest of `rising` values that at least `percent` % of them do not exceed.

    A value that was measured, never one in between. Of fewer than 100 values, p99 is the largest.
    """
    return rising[max(0, -(-percent * len(rising) // 100) - 1)]


@dataclass(frozen=True, slots=True)
class Spread:
    """How values are spread; `count` is of how many."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """Return the spread of values, None for none."""
        rising = sorted(values)
        if not rising:
            return None
        p50, p95, p99 = (round(percentile(rising, percent), 3) for percent in (50, 95, 99))
        return cls(len(rising), p50, p95, p99, round(rising[-1], 3))


def grouped(values: Sequence[float]) -> list[float]:
    """Return at most `GROUPS` means of neighbouring values, each of equally many or one more."""
    count = min(GROUPS, len(values))
    cuts = [number * len(values) // count for number in range(count + 1)] if count else []
    return [fmean(values[start:end]) for start, end in pairwise(cuts)]


@dataclass(frozen=True, slots=True)
class Difference:
    """Two runs in one figure. `beyond_noise` None: too little was measured to say."""

    old: float
    new: float
    beyond_noise: bool | None

    @property
    def share(self) -> float | None:
        """The change, as a share of the old figure."""
        return (self.new - self.old) / self.old if self.old else None


def differ(old: Sequence[float], new: Sequence[float], *, least_share: float = 0.02) -> Difference:
    """Compare a figure of two runs, given second by second.

    The difference is more than noise if an order of the grouped values as one-sided as theirs is
    rarer than 1 in 100 among runs that do not differ (the exact Mann–Whitney test, two-sided), and
    the medians differ by `least_share` or more. Noise between runs (another day, another neighbour)
    is not seen by it.
    """
    first, second = grouped(old), grouped(new)
    middle_old, middle_new = median(old or [0.0]), median(new or [0.0])
    if min(len(first), len(second)) < _FEWEST_GROUPS:
        return Difference(middle_old, middle_new, None)
    is_large = abs(middle_new - middle_old) >= least_share * abs(middle_old)
    return Difference(middle_old, middle_new, is_large and mann_whitney_p(first, second) < _RARE)


def mann_whitney_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Return how often two samples of one source are ordered at least as one-sidedly (two-sided).

    Exact for values without ties; a tie counts half for either side and is rounded to the middle,
    which makes the answer larger.
    """
    u = sum((b > a) + 0.5 * (b == a) for a in first for b in second)
    most = len(first) * len(second)
    u = min(u, most - u)
    orders = sum(_orders(len(first), len(second), below) for below in range(int(-(-u // 1)) + 1))
    return min(1.0, 2 * orders / comb(len(first) + len(second), len(first)))


@cache
def _orders(first: int, second: int, u: int) -> int:
    """Return how many orders of `first` and `second` values have exactly `u` pairs (a before b)."""
    if u < 0:
        return 0
    if first == 0 or second == 0:
        return int(u == 0)
    return _orders(first - 1, second, u - second) + _orders(first, second - 1, u)
