"""SHA-256 of source files, computed while their data are worked on."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType

from dsmops.checkpoint.shards import Shard, compute_sha256
from dsmops.progress import SilentProgress


class SourceDigests:
    """SHA-256 of the source files, computed by a thread of its own; a context.

    A digest that was computed from the same file before is taken.
    """

    def __init__(self, shards: Iterable[Shard], *, wanted: bool) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._stop = _Stop()
        self._digests: list[str | Future[str] | None] = [
            (
                shard.known_sha256 or self._pool.submit(compute_sha256, shard, progress=self._stop)
                if wanted
                else None
            )
            for shard in shards
        ]

    def __enter__(self) -> SourceDigests:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def results(self) -> list[str | None]:
        """Return one digest per shard, when all are there; None where none was wanted."""
        return [
            digest.result() if isinstance(digest, Future) else digest for digest in self._digests
        ]


class _Stop(SilentProgress):
    """A progress that can end the work that it observes.

    Once it is set, the work ends at its next block by an exception, which is discarded.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """End the work at its next block."""
        self._event.set()

    def advance(self, amount: int) -> None:  # noqa: ARG002
        if self._event.is_set():
            raise CancelledError
