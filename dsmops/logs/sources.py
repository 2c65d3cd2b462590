"""Where raw logs come from: files and standard input, compressed or not."""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from io import FileIO
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO, cast

from dsmops.errors import InputError, SourceError
from dsmops.files import os_errors
from dsmops.logs.blocks import chunk_sizes, gathered
from dsmops.logs.compression import MAGIC_BYTES, OnHeader, compression_of, inflate
from dsmops.progress import SILENT, Progress
from dsmops.units import size as size_text

STDIN = "-"

_COMPRESSED_CHUNK_BYTES = 64 << 10
_HEAD_BYTES = 256 << 10
_FIFO_WAIT_S = 5.0
_FIFO_POLL_S = 0.05
_PIPE_BYTES = 1 << 20
_LONGEST_READ_S, _PAUSE_MS = 0.05, 2
"""How long a read gathers what a pipe gives, and what counts as a pause of its writer."""

Note = Callable[[str], object]


def open_source(
    source: str, *, progress: Progress = SILENT, on_note: Note = lambda _: None
) -> AbstractContextManager[Iterator[bytes]]:
    """Return a context whose value yields the decompressed bytes of `source`.

    The chunks have any size.

    `source` is a path, `-` for standard input, or a URL of a scheme in `SOURCES`. `progress` counts
    bytes read.

    Raises (inside the context):
        SourceError: nothing is there, or the scheme is unknown.
        InputError: it is a folder, or compressed data is damaged or cut off.
        FileAccessError: it cannot be read.
    """
    scheme, separator, _ = source.partition("://")
    if source == STDIN:
        return _open_stdin(progress, on_note)
    if separator and scheme not in SOURCES:
        known = ", ".join(f"{name}://" for name in SOURCES)
        raise SourceError(
            f"{source}: logs cannot be read from {scheme}://",
            hint=f"Name a file, - for stdin, or a URL with {known}",
        )
    return SOURCES[scheme if separator else "file"](source, progress, on_note)


def local_path(source: str) -> Path:
    """Return the path that a source of scheme `file`, or without one, names."""
    return Path(source.removeprefix("file://"))


def head_of(source: str) -> bytes:
    """Return the first whole lines of a plain file, at most 256 KiB."""
    with local_path(source).open("rb", buffering=0) as file:
        head = file.read(_HEAD_BYTES)
    return head[: head.rfind(b"\n") + 1]


def is_stream(path: Path) -> bool:
    """Return whether something is there that is neither a file nor a folder: a pipe, a device."""
    return path.exists() and not path.is_file() and not path.is_dir()


def decompressed(
    stream: BinaryIO,
    name: str,
    progress: Progress = SILENT,
    *,
    on_header: OnHeader = lambda _: None,
    on_note: Note = lambda _: None,
) -> Iterator[bytes]:
    """Yield the content of a binary stream; gzip and zstd are known by their first bytes.

    `name` is for messages. `on_header` gets the texts in headers of compressed files, see
    `inflate`; `on_note` a warning when the content grows out of proportion. Memory is constant.

    Raises:
        InputError: compressed data is damaged or ends too early.
        FileAccessError: the stream cannot be read.
    """
    head = b""
    while len(head) < MAGIC_BYTES and (more := _read(stream, MAGIC_BYTES - len(head), name)):
        head += more
    kind = compression_of(head)
    sizes = repeat(_COMPRESSED_CHUNK_BYTES) if kind else chunk_sizes()
    chunks = _chunks(stream, head, sizes, name, progress)
    if kind is None:
        yield from chunks
        return

    def on_ratio(read: int, given: int) -> None:
        on_note(
            f"{name}: {size_text(read)} of {kind} became {size_text(given)} and more; "
            "is this a log? Ctrl-C ends the run"
        )

    yield from gathered(inflate(chunks, kind, name, on_header=on_header, on_ratio=on_ratio))


def is_compressed(head: bytes) -> bool:
    """Return whether a file that begins with `head` (`MAGIC_BYTES`) is compressed."""
    return compression_of(head) is not None


