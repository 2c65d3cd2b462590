"""Which numbers of streams are measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.operations.bench.levels import Levels, parse_levels


def run(levels: Levels, knee: int) -> list[int]:
    """Return what is measured at a server that holds up to `knee` streams."""
    held: dict[int, bool] = {}
    while (streams := levels.next(held)) is not None:
        assert streams not in held
        held[streams] = streams <= knee
        assert len(held) < 60
    return list(held)


@pytest.mark.parametrize(
    ("text", "knee", "measured"),
    [
        ("64", 100, [64]),
        ("64", 10, [64]),
        ("1,8,64", 100, [1, 8, 64]),
        ("1,8,64", 7, [1, 8]),
        ("8, 1", 100, [8, 1]),
        ("1..8", 100, [1, 2, 4, 8]),
        ("1..400", 1000, [1, 2, 4, 8, 16, 32, 64, 128, 256, 400]),
        ("1..400", 300, [1, 2, 4, 8, 16, 32, 64, 128, 256, 400, 328, 292, 310, 301]),
        ("5..5", 9, [5]),
        ("10..40", 3, [10]),
        ("1..4", 3, [1, 2, 4, 3]),
    ],
)
def test_what_is_measured(text: str, knee: int, measured: list[int]) -> None:
    """A list up to the first failure; a search doubles, then halves the gap."""
    assert run(parse_levels(text), knee) == measured


@given(st.integers(1, 50), st.integers(0, 3000), st.integers(0, 3000))
def test_a_search_ends_close_to_the_knee(first: int, more: int, knee: int) -> None:
    """What held and what failed are at most 5 % apart, or neighbours, or the ends of the range."""
    levels = Levels((first, first + more + 1), True)
    measured = run(levels, knee)
    good = max((streams for streams in measured if streams <= knee), default=None)
    bad = min((streams for streams in measured if streams > knee), default=None)
    assert all(first <= streams <= first + more + 1 for streams in measured)
    if good is None:
        assert measured == [first]
    elif bad is None:
        assert good == first + more + 1
    else:
        assert bad - good <= max(1, 0.05 * bad)


@pytest.mark.parametrize(
    "text",
    ["", "0", "a", "1..", "..4", "9..1", "1,,2", "-1", "1..0", "1-4", "100001", "1.5", "1 2"],
)
def test_what_is_refused(text: str) -> None:
    """Everything else, with a reason."""
    with pytest.raises(ValueError, match=r"number|larger"):
        parse_levels(text)
