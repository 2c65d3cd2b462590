"""What wakes a thread that waits for work, also from another process.

On Linux it is an eventfd, elsewhere a pipe. A bell that rang before anyone waits is not forgotten.
Made before a fork, it is shared by both processes.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys


class Bell:
    """Any thread or process may `ring`; one `wait`s, or reads `fileno` in its event loop."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            self._read_fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read_fd, self._write_fd = os.pipe()
            os.set_blocking(self._read_fd, False)
            os.set_blocking(self._write_fd, False)

    def ring(self) -> None:
        """Wake who waits, or who waits next."""
        # A full pipe or counter wakes the other side anyway.
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_fd, _ONE)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Sleep until the bell rings, and return whether it did within the time."""
        ready, _, _ = select.select([self._read_fd], [], [], timeout_s)
        if ready:
            self.clear()
        return bool(ready)

    def clear(self) -> None:
        """Forget that it rang."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_fd, _MOST_READ_BYTES)

    def fileno(self) -> int:
        """Return the descriptor that is readable once the bell rang."""
        return self._read_fd

    def __del__(self) -> None:
        # Not earlier: every holder may ring it, and the number may belong to another file by
        # then.
        for fd in {self._read_fd, self._write_fd}:
            with contextlib.suppress(OSError):
                os.close(fd)


_ONE = (1).to_bytes(8, sys.byteorder)
_MOST_READ_BYTES = 1 << 16
