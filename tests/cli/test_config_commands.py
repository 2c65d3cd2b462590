"""`dsmops check-config` as a user types it."""

import re
from pathlib import Path

import pytest

from dsmops.config.lint import CODES
from tests.support.cli import dsmops
from tests.support.tiny_checkpoint import CONFIG, WEIGHTS_FILE, write_tiny_server

GIVEN = ("--server-version", "0.6.4", "--addr", "127.0.0.1")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A complete server in its own folder."""
    return write_tiny_server(tmp_path)


def test_a_clean_config_exits_0(config: Path) -> None:
    """Nothing to report is one line, which says what was judged."""
    run = dsmops("check-config", config.name, *GIVEN, "--simulate", "t4", cwd=config.parent)
    assert (run.code, run.stderr) == (0, "")
    assert (
        run.stdout
        == "0 errors, 0 warnings, 0 notes in 1 file. Judged for Tesla T4 (sm_75), moshi-server"
        " 0.6.4, --addr 127.0.0.1.\n"
    )


def test_errors_exit_1_with_place_code_and_hint(config: Path) -> None:
    """Findings read like a compiler's: file, line, severity, code, key; then what to do."""
    config.write_text(CONFIG.replace('dtype_override = "f16"\n', ""))
    run = dsmops("check-config", config.name, *GIVEN, "--simulate", "sm75", cwd=config.parent)
    assert run.code == 1
    lines = run.stdout.splitlines()
    assert lines[0].startswith("tiny.toml:7: error[dtype-override-missing] modules.asr: ")
    assert lines[1] == '    hint: Add dtype_override = "f16" below batch_size.'
    assert lines[-1].startswith("1 error, 0 warnings, 0 notes in 1 file.")
    assert (
        dsmops("check-config", config.name, *GIVEN, "--simulate", "a100", cwd=config.parent).code
        == 0
    )


def test_warnings_fail_only_when_strict(config: Path) -> None:
    """A warning exits 0, and 1 with --strict."""
    config.write_text(CONFIG.replace("a-key-that-nobody-guesses", "public_token"))
    assert dsmops("check-config", config.name, *GIVEN, cwd=config.parent).code == 0
    assert dsmops("check-config", config.name, *GIVEN, "--strict", cwd=config.parent).code == 1
    exposed = dsmops("check-config", config.name, "--addr", "0.0.0.0", cwd=config.parent)
    assert exposed.code == 1
    assert "error[public-token-exposed]" in exposed.stdout


def test_json_is_one_document(config: Path) -> None:
    """Findings by file with the fields that scripts need, nulls for what was not given."""
    config.write_text(CONFIG.replace("batch_size = 4", "batch_size = 4\nbatchsize = 2"))
    run = dsmops("check-config", config.name, "--json", cwd=config.parent)
    document = run.document
    assert run.code == 0
    assert document["schema"] == "dsmops.check-config/1"
    assert (document["device"], document["server_version"], document["addr"]) == (None, None, None)
    (checked,) = document["files"]
    assert checked["path"] == "tiny.toml"
    assert {finding["code"] for finding in checked["findings"]} == {
        "addr-not-given",
        "needs-newer-server",
        "unknown-key",
    }
    assert all(
        set(finding) == {"severity", "code", "where", "line", "message", "hint"}
        for finding in checked["findings"]
    )
    assert all(
        CODES[finding["code"]][0].value == finding["severity"] for finding in checked["findings"]
    )


def test_quiet_leaves_the_exit_code(config: Path) -> None:
    """With --quiet nothing is printed, whatever is found."""
    config.write_text("")
    run = dsmops("check-config", config.name, "--quiet", cwd=config.parent)
    assert (run.code, run.stdout, run.stderr) == (1, "", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 2, "Missing argument"),
        (("absent.toml",), 3, "absent.toml"),
        ((".",), 3, "folder"),
        ((WEIGHTS_FILE,), 3, WEIGHTS_FILE),
        (("tiny.toml", "--server-version", "latest"), 2, "0.6.4"),
        (("tiny.toml", "--simulate", "potato"), 3, "potato"),
        (("tiny.toml", "--device", "0"), 4, "GPU"),
    ],
)
def test_mistakes_are_answered_in_words(
    config: Path, args: tuple[str, ...], code: int, said: str
) -> None:
    """Each mistake has its exit code, names what was wrong, and shows no traceback."""
    run = dsmops("check-config", *args, cwd=config.parent)
    assert run.code == code
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_control_characters_in_a_config_do_not_reach_the_terminal(config: Path) -> None:
    """A hostile name is spelled out."""
    config.write_text(CONFIG.replace("batch_size = 4", 'batch_size = 4\n"\\u001b[2J" = 1'))
    run = dsmops("check-config", config.name, cwd=config.parent)
    assert "\x1b" not in run.stdout
    assert re.search(r"unknown-key.*\\x1b", run.stdout)
    config.write_text(CONFIG.replace("logs", "logs\\n0 errors, 0 warnings"))
    run = dsmops("check-config", config.name, *GIVEN, cwd=config.parent)
    assert run.code == 1
    assert "error[control-character] log_dir: log_dir holds a line break" in run.stdout
    assert not re.search("^0 errors", run.stdout, re.MULTILINE)


def test_the_worker_refuses_wildcards_in_a_path(config: Path) -> None:
    """moshi-server runs with such a route; our worker says why it does not."""
    config.write_text(CONFIG.replace("/api/asr-streaming", "/api/{room}"))
    run = dsmops("check-config", config.name, *GIVEN, cwd=config.parent)
    assert run.code == 0
    assert "warning[wildcard-path] modules.asr.path: {room} " in run.stdout
    run = dsmops("worker", "--config", config.name, "--cpu", "--port", "0", cwd=config.parent)
    assert run.code == 3
    assert "/api/{room}: braces are wildcards to moshi-server" in run.stderr
