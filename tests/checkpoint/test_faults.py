"""Say the promise, break the world, look at what is left: kills, a full disk, a changing source,
two writers.
"""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsmops.checkpoint import convert, is_current, plan_conversion
from dsmops.dtypes import StorageDType
from dsmops.errors import InputError
from dsmops.files import partial_path, replace_atomically
from tests.support.checkpoints import bf16, read_file, write_file, write_sharded
from tests.support.cli import dsmops
from tests.support.synthetic import write_checkpoint

pytestmark = pytest.mark.fault

ELEMENTS = 20_000_000

HARNESS = """
import os, signal, sys
from pathlib import Path
from dsmops.checkpoint import convert, plan_conversion, record
from dsmops.dtypes import StorageDType
from dsmops.progress import SilentProgress

source, target, when = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

class Killer(SilentProgress):
    done = 0
    def start(self, label, total, unit="bytes"):
        self.total = total
    def advance(self, amount):
        self.done += amount
        if when.isdigit() and self.done >= self.total * int(when) // 100:
            die()
    def finish(self):
        if when == "before the rename":
            die()

if when == "before the record":
    record.save = die
if when == "between two renames":
    rename, renamed = Path.rename, []
    def counted(path, target):
        if renamed:
            die()
        renamed.append(rename(path, target))
    Path.rename = counted
convert(plan_conversion(source, target, StorageDType.F16), progress=Killer())
"""


def kill_at(source: Path, target: Path, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", HARNESS, source, target, when], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of 40 MB, and what it must become, beside it."""
    folder = tmp_path_factory.mktemp("large")
    write_checkpoint(
        folder / "in.safetensors",
        {"a": ("BF16", (ELEMENTS,)), "b": ("U8", (1001,)), "c": ("BF16", (7,))},
    )
    convert(
        plan_conversion(folder / "in.safetensors", folder / "wanted.safetensors", StorageDType.F16)
    )
    return folder


@pytest.mark.parametrize(
    "when", ["0", "1", "37", "50", "99", "100", "before the rename", "before the record"]
)
@pytest.mark.parametrize("old", [None, b"what was there before"], ids=["no target", "old target"])
def test_kill_9_leaves_the_old_file_or_the_complete_new_one(
    large: Path, tmp_path: Path, when: str, old: bytes | None
) -> None:
    """At any point; a rerun then succeeds and clears what was left, and only a finished run counts
    as up to date.
    """
    source, target = large / "in.safetensors", tmp_path / "out.safetensors"
    wanted = (large / "wanted.safetensors").read_bytes()
    if old is not None:
        target.write_bytes(old)
    kill_at(source, target, when)
    left = target.read_bytes() if target.exists() else None
    assert left == (wanted if when == "before the record" else old)
    plan = plan_conversion(source, target, StorageDType.F16)
    assert not is_current(plan)
    convert(plan)
    assert target.read_bytes() == wanted
    assert is_current(plan)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.safetensors",
        "out.safetensors.dsmops.json",
    ]


@pytest.mark.parametrize("when", ["0", "60", "100", "before the rename"])
def test_kill_9_never_leaves_an_index_without_its_shards(tmp_path: Path, when: str) -> None:
    """The index comes last, so a folder with an index is whole; a rerun clears the leftovers."""
    source = write_sharded(
        tmp_path / "in",
        {
            "one.safetensors": {"a": bf16(*range(5000))},
            "sub/two.safetensors": {"b": bf16(*range(5000))},
        },
    )
    kill_at(source, tmp_path / "out", when)
    assert not list((tmp_path / "out").glob("*.json"))
    convert(plan_conversion(source, tmp_path / "out", StorageDType.F16))
    names = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    index = "model.safetensors.index.json"
    assert names == [index, f"{index}.dsmops.json", "one.safetensors", "two.safetensors"]


def test_kill_9_never_leaves_an_index_over_shards_of_two_conversions(tmp_path: Path) -> None:
    """Where some shards are new and some old, there is no index: the folder must not pass for a
    model.
    """
    source = write_sharded(
        tmp_path / "in", {"one.safetensors": {"a": bf16(1)}, "two.safetensors": {"b": bf16(2)}}
    )
    convert(plan_conversion(source, tmp_path / "out", StorageDType.F32))
    kill_at(source, tmp_path / "out", "between two renames")
    dtypes = {
        read_file(tmp_path / "out" / name)[0][tensor][0]
        for name, tensor in (("one.safetensors", "a"), ("two.safetensors", "b"))
    }
    assert dtypes == {"F16", "F32"}
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()
    convert(plan_conversion(source, tmp_path / "out", StorageDType.F16))
    assert is_current(plan_conversion(source, tmp_path / "out", StorageDType.F16), full=True)


@pytest.mark.parametrize("option", ["--verify", "--no-fsync"])
def test_a_file_size_limit_is_a_full_disk(large: Path, tmp_path: Path, option: str) -> None:
    """Running out of space midway is one error with exit code 5; the old target stays and nothing
    else does.
    """
    (tmp_path / "out.safetensors").write_bytes(b"old")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "dsmops",
            "convert",
            "--force",
            option,
            large / "in.safetensors",
            tmp_path / "out.safetensors",
        ],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_001, 5_000_001)),
        check=False,
    )
    assert done.returncode == 5
    assert "error: no room left" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out.safetensors").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


