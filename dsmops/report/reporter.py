"""The object that prints for every command: results to stdout, the rest to stderr."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from dsmops.errors import DsmopsError
from dsmops.progress import SILENT, Progress, SilentProgress
from dsmops.report.colours import coloured
from dsmops.report.document import document as render_document
from dsmops.report.document import to_json
from dsmops.report.terminal import Block, draw, one_line, printable, shown

if TYPE_CHECKING:
    from dsmops.report.starting import StartingLine


class Reporter:
    """Speaks for one run of one command.

    With `json`, `result` prints one document and nothing else goes to stdout. With `quiet`, only
    errors (and the JSON document, when asked for) are printed. `debug` adds tracebacks to errors.
    """

    current: ClassVar[Reporter | None] = None
    """The reporter of the command that runs; `main` uses it when an exception ends the command."""

    starting: ClassVar[StartingLine | None] = None
    """What a terminal shows until the command shows something."""

    def __init__(
        self, command: str = "", *, json: bool = False, quiet: bool = False, debug: bool = False
    ) -> None:
        self.command = command
        self.json = json
        self.quiet = quiet
        self._is_live = False
        self.has_streamed = False
        """Whether `stream` has shown anything."""
        self._has_ended_stream = False
        self.debug = debug or os.environ.get("DSMOPS_DEBUG", "") not in ("", "0")

    @classmethod
    def open(cls, command: str, *, json: bool, quiet: bool, debug: bool) -> Reporter:
        """Return the reporter of this run, set up logging, and remember it as `current`."""
        from dsmops.report.logs import setup_logging

        reporter = cls(command, json=json, quiet=quiet, debug=debug)
        setup_logging(debug=reporter.debug, quiet=quiet)
        Reporter.current = reporter
        if json or quiet:
            cls.end_starting()
        return reporter

    @classmethod
    def begin_starting(cls) -> None:
        """Show on a terminal that a command starts, should it take longer than a moment."""
        if sys.stderr.isatty():
            from dsmops.report.starting import StartingLine

            cls.starting = StartingLine()

    @classmethod
    def end_starting(cls) -> None:
        """Remove the line for good."""
        if cls.starting is not None:
            cls.starting.end()
            cls.starting = None

    @classmethod
    def _erase_starting(cls) -> None:
        if cls.starting is not None:
            cls.starting.erase()

    def result(self, document: Any, text: Iterable[Block]) -> None:
        """Show the result of a command.

        It is `document`, a dataclass or a mapping, as JSON, or `text` block by block.
        """
        self._end_live()
        try:
            if self.json:
                sys.stdout.write(f"{render_document(self.command, document)}\n")
            elif not self.quiet:
                for block in text:
                    draw(block)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader of stdout has left (`| head -1`). The command goes on to the exit
            # code it would have had.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def file(self, text: str) -> None:
        """Print the text of a file.

        Byte for byte in UTF-8, so that `> FILE` holds the same bytes; on a terminal with control
        characters spelled out.
        """
        self._end_live()
        is_terminal = sys.stdout.isatty()
        seen = printable(text.replace("\r\n", "\n")) if is_terminal else text
        try:
            sys.stdout.flush()
            sys.stdout.buffer.write(seen.encode(errors="surrogateescape"))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def document(self, document: Any) -> str:
        """Return the JSON document of what the command found, for a file."""
        return render_document(self.command, document)

    def note(self, text: str) -> None:
        """Tell people something on the side, on stderr, in one line."""
        self._end_live()
        if not (self.json or self.quiet):
            sys.stderr.write(f"{coloured(shown(text), sys.stderr)}\n")

    def live(self, text: str) -> None:
        """Show an intermediate result while the command runs.

        On stderr, and only on a terminal.
        """
        if not (self.json or self.quiet) and sys.stderr.isatty():
            # What follows is on the same line, which shows that something happens.
            self.end_starting()
            sys.stderr.write(f"{printable(text)} ")
            sys.stderr.flush()
            self._is_live = True

    def stream(self, text: str) -> None:
        """Print a piece of the result on stdout at once, with a space before the next one."""
        if self.json or self.quiet:
            return
        self.end_starting()
        try:
            sys.stdout.write(f"{' ' if self.has_streamed else ''}{printable(text)}")
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        self.has_streamed = True

    def _end_live(self) -> None:
        """Begin a new line after what `live` and `stream` showed."""
        self._erase_starting()
        if self.has_streamed and not self._has_ended_stream:
            self._has_ended_stream = True
            sys.stdout.write("\n")
            sys.stdout.flush()
        if self._is_live:
            sys.stderr.write("\n")
            self._is_live = False

    def error(self, error: DsmopsError) -> None:
        """Report the error that ends the command, on stderr.

        Two lines for people, or one JSON document.
        """
        self._end_live()
        if self.json:
            body = to_json(
                {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
            )
            sys.stderr.write(jsonlib.dumps(body, ensure_ascii=False) + "\n")
            return
        sys.stderr.write(f"{coloured(f'error: {one_line(error.message)}', sys.stderr)}\n")
        if error.hint:
            sys.stderr.write(f"{coloured(f'hint: {one_line(error.hint)}', sys.stderr)}\n")

    def progress(self) -> Progress:
        """Return bars and announcements on a terminal, announcements elsewhere.

        Nothing with `--json` or `--quiet`.
        """
        if self.json or self.quiet:
            return SILENT
        if not sys.stderr.isatty():
            return _Announcements(self.note)
        from dsmops.report.bars import BarProgress

        return BarProgress(self.note, before_drawing=self._erase_starting)


class _Announcements(SilentProgress):
    """Progress where no bar can be drawn: announcements alone."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def announce(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._note(one_line(line))
