"""Severities are coloured on a terminal, and nowhere else."""

import io

import pytest

from dsmops.report.colours import coloured, wants_colours


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _colour_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize(
    ("line", "before", "word"),
    [
        ("error: no such file", "", "error"),
        ("  warning  the disk is small [disk-low]", "  ", "warning"),
        ("my.toml:7: warning[unknown-key]: x", "my.toml:7: ", "warning"),
        ("hint: do this", "", "hint"),
        ("  ok       one card", "  ", "ok"),
    ],
)
def test_the_severity_is_coloured(line: str, before: str, word: str) -> None:
    """Only that word; the rest of the line stays."""
    shown = coloured(line, Terminal())
    assert shown.startswith(f"{before}\x1b[")
    assert shown.partition("m")[2].partition("\x1b[0m")[0].endswith(word)
    assert shown.endswith(line.removeprefix(before + word))


@pytest.mark.parametrize("line", ["an error: x", "errors: 3", "okay", "notes", "the note: x"])
def test_other_words_are_not(line: str) -> None:
    assert coloured(line, Terminal()) == line


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_the_environment_says_no(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """NO_COLOR and a terminal without colours."""
    assert wants_colours(Terminal())
    assert not wants_colours(io.StringIO())
    monkeypatch.setenv(name, value)
    assert not wants_colours(Terminal())
