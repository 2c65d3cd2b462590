"""What every command has: help with an example, the shared options, a row in the README, a section
in the reference.
"""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dsmops.cli.app import app
from tools.command_reference import TARGET, command_names, reference

ROOT = Path(__file__).resolve().parents[2]


def help_of(name: str) -> str:
    return CliRunner().invoke(app, [name, "--help"], prog_name="dsmops", terminal_width=200).stdout


@pytest.mark.parametrize("name", command_names())
def test_each_command_explains_itself(name: str) -> None:
    """A sentence on what it does, an example that begins with its own name, and a word on every
    option.
    """
    shown = help_of(name)
    assert f"dsmops {name}" in shown.partition("Examples:")[2]
    assert all(option in shown for option in ("--json", "--quiet", "--debug"))
    lines = [
        line.strip()
        for line in shown.partition("Options:")[2].splitlines()
        if line.strip().startswith("--")
    ]
    assert [line for line in lines if len(line.split("  ")) < 2 and len(line) < 30] == []


@pytest.mark.parametrize("name", command_names())
def test_each_command_has_a_row_in_the_readme(name: str) -> None:
    """A newcomer finds it in the table."""
    assert f"`{name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_reference_is_what_help_says() -> None:
    """runbooks/commands.md is up to date; `make docs` writes it."""
    assert TARGET.read_text(encoding="utf-8") == reference()
