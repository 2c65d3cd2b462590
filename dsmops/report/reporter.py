"""The one object through which every command speaks: results to stdout, everything else to stderr."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from dsmops.errors import DsmopsError
from dsmops.facts import ComputeCapability
from dsmops.progress import SILENT, Progress


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings. A heading that ends in `>` is right-aligned. Cells are plain text, never markup."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


_MOST_RULE_CHARS = 120
_SURROGATE = re.compile("[\ud800-\udfff]")

Block = str | Table
"""A line or a paragraph of text, or a table. Views yield blocks; the reporter draws them."""


class Reporter:
    """Speaks for one run of one command.

    With `json`, `result` prints one document and nothing else goes to stdout. With `quiet`, only errors (and the JSON document,
    when asked for) are printed. `debug` adds tracebacks to errors.
    """

    current: ClassVar[Reporter | None] = None
    """The reporter of the command that runs, for `main` to speak through when an exception ends it."""

    def __init__(self, command: str = "", *, json: bool = False, quiet: bool = False, debug: bool = False) -> None:
        self.command = command
        self.json = json
        self.quiet = quiet
        self._is_live = False
        self.debug = debug or os.environ.get("DSMOPS_DEBUG", "") not in ("", "0")

    @classmethod
    def open(cls, command: str, *, json: bool, quiet: bool, debug: bool) -> Reporter:
        """Return the reporter of this run, set up logging, and remember it as `current`."""
        from dsmops.report.logs import setup_logging

        reporter = cls(command, json=json, quiet=quiet, debug=debug)
        setup_logging(debug=reporter.debug, quiet=quiet)
        Reporter.current = reporter
        return reporter

    def result(self, document: Any, text: Iterable[Block]) -> None:
        """Show what the command found: `document`, a dataclass or a mapping, as JSON, or `text` block by block."""
        self._end_live()
        try:
            if self.json:
                # The number is that of the document's meaning: a new key leaves it, a changed meaning raises it.
                body = {"schema": f"dsmops.{self.command}/1", **to_json(document)}
                sys.stdout.write(jsonlib.dumps(body, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            elif not self.quiet:
                for block in text:
                    _draw(block)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read stdout has seen enough (`| head -1`). The command goes on to the exit code it would have had.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def note(self, text: str) -> None:
        """Tell people something on the side, on stderr."""
        self._end_live()
        if not (self.json or self.quiet):
            sys.stderr.write(f"{printable(text)}\n")

    def live(self, text: str) -> None:
        """Show a piece of what is being found while the command still runs, on stderr and only on a terminal."""
        if not (self.json or self.quiet) and sys.stderr.isatty():
            sys.stderr.write(f"{printable(text)} ")
            sys.stderr.flush()
            self._is_live = True

    def _end_live(self) -> None:
        """Begin a new line after what `live` showed."""
        if self._is_live:
            sys.stderr.write("\n")
            self._is_live = False

    def error(self, error: DsmopsError) -> None:
        """Report the error that ends the command, on stderr: two lines for people, or one JSON document."""
        self._end_live()
        if self.json:
            body = to_json({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
            sys.stderr.write(jsonlib.dumps(body, ensure_ascii=False) + "\n")
            return
        sys.stderr.write(f"error: {printable(error.message)}\n")
        if error.hint:
            sys.stderr.write(f"hint: {printable(error.hint)}\n")

    def progress(self) -> Progress:
        """Return a bar on a terminal, silence elsewhere."""
        if self.json or self.quiet or not sys.stderr.isatty():
            return SILENT
        from dsmops.report.bars import BarProgress

        return BarProgress()


def to_json(value: Any) -> Any:
    """Return `value` as JSON knows it: dataclasses become objects, times UTC ISO 8601, non-finite floats null.

    Bytes of a file name that are not UTF-8 become U+FFFD, since JSON cannot hold them.
    """
    if isinstance(value, Path | ComputeCapability):
        value = str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {to_json(str(key)): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [to_json(item) for item in items]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value


def printable(text: str) -> str:
    """Return `text` with control characters, and bytes of no encoding, spelled out, so that a hostile name cannot drive a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else _spelled(char) for char in text)


def _spelled(char: str) -> str:
    number = ord(char)
    # Python keeps a byte that is not UTF-8 as a surrogate of its own.
    byte = number - 0xDC00 if 0xDC80 <= number <= 0xDCFF else number
    return f"\\x{byte:02x}" if byte < 0x100 else f"\\u{byte:04x}"


def _draw(block: Block) -> None:
    if isinstance(block, str):
        sys.stdout.write(printable(block) + "\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    # Into a file or a pipe a table is as wide as it needs to be: a cut cell helps nobody there.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=400)
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in block.headings:
        right = heading.endswith(">")
        table.add_column(Text(heading.removesuffix(">")), justify="right" if right else "left", overflow="fold")
    for row in block.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().split("\n")]
    # One long cell is no reason for a rule that fills a screen of a CI log.
    drawn = "\n".join(line[:_MOST_RULE_CHARS] if line.strip(" ─") == "" else line for line in lines)
    sys.stdout.write(drawn.strip("\n") + "\n")
