"""Follow a log while it is written.

First comes what is there, then what is added, through rotation by rename, by truncation and by
date.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterator
from io import FileIO
from pathlib import Path
from threading import Event

from dsmops.errors import InputError
from dsmops.files import os_errors
from dsmops.logs.blocks import BLOCK_BYTES
from dsmops.logs.compression import MAGIC_BYTES
from dsmops.logs.sources import STDIN, is_compressed, local_path

POLL_S = 0.25

_DATED = re.compile(r"(?P<prefix>.*)20\d\d-\d\d-\d\d", re.DOTALL | re.ASCII)
"""moshi-server begins a file `log.<instance>.YYYY-MM-DD` on each day, in UTC."""


def can_follow(source: str) -> bool:
    """Return whether a source is a file, which may grow.

    Standard input and pipes end by themselves.
    """
    return source != STDIN and local_path(source).is_file()


def follow(
    path: Path,
    stop: Event,
    *,
    poll_s: float = POLL_S,
    on_next: Callable[[Path], object] = lambda _: None,
) -> Iterator[bytes]:
    r"""Return the bytes of `path` and whatever is added, until `stop` is set.

    An empty chunk means a pause. When another file takes the name, the old one is read to its end
    first. When the file becomes shorter it is read again. When its name ends in a date and the file
    of a later date is there, that one comes next, and `on_next` gets it. A last line that a
    rotation leaves without its end gets one. While no file has the name, one is waited for; only at
    the start must it be there. A file that is truncated and as long as before or longer at the next
    look is taken for one that grew.

    Raises:
        SourceError, InputError, FileAccessError: the path cannot be followed.
    """
    with os_errors(path):
        file = path.open("rb", buffering=0)
    if is_compressed(os.pread(file.fileno(), MAGIC_BYTES, 0)):
        file.close()
        raise InputError(
            f"{path} is compressed, and such a file does not grow",
            hint="Format it without --follow.",
        )
    return _follow(file, path, stop, poll_s, on_next)


def _follow(
    first: FileIO, path: Path, stop: Event, poll_s: float, on_next: Callable[[Path], object]
) -> Iterator[bytes]:
    file: FileIO | None = first
    while file is not None:
        with file:
            successor = yield from _tail(file, path, stop, poll_s)
        if successor is None:
            return
        if successor != path:
            on_next(successor)
        path = successor
        file = _reopen(path, stop, poll_s)


def _tail(
    file: FileIO, path: Path, stop: Event, poll_s: float
) -> Generator[bytes, None, Path | None]:
    """Yield the bytes of an open file as they come, and return the path of its successor.

    Ends once there is a successor and this file is read to its end.
    """
    ended = True
    successor: Path | None = None
    while not stop.is_set():
        with os_errors(path):
            chunk = file.read(BLOCK_BYTES)
        if chunk:
            ended = chunk.endswith(b"\n")
            yield chunk
            continue
        truncated = os.fstat(file.fileno()).st_size < file.tell()
        if (truncated or successor) and not ended:
            ended = True
            yield b"\n"
        if successor:
            return successor
        if truncated:
            file.seek(0)
            continue
        # What was written before the rename, or before midnight, is read in one more round.
        successor = _successor(path, file)
        if successor is None:
            yield b""
            stop.wait(poll_s)
    return None


def _successor(path: Path, file: FileIO) -> Path | None:
    """Return the file in which the log goes on, None while there is none.

    It is another file that has the name now, or the file of the next date.
    """
    try:
        if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return path
    except OSError:  # Between two files there may be none.
        pass
    dated = _DATED.fullmatch(path.name)
    if dated is None:
        return None
    with os_errors(path.parent):
        names = [other.name for other in path.parent.iterdir()]
    later = [
        name
        for name in names
        if name > path.name
        and (other := _DATED.fullmatch(name))
        and other["prefix"] == dated["prefix"]
    ]
    return path.with_name(min(later)) if later else None


def _reopen(path: Path, stop: Event, poll_s: float) -> FileIO | None:
    while not stop.is_set():
        try:
            return path.open("rb", buffering=0)
        except FileNotFoundError:
            stop.wait(poll_s)
    return None
