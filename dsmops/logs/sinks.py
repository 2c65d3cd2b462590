"""The targets of friendly logs: a file that appears whole, or an open stream.

A file is compressed if its name says so.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from dsmops.errors import InputError
from dsmops.files import os_errors, replace_atomically
from dsmops.logs.sources import STDIN, is_stream, local_path

STDOUT = "-"

Write = Callable[[bytes], object]

_COMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.compressobj(wbits=31),
    ".zst": lambda: zstandard.ZstdCompressor().compressobj(),
}


def plan_output(source: str, output: str | None, *, following: bool = False) -> Path | None:
    """Return the file to write for a source, or None for standard output.

    Without `output`: a log in a folder named `raw` goes to the folder above it, any other beside
    itself as `friendly-<name>`, both seen from the real place of the file; standard input, pipes,
    devices and what is followed go to standard output.

    Raises:
        InputError: that file is the source.
    """
    if output == STDOUT or (
        output is None and (following or source == STDIN or is_stream(local_path(source)))
    ):
        return None
    if output is not None:
        target = Path(output)
    else:
        real = local_path(source).resolve()
        target = (
            real.parent.parent / real.name
            if real.parent.name == "raw"
            else real.with_name(f"friendly-{real.name}")
        )
    refuse_same_file(source, target)
    return target


def refuse_same_file(source: str, target: Path | int) -> None:
    """Check that a source and a target are not the same regular file.

    The target is a path or an open file descriptor.

    Raises an `InputError`.
    """
    try:
        ours = os.fstat(0) if source == STDIN else local_path(source).stat()
        theirs = os.fstat(target) if isinstance(target, int) else target.stat()
    except OSError:  # One of them is not there yet, so they are not the same.
        return
    if stat.S_ISREG(ours.st_mode) and os.path.samestat(ours, theirs):
        raise InputError(
            "the output would overwrite the input",
            hint="Name another file with -o.",
            code="logs.same_file",
        )


@contextmanager
def open_sink(target: Path, *, streaming: bool = False) -> Iterator[Write]:
    """Return a context whose value writes bytes to `target`.

    The target appears whole when the block ends well, or not at all. Names that end in `.gz` or
    `.zst` are compressed. Devices and pipes are written as they are, and so are files with
    `streaming`, for output that has no end.
    """
    new = _COMPRESSORS.get(target.suffix)
    if streaming or is_stream(target):
        if new and streaming:
            raise InputError(
                f"{target}: output that is followed cannot be compressed",
                hint="Name a file without .gz or .zst.",
            )
        with os_errors(target), target.open("wb", buffering=0) as file:
            yield lambda data: _write_all(file, data)
        return
    with replace_atomically(target, durable=False) as partial:
        if new is None:
            yield partial.write
            return
        compressor = new()
        yield lambda data: partial.write(compressor.compress(data))
        partial.write(compressor.flush())


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
