"""Colours for severities, on a terminal that has them and whose user wants them."""

from __future__ import annotations

import os
import re
from typing import TextIO

_RESET = "\x1b[0m"
_CODES = {
    "error": "\x1b[1;31m",
    "failed": "\x1b[1;31m",
    "warning": "\x1b[33m",
    "note": "\x1b[36m",
    "hint": "\x1b[36m",
    "ok": "\x1b[32m",
}
_WORDS = "|".join(_CODES)
# A severity stands at the start of a line, or behind the place of a finding: FILE:LINE: warning[x].
_PLACE = re.compile(rf"^((?:\S+:\d+: | *)?)({_WORDS})(?=[:\[ ]|$)")


def wants_colours(stream: TextIO) -> bool:
    """Return whether a stream is a terminal with colours; `NO_COLOR` and `TERM=dumb` mean no."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return stream.isatty()


def coloured(line: str, stream: TextIO) -> str:
    """Return a line with its severity in colour, where the stream wants that."""
    if not wants_colours(stream):
        return line
    return _PLACE.sub(lambda found: f"{found[1]}{_CODES[found[2]]}{found[2]}{_RESET}", line, 1)


def style_of(cell: str) -> str:
    """Return the style of a table's cell that is a severity or a verdict, empty for others."""
    return {"ok": "green", "failed": "bold red", "error": "bold red", "warning": "yellow"}.get(
        cell, ""
    )
