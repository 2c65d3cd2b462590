"""What a rule is: one thing to find in a line, and what replaces it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

Pseudonym = Callable[[str, str], str]
"""Returns `<kind:8 hex digits>` for `(kind, value)`, always the same for the same two."""


class Edit(NamedTuple):
    """What stands in place of the characters from `begin` up to `end`."""

    begin: int
    end: int
    text: str


@dataclass(frozen=True, eq=False)
class Rule:
    """One thing to find. `name` appears in counts; several rules may share one.

    `source` is its pattern, compiled on first use: all of them take a quarter of a second, and few
    logs need more than ten.

    `needles` are texts in lower case: where none of them stands in a line whose digits read 0, the
    rule finds nothing (no needles: it may anywhere). To look for a text is 100 times faster than to
    look for a hint.
    `edit` returns None for a harmless match, and several edits where a match holds several values.
    """

    name: str
    needles: tuple[str, ...]
    hint: str
    source: str
    edit: Callable[[re.Match[str], Pseudonym], Edit | list[Edit] | None]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(self.source, re.ASCII | re.VERBOSE)

    @cached_property
    def hint_pattern(self) -> re.Pattern[bytes]:
        """The hint, to be looked for in a shape."""
        return re.compile(self.hint.encode())


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text, for long lists of them."""
    return tuple(text.split())