@contextmanager
def _open_file(source: str, progress: Progress, on_note: Note) -> Iterator[Iterator[bytes]]:
    path = local_path(source)
    with os_errors(path):
        is_fifo = stat.S_ISFIFO(path.stat().st_mode)
        file = _open_fifo(path) if is_fifo else path.open("rb", buffering=0)
    with file:
        progress.start(f"Formatting {path.name}", os.fstat(file.fileno()).st_size or None)
        try:
            yield decompressed(cast(BinaryIO, file), str(path), progress, on_note=on_note)
        finally:
            progress.finish()


@contextmanager
def _open_stdin(progress: Progress, on_note: Note) -> Iterator[Iterator[bytes]]:
    if sys.stdin is None:
        raise SourceError(
            "standard input is closed", hint="Name a file, or pipe a log into the command."
        )
    # The raw stream gives what is there; a buffered one would wait for a full block of a log that
    # is still being written.
    stream = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    if isinstance(stream, FileIO) and stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
        stream = _Pipe(stream.fileno(), closefd=False)
    yield decompressed(stream, "standard input", progress, on_note=on_note)


def _open_fifo(path: Path) -> FileIO:
    """Return a named pipe opened, once a process writes to it.

    Raises:
        InputError: none does within five seconds.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    until = time.monotonic() + _FIFO_WAIT_S
    head = b""
    while time.monotonic() < until and not head:
        try:
            head = os.read(fd, 1)
        except BlockingIOError:  # A writer is there, and has written nothing yet.
            break
        if not head:
            time.sleep(_FIFO_POLL_S)
    else:
        if not head:
            os.close(fd)
            raise InputError(
                f"{path} is a named pipe, and no process writes to it",
                hint="Name a log file, or start the program that writes to the pipe first.",
                code="logs.fifo",
            )
    os.set_blocking(fd, True)
    return _Pipe(fd, head)


class _Pipe(FileIO):
    """An open pipe, of which some bytes may have been read already.

    A pipe gives 64 KiB at most. To format so small a block costs twice as much for each byte as a
    large one, so a read goes on while the writer does, for a moment.
    """

    def __init__(self, fd: int, head: bytes = b"", *, closefd: bool = True) -> None:
        super().__init__(fd, "rb", closefd=closefd)
        self._head = head
        with suppress(AttributeError, OSError):  # Linux only; and there is a limit for each user.
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def read(self, size: int | None = -1, /) -> bytes | Any:
        """Return what is there, and what follows without a pause.

        None where nothing is there yet, and the pipe does not block; `Any` as in `FileIO`.
        """
        size = -1 if size is None else size
        if self._head:
            head, self._head = self._head, b""
            return head
        if (first := super().read(size)) is None:
            return None
        found = [first]
        have, until = len(first), time.monotonic() + _LONGEST_READ_S
        while 0 < have < size and time.monotonic() < until:
            if not _may_read(self, _PAUSE_MS):
                break
            more = super().read(size - have)
            if not more:
                break
            found.append(more)
            have += len(more)
        return b"".join(found)


SOURCES: dict[str, Callable[[str, Progress, Note], AbstractContextManager[Iterator[bytes]]]] = {
    "file": _open_file
}


def _read(stream: BinaryIO, size: int, name: str) -> bytes:
    with os_errors(name):
        # A stream that does not block gives None where nothing is there yet.
        while (found := cast("bytes | None", stream.read(size))) is None:
            _may_read(stream)
        return found


def _may_read(stream: BinaryIO | FileIO, timeout_ms: int | None = None) -> bool:
    """Return whether a stream has something to read, or its end, within a time (None: any)."""
    # Not `select`, which takes no descriptor above 1,023.
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(timeout_ms))


def _chunks(
    stream: BinaryIO, head: bytes, sizes: Iterator[int], name: str, progress: Progress
) -> Iterator[bytes]:
    chunk = head
    while chunk:
        progress.advance(len(chunk))
        yield chunk
        chunk = _read(stream, next(sizes), name)
