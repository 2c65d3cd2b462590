"""Write a stream of bytes to a file through a few reused blocks.

A few threads fill the blocks, one hashes them in order, and another writes them.

The blocks bound memory whatever the size of the file and of its tensors. hashlib, numpy and the
write calls release the interpreter lock, so the three kinds of work run side by side.

With `direct` the bytes go to the disk past the page cache. Where they must reach the disk anyway,
this saves a copy of each page and its write-back later. File systems that cannot do it get ordinary
writes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

BLOCK_BYTES = 2 << 20
BLOCKS = 8
FILLERS = min(4, os.cpu_count() or 1)
"""Threads that fill blocks."""
DIRECT_ALIGNMENT = 4096
"""Offset, length and address of a direct write are multiples of this. It covers every disk sector
size in use."""

CACHED_WRITE_BYTES = 256 << 10
"""Largest write into the page cache.

Larger ones get larger pages, which a virtual machine may first have to get from its host. `convert`
of 0.7 GB took 1.1 s of system time with writes of 2 MiB, 0.3 s with 256 KiB, 0.45 s with 64 KiB."""

_O_DIRECT = getattr(os, "O_DIRECT", 0)  # absent on macOS


Filled = TypeVar("Filled")


class BlockWriter:
    """A writer that appends to `fd`, an empty file that is open for writing.

    Use it as a context, and call `finish` before the end. An `OSError` of a write, and what a
    filling function raises, comes out of one of the later calls. Leaving the context stops the
    threads; unless finished, the file is then incomplete.
    """

    def __init__(self, fd: int, *, digest: bool, direct: bool) -> None:
        self._fd = fd
        self._hash = hashlib.sha256() if digest else None
        self._direct = direct and bool(_O_DIRECT)
        self._fillers = ThreadPoolExecutor(FILLERS)
        self._hasher, self._writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        # Anonymous maps, because they begin at a page boundary as direct writes want it.
        self._blocks = [memoryview(mmap.mmap(-1, BLOCK_BYTES)) for _ in range(BLOCKS)]
        self._pending: list[list[Future[None]]] = [[] for _ in range(BLOCKS)]
        self._current = 0
        self._offset = 0
        if self._direct:
            self._direct = _set_direct(fd, True)

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The fillers first: the others wait for what they fill.
        for pool in (self._fillers, self._hasher, self._writer):
            pool.shutdown(wait=True, cancel_futures=True)

    def put(self, count: int, fill: Callable[[memoryview], Filled]) -> Future[Filled]:
        """Append `count` bytes, at most `BLOCK_BYTES`, that `fill` puts into its argument.

        `fill` runs in a thread, beside those of other blocks; its result is that of the future.
        Waits while all blocks are in use. With direct writes, only the last call may give less
        than a whole block.
        """
        _await(self._pending[self._current])
        block = self._blocks[self._current][:count]
        filled = self._fillers.submit(fill, block)
        pending = [self._writer.submit(self._write_filled, filled, block, self._offset)]
        if self._hash:
            pending.append(self._hasher.submit(_hash_filled, self._hash, filled, block))
        self._pending[self._current] = pending
        self._offset += count
        self._current = (self._current + 1) % BLOCKS
        return filled

    def finish(self) -> str | None:
        """Wait until all is written, and return the SHA-256 of all bytes; None without `digest`."""
        for pending in self._pending:
            _await(pending)
        return self._hash.hexdigest() if self._hash else None

    def _write_filled(self, filled: Future[Filled], block: memoryview, offset: int) -> None:
        filled.result()
        self._write_block(block, offset)

    def _write_block(self, block: memoryview, offset: int) -> None:
        while block:
            if self._direct and len(block) % DIRECT_ALIGNMENT:
                # The end of the file, or what a short write left over.
                self._direct = not _set_direct(self._fd, False)
            piece = block if self._direct else block[:CACHED_WRITE_BYTES]
            try:
                count = os.pwrite(self._fd, piece, offset)
            except OSError as exc:
                if exc.errno != errno.EINVAL or not self._direct:
                    raise
                self._direct = not _set_direct(self._fd, False)
                continue
            block = block[count:]
            offset += count


def is_direct(fd: int) -> bool:
    """Return whether writes to `fd` go past the page cache."""
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & _O_DIRECT)


def _set_direct(fd: int, wanted: bool) -> bool:
    """Switch direct writing on or off; return whether the file system did so."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | _O_DIRECT if wanted else flags & ~_O_DIRECT)
    except OSError:
        return False
    return True


def _hash_filled(digest: hashlib._Hash, filled: Future[Filled], block: memoryview) -> None:
    filled.result()
    digest.update(block)


def _await(pending: list[Future[None]]) -> None:
    for future in pending:
        future.result()
    pending.clear()
