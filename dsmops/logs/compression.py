"""gzip and zstd content in constant memory, and the text that stands in their headers.

A frame of a few kilobytes can hold gigabytes. So gzip is asked for a bounded piece at a time, and
zstd is fed one block at a time, which gives 128 KiB at most.

Sources: RFC 1952 (gzip), RFC 8878 3.1 (zstd frames, blocks, skippable frames).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator

import zstandard

from dsmops.errors import InputError

MAGIC_BYTES = 4
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = tuple(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60))

_PIECE_BYTES = 1 << 20
_MOST_HEADER_BYTES = 1 << 20
_MOST_WINDOW_BYTES = 1 << 27
"""What `zstd --long` needs; a frame that wants more is refused."""

OnHeader = Callable[[bytes], object]


class RatioGuard:
    """Tells once when a content grows out of proportion, as that of a decompression bomb does."""

    least_bytes = 256 << 20
    most_ratio = 250
    """The logs of a server shrink to a tenth or a thirtieth."""

    def __init__(self, on_ratio: Callable[[int, int], object]) -> None:
        self._on_ratio = on_ratio
        self._read = self._given = 0
        self._told = False

    def read(self, count: int) -> None:
        """Count compressed bytes."""
        self._read += count

    def give(self, data: bytes) -> bytes:
        """Count decompressed bytes, and return them."""
        self._given += len(data)
        too_much = self._given > self.least_bytes and self._given > self.most_ratio * self._read
        if too_much and not self._told:
            self._told = True
            self._on_ratio(self._read, self._given)
        return data


def compression_of(head: bytes) -> str | None:
    """Return `gzip` or `zstd` by the first `MAGIC_BYTES` of a content, or None."""
    if head.startswith(_GZIP):
        return "gzip"
    return "zstd" if head.startswith((_ZSTD, *_SKIPPABLE)) else None


def inflate(
    chunks: Iterable[bytes],
    kind: str,
    name: str,
    *,
    on_header: OnHeader = lambda _: None,
    on_ratio: Callable[[int, int], object] = lambda *_: None,
) -> Iterator[bytes]:
    """Yield the content of all members of compressed chunks.

    `on_header` gets what else a file holds: name, comment and extra field of gzip, and skippable
    frames of zstd. `on_ratio` gets the bytes read and given when they are out of proportion.

    Raises:
        InputError: the data is damaged or ends too early. `name` is for its message.
    """
    guard = RatioGuard(on_ratio)
    source = _Source(chunks, guard)
    try:
        while source.fill(1):
            if kind == "gzip":
                yield from map(guard.give, _gzip_member(source, on_header))
            else:
                yield from map(guard.give, _zstd_frame(source, on_header))
    except _CutOffError:
        raise InputError(
            f"{name}: the {kind} data is cut off",
            hint="Copy the file again; or decompress what is there: `zcat`, `zstdcat`.",
        ) from None
    except (zlib.error, zstandard.ZstdError) as exc:
        raise InputError(
            f"{name}: damaged {kind} data: {exc}",
            hint="Copy the file again from where it was made.",
        ) from exc


class _CutOffError(Exception):
    """The data ends in the middle of a member."""


class _Source:
    """Compressed bytes of which the first can be looked at before they are taken."""

    def __init__(self, chunks: Iterable[bytes], guard: RatioGuard) -> None:
        self._chunks, self._guard = iter(chunks), guard
        self.buffer = b""

    def fill(self, count: int) -> bool:
        """Return whether `count` bytes are there, and read until they are."""
        while len(self.buffer) < count:
            chunk = next(self._chunks, b"")
            if not chunk:
                return False
            self._guard.read(len(chunk))
            self.buffer += chunk
        return True

    def peek(self, count: int, offset: int = 0) -> bytes:
        if not self.fill(offset + count):
            raise _CutOffError
        return self.buffer[offset : offset + count]

    def take(self, count: int) -> bytes:
        found = self.peek(count)
        self.buffer = self.buffer[count:]
        return found


def _gzip_member(source: _Source, on_header: OnHeader) -> Iterator[bytes]:
    if source.peek(2) != _GZIP:
        raise zlib.error("what follows the compressed data is not compressed")
    for field in _gzip_header(source):
        on_header(field)
    inflater = zlib.decompressobj(wbits=31)
    while not inflater.eof:
        if not source.fill(1):
            raise _CutOffError
        data, source.buffer = source.buffer, b""
        while data and not inflater.eof:
            if piece := inflater.decompress(data, _PIECE_BYTES):
                yield piece
            data = inflater.unconsumed_tail
    source.buffer = inflater.unused_data


def _gzip_header(source: _Source) -> Iterator[bytes]:
    """Yield the texts in the header of a member; the inflater checks the header itself."""
    flags, at = source.peek(10)[3], 10
    if flags & 4:
        length = int.from_bytes(source.peek(2, at), "little")
        yield source.peek(length, at + 2)
        at += 2 + length
    for flag in (8, 16):
        if flags & flag:
            end = -1
            while (end := source.buffer.find(b"\0", at)) < 0:
                if len(source.buffer) - at > _MOST_HEADER_BYTES:
                    raise zlib.error("a header field of more than 1 MiB")
                source.peek(len(source.buffer) + 1)
            yield source.buffer[at:end]
            at = end + 1


def _zstd_frame(source: _Source, on_header: OnHeader) -> Iterator[bytes]:
    magic = source.peek(MAGIC_BYTES)
    if magic in _SKIPPABLE:
        left = int.from_bytes(source.take(8)[4:], "little")
        while left:
            # Whole where it is not huge: what is cut in two is not found by a rule.
            piece = source.take(min(left, _MOST_HEADER_BYTES))
            on_header(piece)
            left -= len(piece)
        return
    if magic != _ZSTD:
        raise zstandard.ZstdError("what follows the compressed data is not compressed")
    # Block by block: a block gives 128 KiB at most, however few bytes it has.
    inflater = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES).decompressobj()
    descriptor = source.peek(5)[4]
    single = descriptor >> 5 & 1
    content_size = (single, 2, 4, 8)[descriptor >> 6]
    inflater.decompress(source.take(5 + (not single) + (0, 1, 2, 4)[descriptor & 3] + content_size))
    last = 0
    while not last:
        header = int.from_bytes(source.peek(3), "little")
        last, block_type, size = header & 1, header >> 1 & 3, header >> 3
        if block_type == 3 or size > _MOST_WINDOW_BYTES:
            raise zstandard.ZstdError("a block of an unknown type or size")
        if piece := inflater.decompress(source.take(3 + (1 if block_type == 1 else size))):
            yield piece
    if descriptor & 4 and (piece := inflater.decompress(source.take(4))):
        yield piece
    if not inflater.eof:
        raise _CutOffError
