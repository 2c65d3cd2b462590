"""What in a file is audio: segments, each of which a decoder reads as one file of its own.

A container's own word about its length is often wrong. A recorder that was killed, or that wrote
into a pipe, leaves a placeholder; a file of more than 4 GiB does not fit a 32-bit size; a joined
file has a second header behind the first one's data. Decoders believe the header and drop the rest
without a word. So lengths are compared with the bytes that are there, and the header that a decoder
gets to see is corrected.
"""

from __future__ import annotations

import bisect
import io
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

from dsmops.errors import DsmopsError
from dsmops.files import translate

UNBOUNDED = 1 << 62
"""Length of a stream whose end is not known yet, in bytes."""

Piece = bytes | range
"""Bytes as they are, or the positions of bytes in the file."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One run of audio: what a decoder is to read as a file.

    `promised` and `held` are bytes of samples: what the header says, and what is there. `promised`
    is None where the header says nothing (a placeholder), or where they were not compared.
    """

    pieces: tuple[Piece, ...]
    promised: int | None = None
    held: int = 0
    samples: int | None = None
    """Samples of one channel by the header, where the decoder is not to know them."""


class Content:
    """The bytes of a seekable stream. `size` is `UNBOUNDED` while a live stream runs."""

    def __init__(self, stream: BinaryIO, *, is_live: bool = False) -> None:
        self.stream = stream
        self.is_live = is_live

    @property
    def size(self) -> int:
        if self.is_live:
            return getattr(self.stream, "size", UNBOUNDED)
        return self.stream.seek(0, io.SEEK_END)

    def await_end(self) -> None:
        """Read a live stream to its end. From then on it is a file like others."""
        if self.is_live:
            self.stream.seek(0, io.SEEK_END)
            self.is_live = False

    def at(self, position: int, count: int) -> bytes:
        """Return up to `count` bytes from `position` on."""
        self.stream.seek(position)
        return self.stream.read(count)

    def next_bytes(self, position: int, count: int) -> bytes:
        """Return up to `count` bytes from `position` on; of a live stream what there is, as soon
        as there is something.
        """
        self.stream.seek(position)
        read = getattr(self.stream, "read1", self.stream.read)
        data: bytes = read(count)
        return data

    def find(self, pattern: bytes, start: int, stop: int) -> int:
        """Return where `pattern` first stands between `start` and `stop`, -1 where nowhere."""
        block = 1 << 20
        overlap = len(pattern) - 1
        while start < stop:
            data = self.at(start, min(block + overlap, stop - start))
            found = data.find(pattern)
            if found >= 0:
                return start + found
            if len(data) < block + overlap:
                return -1
            start += block
        return -1


class SegmentReader:
    """The bytes of a segment as a file, for libsndfile.

    An exception cannot pass through libsndfile, so it is kept for `raise_failure`. There is no
    `name`: for one that ends in `.raw` soundfile would take the bytes for headerless samples.
    """

    def __init__(self, content: Content, segment: Segment) -> None:
        self._content = content
        self._pieces = segment.pieces
        self._ends = list(accumulate(len(piece) for piece in segment.pieces))
        self._at = 0
        self._failure: BaseException | None = None
        self._has_ended = False

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int) -> None:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ends[-1]}[whence]
        self._at = max(0, base + offset)

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count and self._at < self._ends[-1]:
            index = bisect.bisect_right(self._ends, self._at)
            piece = self._pieces[index]
            offset = self._at - (self._ends[index] - len(piece))
            wanted = min(count - len(data), len(piece) - offset)
            if isinstance(piece, bytes):
                got = piece[offset : offset + wanted]
            else:
                try:
                    got = self._content.at(piece.start + offset, wanted)
                except BaseException as exc:  # noqa: BLE001 raised again by raise_failure
                    self._failure = exc
                    break
            if not got:
                self._has_ended = True
                break
            data += got
            self._at += len(got)
        return data

    @property
    def is_at_end(self) -> bool:
        """Whether all bytes were read."""
        return self._has_ended or self._at >= self._ends[-1]

    def raise_failure(self, name: str) -> None:
        """Raise what went wrong in `read`, an error of the system in our words."""
        failure, self._failure = self._failure, None
        if isinstance(failure, OSError) and not isinstance(failure, DsmopsError):
            raise translate(failure, name) from failure
        if failure is not None:
            raise failure
