"""Tables whose header names secrets: bars, tabs, commas, semicolons, or blanks between columns."""

from __future__ import annotations

import re

from dsmops.logs.rules.edits import NUMBER, is_harmless
from dsmops.logs.rules.names import COLUMN, TYPE_WORD
from dsmops.logs.rules.prefixes import inner_span
from dsmops.logs.rules.rule import Edit, Pseudonym

# Blanks before a bar are counted from the first of them on, once.
_BAR_SEPARATOR = re.compile(r"(?:(?<!\s)\s+)?+[|│┃║]\s*+")
_SEPARATORS = {
    "bar": _BAR_SEPARATOR,
    "tab": re.compile(r"\t"),
    "comma": re.compile(r","),
    "semicolon": re.compile(r";"),
    "blanks": re.compile(r"\s{2,}"),
}
_CELL = re.compile(
    r"""\s*(?:"((?:[^"\\]|""|\\.)*+)"|'((?:[^'\\]|''|\\.)*+)'|(\S(?:.*\S)?)|)\s*""", re.ASCII
)
_TITLE = re.compile(r"""["'`*]{0,2}[A-Za-z_][\w .()/-]{0,60}["'`*]{0,2}""", re.ASCII)
_COPY = re.compile(
    r"COPY\s[^\s(]{1,200}\s\((?P<columns>[^()]{1,4000})\)\sFROM\sstdin;?\s*", re.ASCII
)
_RULE = re.compile(r"[\s|+:=│┃║├┼┤─━═╪╬-]+")
MOST_CELLS = 256
_QUOTED_CELL = re.compile(r"""\s*(?:"(?:[^"\\]|""|\\.)*+"|'(?:[^'\\]|''|\\.)*+')""")
_NO_SECRET = re.compile(rf"(?:{TYPE_WORD}|\\N|[-—x✓]|)", re.ASCII | re.IGNORECASE)


def opened_columns(text: str) -> str | None:
    """Return which cells of the rows after this line hold secrets, or None where it is not a header.

    A header is a line of names alone, at least one of them that of a secret.
    """
    if copy := _COPY.fullmatch(text):
        return _columns_kind("tab", [name.strip() for name in copy["columns"].split(",")])
    begin, end = inner_span(text)
    for name, separator in _SEPARATORS.items():
        if separator.search(text if name == "bar" else text[begin:end]):
            first = separator.split(text[begin:end], 1)[0] if name != "bar" else ""
            if first and not _TITLE.fullmatch(first.strip(" \"'`*")):
                continue
            cells = [text[start:stop] for start, stop in _cells(name, text)]
            if len(cells) > 1 and all(map(_TITLE.fullmatch, cells)):
                return _columns_kind(name, cells)
    return None


def _columns_kind(name: str, cells: list[str]) -> str | None:
    secret = [str(at) for at, cell in enumerate(cells) if COLUMN.fullmatch(cell)]
    return f"columns {name} {len(cells)} {','.join(secret)}" if secret else None


def _cells(name: str, text: str) -> list[tuple[int, int]]:
    """Return where the cells of a row stand, without blanks and quotes around them."""
    begin, end = (0, len(text)) if name == "bar" else inner_span(text)
    separator = _SEPARATORS[name]
    found: list[tuple[int, int]] = []
    while begin <= end and len(found) < MOST_CELLS:
        quoted = _QUOTED_CELL.match(text, begin, end) if name != "blanks" else None
        next_one = separator.search(text, quoted.end() if quoted else begin, end)
        stop = next_one.start() if next_one else end
        if cell := _CELL.fullmatch(text, begin, stop):
            found.append(cell.span(cell.lastindex or 0))
        begin = next_one.end() if next_one else end + 1
    if name == "bar":  # Bars around the row make no cells.
        found = [
            span for at, span in enumerate(found) if span[0] < span[1] or 0 < at < len(found) - 1
        ]
    return found


def row_edits(kind: str, text: str, pseudonym: Pseudonym) -> list[Edit] | None:
    """Return what stands in place of the secrets of a row, or None where the table ended."""
    _, name, count, secret = kind.split(" ")
    if _RULE.fullmatch(text):
        return []
    cells = _cells(name, text)
    if len(cells) != int(count):
        return None
    edits = []
    for at in map(int, secret.split(",")):
        value = text[slice(*cells[at])]
        if not (_NO_SECRET.fullmatch(value) or NUMBER.fullmatch(value) or is_harmless(value)):
            edits.append(Edit(*cells[at], pseudonym("key", value)))
    return edits
