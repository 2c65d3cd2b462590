"""Percentiles and comparisons, against values worked out by hand and against brute force."""

from itertools import combinations
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.operations.bench.statistics import (
    Spread,
    differ,
    grouped,
    mann_whitney_p,
    percentile,
)

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)


@pytest.mark.parametrize(
    ("count", "percent", "rank"),
    [
        (1, 50, 1),
        (1, 99, 1),
        (2, 50, 1),
        (2, 51, 2),
        (4, 25, 1),
        (4, 26, 2),
        (10, 95, 10),
        (10, 90, 9),
        (20, 95, 19),
        (99, 99, 99),
        (100, 99, 99),
        (101, 99, 100),
        (200, 99, 198),
        (1000, 99, 990),
        (3, 0, 1),
        (3, 100, 3),
    ],
)
def test_percentiles_are_ranks(count: int, percent: int, rank: int) -> None:
    """Of 1, 2, … n the percentile is its rank: the nearest from above, as in a textbook."""
    assert percentile(range(1, count + 1), percent) == rank


@given(VALUES, st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(
    values: list[float], percent: int
) -> None:
    """At least `percent` % are at most as large, and of no smaller value is that true."""
    rising = sorted(values)
    found = percentile(rising, percent)
    need = ceil(percent * len(values) / 100)
    assert found in values
    assert sum(value <= found for value in values) >= need
    assert all(
        sum(value <= smaller for value in values) < need for smaller in values if smaller < found
    )


def test_a_spread_of_nothing_is_none() -> None:
    """No frame was measured: no figure is made up."""
    assert Spread.of([]) is None
    assert Spread.of([3.0]) == Spread(1, 3.0, 3.0, 3.0, 3.0)
    assert Spread.of([4.0, 1.0, 3.0, 2.0]) == Spread(4, 2.0, 4.0, 4.0, 4.0)


@given(st.lists(st.floats(0, 1e3), max_size=80))
def test_groups_hold_all_values_evenly(values: list[float]) -> None:
    """At most ten groups; the mean of all is that of the groups where they are equally large."""
    groups = grouped(values)
    assert len(groups) == min(10, len(values))
    if values and len(values) % len(groups) == 0:
        assert sum(groups) / len(groups) == pytest.approx(sum(values) / len(values))


def brute_force_p(first: list[float], second: list[float]) -> float:
    """Return the share of all ways to split the values that are at least as one-sided."""
    values = first + second

    def u(chosen: tuple[int, ...]) -> float:
        one = [values[i] for i in chosen]
        other = [values[i] for i in range(len(values)) if i not in chosen]
        pairs = sum(b > a for a in one for b in other)
        return min(pairs, len(one) * len(other) - pairs)

    seen = u(tuple(range(len(first))))
    ways = list(combinations(range(len(values)), len(first)))
    return sum(u(way) <= seen for way in ways) / len(ways)


@given(st.permutations(range(9)), st.integers(2, 7))
def test_the_rank_test_is_exact(order: list[int], split: int) -> None:
    """Without ties it equals counting every way to split the values."""
    first, second = [float(v) for v in order[:split]], [float(v) for v in order[split:]]
    assert (
        mann_whitney_p(first, second)
        == pytest.approx(min(1.0, brute_force_p(first, second)), abs=1e-12)
        or mann_whitney_p(first, second) == 1.0
    )


def test_known_values_of_the_rank_test() -> None:
    """Two orders of 252 are as one-sided as five below five; equal samples say nothing."""
    low, high = [1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]
    assert mann_whitney_p(low, high) == pytest.approx(2 / 252)
    assert mann_whitney_p(low, low) == 1.0


def test_what_is_more_than_noise() -> None:
    """A shift beyond the scatter is; scatter, a shift of a thousandth and four seconds are not."""
    noisy = [30.0 + (7 * i) % 5 for i in range(20)]
    assert differ(noisy, [value + 10 for value in noisy]).beyond_noise is True
    assert differ(noisy, list(reversed(noisy))).beyond_noise is False
    assert differ([100.0 + i / 1e6 for i in range(20)], [100.1] * 20).beyond_noise is False
    short = differ([1.0] * 4, [9.0] * 4)
    assert short.beyond_noise is None
    assert short.share == pytest.approx(8.0)
    assert differ([0.0] * 9, [1.0] * 9).share is None