class Hook:
    """A progress that does something once, when half of the work is done."""

    def __init__(self, action: object) -> None:
        self._action, self._total, self._done = action, 0, 0

    def start(self, label: str, total: int | None, unit: str = "bytes") -> None:
        self._total = total or 0

    def advance(self, amount: int) -> None:
        before, self._done = self._done, self._done + amount
        if before < self._total // 2 <= self._done:
            self._action()  # type: ignore[operator]

    def finish(self) -> None: ...


@pytest.mark.parametrize(
    "change", ["cut short", "rewritten in place", "grown", "replaced by another file"]
)
def test_a_source_that_changes_meanwhile_discards_the_output(tmp_path: Path, change: str) -> None:
    """A mixture of two sources is never taken for a result."""
    source = tmp_path / "in.safetensors"
    write_checkpoint(source, {"a": ("BF16", (ELEMENTS,))})

    def act() -> None:
        if change == "replaced by another file":
            write_checkpoint(source, {"a": ("BF16", (ELEMENTS,))}, seed=1)
            return
        with source.open("r+b") as file:
            if change == "cut short":
                file.truncate(1000)
            else:
                file.seek(0 if change == "grown" else -100, os.SEEK_END)
                file.write(b"x" * 100)

    with pytest.raises(InputError, match="changed while it was being read"):
        convert(
            plan_conversion(source, tmp_path / "out.safetensors", StorageDType.F16),
            progress=Hook(act),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_a_second_writer_is_told_that_the_target_is_busy(large: Path, tmp_path: Path) -> None:
    """While one process holds the target another exits 5 and touches nothing; a sharded folder is
    held by its index.
    """
    with replace_atomically(tmp_path / "out.safetensors") as partial:
        partial.write(b"x")
        done = dsmops("convert", large / "in.safetensors", tmp_path / "out.safetensors")
    assert (done.code, done.stderr.split(":")[0]) == (5, "error")
    assert "another process" in done.stderr
    assert (tmp_path / "out.safetensors").read_bytes() == b"x"
    source = write_sharded(tmp_path / "in", {"one.safetensors": {"a": bf16(1)}})
    with replace_atomically(tmp_path / "out" / "model.safetensors.index.json"):
        assert dsmops("convert", source, tmp_path / "out").code == 5


def test_many_writers_on_one_target_leave_one_whole_file(large: Path, tmp_path: Path) -> None:
    """Started together, each succeeds or says busy; the target is complete, its record true, and
    nothing else is left.
    """
    command = [
        sys.executable,
        "-m",
        "dsmops",
        "convert",
        large / "in.safetensors",
        tmp_path / "out.safetensors",
    ]
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ends = [(child.communicate()[1], child.returncode) for child in running]
    assert {code for _, code in ends} <= {0, 5}
    assert any(code == 0 for _, code in ends)
    assert all("Traceback" not in text for text, _ in ends)
    assert (tmp_path / "out.safetensors").read_bytes() == (
        large / "wanted.safetensors"
    ).read_bytes()
    assert is_current(
        plan_conversion(large / "in.safetensors", tmp_path / "out.safetensors", StorageDType.F16),
        full=True,
    )
    assert len(list(tmp_path.iterdir())) == 2


def interrupted(folder: Path, number: signal.Signals, *under: str) -> tuple[int, str, list[str]]:
    """Send a signal to a conversion, run `under` a command, that has begun to write.

    Return exit code, stderr and the files it left.
    """
    write_checkpoint(folder / "in.safetensors", {"a": ("BF16", (150_000_000,))})
    child = subprocess.Popen(
        [
            *under,
            sys.executable,
            "-m",
            "dsmops",
            "convert",
            "--quiet",
            "in.safetensors",
            "out.safetensors",
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    partial = partial_path(folder / "out.safetensors")
    while child.poll() is None and not (partial.exists() and partial.stat().st_size):
        os.sched_yield()
    child.send_signal(number)
    _, stderr = child.communicate(timeout=60)
    return (
        child.returncode,
        stderr,
        sorted(path.name for path in folder.iterdir() if path.name != "in.safetensors"),
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupt_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C, a plain kill or a closed terminal in the middle: the usual exit code, no traceback,
    no partial file.
    """
    ended, stderr, left = interrupted(tmp_path, number)
    assert (ended, left) == (code, [])
    assert "Traceback" not in stderr


def test_nohup_is_respected(tmp_path: Path) -> None:
    """A signal that the caller wants ignored is ignored: the conversion ends well."""
    code, _, left = interrupted(tmp_path, signal.SIGHUP, "nohup")
    assert (code, left) == (0, ["out.safetensors", "out.safetensors.dsmops.json"])


def test_an_unreadable_source_is_one_error(tmp_path: Path) -> None:
    """A folder without permission, or a file deleted after planning, ends in words."""
    source = write_file(tmp_path / "in.safetensors", {"a": bf16(1)})
    plan = plan_conversion(source, tmp_path / "out.safetensors", StorageDType.F16)
    raw = source.read_bytes()
    source.unlink()
    with pytest.raises(InputError):
        convert(plan)
    source.write_bytes(raw)
    with pytest.raises(InputError, match="changed"):
        convert(plan)
    assert not (tmp_path / "out.safetensors").exists()
    assert list(read_file(source)[0]) == ["a"]
