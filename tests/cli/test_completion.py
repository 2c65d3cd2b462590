"""Completion in the shells themselves: a terminal, a shell, a word, the Tab key."""

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.cli import dsmops
from tests.support.processes import python

LIMIT_S = 30


@pytest.fixture(scope="module", params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest) -> str:
    """A shell of this machine."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shell: str) -> Path:
    """A home folder in which that shell has installed completion, and a command `dsmops`."""
    home = tmp_path_factory.mktemp(f"home-{shell}")
    install = f"{shlex.join([sys.executable, '-m', 'dsmops'])} --install-completion; exit $status"
    script = install if shell == "fish" else install.replace("$status", "$?")
    done = subprocess.run(
        [shell, "-c", script], env=_environment(home), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    command = home / "bin" / "dsmops"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.join(python())} -m dsmops "$@"\n')
    command.chmod(0o755)
    return home


def _environment(home: Path) -> dict[str, str]:
    return {
        "HOME": str(home),
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "TERM": "xterm",
        "PS1": "$ ",
        "LC_ALL": "C.UTF-8",
    }


def after_tab(shell: str, home: Path, typed: str, wanted: str) -> bool:
    """Return whether `wanted` appears in the shell's terminal after `typed` and the Tab key."""
    words = {"bash": ["bash", "-i"], "zsh": ["zsh", "-i"], "fish": ["fish", "-i"]}[shell]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(home)
        os.execvpe(words[0], words, _environment(home))
    shown, sent, end_s = "", 0, time.monotonic() + LIMIT_S
    # The shell says that it is ready, then Tab completes what stands on the line.
    todo = [(b"echo re''ady\n", "ready"), (typed.encode() + b"\t", wanted)]
    try:
        while time.monotonic() < end_s:
            if sent == 0 or (todo[sent - 1][1] in shown):
                if sent == len(todo):
                    return True
                os.write(terminal, todo[sent][0])
                shown, sent = "", sent + 1
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65536).decode(errors="replace")
        return False
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


def fish_offers(home: Path, typed: str) -> list[str]:
    """Return what fish offers for a line; its terminal needs answers that no pipe gives."""
    done = subprocess.run(
        ["fish", "-c", f"complete --do-complete {shlex.quote(typed)}"],
        env=_environment(home),
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
    )
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("dsmops check-g", "check-gpu"),
        ("dsmops transcribe --timest", "--timestamps"),
        ("dsmops convert --on-overflow cl", "clamp"),
        ("dsmops plan --simulate rtx2080t", "rtx2080ti"),
    ],
    ids=["command", "option", "value", "named-value"],
)
def test_tab_completes(shell: str, home: Path, typed: str, wanted: str) -> None:
    """Commands, options, and values of options, in the shell that installed it."""
    if shell == "fish":
        assert fish_offers(home, typed) == [wanted]
    else:
        assert after_tab(shell, home, typed, wanted)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("plan --dtype f", ["f16", "f32"]),
        ("up --model ti", ["tiny", "tiny-tts"]),
        ("export --to m", ["mlx", "moshi"]),
        ("schema conv", ["conversion-record", "convert"]),
        ("runbook smoke-t", ["smoke-test"]),
        ("format-log --wrapper docker", ["docker-json"]),
        ("worker --log wa", ["warn"]),
        ("publish-logs --checksum sh", ["sha256"]),
        # Neither the list of sound devices nor a complaint comes between.
        ("transcribe --device list --js", ["--json"]),
        ("transcribe -speech.wav --js", ["--json"]),
    ],
)
def test_values_are_offered(words: str, wanted: list[str]) -> None:
    """As bash asks for them."""
    line = f"dsmops {words}"
    environment = {
        "_DSMOPS_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    done = dsmops(env=environment)
    assert (done.code, done.stdout.split(), done.stderr) == (0, wanted, "")


@pytest.mark.slow
def test_another_shell_is_told_which_ones_there_are(tmp_path: Path) -> None:
    """Nothing is written for a shell without completion."""
    done = subprocess.run(
        [
            "sh",
            "-c",
            f"{shlex.join([sys.executable, '-m', 'dsmops'])} --install-completion; exit $?",
        ],
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0 and Path("/bin/sh").resolve().name == "bash":
        pytest.skip("sh is bash here")
    assert (done.returncode, list(tmp_path.iterdir())) == (4, [])
    assert "hint: Run this in bash, zsh or fish." in done.stderr


@pytest.mark.slow
def test_the_script_is_shown_for_the_shell_that_asks(shell: str, home: Path) -> None:
    """`--show-completion` prints what the installation has written."""
    done = subprocess.run(
        [shell, "-c", f"{shlex.join([sys.executable, '-m', 'dsmops'])} --show-completion; true"],
        env=_environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    name = {"bash": ".bash_completions/dsmops.sh", "zsh": ".zfunc/_dsmops"}
    written = home / name.get(shell, ".config/fish/completions/dsmops.fish")
    assert written.read_text().startswith(done.stdout.strip())
