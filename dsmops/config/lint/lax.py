"""The values that pydantic 2 turns into a bool, an integer and a float.

The scripts read their `py` tables in its lax mode.

Source: pydantic's conversion table. Values are those that TOML can hold;
`tests/config/test_lint_lax.py` asks pydantic itself.
"""

from __future__ import annotations

import re

_FLAGS = frozenset({"0", "off", "f", "false", "n", "no", "1", "on", "t", "true", "y", "yes"})
_INTEGER = re.compile(r"[-+]?\d+(?:_\d+)*(?:\.0+)?", re.ASCII)
_NUMBER = re.compile(
    r"[-+]?(?:inf|infinity|nan|(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)", re.ASCII | re.IGNORECASE
)
_MOST_DIGITS = 4300


def is_lax_flag(value: object) -> bool:
    """Whether pydantic takes `value` for a bool."""
    return (
        value.lower() in _FLAGS
        if isinstance(value, str)
        else isinstance(value, bool | int | float) and value in {0, 1}
    )


def is_lax_integer(value: object) -> bool:
    """Whether pydantic takes `value` for an integer."""
    if isinstance(value, str):
        return len(value) <= _MOST_DIGITS and _INTEGER.fullmatch(value.strip()) is not None
    return isinstance(value, int) or (
        isinstance(value, float) and value.is_integer() and abs(value) < 2**63
    )


def is_lax_number(value: object) -> bool:
    """Whether pydantic takes `value` for a float."""
    if not isinstance(value, str):
        return isinstance(value, int | float)
    if "_" not in value:
        return _NUMBER.fullmatch(value.strip()) is not None
    # Underscores and blanks do not go together, unlike in integers.
    return (
        "__" not in value
        and "_" not in {value[0], value[-1]}
        and _NUMBER.fullmatch(value.replace("_", "")) is not None
    )


def lax_integer(value: object) -> int | None:
    """Return the integer that pydantic makes of `value`, None where it makes none."""
    if not isinstance(value, str | int | float) or not is_lax_integer(value):
        return None
    return int(value.strip().partition(".")[0]) if isinstance(value, str) else int(value)


def lax_number(value: object) -> float | None:
    """Return the number that pydantic makes of `value`, None where it makes none."""
    return float(value) if isinstance(value, str | int | float) and is_lax_number(value) else None
