"""Programs for nodes: when they have ended, what is left of them, and how ssh calls dsmops."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from dsmops.operations.fleet import SshHosts, programs, ray_nodes
from dsmops.operations.fleet.programs import run_programs
from dsmops.operations.fleet.verdicts import Answer

LEAVES_A_CHILD = "sleep 600 & echo $! > {pid}; wait"


def answer_of(command: str, timeout_s: float) -> Answer:
    answers: list[Answer] = []
    run_programs({"n": ["sh", "-c", command]}, timeout_s, answers.append)
    (answer,) = answers
    return answer


def assert_ended(pid: Path) -> None:
    process = Path("/proc") / pid.read_text().strip()
    deadline = time.monotonic() + 20
    while process.exists() and ") Z " not in (process / "stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_program_has_ended_though_a_child_keeps_its_pipes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As ssh does with ControlPersist."""
    monkeypatch.setattr(programs, "_LAST_OUTPUT_S", 0.1)
    answer = answer_of("sleep 6 & echo out; echo err >&2; exit 3", 5)
    assert (answer.exit_code, answer.stdout, answer.stderr) == (3, "out\n", "err\n")


def test_what_takes_too_long_ends_with_all_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    assert answer_of(LEAVES_A_CHILD.format(pid=pid), 0.3).timed_out
    assert_ended(pid)


def test_a_task_of_ray_ends_a_check_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, pid = tmp_path / "python", tmp_path / "pid"
    program.write_text("#!/bin/sh\n" + LEAVES_A_CHILD.format(pid=pid))
    program.chmod(0o755)
    monkeypatch.setattr(ray_nodes.sys, "executable", str(program))
    assert ray_nodes.run_here(("doctor",), 0.3) == (None, "", "")
    assert_ended(pid)


@pytest.mark.parametrize(
    ("has_timeout", "printed"), [(True, "-k 5 20 dsmops doctor\n"), (False, "it is doctor\n")]
)
def test_a_host_without_timeout_still_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_timeout: bool, printed: str
) -> None:
    """A stand-in for ssh runs its last word on this machine, which has these programs alone."""
    shell = shutil.which("sh")
    scripts = {
        "ssh": 'for last; do :; done; exec sh -c "$last"',
        "dsmops": 'echo "it is $*"',
        **({"timeout": 'echo "$*"'} if has_timeout else {}),
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(f"#!{shell}\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "sh").symlink_to(str(shell))
    monkeypatch.setenv("PATH", str(tmp_path))
    answers: list[Answer] = []
    SshHosts(["a"], ["dsmops"]).ask(["doctor"], 20, answers.append)
    assert [(one.exit_code, one.stdout) for one in answers] == [(0, printed)]
