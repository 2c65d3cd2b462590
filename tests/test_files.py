"""Careful file writing: whole or not at all, one writer, clear words for full and forbidden
disks.
"""

import errno
import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsmops.errors import DiskFullError, FileAccessError, InputError, SourceError, TargetBusyError
from dsmops.files import (
    partial_path,
    replace_atomically,
    require_free_space,
    sha256,
    state_folder,
    translate,
    write_text_atomically,
)

HOLD = """
import sys, pathlib, time
from dsmops.files import replace_atomically
with replace_atomically(pathlib.Path(sys.argv[1])) as partial:
    partial.write(b"half of it")
    print("writing", flush=True)
    time.sleep(60)
"""


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_target_appears_whole_with_its_folders(tmp_path: Path) -> None:
    """Nothing is visible under the name until the block ends; then all of it is, and nothing
    else.
    """
    target = tmp_path / "a" / "b" / "file"
    with replace_atomically(target) as partial:
        partial.write(b"one ")
        partial.write(memoryview(b"two"))
        assert not target.exists()
    assert target.read_bytes() == b"one two"
    assert leftovers(target.parent) == ["file"]


def test_a_failure_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    """An exception in the block keeps the old bytes and removes the partial file."""
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(TypeError), replace_atomically(target) as partial:
        partial.write(b"new")
        partial.write("not bytes")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert leftovers(tmp_path) == ["file"]


