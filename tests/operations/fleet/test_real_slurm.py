"""Fleet verdicts and parts of a run on a real Slurm of one node, on loopback.

Needs Slurm's and munge's daemons (Debian: slurmctld, slurmd, slurm-client, munge) and root.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from typer.testing import CliRunner

from dsmops.cli.app import app
from tests.support.served_tiny import RECORDINGS

_PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(shutil.which(name) for name in _PROGRAMS),
        reason="Slurm's daemons are not installed, or this is not root",
    ),
]
_CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={processors} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Slurm's controller and one node, this machine; yields a folder with `dsmops` in it."""
    folder = tmp_path_factory.mktemp("slurm")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)  # munge refuses a folder that it cannot trust
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(1024))
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(
        _CONF.format(host=host, folder=folder, ports=_free_ports(), processors=os.cpu_count())
    )
    program = folder / "dsmops"
    places = f"{Path.cwd()}:{os.environ.get('PYTHONPATH', '')}"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={places} OMP_NUM_THREADS=1 exec {sys.executable} -m dsmops "$@"\n'
    )
    program.chmod(0o755)
    named = [
        f"--{name}={folder / file}"
        for name, file in (
            ("key-file", "munge.key"),
            ("socket", "munge.sock"),
            ("pid-file", "munged.pid"),
            ("log-file", "munged.log"),
            ("seed-file", "munge.seed"),
        )
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(conf))
        patch.delenv("SLURM_JOB_NODELIST", raising=False)
        commands = (
            ["munged", "--foreground", "--force", *named],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        )
        daemons = []
        try:
            for command in commands:
                daemons.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
                time.sleep(1.0)
            _await_node()
            yield program
        finally:
            for daemon in reversed(daemons):
                daemon.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    daemon.wait(20)
                daemon.kill()
                daemon.wait()


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], other.getsockname()[1]]


def _await_node() -> None:
    until_s = time.monotonic() + 30
    while "idle" not in (states := _out("sinfo", "--noheader", "--format=%T")):
        assert time.monotonic() < until_s, states
        time.sleep(0.2)


def _out(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _verdict(program: Path, *options: str) -> dict[str, object]:
    args = ["fleet", "check-gpu", "--slurm", "--program", str(program), "--json", *options]
    done = CliRunner().invoke(app, args)
    (node,) = json.loads(done.stdout)["nodes"]
    return dict(node)


def test_a_verdict_of_each_node(slurm: Path, tmp_path: Path) -> None:
    """That of the command there, whatever `srun` adds; one that hangs is ended with its job."""
    passed = _verdict(slurm, "--", "--simulate", "t4")
    assert (passed["status"], passed["summary"]) == ("passed", "Tesla T4")
    wrong = _verdict(slurm, "--", "--simulate", "no-such-card")
    assert wrong["exit_code"] != 0
    assert "no-such-card" in str(wrong["summary"])
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 600\n")
    hangs.chmod(0o755)
    late = _verdict(hangs, "--timeout", "2")
    assert (late["status"], late["summary"]) == ("timeout", "no answer within 2 s")
    until_s = time.monotonic() + 20
    while _out("squeue", "--noheader"):
        assert time.monotonic() < until_s, "the job that hangs was left"
        time.sleep(0.2)


def test_an_array_shares_a_folder(slurm: Path, tmp_path: Path) -> None:
    """Each recording is done once, by the task of its part."""
    (tmp_path / "calls").mkdir()
    found = sorted(RECORDINGS.glob("*.flac"))[:2]
    for number in range(3):
        for path in found:
            shutil.copy(path, tmp_path / "calls" / f"{number}-{path.name}")
    script = tmp_path / "transcribe.sbatch"
    script.write_text(
        "#!/bin/sh\n#SBATCH --array=1-2\n"
        f"{slurm} transcribe calls/ --output-dir transcripts --model tiny --cpu "
        '--shard "$SLURM_ARRAY_TASK_ID/2"\n'
    )
    done = subprocess.run(
        ["sbatch", "--wait", str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stderr, [f.read_text() for f in tmp_path.glob("*.out")])
    assert len(list((tmp_path / "transcripts").glob("*.txt"))) == 3 * len(found)
    notes = (tmp_path / "transcripts" / ".dsmops-run" / "notes").iterdir()
    keys = [json.loads(line)["key"] for file in notes for line in file.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 3 * len(found)
