"""Read and check single values of a parsed JSON or TOML model config.

Values that no model can have are refused. Shared by the readers of speech-to-text, text-to-speech
and Mimi configs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST = 2**20
"""No dimension of a published model comes near. A larger one is damage, for which no memory must be
asked."""
MOST_LAYERS = 1024


def whole_number(
    body: Mapping[str, Any],
    key: str,
    default: int | None = None,
    *,
    least: int = 1,
    most: int = MOST,
) -> int:
    """Return an integer of a parsed JSON object.

    Raises:
        ValueError: it is missing and has no default, is not an integer, or is out of range.
    """
    value = body.get(key, default)
    if value is None and key not in body:
        raise ValueError(f"the key {key!r} is missing")
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{key} = {value!r} is not a whole number from {least} to {most}")
    return value


def finite_number(
    body: Mapping[str, Any], key: str, default: float, *, least: float = 0.0, most: float = 1e9
) -> float:
    """Return a finite number of a parsed JSON object.

    Raises:
        ValueError: it is not a number, or out of range.
    """
    value = body.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{key} = {value!r} is not a number from {least:g} to {most:g}")
    return float(value)


def section(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the object under `key`, an empty one where it is absent or null.

    Raises:
        ValueError: something else is there.
    """
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} = {value!r} is not an object of keys and values")  # noqa: TRY004 one kind for every bad value
    return value


def check_heads(width: int, heads: int) -> None:
    """Check that `heads` attention heads can share `width`.

    Each needs an even number of channels, which are rotated in pairs.

    Raises ValueError otherwise.
    """
    if width % (2 * heads):
        raise ValueError(
            f"a width of {width} cannot be shared by {heads} attention heads of an even size"
        )


def server_feed_forward(width: int, feed_forward: int) -> int:
    """Return the `dim_feedforward` that gives moshi-server's `LmShape` Python's hidden width.

    Python: h = 2·feed_forward/3, but 21·d/8 when feed_forward is 4·d. moshi-server's rule differs
    in that case (11·d/4).
    """
    if feed_forward != 4 * width:
        return feed_forward
    hidden = 21 * width // 8
    return -(-3 * hidden // 2)