def test_permissions_of_an_existing_target_are_kept(tmp_path: Path) -> None:
    """A replaced file keeps its mode; a private one gets 0600."""
    target = tmp_path / "file"
    target.write_bytes(b"old")
    target.chmod(0o640)
    write_text_atomically(target, "new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    write_text_atomically(tmp_path / "secret", "key", private=True)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_read_only_target_is_replaced_by_a_read_only_one(tmp_path: Path) -> None:
    """On the way the file is open to its owner alone: a killed run's leftover can be taken over,
    and no process reads ahead.
    """
    target = tmp_path / "file"
    target.write_bytes(b"old")
    target.chmod(0o444)
    with replace_atomically(target) as partial:
        assert stat.S_IMODE(partial.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.stat().st_mode) == 0o444


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda path: os.link(path.with_name("precious"), path)],
    ids=["pipe", "hard link"],
)
def test_what_stands_where_a_leftover_would_is_not_written_to(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """A pipe, or a second name of another file: an error that names it, and both stay."""
    (tmp_path / "precious").write_text("precious")
    make(partial_path(tmp_path / "file"))
    with pytest.raises(InputError, match=r"\.file\.dsmops-partial is in the way"):
        write_text_atomically(tmp_path / "file", "new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert leftovers(tmp_path) == [".file.dsmops-partial", "precious"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_partial_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner could read or change what is written to it, so nothing is."""
    partial = partial_path(tmp_path / "file")
    partial.write_text("theirs")
    partial.chmod(0o666)
    os.chown(partial, 12345, 12345)
    with pytest.raises(InputError, match="belongs to another user"):
        write_text_atomically(tmp_path / "file", "new")
    assert partial.read_text() == "theirs"
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("mode", [0o700, 0o777, 0o1777])
def test_a_private_file_never_reuses_a_leftover(tmp_path: Path, mode: int) -> None:
    """A process that has the leftover open does not see what is written, in any kind of folder."""
    tmp_path.chmod(mode)
    leftover = partial_path(tmp_path / "key")
    leftover.write_text("half of an older run")
    with leftover.open("rb") as spy:
        write_text_atomically(tmp_path / "key", "secret", private=True)
        spy.seek(0)
        assert b"secret" not in spy.read()
    assert (tmp_path / "key").read_text() == "secret"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert leftovers(tmp_path) == ["key"]


def test_a_partial_file_that_was_swapped_never_becomes_the_target(tmp_path: Path) -> None:
    """Another process can rename in a shared folder; its file is not put under our name."""
    with (
        pytest.raises(FileAccessError, match="replaced by another process"),
        replace_atomically(tmp_path / "file") as partial,
    ):
        partial.write(b"ours")
        partial.path.unlink()
        partial.path.write_bytes(b"theirs")
    assert not (tmp_path / "file").exists()


MOUNT = """
import pathlib, subprocess, sys
from dsmops.errors import InputError
from dsmops.files import write_text_atomically
source, target = (pathlib.Path(name) for name in sys.argv[1:])
subprocess.run(["mount", "--bind", source, target], check=True)
try:
    write_text_atomically(target, "new")
except InputError as exc:
    print(exc.code, exc.message)
"""


def test_a_mount_point_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """A single file mounted into a container cannot be renamed over: the error says so at once."""
    for name in ("source", "tar get"):
        (tmp_path / name).write_text("old")
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", MOUNT, tmp_path / "source", tmp_path / "tar get"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("mounting needs user namespaces")
    assert done.stdout.startswith("file.mount_point ")
    assert "mount point" in done.stdout
    assert (tmp_path / "source").read_text() == "old"
    assert leftovers(tmp_path) == ["source", "tar get"]


def test_sha256_of_a_pipe_is_an_error(tmp_path: Path) -> None:
    """Not a wait without end, also for a link to a device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(InputError, match="a pipe or a device"):
            sha256(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_of_an_existing_target_is_kept(tmp_path: Path) -> None:
    """What root replaces stays readable to the service that it belongs to."""
    target = tmp_path / "file"
    target.write_bytes(b"old")
    target.chmod(0o600)
    os.chown(target, 12345, 23456)
    write_text_atomically(target, "new")
    status = target.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 23456, 0o600)


@pytest.mark.parametrize("kind", ["pipe", "link to a device"])
def test_what_is_no_file_is_never_replaced(tmp_path: Path, kind: str) -> None:
    """Not even by root, who could put a file where /dev/null was."""
    target = tmp_path / "target"
    if kind == "pipe":
        os.mkfifo(target)
    else:
        target.symlink_to("/dev/null")
    with pytest.raises(InputError, match="not a regular file"):
        write_text_atomically(target, "new")
    assert target.is_fifo() or target.is_symlink()
    assert leftovers(tmp_path) == ["target"]


def test_nothing_in_dev_is_replaced(tmp_path: Path) -> None:
    """`/dev/stdout` is a regular file to the caller who redirected it; root would put a file where
    every program's link is.
    """
    (tmp_path / "dev").symlink_to("/dev")
    # An unused name, so that a failure of this test harms no link of the machine.
    name = f"dsmops-test-{os.getpid()}"
    for target in (Path("/dev") / name, tmp_path / "dev" / name):
        with pytest.raises(InputError, match="not a regular file"):
            write_text_atomically(target, "new")
    assert not (Path("/dev") / name).exists()


def test_a_link_that_leads_nowhere_is_replaced(tmp_path: Path) -> None:
    """Dangling or round in a circle."""
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("dangling", "circle"):
        write_text_atomically(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new"


def test_a_link_is_replaced_and_what_it_points_to_is_not(tmp_path: Path) -> None:
    """Writing over a symbolic link never writes into the file behind it (a hub cache blob, say)."""
    blob = tmp_path / "blob"
    blob.write_text("precious")
    (tmp_path / "link").symlink_to(blob)
    write_text_atomically(tmp_path / "link", "new")
    assert blob.read_text() == "precious"
    assert (tmp_path / "link").read_text() == "new"


def test_a_second_writer_is_told_and_the_first_one_wins(tmp_path: Path) -> None:
    """While a process writes a target, another gets `TargetBusyError`."""
    target = tmp_path / "file"
    with replace_atomically(target) as partial:
        partial.write(b"first")
        with pytest.raises(TargetBusyError, match="another process"), replace_atomically(target):
            pass
    assert target.read_bytes() == b"first"


def test_a_killed_writer_leaves_the_old_file_and_its_leftover_is_reused(tmp_path: Path) -> None:
    """After `kill -9` the target is the old one; the next writer succeeds and clears what was
    left.
    """
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        with pytest.raises(TargetBusyError), replace_atomically(target):
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert target.read_bytes() == b"old"
    assert len(leftovers(tmp_path)) == 2
    write_text_atomically(target, "new")
    assert target.read_bytes() == b"new"
    assert leftovers(tmp_path) == ["file"]


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    """Running into the limit raises `DiskFullError`, keeps the old file and leaves no litter."""
    target = tmp_path / "file"
    target.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(DiskFullError), replace_atomically(target) as partial:
            partial.write(bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_bytes() == b"old"
    assert leftovers(tmp_path) == ["file"]


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    """Naming a folder as the target is an input error."""
    with pytest.raises(InputError, match="folder"), replace_atomically(tmp_path):
        pass


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EACCES, FileAccessError),
        (errno.EROFS, FileAccessError),
        (errno.ENOENT, SourceError),
        (errno.EIO, FileAccessError),
        (errno.EMFILE, FileAccessError),
        (errno.EISDIR, InputError),
        (errno.EEXIST, InputError),
        (errno.ELOOP, InputError),
        (errno.ENAMETOOLONG, InputError),
        (errno.EILSEQ, InputError),
    ],
)
def test_system_errors_get_a_meaning_and_a_hint(number: int, kind: type) -> None:
    """Each errno maps to the class a user can act on, naming the path."""
    error = translate(OSError(number, os.strerror(number)), "/some/file")
    assert isinstance(error, kind)
    assert "/some/file" in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("number", "hardware"),
    [(errno.EIO, True), (errno.ESTALE, True), (errno.EMFILE, False), (errno.ELOOP, False)],
)
def test_only_a_failing_disk_points_to_the_kernel_log(number: int, hardware: bool) -> None:
    """`dmesg` is the hint for what the hardware does, not for what a user or a limit does."""
    assert (
        "dmesg" in translate(OSError(number, os.strerror(number)), "/some/file").hint
    ) == hardware


def test_paths_that_cannot_work_are_bad_input(tmp_path: Path) -> None:
    """A name that is too long, links in a circle and a file in place of a folder end with exit code
    3, each saying what it is.
    """
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "plain").write_bytes(b"")
    with (
        pytest.raises(InputError, match="longer than the file system"),
        replace_atomically(tmp_path / ("x" * 300)),
    ):
        pass
    with pytest.raises(InputError, match="symbolic links"):
        sha256(tmp_path / "a")
    with (
        pytest.raises(InputError, match="file where a folder is needed"),
        replace_atomically(tmp_path / "plain" / "f"),
    ):
        pass


def test_sha256_is_the_digest_of_the_bytes(tmp_path: Path) -> None:
    """Also beyond one block, and for an empty file."""
    for size in (0, 1, (1 << 20) + 3):
        data = os.urandom(size)
        (tmp_path / "f").write_bytes(data)
        assert sha256(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_free_space_is_asked_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    """A folder to be made later is judged by its parent's disk; both numbers are in the error."""
    require_free_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(DiskFullError, match="iB free, but 1048576 TiB are needed") as caught:
        require_free_space(tmp_path / "not" / "yet", 2**60)
    assert caught.value.need_bytes == 2**60
    assert caught.value.free_bytes is not None


def test_the_state_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`XDG_STATE_HOME` when absolute, `~/.local/state` otherwise."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "dsmops"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_folder() == Path.home() / ".local" / "state" / "dsmops"
