"""A fleet by a real sshd on the loopback device, and by programs that stand in for Slurm's.

The stand-ins behave as `srun`, `sinfo` and `scontrol` do for what is used of them;
`test_real_slurm` runs a real Slurm.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dsmops.cli.app import app

ROOT = Path(__file__).resolve().parents[3]
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
HERE = f"env PYTHONPATH={ROOT} {sys.executable} -m dsmops"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A running sshd, its client's settings on PATH, and the folder with both."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("sshd or ssh is not installed")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it keeps itself apart from root
    for name in ("host", "mine", "other"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True
        )
    shutil.copy(tmp_path / "mine.pub", tmp_path / "authorized")
    port = free_port()
    (tmp_path / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {tmp_path}/authorized\nStrictModes no\nPermitRootLogin yes\n"
    )
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ports = {"good": port, "silent": silent.getsockname()[1], "closed": free_port()}
        (tmp_path / "ssh_config").write_text(
            "".join(f"Host {name}\n  Port {at}\n" for name, at in ports.items())
            + f"Host stranger\n  Port {port}\n  IdentityFile {tmp_path}/other\n"
            f"Host *\n  HostName 127.0.0.1\n  User {getpass.getuser()}\n  IdentitiesOnly yes\n"
            f"  IdentityAgent none\n  StrictHostKeyChecking no\n"
            f"  UserKnownHostsFile {tmp_path}/known\n  LogLevel ERROR\n"
            f"Match originalhost good\n  IdentityFile {tmp_path}/mine\n"
        )
        # ssh reads the config of the account, whatever HOME says.
        script(
            tmp_path / "bin" / "ssh", f'exec {shutil.which("ssh")} -F {tmp_path}/ssh_config "$@"'
        )
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        log = (tmp_path / "sshd.log").open("wb")
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", tmp_path / "sshd_config"], stderr=log)
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and server.poll() is None:
                with closing(socket.socket()) as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield tmp_path
        finally:
            server.kill()
            server.wait()
            log.close()


@pytest.mark.slow
def test_each_host_has_a_verdict_and_none_waits_for_another(sshd: Path) -> None:
    """One works, one hangs before it says who it is, one is down, one knows no such key."""
    hosts = sshd / "hosts"
    hosts.write_text("silent\nclosed\nstranger\ngood\n")
    done = CliRunner().invoke(
        app,
        ["fleet", "check-gpu", "--hosts", str(hosts), "--program", HERE, "--timeout", "30",
         "--junit", str(sshd / "fleet.xml"), "--json", "--", "--simulate", "t4"],
    )  # fmt: skip
    report = json.loads(done.stdout)
    nodes = {node["node"]: node for node in report["nodes"]}
    assert list(nodes) == ["silent", "closed", "stranger", "good"]
    assert nodes["good"]["status"] == "passed", nodes["good"]
    assert nodes["good"]["document"]["schema"] == "dsmops.check-gpu/1"
    assert nodes["silent"]["status"] == "unreachable"
    assert "timed out" in nodes["silent"]["summary"]
    assert "Connection refused" in nodes["closed"]["summary"]
    assert "Permission denied" in nodes["stranger"]["summary"]
    assert done.exit_code == report["exit_code"] == 6
    assert 'errors="3"' in (sshd / "fleet.xml").read_text()


@pytest.mark.slow
def test_a_program_that_hangs_or_is_missing_is_named(sshd: Path) -> None:
    hosts = sshd / "hosts"
    hosts.write_text("good\n")
    hangs = script(
        sshd / "bin" / "hangs",
        "echo $$ > $(dirname $0)/new; mv $(dirname $0)/new $(dirname $0)/pid; exec sleep 600",
    )

    def ask(program: str, timeout_s: int) -> tuple[int, str]:
        done = CliRunner().invoke(
            app,
            ["fleet", "doctor", "--hosts", str(hosts), "--program", program,
             "--timeout", str(timeout_s)],
        )  # fmt: skip
        return done.exit_code, done.stdout

    code, text = ask(str(hangs), 5)
    assert code == 6
    assert "no answer within 5 s" in text
    # It may have begun only when ssh was given up. `timeout` ends it on the host too.
    pid = sshd / "bin" / "pid"
    until(pid.exists)
    process = Path(f"/proc/{pid.read_text().strip()}")
    until(lambda: not process.exists())
    code, text = ask("/nowhere/dsmops", 20)
    assert code == 4
    assert "good: Install dsmops there, or say where it is with --program." in text


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins: n1 works, n2 hangs, n3 is down, the controller of n4 refuses.

    $NODES are those of `sinfo`.
    """
    programs = tmp_path / "bin"
    script(programs / "sinfo", 'printf "$NODES"')
    script(
        programs / "srun",
        "for arg; do case $arg in --nodelist=*) node=${arg#*=};; --*) ;; *) break;; esac\n"
        "shift; done\n"
        "case $node in n2) exec sleep 600;;\n"
        'n4) echo "srun: error: Unable to allocate resources" >&2; exit 1;; esac\n'
        'SLURMD_NODENAME=$node "$@" && exit; code=$?\n'
        'echo "srun: error: $node: task 0: Exited with exit code $code" >&2; exit $code',
    )
    script(programs / "scontrol", "printf 'n1\\n'")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    return programs


@pytest.mark.slow
def test_nodes_of_slurm_are_asked_one_by_one(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["fleet", "check-gpu", "--slurm", "--program", HERE, "--json"]

    def found(nodes: str, *options: str) -> dict[str, tuple[str, str]]:
        monkeypatch.setenv("NODES", nodes)
        done = CliRunner().invoke(app, [*args, *options, "--", "--simulate", "t4"])
        assert done.exit_code == 6
        rows = json.loads(done.stdout)["nodes"]
        return {node["node"]: (node["status"], node["summary"]) for node in rows}

    assert found("n1 idle\\nn3 down*\\nn4 idle\\n") == {
        "n1": ("passed", "Tesla T4"),
        "n3": ("unreachable", "Slurm says that it is down*"),
        "n4": ("error", "srun: error: Unable to allocate resources"),
    }
    late = found("n2 mixed\\nn3 down*\\n", "--timeout", "1")
    assert late["n2"] == ("timeout", "no answer within 1 s")
    assert late["n3"][0] == "unreachable"
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1]")
    within = CliRunner().invoke(app, [*args, "--", "--simulate", "t4"])
    assert [node["node"] for node in json.loads(within.stdout)["nodes"]] == ["n1"]
    assert within.exit_code == 0


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["check-gpu"], 2, "name one of --hosts FILE, --ray and --slurm"),
        (["check-gpu", "--slurm", "--ray"], 2, "name one of"),
        (["check-gpu", "--slurm", "--program", "'"], 2, "No closing quotation"),
        (["convert", "--slurm"], 2, "'convert' is not one of"),
    ],
)
def test_usage_errors(args: list[str], code: int, words: str) -> None:
    done = CliRunner().invoke(app, ["fleet", *args])
    assert done.exit_code == code
    assert words in done.stderr
