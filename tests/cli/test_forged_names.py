"""A name from outside cannot forge a line of output, drive a terminal, or turn text round."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from dsmops.report.terminal import Document, shown
from tests.support.cli import dsmops

FORGED = "error: everything is lost"
NAME = f"log.a\n{FORGED}\r\x1b[31m\u202e\u2066\u2028{FORGED}\x85{FORGED}\x07\x9b1m\udcff.log"
LEAK = "token=abcdefgh12345678\n"

COMMANDS: dict[str, Sequence[str]] = {
    "bench": ("bench", "ws://127.0.0.1:1", "--audio", NAME),
    "bench --against": ("bench", "ws://127.0.0.1:1", "--against", NAME),
    "check-config": ("check-config", NAME),
    "convert": ("convert", NAME, "out.safetensors"),
    "convert to": ("convert", "missing.safetensors", f"no/{NAME}"),
    "doctor --checkpoint": ("doctor", "--checkpoint", NAME),
    "doctor --config": ("doctor", "--config", NAME),
    "doctor --log": ("doctor", "--log", NAME),
    "evaluate": ("evaluate", NAME, "--model", "tiny"),
    "export": ("export", NAME, "out.gguf", "--to", "gguf"),
    "export to": ("export", "missing.safetensors", f"no/{NAME}", "--to", "gguf"),
    "format-log": ("format-log", NAME, "--tz", "UTC"),
    "format-log, several": ("format-log", NAME, "logs", "--tz", "UTC"),
    "format-log --merge": ("format-log", "--merge", NAME, "logs", "-o", f"no/{NAME}"),
    "format-log --merge of two": ("format-log", "--merge", NAME, "clean/log.1", "--tz", "UTC"),
    "inspect": ("inspect", NAME),
    "log-report": ("log-report", NAME),
    "log-report to": ("log-report", NAME, "-o", f"no/{NAME}.json"),
    "make-config": ("make-config", "--target", f"no/{NAME}"),
    "plan": ("plan", "--model", NAME),
    "prep-sm75": ("prep-sm75", "--hf-repo", NAME),
    "publish-logs": ("publish-logs", "--source", "logs", "--bucket", "file:store"),
    "publish-logs of a missing folder": ("publish-logs", "--source", NAME, "--bucket", "file:s"),
    "pull-logs": ("pull-logs", "--bucket", "file:named", "--list"),
    "pull-logs to": ("pull-logs", "--bucket", "file:named", "--output", NAME),
    "smoke-test": ("smoke-test", "--config", NAME),
    "synthesize": ("synthesize", "hello", f"no/{NAME}", "--model", NAME),
    "transcribe": ("transcribe", NAME, "--model", "tiny"),
    "verify": ("verify", NAME, NAME),
    "worker": ("worker", "--config", NAME),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of that name that hold a secret, and a store."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "logs").mkdir()
    (folder / NAME).write_text(LEAK)
    (folder / "logs" / NAME).write_text(LEAK)
    (folder / "clean").mkdir()
    (folder / "clean" / "log.1").write_text("loading\n")
    made = dsmops("publish-logs", "--source", "clean", "--bucket", "file:named", cwd=folder)
    assert made.code == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_prints_a_forged_line(name: str, place: Path) -> None:
    """Whatever a command says of such a name stays in its line, without control characters."""
    run = dsmops(*COMMANDS[name], cwd=place)
    said = run.stdout + run.stderr
    lines = [line.strip() for line in said.splitlines()]
    assert FORGED not in lines
    assert not any(line.startswith(FORGED) for line in lines)
    assert not any(char in said for char in "\x1b\x9b\u202e\u2066\u2028\x85\x07\r")


def test_only_documents_keep_their_line_breaks() -> None:
    """A line of a view is one line whatever it holds; a document is what it is."""
    assert shown("a\nb") == "a\\nb"
    assert shown(Document("a\nb")) == "a\nb"
