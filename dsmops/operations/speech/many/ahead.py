"""Open and decode ahead of the engine, in a few threads, so that a step never waits for a disk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_Opened = TypeVar("_Opened")

WORKING_THREADS = max(2, os.cpu_count() or 1)
"""Threads that decode beside the engine."""
OPEN_AHEAD = 2
"""Things that are opened before a slot is free for them."""

PIECE_FRAMES = 125
"""Frames of a recording, 10 s, that are decoded at once. One piece waits while one is used."""


@contextmanager
def decoding_threads(count: int) -> Iterator[Executor]:
    """Give threads that decode; at the end they finish the piece in hand, and no other.

    libsndfile, soxr and ffmpeg free the interpreter lock while they work.
    """
    threads = ThreadPoolExecutor(count, thread_name_prefix="decode")
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


class Ahead(Generic[_Item]):
    """An iterator whose next piece is already being decoded, from now on."""

    def __init__(self, threads: Executor, items: Iterator[_Item]) -> None:
        self._threads = threads
        self._items = items
        self._next: Future[list[_Item]] = threads.submit(self._piece)

    def _piece(self) -> list[_Item]:
        return list(islice(self._items, PIECE_FRAMES))

    def __iter__(self) -> Iterator[_Item]:
        while piece := self._next.result():
            self._next = self._threads.submit(self._piece)
            yield from piece


def opened_ahead(items: Iterable[_Item], open_one: Callable[[_Item], _Opened]) -> Iterator[_Opened]:
    """Yield every item opened, `OPEN_AHEAD` of them ahead of time."""
    opened: deque[_Opened] = deque()
    for item in items:
        opened.append(open_one(item))
        if len(opened) > OPEN_AHEAD:
            yield opened.popleft()
    yield from opened
