"""What a terminal shows while a command starts."""

from __future__ import annotations

import importlib
import io
import os
import pty
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from unittest.mock import patch

import pytest

from dsmops.cli.main import COMPLETION, main
from dsmops.report import Reporter
from dsmops.report.starting import StartingLine


class Terminal:
    """The other side of a real terminal, which is this process's stderr."""

    def __init__(self) -> None:
        self.own, self.inside = pty.openpty()
        os.set_blocking(self.own, False)

    def shown(self, last: str) -> str:
        """Return what has been shown since the last call, once `last` is there, within 5 s."""
        text, until_s = "", time.monotonic() + 5
        while last not in text and time.monotonic() < until_s:
            with suppress(BlockingIOError):
                text += os.read(self.own, 65536).decode()
            time.sleep(0.005)
        return text


@contextmanager
def a_terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    with os.fdopen(terminal.inside, "w") as stderr, redirect_stderr(stderr):
        try:
            yield terminal
        finally:
            Reporter.end_starting()
    os.close(terminal.own)


def reporter() -> Reporter:
    return Reporter.open("test", json=False, quiet=False, debug=False)


def test_silence_is_broken_and_output_takes_its_place() -> None:
    """The line appears after a moment, and is erased by the next output."""
    with a_terminal() as terminal:
        Reporter.starting = StartingLine(show_after_s=0.05)
        assert terminal.shown("\r") == "Starting ...\r"
        reporter().note("here")
        assert terminal.shown("\n") == "\r\x1b[Khere\r\n"


def test_a_quick_command_shows_nothing_of_it() -> None:
    """Neither does one whose output a program reads."""
    with a_terminal() as terminal:
        Reporter.starting = StartingLine(show_after_s=60)
        reporter().note("here")
        assert terminal.shown("\n") == "here\r\n"
        Reporter.end_starting()
        Reporter.begin_starting()
        Reporter.open("test", json=True, quiet=False, debug=False)
        assert Reporter.starting is None
        assert not any(isinstance(finder, StartingLine) for finder in sys.meta_path)


def test_an_import_of_torch_is_shown_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread could show it later: the import holds the interpreter."""
    (tmp_path / "torch.py").write_text("import sys\nsys.stderr.write('importing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with a_terminal() as terminal, patch.dict(sys.modules):
        sys.modules.pop("torch", None)
        Reporter.starting = StartingLine(show_after_s=60)
        importlib.import_module("torch")
        sys.stderr.flush()
        assert terminal.shown("importing") == "Loading PyTorch ...\rimporting"
        # A list of checks on one line already shows that something happens.
        reporter().live("check")
        del sys.modules["torch"]
        importlib.import_module("torch")
        sys.stderr.flush()
        assert terminal.shown("importing") == "\r\x1b[Kcheck importing"


def test_a_stderr_that_is_no_terminal_gets_nothing() -> None:
    with redirect_stderr(io.StringIO()):
        Reporter.begin_starting()
    assert Reporter.starting is None


def test_a_shell_that_completes_a_line_sees_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor is in the line that the user types."""
    monkeypatch.setenv(COMPLETION, "complete_bash")
    monkeypatch.setattr("sys.argv", ["dsmops"])
    with a_terminal():
        main()
        assert Reporter.starting is None
