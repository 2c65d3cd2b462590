"""Writes files whole or not at all, one writer at a time, and reads regular files only.

A file is written as a locked sibling `.<name>.dsmops-partial` and renamed over the target. The lock
ends with its process. So the leftover of a killed run can be told from a file that a live run is
writing, and is reused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from dsmops.errors import (
    DiskFullError,
    DsmopsError,
    FileAccessError,
    InputError,
    SourceError,
    TargetBusyError,
)
from dsmops.progress import SILENT, Progress
from dsmops.units import size

BLOCK_BYTES = 1 << 20

_DIGESTS = "digests.json"
_MAX_DIGESTS = 1000

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY}
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR}
# A failing disk, a lost mount, a damaged file system; not every system has all of these.
_BROKEN = {
    getattr(errno, name)
    for name in ("EIO", "ENODEV", "ESTALE", "EREMOTEIO", "EUCLEAN")
    if hasattr(errno, name)
}
# Paths that cannot work: what is wrong, what to do, and the code of the error.
_UNUSABLE = {
    errno.EISDIR: ("is a folder, and a file was expected", "Name a file.", "file.is_folder"),
    errno.EEXIST: (
        "already exists, or a part of it is a file where a folder is needed",
        "Name another path.",
        "file.exists",
    ),
    errno.ENAMETOOLONG: (
        "is longer than the file system allows for a name",
        "Use a shorter name.",
        "file.name",
    ),
    errno.EBUSY: (
        "is a mount point or in use, so it cannot be replaced as a whole",
        "Mount its folder instead of the single file, or write to another path.",
        "file.mount_point",
    ),
    errno.ELOOP: (
        "leads through too many symbolic links",
        "Look at the links with `ls -l`.",
        "file.name",
    ),
    errno.EILSEQ: (
        "has characters that the file system does not allow",
        "Use another name.",
        "file.name",
    ),
}


def translate(exc: OSError, path: Path | str) -> DsmopsError:
    """Return our error for an `OSError` at `path`. Raise it `from` the original."""
    reason = exc.strerror or str(exc)
    if exc.errno in _NO_ROOM:
        free = free_bytes(Path(path).parent)
        return DiskFullError(f"no room left while writing {path}: {reason}", free_bytes=free)
    if exc.errno in _REFUSED:
        return FileAccessError(
            f"{path}: {reason}", hint="Check the permissions of the file and of its folder."
        )
    if exc.errno in _NOT_THERE:
        return SourceError(f"{path}: {reason}", hint="Check the path.", code="file.missing")
    if exc.errno in _UNUSABLE:
        what, hint, code = _UNUSABLE[exc.errno]
        return InputError(f"{path} {what}", hint=hint, code=code)
    if exc.errno in _BROKEN:
        return FileAccessError(
            f"{path}: {reason}", hint="The disk or the file system failed; look at `dmesg`."
        )
    return FileAccessError(
        f"{path}: {reason}",
        hint="The operating system reports this. Try another path or disk.",
    )


@contextmanager
def os_errors(path: Path | str) -> Iterator[None]:
    """Turn every `OSError` of the block into the error that `translate` gives for `path`."""
    try:
        yield
    except OSError as exc:
        raise translate(exc, path) from exc


def require_file(path: Path, what: str) -> None:
    """Check that `path` is not a pipe or a device, which could block or never end when read.

    Folders pass: opening one fails with an error of its own.

    Raises:
        InputError: it is a pipe, a socket or a device; `what` says what was expected.
        SourceError, FileAccessError: it does not exist, or cannot be looked at.
    """
    with os_errors(path):
        mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise _not_regular(path, what)


def open_regular(path: Path | str, what: str = "file") -> BinaryIO:
    """Open a regular file for reading, unbuffered, without ever waiting for a pipe's other end.

    Raises:
        InputError: it is a pipe, a socket or a device; `what` says what was expected.
        OSError: it does not exist, or cannot be opened; callers wrap this in `os_errors`.
    """
    # Opening a device can act on it (a tape rewinds), so look first. The path may change between
    # the two calls, so O_NONBLOCK and a second look follow.
    mode = os.stat(path).st_mode  # noqa: PTH116 `path` may be a string
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise _not_regular(path, what)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        raise _not_regular(path, what)
    return cast(BinaryIO, os.fdopen(fd, "rb", buffering=0))


def is_same_file(first: Path, second: Path) -> bool:
    """Return whether two names lead to one file.

    False for a name that leads nowhere, or that no file can have.
    """
    try:
        return first.samefile(second)
    except (OSError, ValueError):
        return False


def require_other_than(target: Path | None, sources: Iterable[Path], what: str) -> None:
    """Check that `target`, which will be written, is not one of `sources`, which are read.

    Raises:
        InputError: it is one, and would be lost; `what` says what it is.
    """
    if target is not None and any(is_same_file(target, source) for source in sources):
        raise InputError(
            f"{target} is {what}", hint="Write to another file.", code="target.is_source"
        )


def _not_regular(path: Path | str, what: str) -> InputError:
    return InputError(
        f"{path} is a pipe or a device, and a file was expected",
        hint=f"Save the {what} in a file and name that file.",
        code="file.not_regular",
    )


class PartialFile:
    """A file being written. It becomes the target when its `replace_atomically` block succeeds.

    `fd` is open for reading and writing, at offset 0, empty. The caller must not close it.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`."""
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(self.fd, view) :]


def partial_path(path: Path) -> Path:
    """Return where `replace_atomically` writes what will become `path`."""
    return path.parent / f".{path.name}.dsmops-partial"


@contextmanager
def replace_atomically(
    path: Path, *, durable: bool = True, private: bool = False, resume: bool = False
) -> Iterator[PartialFile]:
    """Write `path` whole or not at all: it is absent, the old file or the complete new one.

    Missing parent folders are made. An existing target keeps its permission bits, and its owner
    where the system allows. A new one gets 0666 less the umask. With `private` the file is created
    exclusively, with 0600, so that no other process has it open; a leftover is not reused.

    Where `path` is a symbolic link the link is replaced, never the file it points to. A device, a
    pipe, a socket or a mount point is refused, under any name. So is every name in
    `/dev`, where even a link to a file (`/dev/stdout`, redirected) is not ours to replace.
    `durable` waits until data and name are on the disk.

    With `resume` a block that fails keeps what it has written, unless the disk is full, and the
    next one finds it: `fd` then stands at offset 0 of a file that is not empty.

    Raises:
        TargetBusyError: another live process is writing the same target.
        DiskFullError: the disk, the quota or the file size limit is full; nothing of the new file
            is left.
        FileAccessError, InputError: the target or its folder cannot be written, or another user's
            file is where the partial file would be.
    """
    partial = partial_path(path)
    with os_errors(path):
        before = _status(path)
        if before is not None and stat.S_ISDIR(before.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if (before is not None and not stat.S_ISREG(before.st_mode)) or os.path.realpath(
            path.parent
        ) == "/dev":
            raise InputError(
                f"{path} is not a regular file", hint="Name a file.", code="file.not_regular"
            )
        if before is not None and _is_mount_point(path):
            # The rename would fail with this too, but only after all the work.
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = _open_locked(partial, path, private=private)
        try:
            try:
                # Only where there is a leftover: ext4 flushes a truncated file when it is closed
                # (0.7 s for 2 GB).
                if not resume and os.fstat(fd).st_size:
                    os.ftruncate(fd, 0)
                if private or before is not None:
                    # Others must not read now what they may not read later. A leftover must stay
                    # writable for the next run.
                    os.fchmod(fd, 0o600)
                yield PartialFile(fd, partial)
                if before is not None and not private:
                    _take_after(fd, before)
                if durable:
                    os.fsync(fd)
                _require_ours(fd, partial)
                partial.rename(path)
            except BaseException as exc:
                disk_full = isinstance(exc, OSError) and exc.errno in _NO_ROOM
                if not resume or disk_full or not os.fstat(fd).st_size:
                    with suppress(OSError):
                        partial.unlink()
                raise
            if durable:
                _sync_folder(path.parent)
        finally:
            os.close(fd)


def write_text_atomically(path: Path, text: str, *, private: bool = False) -> None:
    """Write `text` as UTF-8, line endings as they are, as `replace_atomically` writes."""
    with replace_atomically(path, private=private) as partial:
        partial.write(text.encode())


def sha256(path: Path, *, progress: Progress = SILENT) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits.

    `progress` counts bytes; the caller starts and finishes it.

    Raises:
        SourceError: the file does not exist.
        InputError: it is a pipe or a device.
        FileAccessError: it cannot be read.
    """
    digest = hashlib.sha256()
    buffer = bytearray(BLOCK_BYTES)
    with os_errors(path), open_regular(path) as file:
        while count := file.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(memoryview(buffer)[:count])
            progress.advance(count)
    return digest.hexdigest()


def remembered_sha256(path: Path) -> str | None:
    """Return the SHA-256 that `remember_sha256` was given for this very file; None if it changed.

    A file is the same when its path, inode, size and modification time are.
    """
    try:
        found = _read_digests().get(os.path.realpath(path))
        if isinstance(found, list) and found[:-1] == _identity(path.stat()):
            return str(found[-1])
    except (OSError, IndexError):
        pass
    return None


def remember_sha256(path: Path, digest: str, status: os.stat_result) -> None:
    """Remember that a file had this SHA-256 when its status was `status`.

    A state folder that cannot be written is not an error: the file is then read again next time.
    """
    try:
        known = _read_digests()
        known.pop(os.path.realpath(path), None)
        known[os.path.realpath(path)] = [*_identity(status), digest]
        newest = dict(list(known.items())[-_MAX_DIGESTS:])
        write_text_atomically(state_folder() / _DIGESTS, json.dumps(newest, indent=0) + "\n")
    except (DsmopsError, OSError):
        pass


def _read_digests() -> dict[str, list[object]]:
    try:
        with open_regular(state_folder() / _DIGESTS) as file:
            found = json.loads(file.read())
    except (DsmopsError, OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _identity(status: os.stat_result) -> list[int]:
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def require_free_space(folder: Path, need_bytes: int) -> None:
    """Check that `need_bytes` fit on the disk that holds `folder`, which need not exist yet.

    Raises:
        DiskFullError: they do not fit; the message has both numbers.
    """
    free = free_bytes(folder)
    if free is not None and free < need_bytes:
        raise DiskFullError(
            f"{folder} has {size(free)} free, but {size(need_bytes)} are needed",
            need_bytes=need_bytes,
            free_bytes=free,
        )


def state_folder() -> Path:
    """Return the folder where dsmops keeps what it learns about this machine.

    It is `$XDG_STATE_HOME/dsmops`, by default `~/.local/state/dsmops`. It need not exist yet.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "dsmops"


def _status(path: Path) -> os.stat_result | None:
    """Return the status of what `path` leads to, or None where it leads nowhere."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        # A circle of links can be replaced like a link that leads nowhere.
        if exc.errno == errno.ELOOP and path.is_symlink():
            return None
        raise


def _take_after(fd: int, before: os.stat_result) -> None:
    """Give a file the permission bits of the one it replaces and, if this user may, its owner."""
    os.fchmod(fd, stat.S_IMODE(before.st_mode))
    with suppress(PermissionError):
        os.fchown(fd, before.st_uid, before.st_gid)


def free_bytes(folder: Path) -> int | None:
    """Return the free bytes of the disk that holds `folder` or would hold it; None if unknown."""
    for candidate in (folder, *folder.absolute().parents):
        try:
            return shutil.disk_usage(candidate).free
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
    return None


def _is_mount_point(path: Path) -> bool:
    """Tell whether something is mounted at `path`, such as a single file into a container."""
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return path.is_mount()  # sees only mounts of another device
    # The fifth field is the mount point, with space, tab, newline and backslash as octal escapes.
    wanted = os.fsencode(os.path.join(os.path.realpath(path.parent), path.name))  # noqa: PTH118
    for raw in b"\\ \t\n":
        wanted = wanted.replace(bytes([raw]), b"\\%03o" % raw)
    return any(line.split(b" ", 5)[4:5] == [wanted] for line in mounts.splitlines())


def _open_locked(partial: Path, target: Path, *, private: bool) -> int:
    """Open and lock the partial file. The leftover of a dead process is taken over.

    With `private` the file is always a new one: a leftover may be open elsewhere.
    """
    while True:
        fd, is_new = _open_partial(partial, 0o600 if private else 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _require_leftover(fd, partial)
            # The owner before us may have renamed or removed the file between our open and our
            # lock.
            if os.fstat(fd).st_ino == partial.lstat().st_ino:
                if is_new or not private:
                    return fd
                partial.unlink()
        except BlockingIOError as exc:
            os.close(fd)
            raise TargetBusyError(
                f"another process is writing {target} now",
                hint="Wait for it, or name another target.",
            ) from exc
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _open_partial(partial: Path, mode: int) -> tuple[int, bool]:
    """Return the partial file opened for writing, and whether it was created by this call."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        with suppress(FileExistsError):
            return os.open(partial, flags | os.O_CREAT | os.O_EXCL, mode), True
        with suppress(FileNotFoundError):  # its owner has just finished
            _require_own(partial.lstat(), partial)
            # O_NONBLOCK: it may be a pipe.
            return os.open(partial, flags | os.O_NONBLOCK), False


def _require_leftover(fd: int, partial: Path) -> None:
    status = os.fstat(fd)
    _require_own(status, partial)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise InputError(
            f"{partial} is in the way: a pipe, or a second name of another file",
            hint="Move it elsewhere.",
        )


def _require_own(status: os.stat_result, partial: Path) -> None:
    # Its owner could read what we write to it, and change it.
    if status.st_uid != os.geteuid():
        raise InputError(
            f"{partial} is in the way: it belongs to another user",
            hint="Ask that user to remove it, or write to another folder.",
            code="file.foreign_partial",
        )


def _require_ours(fd: int, partial: Path) -> None:
    """Check that the name still leads to the file that was written: folders may be open to all."""
    ours, named = os.fstat(fd), partial.lstat()
    if (ours.st_dev, ours.st_ino) != (named.st_dev, named.st_ino):
        raise FileAccessError(
            f"{partial} was replaced by another process while it was written",
            hint="Write to a folder that only you can change.",
        )


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
