"""Streams that cannot seek (pipes, sockets) as files that can, through a temporary file."""

from __future__ import annotations

import io
import tempfile
from typing import BinaryIO

from dsmops.audio.interrupts import wait
from dsmops.audio.segments import UNBOUNDED
from dsmops.files import BLOCK_BYTES, os_errors


class Spool(io.RawIOBase):
    """A stream that cannot seek, read as far as somebody asks.

    Reading waits for bytes that have not come yet. `size` is how many bytes there are, `UNBOUNDED`
    while more may come.
    """

    def __init__(self, stream: BinaryIO) -> None:
        """Raises DiskFullError, FileAccessError where no temporary file can be made."""
        self._stream = stream
        self._at = 0
        self._kept = 0
        self._has_ended = False
        with os_errors(tempfile.gettempdir()):
            self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115 close() closes it
        self.path = self._file.name

    @property
    def size(self) -> int:
        return self._kept if self._has_ended else UNBOUNDED

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move. To seek from the end, all is read first."""
        if whence == io.SEEK_END:
            self.read_all()
            offset += self._kept
        elif whence == io.SEEK_CUR:
            offset += self._at
        self._at = max(0, offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        """Return `size` bytes, fewer only at the end of the stream."""
        self._fill(UNBOUNDED if size < 0 else self._at + size)
        self._file.seek(self._at)
        data = self._file.read(size)
        self._at += len(data)
        return data

    def read1(self, size: int, /) -> bytes:
        """Return up to `size` bytes, as soon as there is one; none at the end of the stream."""
        self._fill(self._at + 1, ahead=size - 1)
        self._file.seek(self._at)
        data = self._file.read(size)
        self._at += len(data)
        return data

    def read_all(self) -> None:
        """Wait for the end of the stream."""
        self._fill(UNBOUNDED)
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        super().close()

    def _fill(self, wanted: int, ahead: int = 0) -> None:
        # read1 returns what a pipe has, however little, so that live audio is not held back.
        read = getattr(self._stream, "read1", self._stream.read)
        while self._kept < wanted and not self._has_ended:
            with wait():
                data = read(min(BLOCK_BYTES, wanted + ahead - self._kept))
            self._has_ended = not data
            with os_errors(tempfile.gettempdir()):
                self._file.seek(self._kept)
                self._file.write(data)
                self._file.flush()
            self._kept += len(data)
