"""A log while it is being written: what is there, then what comes, through rotation by rename and by truncation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from threading import Event

from dsmops.errors import InputError
from dsmops.files import os_errors
from dsmops.logs.blocks import BLOCK_BYTES
from dsmops.logs.sources import MAGIC_BYTES, is_compressed

POLL_S = 0.25


def follow(path: Path, stop: Event, *, poll_s: float = POLL_S) -> Iterator[bytes]:
    r"""Return the bytes of `path` from its beginning and whatever is added, until `stop` is set; an empty chunk tells of a pause.

    When another file takes the name, the old one is read to its end first. When the file becomes shorter it is read anew. A last line
    that a rotation leaves without its end gets one. While no file has the name, one is waited for; only at the start must it be there.
    A file that is truncated and grows beyond its old length between two looks is not noticed.

    Raises:
        SourceError, InputError, FileAccessError: the path cannot be followed.
    """
    with os_errors(path):
        file = path.open("rb", buffering=0)
    if is_compressed(os.pread(file.fileno(), MAGIC_BYTES, 0)):
        file.close()
        raise InputError(f"{path} is compressed, and such a file does not grow", hint="Format it without --follow.")
    return _follow(file, path, stop, poll_s)


def _follow(first: FileIO, path: Path, stop: Event, poll_s: float) -> Iterator[bytes]:
    file: FileIO | None = first
    while file is not None:
        with file:
            yield from _tail(file, path, stop, poll_s)
        file = _reopen(path, stop, poll_s)


def _tail(file: FileIO, path: Path, stop: Event, poll_s: float) -> Iterator[bytes]:
    """Yield what is and comes in an open file, until another file has its name and this one is read to its end."""
    ended = True
    replaced = False
    while not stop.is_set():
        with os_errors(path):
            chunk = file.read(BLOCK_BYTES)
        if chunk:
            ended = chunk.endswith(b"\n")
            yield chunk
            continue
        truncated = os.fstat(file.fileno()).st_size < file.tell()
        if (truncated or replaced) and not ended:
            ended = True
            yield b"\n"
        if replaced:
            return
        if truncated:
            file.seek(0)
            continue
        # What was written before the rename is read in one more round.
        replaced = _has_other_file(path, file)
        if not replaced:
            yield b""
            stop.wait(poll_s)


def _has_other_file(path: Path, file: FileIO) -> bool:
    try:
        return not os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:  # Between two files there may be none.
        return False


def _reopen(path: Path, stop: Event, poll_s: float) -> FileIO | None:
    while not stop.is_set():
        try:
            return path.open("rb", buffering=0)
        except FileNotFoundError:
            stop.wait(poll_s)
    return None
