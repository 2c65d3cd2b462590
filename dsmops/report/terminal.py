"""Text and tables on a terminal, with every control character spelled out.

Names of files and words of servers come from outside. A line break in them is spelled out too,
wherever they are printed, so that they cannot forge a line of dsmops: each text that a view yields
is one line. Only a `Document` keeps its line breaks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from dsmops.report.colours import coloured, style_of

_MOST_RULE_CHARS = 120


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings. Cells are plain text, never markup.

    A heading that ends in `>` is right-aligned.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


class Document(str):
    """A text that is the result itself, such as a transcript: its line breaks are meant."""

    __slots__ = ()


Block = str | Table
"""A line of text, a document, or a table. Views yield blocks; the reporter draws them."""


def shown(text: str) -> str:
    """Return a line, or a document with its line breaks, as it may stand on a terminal."""
    return printable(text) if isinstance(text, Document) else one_line(text)


def printable(text: str) -> str:
    """Return `text` with control characters spelled out, and bytes that are not UTF-8.

    A hostile name then cannot drive a terminal. Line breaks and tabs stay.
    """
    return "".join(
        char if char.isprintable() or char in "\n\t" else _spelled(char) for char in text
    )


def one_line(text: str) -> str:
    """Return `text` as `printable` does, with line breaks spelled out as well."""
    return printable(text).replace("\n", "\\n")


def _spelled(char: str) -> str:
    number = ord(char)
    # Python keeps a byte that is not UTF-8 as a surrogate of its own.
    byte = number - 0xDC00 if 0xDC80 <= number <= 0xDCFF else number
    return f"\\x{byte:02x}" if byte < 0x100 else f"\\u{byte:04x}"


def draw(block: Block) -> None:
    if isinstance(block, str):
        line = shown(block)
        plain = isinstance(block, Document)
        sys.stdout.write((line if plain else coloured(line, sys.stdout)) + "\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    # Into a file or a pipe a table is as wide as it needs to be: a program or an editor wants whole
    # cells.
    console = (
        Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=400)
    )
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in block.headings:
        right = heading.endswith(">")
        table.add_column(
            Text(heading.removesuffix(">")), justify="right" if right else "left", overflow="fold"
        )
    for row in block.rows:
        table.add_row(*(Text(one_line(cell), style=style_of(cell)) for cell in row))
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().split("\n")]
    # One long cell must not cause a rule that fills the screen of a CI log.
    drawn = "\n".join(line[:_MOST_RULE_CHARS] if line.strip(" ─") == "" else line for line in lines)
    sys.stdout.write(drawn.strip("\n") + "\n")
