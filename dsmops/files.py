"""The only careful file writing: whole or not at all, one writer at a time, room checked before.

A file is written as a locked sibling `.<name>.dsmops-partial` and renamed over the target. The lock
dies with its owner, so a leftover of a killed run is told from a file that a live run is writing,
and is simply reused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY}
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR}
# A failing disk, a lost mount, a damaged file system; not every system has all of these.
_BROKEN = {
    getattr(errno, name)
    for name in ("EIO", "ENODEV", "ESTALE", "EREMOTEIO", "EUCLEAN")
    if hasattr(errno, name)
}
# Paths that cannot work: what is wrong with them, what to do, and the error's code.
_UNUSABLE = {
    errno.EISDIR: ("is a folder, and a file was expected", "Name a file.", "file.is_folder"),
    errno.EEXIST: (
        "is there already, or a part of it is a file where a folder is needed",
        "Name another path.",
        "file.exists",
    ),
    errno.ENAMETOOLONG: (
        "is a longer name than the file system takes",
        "Use a shorter one.",
        "file.name",
    ),
    errno.ELOOP: (
        "leads through too many symbolic links",
        "See where they point with `ls -l`.",
        "file.name",
    ),
    errno.EILSEQ: (
        "has characters that the file system does not take",
        "Use another name.",
        "file.name",
    ),
}


def translate(exc: OSError, path: Path | str) -> DsmopsError:
    """Return the error that tells a user what an `OSError` met at `path` means. Raise it `from` the original."""
    reason = exc.strerror or str(exc)
    if exc.errno in _NO_ROOM:
        free = _free_bytes(Path(path).parent)
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
            f"{path}: {reason}", hint="The disk or the file system reported this; look at `dmesg`."
        )
    return FileAccessError(
        f"{path}: {reason}",
        hint="The operating system says so; see whether another path or disk works.",
    )


@contextmanager
def os_errors(path: Path | str) -> Iterator[None]:
    """Turn every `OSError` of the block into the `DsmopsError` that `translate` gives for `path`."""
    try:
        yield
    except OSError as exc:
        raise translate(exc, path) from exc


def require_file(path: Path, what: str) -> None:
    """Check that `path` is no pipe and no device: opening those may wait, and reading them go on, without end. Folders `open` refuses.

    Raises:
        InputError: it is one; `what` names what should have been there.
        SourceError, FileAccessError: it is not there, or cannot be looked at.
    """
    with os_errors(path):
        mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(
            f"{path} is a pipe or a device, and a file was expected",
            hint=f"Save the {what} in a file, and name that.",
        )


class PartialFile:
    """A file being written; it becomes the target when its `replace_atomically` block ends without an exception.

    `fd` is open for reading and writing, at offset 0, empty. It must not be closed by the caller.
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
    """Write `path` whole or not at all: at any moment it is absent, the old file or the complete new one.

    Missing parent folders are made. An existing target keeps its permission bits, and its owner
    where the system allows; a new one gets 0666 less the umask, or 0600 with `private`. Where
    `path` is a symbolic link the link is replaced, never the file it points to. A device, a pipe or
    a socket is refused, by whatever link it is called, and so is every name in `/dev`, where a link
    is no file of ours even when it leads to one (`/dev/stdout`, redirected). `durable` waits until
    data and name are on the disk.

    With `resume` a block that fails keeps what it has written, unless the disk is full, and the
    next one finds it: `fd` then stands at offset 0 of a file that is not empty.

    Raises:
        TargetBusyError: another live process is writing the same target.
        DiskFullError: the disk, the quota or the file size limit ran out; nothing of the new file is left.
        FileAccessError, InputError: the target or its folder cannot be written.
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
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = _open_locked(partial, path)
        try:
            try:
                # Only where there is a leftover: ext4 flushes a file on close that was cut to
                # nothing before (0.7 s for 2 GB).
                if not resume and os.fstat(fd).st_size:
                    os.ftruncate(fd, 0)
                if private or before is not None:
                    # Nobody may read on the way what will be closed to them; a leftover must stay
                    # writable for the next run.
                    os.fchmod(fd, 0o600)
                yield PartialFile(fd, partial)
                if before is not None and not private:
                    _take_after(fd, before)
                if durable:
                    os.fsync(fd)
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
    """Write `text` as UTF-8, line endings as they are, under the promises of `replace_atomically`."""
    with replace_atomically(path, private=private) as partial:
        partial.write(text.encode())


def sha256(path: Path, *, progress: Progress = SILENT) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits. `progress` counts bytes; the caller starts and finishes it.

    Raises:
        SourceError: the file is not there.
        FileAccessError: it cannot be read.
    """
    digest = hashlib.sha256()
    buffer = bytearray(BLOCK_BYTES)
    with os_errors(path), path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            progress.advance(count)
    return digest.hexdigest()


def require_free_space(folder: Path, need_bytes: int) -> None:
    """Check that `need_bytes` fit on the disk that holds `folder`, which need not exist yet.

    Raises:
        DiskFullError: they do not; the message has both numbers.
    """
    free = _free_bytes(folder)
    if free is not None and free < need_bytes:
        raise DiskFullError(
            f"{folder} has {size(free)} free, and {size(need_bytes)} are needed",
            need_bytes=need_bytes,
            free_bytes=free,
        )


def state_folder() -> Path:
    """Return where dsmops keeps what it learns about this machine: `$XDG_STATE_HOME/dsmops`, by default `~/.local/state/dsmops`.

    The folder need not exist yet.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "dsmops"


def _status(path: Path) -> os.stat_result | None:
    """Return the status of what `path` leads to; None where it leads nowhere."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        # A link that leads round in circles can be replaced like one that leads nowhere.
        if exc.errno == errno.ELOOP and path.is_symlink():
            return None
        raise


def _take_after(fd: int, before: os.stat_result) -> None:
    """Give a file the permission bits of the one it replaces and, if this user may, its owner."""
    os.fchmod(fd, stat.S_IMODE(before.st_mode))
    with suppress(PermissionError):
        os.fchown(fd, before.st_uid, before.st_gid)


def _free_bytes(folder: Path) -> int | None:
    for candidate in (folder, *folder.absolute().parents):
        try:
            return shutil.disk_usage(candidate).free
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
    return None


def _open_locked(partial: Path, target: Path) -> int:
    """Open and lock the partial file, taking over a dead owner's leftover."""
    while True:
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _require_leftover(fd, partial)
            # The owner before us may have renamed or removed the file between our open and our
            # lock.
            if os.fstat(fd).st_ino == partial.lstat().st_ino:
                return fd
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


def _require_leftover(fd: int, partial: Path) -> None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise InputError(
            f"{partial} is in the way: a pipe, or a second name of another file",
            hint="Move it elsewhere.",
        )


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
