"""What the lint takes for a bool, an integer and a float in a `py` table, asked of pydantic itself
where it is installed.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.config.lint.lax import (
    is_lax_flag,
    is_lax_integer,
    is_lax_number,
    lax_integer,
    lax_number,
)

TESTS = {bool: is_lax_flag, int: is_lax_integer, float: is_lax_number}
LITERALS = (
    "True",
    "1",
    "yes",
    "Off",
    "24",
    "1_000",
    "24.0",
    "-3",
    "+7",
    ".5",
    "1.",
    "1e3",
    "nan",
    "-inf",
    "Infinity",
    "1e400",
    "0x10",
)


def values() -> st.SearchStrategy[Any]:
    """Literals as they are and with something wrong put in, numbers, arrays.

    Not zeros in front, where pydantic's integers are odd.
    """
    spoiled = st.tuples(
        st.sampled_from(LITERALS),
        st.sampled_from(["", "_", "__", " ", "\t", "\u00a0", ".", "-", "e", "\u0663"]),
        st.integers(0, 8),
    )
    return st.one_of(
        spoiled.map(lambda parts: parts[0][: parts[2]] + parts[1] + parts[0][parts[2] :]).filter(
            lambda text: text.strip()[:2] not in {"0_", "0-"}
        ),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.integers(-2, 3).map(float),
        st.floats(),
        st.just([1]),
    )


@pytest.mark.parametrize(
    ("kind", "taken", "refused"),
    [
        (
            bool,
            (True, 0, 1.0, "True", "FALSE", "yes", "n", "On", "0"),
            (2, 0.5, "", " true", "1.0", "maybe", []),
        ),
        (
            int,
            (24, 24.0, True, "24", "1_000", " 24.0 ", "+7", "-3"),
            (24.5, 1e300, "24.", "24.5", "1e3", "nan", "_1", "9" * 5000, []),
        ),
        (
            float,
            (1, 0.5, False, "nan", "1e3", "1_0.5", "-Infinity", " .5 ", "1."),
            ("", "_1", "1__0", "1_0 ", "0x10", "e3", "one", []),
        ),
    ],
)
def test_the_rules_of_pydantic(
    kind: type, taken: tuple[Any, ...], refused: tuple[Any, ...]
) -> None:
    """A sample of its conversion table."""
    assert [value for value in taken if not TESTS[kind](value)] == []
    assert [value for value in refused if TESTS[kind](value)] == []


@given(values())
def test_pydantic_says_the_same(value: Any) -> None:
    """Whatever a config holds, the lint accepts what the script will, and reads the same number."""
    pydantic = pytest.importorskip("pydantic")
    numbers: dict[type, Callable[[object], object]] = {int: lax_integer, float: lax_number}
    for kind, test in TESTS.items():
        try:
            taken = pydantic.TypeAdapter(kind).validate_python(value)
        except pydantic.ValidationError:
            assert not test(value), kind
            assert kind is bool or numbers[kind](value) is None
        else:
            assert test(value), kind
            assert kind is bool or repr(numbers[kind](value)) == repr(taken)


@pytest.mark.parametrize(
    ("value", "number"),
    [("1_6", 16), (" 24.0 ", 24), (True, 1), (24.0, 24), ("-3", -3), (24.5, None), ([24], None)],
)
def test_the_integer_that_is_meant(value: Any, number: int | None) -> None:
    """As the script will read it, also where pydantic is not installed."""
    assert lax_integer(value) == number
