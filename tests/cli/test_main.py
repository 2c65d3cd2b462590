"""The way out: every end of a command has its words and its exit code."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import dsmops
from tests.support.processes import python

# A command of our own, run through the real `main`: what it raises stands for what any command may
# meet.
RAISING = """
import sys, typer
from dsmops.cli.app import commands
from dsmops.cli.main import main
from dsmops.report import Reporter
from dsmops.errors import *

@commands.command("fail")
def fail(json: bool = False, debug: bool = False) -> None:
    Reporter.open("fail", json=json, quiet=False, debug=debug)
    {body}

sys.argv = ["dsmops", "fail", *sys.argv[1:]]
sys.exit(main())
"""


def fail_with(body: str, *args: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python(), "-c", RAISING.format(body=body), *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("raise InputError('m', hint='h')", 3),
        ("raise HeaderError('m', hint='h')", 3),
        ("raise ConfigError('m', path='a.toml', line=3, hint='h')", 3),
        ("raise DriverMissingError('m', hint='h')", 4),
        ("raise DiskFullError('m', hint='h')", 5),
        ("raise TransferError('m', hint='h')", 6),
        ("raise typer.Exit(1)", 1),
        ("return", 0),
    ],
)
def test_each_class_of_error_has_its_exit_code(body: str, code: int, tmp_path: Path) -> None:
    """Errors end with their class's code, an error line and a hint line, and no traceback."""
    done = fail_with(body, tmp_path=tmp_path)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if code > 1:
        assert done.stderr.startswith("error: ")
        assert "hint: h" in done.stderr


def test_an_error_beside_json_leaves_stdout_empty(tmp_path: Path) -> None:
    """With --json the error is one document on stderr."""
    done = fail_with(
        "raise ConfigError('bad key', path='a.toml', line=3, col=7, hint='h')",
        "--json",
        tmp_path=tmp_path,
    )
    assert done.stdout == ""
    assert json.loads(done.stderr) == {
        "error": {"code": "config.unreadable", "message": "a.toml:3:7: bad key", "hint": "h"}
    }


def test_a_bug_is_one_line_and_a_saved_traceback(tmp_path: Path) -> None:
    """An unexpected exception exits 70, says that it is a bug, and keeps the traceback in a
    file.
    """
    done = fail_with("raise ZeroDivisionError('oops')", tmp_path=tmp_path)
    assert done.returncode == 70
    assert "Traceback" not in done.stderr
    assert "oops" in done.stderr
    (saved,) = tmp_path.glob("dsmops-crash-*.txt")
    assert "Traceback" in saved.read_text()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """--debug adds the traceback to a user's error too."""
    done = fail_with("raise InputError('m', hint='h')", "--debug", tmp_path=tmp_path)
    assert done.returncode == 3
    assert "Traceback" in done.stderr


def test_usage_errors_exit_2() -> None:
    """An unknown command and an unknown option are Typer's to explain."""
    assert dsmops("no-such-command").code == 2
    assert dsmops("plan", "--no-such-option").code == 2


def test_ctrl_c_exits_130(tmp_path: Path) -> None:
    """SIGINT ends a command with 130 and without a traceback."""
    body = "print('ready', flush=True); import time; time.sleep(30)"
    with subprocess.Popen(
        [sys.executable, "-c", RAISING.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "Traceback" not in stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--simulate", "t4"], 0), (["--simulate", "t4", "--fail-on-pre-ampere"], 1)],
)
def test_a_reader_that_leaves_does_not_change_the_answer(arguments: list[str], code: int) -> None:
    """`dsmops ... | head -1` ends quietly, with the exit code that the whole output would
    have had.
    """
    command = [sys.executable, "-m", "dsmops", "check-gpu", *arguments]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.slow
@pytest.mark.parametrize(("redirect", "code"), [(">&-", 0), ("2>&-", 0), ("> /dev/full", 5)])
def test_streams_that_fail_are_no_bug(redirect: str, code: int) -> None:
    """A closed stream is silence, a full one the error it is."""
    command = f'"{sys.executable}" -m dsmops plan --simulate t4 {redirect}'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "should not" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["check-gpu", "--simulate", "75:Té", "--json"],
        ["check-config", os.fsdecode(b"\xff.toml"), "--json"],
    ],
)
def test_any_text_can_be_printed_anywhere(arguments: list[str]) -> None:
    """Neither an ASCII terminal nor a file name that is not UTF-8 ends in a bug."""
    for encoding in ("ascii", "utf-8"):
        run = dsmops(*arguments, env={"PYTHONIOENCODING": encoding}, new_interpreter=True)
        assert run.code in (0, 3), run.stderr


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "ключ"])
def test_a_key_that_no_client_can_send_is_refused(key: str) -> None:
    """--api-key takes what an HTTP header carries, and does not repeat what it refuses."""
    run = dsmops("make-config", "--simulate", "t4", "--api-key", key)
    assert run.code == 2
    assert not key or key not in run.stderr


@pytest.mark.slow
def test_version_and_help_answer() -> None:
    """The two first things a newcomer types."""
    assert dsmops("--version", new_interpreter=True).stdout.startswith("dsmops ")
    assert "prep-sm75" in dsmops("--help", new_interpreter=True).stdout
