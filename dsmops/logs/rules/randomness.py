"""Whether a value looks like one that a machine drew, and not like names, dates or paths."""

from __future__ import annotations

import re

_UUID = re.compile(r"[0-9a-z]{8}-(?:[0-9a-z]{4}-){3}[0-9a-z]{12}", re.ASCII | re.IGNORECASE)
HEX = re.compile(r"[0-9a-f]{32,}|[0-9A-F]{32,}", re.ASCII)
HEX_ALONE = re.compile(r"[0-9a-f]+|[0-9A-F]+", re.ASCII)
_GROUPS = re.compile(r"[A-Z0-9]{4,8}(?:-[A-Z0-9]{4,8}){3,7}", re.ASCII)
_CHANGE = re.compile(r"(?<=[A-Za-z])\d|(?<=\d)[A-Za-z]")
_PARTS = re.compile(r"[A-Za-z0-9]+")
_LEAST_RANDOM_SHARE, _LEAST_RANDOM_CHARS = 0.6, 12
_LEAST_SURE_CHARS, _LEAST_DIFFERENT = 16, 6


def is_random(value: str) -> bool:
    """Return whether a value of 12 characters or more looks like one that a machine drew.

    A UUID, 32 hexadecimal digits, the groups of a licence, or mostly parts in which letters and
    digits mix. Names, dates, paths and versions are made of words and numbers.
    """
    if len(set(value)) < _LEAST_DIFFERENT:  # What stands for a key in a manual.
        return False
    if _UUID.fullmatch(value) or HEX.fullmatch(value):
        return True
    if _GROUPS.fullmatch(value):
        return any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    in_path = "/" in value
    parts = _PARTS.findall(value)
    mixed = sum(len(part) for part in parts if _is_mixed(part, in_path=in_path))
    return mixed >= _LEAST_RANDOM_SHARE * sum(map(len, parts)) and mixed >= _LEAST_RANDOM_CHARS


def _is_mixed(part: str, *, in_path: bool) -> bool:
    digits = sum(char.isdigit() for char in part)
    letters = len(part) - digits
    if in_path:
        cased = part != part.lower() and part != part.upper()
        return len(part) >= 6 and digits > 0 and cased
    # A word and a number, as in `layer12`, change once. A date, `20251115T083903Z`, has 2 letters.
    changes = len(_CHANGE.findall(part))
    if len(part) < _LEAST_SURE_CHARS:
        return digits > 2 and letters > 2 and changes > 2
    return digits > 1 and letters > 2 and (changes > 1 or len(part) >= 20)


def is_drawn(part: str) -> bool:
    """Return whether one part without separators looks like one that a machine drew."""
    return bool(HEX.fullmatch(part)) or _is_mixed(part, in_path=False)


def is_secret_path(path: str) -> bool:
    """Return whether a part of a path is one that a machine drew."""
    return any(
        len(part) >= 12 and (is_random(part) or is_drawn(part)) for part in re.split(r"[/@]", path)
    )
