"""Decode ahead of the engine, in a few threads, so that a step never waits for a disk."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Generic, TypeVar

_Item = TypeVar("_Item")

PIECE_FRAMES = 125
"""Frames of a recording, 10 s, that are decoded at once. One piece waits while one is used."""


class DecodingThreads:
    """Threads that take the next items of many iterators.

    libsndfile, soxr and ffmpeg free the interpreter lock while they work.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def __enter__(self) -> DecodingThreads:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def ahead(self, items: Iterator[_Item]) -> Ahead[_Item]:
        """Return the same items; the first of them are being taken from now on."""
        return Ahead(self._pool, items)


class Ahead(Generic[_Item]):
    """An iterator whose next piece is already being decoded."""

    def __init__(self, pool: ThreadPoolExecutor, items: Iterator[_Item]) -> None:
        self._pool = pool
        self._items = items
        self._next: Future[list[_Item]] = pool.submit(self._piece)

    def _piece(self) -> list[_Item]:
        return list(islice(self._items, PIECE_FRAMES))

    def __iter__(self) -> Iterator[_Item]:
        while piece := self._next.result():
            self._next = self._pool.submit(self._piece)
            yield from piece
