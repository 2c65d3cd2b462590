"""Where raw logs come from: files and standard input, compressed or not."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from dsmops.errors import InputError, SourceError
from dsmops.files import os_errors
from dsmops.logs.blocks import BLOCK_BYTES
from dsmops.progress import SILENT, Progress

STDIN = "-"

MAGIC_BYTES = 4
_COMPRESSED_CHUNK_BYTES = 64 << 10
_MAGIC: dict[bytes, tuple[str, Callable[[], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda: zlib.decompressobj(wbits=31)),
    b"\x28\xb5\x2f\xfd": ("zstd", lambda: zstandard.ZstdDecompressor().decompressobj()),
    # A frame to skip, with which pzstd begins.
    b"\x50\x2a\x4d\x18": ("zstd", lambda: zstandard.ZstdDecompressor().decompressobj()),
}


def open_source(
    source: str, *, progress: Progress = SILENT
) -> AbstractContextManager[Iterator[bytes]]:
    """Return a context whose value yields the bytes of `source`, decompressed, in chunks of any size.

    `source` is a path, `-` for standard input, or a URL of a scheme in `SOURCES`. `progress` counts
    bytes read.

    Raises (inside the context):
        SourceError: nothing is there, or the scheme is unknown.
        InputError: it is a folder, or compressed data is damaged or cut off.
        FileAccessError: it cannot be read.
    """
    scheme, separator, _ = source.partition("://")
    if source == STDIN:
        return _open_stdin(progress)
    if separator and scheme not in SOURCES:
        known = ", ".join(f"{name}://" for name in SOURCES)
        raise SourceError(
            f"{source}: logs cannot be read from {scheme}://",
            hint=f"Name a file, - for stdin, or a URL with {known}",
        )
    return SOURCES[scheme if separator else "file"](source, progress)


def local_path(source: str) -> Path:
    """Return the path that a source of scheme `file`, or without one, names."""
    return Path(source.removeprefix("file://"))


def is_stream(path: Path) -> bool:
    """Return whether something is there that is neither a file nor a folder: a pipe, a device."""
    return path.exists() and not path.is_file() and not path.is_dir()


def decompressed(stream: BinaryIO, name: str, progress: Progress = SILENT) -> Iterator[bytes]:
    """Yield the content of a binary stream; gzip and zstd are known by their first bytes. `name` is for error messages.

    Raises:
        InputError: compressed data is damaged or ends too early.
        FileAccessError: the stream cannot be read.
    """
    head = b""
    while len(head) < MAGIC_BYTES and (more := _read(stream, MAGIC_BYTES - len(head), name)):
        head += more
    found = next((found for magic, found in _MAGIC.items() if head.startswith(magic)), None)
    chunks = _chunks(
        stream, head, _COMPRESSED_CHUNK_BYTES if found else BLOCK_BYTES, name, progress
    )
    yield from _inflate(chunks, *found, name) if found else chunks


def is_compressed(head: bytes) -> bool:
    """Return whether a file that begins with `head` (`MAGIC_BYTES`) is compressed."""
    return head.startswith(tuple(_MAGIC))


@contextmanager
def _open_file(source: str, progress: Progress) -> Iterator[Iterator[bytes]]:
    path = local_path(source)
    with os_errors(path):
        file = path.open("rb", buffering=0)
    with file:
        progress.start(f"Formatting {path.name}", os.fstat(file.fileno()).st_size or None)
        try:
            yield decompressed(cast(BinaryIO, file), str(path), progress)
        finally:
            progress.finish()


@contextmanager
def _open_stdin(progress: Progress) -> Iterator[Iterator[bytes]]:
    if sys.stdin is None:
        raise SourceError(
            "standard input is closed", hint="Name a file, or pipe a log into the command."
        )
    # The raw stream gives what is there; a buffered one would wait for a full block of a log that
    # is still being written.
    yield decompressed(
        getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), "standard input", progress
    )


SOURCES: dict[str, Callable[[str, Progress], AbstractContextManager[Iterator[bytes]]]] = {
    "file": _open_file
}


def _read(stream: BinaryIO, size: int, name: str) -> bytes:
    with os_errors(name):
        return stream.read(size)


def _chunks(
    stream: BinaryIO, head: bytes, size: int, name: str, progress: Progress
) -> Iterator[bytes]:
    chunk = head
    while chunk:
        progress.advance(len(chunk))
        yield chunk
        chunk = _read(stream, size, name)


def _inflate(
    chunks: Iterable[bytes], kind: str, new: Callable[[], Any], name: str
) -> Iterator[bytes]:
    inflater = new()
    for chunk in chunks:
        rest = chunk
        try:
            while rest:
                if inflater.eof:  # Another member follows, as `cat a.gz b.gz` makes them.
                    inflater = new()
                if data := inflater.decompress(rest):
                    yield data
                rest = inflater.unused_data if inflater.eof else b""
        except (zlib.error, zstandard.ZstdError) as exc:
            raise InputError(
                f"{name}: damaged {kind} data: {exc}",
                hint="Copy the file again from where it was made.",
            ) from exc
    if not inflater.eof:
        raise InputError(
            f"{name}: the {kind} data is cut off",
            hint="Copy the file again; or decompress what is there: `zcat`, `zstdcat`.",
        )
