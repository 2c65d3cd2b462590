"""Say the promise, break the world, look at what is left: kills, a full disk, Ctrl-C, a thief."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsmops.checkpoint.export import Runtime, can_resume, export, plan_export, writing
from dsmops.checkpoint.export.verification import verify_export
from dsmops.errors import DiskFullError, InputError, TargetBusyError
from dsmops.files import partial_path, replace_atomically
from dsmops.progress import SilentProgress
from tests.support.synthetic import write_checkpoint

pytestmark = pytest.mark.fault

LAYOUT = {f"emb.{number}.weight": ("BF16", (1000, 512)) for number in range(12)}
HARNESS = """
import os, signal, sys
from pathlib import Path
from dsmops.checkpoint.export import Runtime, export, plan_export, writing
from dsmops.progress import SilentProgress

writing._JOURNAL_BYTES = 1 << 20
source, target, percent = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
fsync = sys.argv[4:] != ["--no-fsync"]

class Killer(SilentProgress):
    done = 0
    def start(self, label, total, unit="bytes"):
        self.total = total
    def advance(self, amount):
        self.done += amount
        if self.done * 100 >= self.total * percent:
            os.kill(os.getpid(), signal.SIGKILL)

export(plan_export(source, target, Runtime.GGUF, "q8_0"), progress=Killer(), fsync=fsync)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "model.safetensors"
    write_checkpoint(path, LAYOUT)
    return path


@pytest.mark.parametrize("percent", [1, 40, 80, 99])
def test_a_killed_run_is_taken_up_where_it_was(source: Path, tmp_path: Path, percent: int) -> None:
    """No target before it is complete; then the bytes of a run that was never killed."""
    target = tmp_path / "m.gguf"
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, source, target, str(percent)], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    report = export(plan_export(source, target, Runtime.GGUF, "q8_0"))
    assert (report.resumed_tensors > 0) == (percent >= 40)
    whole = export(plan_export(source, tmp_path / "w.gguf", Runtime.GGUF, "q8_0"))
    assert target.read_bytes() == (tmp_path / "w.gguf").read_bytes()
    assert report.tensors == whole.tensors
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "m.gguf",
        "m.gguf.dsmops.json",
        "w.gguf",
        "w.gguf.dsmops.json",
    ]


@pytest.mark.parametrize("restarted", [False, True])
def test_without_fsync_a_killed_run_is_taken_up_until_a_restart(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """What was only in memory is lost with the machine, so then nothing is kept."""
    if not writing._BOOT_ID.exists():
        pytest.skip("this system does not tell when it was restarted")
    target = tmp_path / "m.gguf"
    subprocess.run([sys.executable, "-c", HARNESS, source, target, "80", "--no-fsync"], check=False)
    if restarted:
        other = tmp_path / "boot_id"
        other.write_text("another\n")
        monkeypatch.setattr(writing, "_BOOT_ID", other)
    plan = plan_export(source, target, Runtime.GGUF, "q8_0")
    assert can_resume(plan) == (not restarted)
    report = export(plan)
    assert (report.resumed_tensors > 0) == (not restarted)
    assert verify_export(source, target).same


def test_a_leftover_of_another_source_is_written_over(source: Path, tmp_path: Path) -> None:
    """A journal is used for the very source, options and recipe that it was written for."""
    target = tmp_path / "m.gguf"
    subprocess.run([sys.executable, "-c", HARNESS, source, target, "80"], check=False)
    other = tmp_path / "other.safetensors"
    write_checkpoint(other, LAYOUT, seed=2)
    assert export(plan_export(other, target, Runtime.GGUF, "q8_0")).resumed_tensors == 0
    assert verify_export(other, target).same


def test_a_full_disk_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says how much is needed; the old target stays."""
    target = tmp_path / "m.gguf"
    export(plan_export(source, target, Runtime.GGUF, "q4_0"))
    before = target.read_bytes()
    monkeypatch.setattr("dsmops.files.free_bytes", lambda folder: 1 << 20)
    with pytest.raises(DiskFullError):
        export(plan_export(source, target, Runtime.GGUF, "q8_0"))
    assert target.read_bytes() == before


def test_a_source_that_changes_leaves_nothing(source: Path, tmp_path: Path) -> None:
    """What was read of it may be a mixture."""
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(source.read_bytes())

    class Changer(SilentProgress):
        def advance(self, amount: int) -> None:
            with copy.open("r+b") as file:
                file.seek(-1, 2)
                file.write(b"\x01")

    with pytest.raises(InputError, match="changed while it was being read"):
        export(plan_export(copy, tmp_path / "m.gguf", Runtime.GGUF, "q8_0"), progress=Changer())
    assert [path.name for path in tmp_path.iterdir()] == ["copy.safetensors"]


def test_two_writers_of_one_target_do_not_mix(source: Path, tmp_path: Path) -> None:
    """The second is refused while the first one works."""
    target = tmp_path / "m.gguf"
    with replace_atomically(target) as partial:
        partial.write(b"the first one")
        with pytest.raises(TargetBusyError):
            export(plan_export(source, target, Runtime.GGUF, "q8_0"))
        assert partial_path(target).read_bytes() == b"the first one"
