"""Two reports side by side: the tests against published or counted values, and what is noise."""

from __future__ import annotations

import random
from itertools import combinations
from math import comb
from pathlib import Path

import pytest

from dsmops.operations.log_report import read_logs, with_comparison
from dsmops.operations.log_report.comparison import fisher_p, mann_whitney_p
from tests.operations.log_report.test_reading import line, write


def test_fishers_exact_test() -> None:
    """Fisher's tea: 3 of 4 and 1 of 4 give 34/70. Others by counting all tables."""
    assert fisher_p((3, 4), (1, 4)) == pytest.approx(34 / 70)
    for (a, whole_a), (b, whole_b) in (((9, 10), (2, 12)), ((0, 30), (6, 25)), ((5, 5), (5, 5))):
        parts = a + b
        chances = [
            comb(whole_a, n) * comb(whole_b, parts - n) / comb(whole_a + whole_b, parts)
            for n in range(max(0, parts - whole_b), min(parts, whole_a) + 1)
        ]
        seen = chances[a - max(0, parts - whole_b)]
        expected = sum(chance for chance in chances if chance <= seen * (1 + 1e-9))
        assert fisher_p((a, whole_a), (b, whole_b)) == pytest.approx(expected)
    assert fisher_p((0, 0), (3, 9)) == 1.0


def test_the_rank_test() -> None:
    """Near the exact distribution, which is counted here; never below it where nothing overlaps."""
    dice = random.Random(3)
    for _ in range(5):
        values = dice.sample(range(1000), 14)
        first, second = values[:6], values[6:]
        exact = exact_p(first, second)
        assert mann_whitney_p(first, second) == pytest.approx(exact, abs=0.03)
    apart = list(range(4)), list(range(100, 110))
    assert mann_whitney_p(*apart) > exact_p(*apart)
    assert mann_whitney_p([7.0] * 20, [7.0] * 20) == 1.0


def exact_p(first: list[int], second: list[int]) -> float:
    """Return the two-sided p of all ways to choose as many values for the first group."""
    together = [*first, *second]
    middle = len(first) * len(second) / 2

    def distance(group: tuple[int, ...]) -> float:
        chosen = set(group)
        others = [value for value in together if value not in chosen]
        return abs(sum(a > b for a in group for b in others) - middle)

    seen = distance(tuple(first))
    found = [distance(group) >= seen for group in combinations(together, len(first))]
    return sum(found) / len(found)


def served(path: Path, seed: int, *, slow: float = 1.0, refused: int = 2) -> Path:
    """Write a log of 40 s: steps around 30 ms times `slow`, 100 streams of which some refused."""
    dice = random.Random(seed)
    lines = [line(0, "starting asr loop 8")]
    lines += [
        line(1 + 0.08 * n, f"{slow * dice.uniform(25, 35):.2f}ms step_idx={n} with_data=4")
        for n in range(500)
    ]
    lines += [line(1 + n / 4, "handling batched asr-streaming query") for n in range(100)]
    lines += [line(2 + n / 4, "no free channels", "ERROR") for n in range(refused)]
    return write(path, "".join(lines))


@pytest.mark.slow
def test_noise_is_not_a_difference(tmp_path: Path) -> None:
    """The same server twice, in 20 pairs: no difference is called real."""
    for seed in range(20):
        new = read_logs([served(tmp_path / "log.a", seed)])
        old = read_logs([served(tmp_path / "log.b", 100 + seed)])
        comparison = with_comparison(new, old).comparison
        assert comparison is not None
        assert [each.measure for each in comparison.differences if each.is_real] == []


def test_a_real_difference_is_found(tmp_path: Path) -> None:
    """Steps 10 % slower, and 20 refused instead of 2."""
    new = read_logs([served(tmp_path / "log.a", 1, slow=1.1, refused=20)])
    old = read_logs([served(tmp_path / "log.b", 2)])
    comparison = with_comparison(new, old).comparison
    assert comparison is not None
    real = {each.measure: each for each in comparison.differences if each.is_real}
    assert real.keys() == {"step time, median", "step time, p99", "streams refused as full"}
    assert real["streams refused as full"].test == "Fisher's exact test: 2 of 100, 20 of 100"
    assert "Mann-Whitney U over 40 and 40" in (real["step time, median"].test or "")


def test_too_little_is_said(tmp_path: Path) -> None:
    """Two steps are too few for a test, however different they are."""
    few = "".join(line(n, f"500.00ms step_idx={n} with_data=1") for n in range(2))
    new = read_logs([write(tmp_path / "log.a", few)])
    found = with_comparison(new, read_logs([served(tmp_path / "log.b", 2)])).comparison
    assert found is not None
    assert found.differences[0].test is None
    assert not found.differences[0].is_real
