"""The reporter: one document or text on stdout, everything else on stderr, nothing that drives a
terminal.
"""

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dsmops.devices import ComputeCapability
from dsmops.dtypes import ComputeDType
from dsmops.errors import InputError
from dsmops.report import Reporter, Table
from dsmops.report.document import to_json

pytestmark = pytest.mark.usefixtures("invented_documents")


@dataclass(frozen=True)
class Found:
    name: str
    capability: ComputeCapability
    sizes: tuple[int, ...]
    share: float


FOUND = Found("a", ComputeCapability(7, 5), (1, 2), float("nan"))
BLOCKS = ["line", Table(["name", "bytes>"], [["x", "1"], ["longer", "1000"]])]


def test_json_is_one_document_with_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """Dataclasses become objects, capabilities strings, non-finite numbers null; notes stay
    silent.
    """
    reporter = Reporter("check-gpu", json=True)
    reporter.note("not shown")
    reporter.result(FOUND, BLOCKS)
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "schema": "dsmops.check-gpu/1",
        "name": "a",
        "capability": "7.5",
        "sizes": [1, 2],
        "share": None,
    }
    assert err == ""


def test_text_draws_lines_and_aligned_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """A column whose heading ends in > is right-aligned; no trailing blanks."""
    Reporter("x").result(FOUND, BLOCKS)
    out, _ = capsys.readouterr()
    assert out.splitlines() == [
        "line",
        " name     bytes",
        " ──────────────",
        " x            1",
        " longer    1000",
    ]


def test_a_long_cell_in_a_file_is_whole_and_its_rule_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A cell that is cut is of no use; a rule of hundreds of characters neither."""
    Reporter("x").result({}, [Table(["evidence"], [["word " * 60 + "end"]])])
    heading, rule, row = capsys.readouterr().out.splitlines()
    assert heading == " evidence"
    assert row.endswith("word end")
    assert len(rule) == 120


def test_quiet_prints_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    """With quiet neither results nor notes are printed, errors are."""
    reporter = Reporter("x", quiet=True)
    reporter.result(FOUND, BLOCKS)
    reporter.note("n")
    reporter.error(InputError("bad", hint="do this"))
    assert capsys.readouterr() == ("", "error: bad\nhint: do this\n")


def test_an_error_beside_json_is_a_document_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """stdout stays empty; stderr has code, message and hint."""
    Reporter("x", json=True).error(InputError("bad", hint="do this"))
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == {"error": {"code": "input", "message": "bad", "hint": "do this"}}


def test_names_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in text, tables, notes and errors are spelled out, and so are characters
    that turn text around.
    """
    reporter = Reporter("x")
    reporter.result({}, ["\x1b[2J", Table(["a"], [["\x1b]0;t\x07"], ["[bold]"]])])
    reporter.note("\x1b[1A\u202e")
    reporter.error(InputError("\x1b[31m", hint="\x9b2J"))
    out, err = capsys.readouterr()
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out + err)
    assert "\\x1b[2J" in out
    assert "[bold]" in out
    assert err == "\\x1b[1A\\u202e\nerror: \\x1b[31m\nhint: \\x9b2J\n"


def test_a_name_in_no_encoding_can_be_shown(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A file name that is not UTF-8 is valid JSON, with U+FFFD for what JSON cannot hold, and
    readable text.
    """
    path = Path(os.fsdecode(b"\xff.toml"))
    for reporter in (Reporter("x", json=True), Reporter("x")):
        reporter.result(
            {"path": path, str(path): "\ud800"}, [f"{path}: fine", Table(["file"], [[str(path)]])]
        )
        reporter.error(InputError(f"{path}: bad"))
    out, err = capfdbinary.readouterr()
    document, _, text = out.decode().partition("\n}\n")
    assert json.loads(document + "}") == {
        "schema": "dsmops.x/1",
        "path": "\ufffd.toml",
        "\ufffd.toml": "\ufffd",
    }
    assert text.splitlines() == ["\\xff.toml: fine", " file", " ─────────", " \\xff.toml"]
    first, second = err.decode().splitlines()
    assert json.loads(first)["error"]["message"] == "\ufffd.toml: bad"
    assert second == "error: \\xff.toml: bad"


def test_values_become_json() -> None:
    """Paths, enums, times and nested containers have one spelling each."""
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert to_json({"p": Path("/a"), "d": ComputeDType.F16, "t": when, "n": None, "s": {2, 1}}) == {
        "p": "/a",
        "d": "F16",
        "t": "2026-01-02T03:04:05Z",
        "n": None,
        "s": [1, 2],
    }


def test_a_field_may_have_another_name_in_documents() -> None:
    """A dataclass that keeps a shared field's name in code writes its own word into documents."""

    @dataclass(frozen=True)
    class Renamed(Found):
        name: str = field(metadata={"json": "title"})

    assert list(to_json(Renamed("a", ComputeCapability(7, 5), (1,), 0.5))) == [
        "title",
        "capability",
        "sizes",
        "share",
    ]
