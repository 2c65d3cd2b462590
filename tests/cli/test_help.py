"""`dsmops --help`: grouped commands, whole summaries at 80 columns, prose that wraps at words."""

import re
from typing import Any

import pytest
from typer.main import get_command_from_info
from typer.models import CommandInfo
from typer.testing import CliRunner

from dsmops.cli import help as help_module
from dsmops.cli.app import app
from dsmops.cli.help import GROUPS, MOST_SUMMARY_CHARS
from tools.command_reference import command_names


def help_at_80(*words: str) -> list[str]:
    """Return the lines of a help text on a terminal of 80 columns."""
    done = CliRunner().invoke(app, [*words], prog_name="dsmops", terminal_width=80)
    assert done.exit_code == 0
    return done.stdout.splitlines()


def sections() -> dict[str, dict[str, str]]:
    """Return the summaries by group and name."""
    found: dict[str, dict[str, str]] = {}
    for line in help_at_80("--help"):
        if heading := re.fullmatch(r"(\w[\w ]*):", line):
            rows = found[heading[1]] = {}
        elif found and (row := re.fullmatch(r"  (\S+) {2,}(\S.*)", line)):
            rows[row[1]] = row[2]
    return found


def test_each_command_is_in_one_group() -> None:
    """Prepare, serve and speak, check, logs; in that order, with no command missing."""
    groups = {name: rows for name, rows in sections().items() if name != "Options"}
    assert tuple(groups) == GROUPS
    assert [name for rows in groups.values() for name in rows] == command_names()


def test_the_list_of_commands_builds_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building all would take longer than the imports. One that runs is built alone."""
    built: list[str] = []

    def build(info: CommandInfo, **options: Any) -> Any:
        built.append(str(info.name))
        return get_command_from_info(info, **options)

    monkeypatch.setattr(help_module, "get_command_from_info", build)
    help_at_80("--help")
    assert built == []
    help_at_80("plan", "--help")
    assert built == ["plan"]


@pytest.mark.parametrize("name", command_names())
def test_no_summary_is_cut_off(name: str) -> None:
    """It is one whole sentence that starts with a verb and fits beside the name."""
    (summary,) = (rows[name] for rows in sections().values() if name in rows)
    assert re.fullmatch(r"[A-Z][a-z]+ .*[^.]\.", summary), summary
    assert not re.match(r"\w+(s|ing) ", summary), f"not an imperative: {summary}"
    assert len(summary) <= MOST_SUMMARY_CHARS, summary


@pytest.mark.parametrize("name", ["", *command_names()])
def test_prose_wraps_at_words(name: str) -> None:
    """No line of a help text is wider than the terminal, but for examples, which are commands."""
    lines = help_at_80(*([name] if name else []), "--help")
    examples = lines.index("  Examples:") if "  Examples:" in lines else len(lines)
    end = next((i for i in range(examples, len(lines)) if not lines[i]), len(lines))
    assert [line for line in lines[:examples] + lines[end:] if len(line) > 80] == []


@pytest.mark.parametrize("name", ["", *command_names()])
def test_the_short_option_shows_the_same(name: str) -> None:
    """`-h` is `--help`."""
    words = [name] if name else []
    assert help_at_80(*words, "-h") == help_at_80(*words, "--help")
