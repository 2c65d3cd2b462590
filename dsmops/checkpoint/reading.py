"""Reading tensor data in pieces, and noticing when the file changes meanwhile."""

from __future__ import annotations

import os
from types import TracebackType

from dsmops.checkpoint.shards import FileStamp, Shard
from dsmops.errors import InputError
from dsmops.files import os_errors


class ShardReader:
    """One shard, open for reading; a context.

    It must be the file that was planned for, and stay so.

    Plain reads rather than a memory map: what is mapped counts as memory of this process, and a map
    of a file that is cut short kills the process instead of raising.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        with os_errors(shard.path):
            self._file = shard.path.open("rb", buffering=0)
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the file's bytes from `offset` on. Safe to call from many threads."""
        view = buffer.cast("B")
        with os_errors(self._shard.path):
            while view:
                count = os.preadv(self._file.fileno(), [view], offset)
                if not count:
                    raise self._changed()
                view = view[count:]
                offset += count

    def confirm_unchanged(self) -> None:
        """Check that the file is the one whose header was read, untouched since.

        Raises:
            InputError: it changed, so what was read of it may be a mixture.
        """
        with os_errors(self._shard.path):
            stamps = {
                FileStamp.of(os.fstat(self._file.fileno())),
                FileStamp.of(self._shard.path.stat()),
            }
        if stamps != {self._shard.stamp}:
            raise self._changed()

    def _changed(self) -> InputError:
        return InputError(
            f"{self._shard.path} changed while it was being read",
            hint="Wait until whatever writes it is done, then run this again.",
            code="source.changed",
        )
