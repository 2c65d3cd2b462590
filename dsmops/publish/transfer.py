"""Runs many transfers at a time.

One that fails does not stop the rest. A store that is gone is not tried ten thousand times.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from dsmops.errors import DsmopsError, EnvironmentMissingError, TransferError
from dsmops.publish.store import REFUSED

Item = TypeVar("Item")

GIVE_UP_AFTER = 10
"""Transfers in a row that failed after their retries, or that the store refused for good."""


def transfer_each(
    items: Iterable[Item | None], act: Callable[[Item], None], workers: int
) -> Generator[tuple[Item, DsmopsError | None]]:
    """Call `act` on every item from `workers` threads; yield each item with its error or None.

    Items are taken as they are needed, by the caller's thread. A None stands for a look only: after
    each element, outcomes that are there are yielded. After `GIVE_UP_AFTER` errors of the store in
    a row the items left come back as errors, untried. When the caller is interrupted, running
    transfers are waited for and the rest is dropped.

    Raises:
        CredentialsError: the store refused, and would refuse the rest.
    """
    crew = _Crew(act, workers)
    try:
        for item in items:
            if item is not None:
                crew.give(item)
            yield from crew.finished()
        yield from crew.rest()
    finally:
        crew.end()


class _Crew(Generic[Item]):
    """Threads that call `act`. They cost a third of what futures do for each item."""

    def __init__(self, act: Callable[[Item], None], workers: int) -> None:
        self._act, self._workers = act, workers
        self._threads: list[threading.Thread] = []
        # Twice as many as threads: an item waits for each thread, and memory is bounded.
        self._free = threading.Semaphore(2 * workers)
        self._given: SimpleQueue[tuple[Item] | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[Item, BaseException | None]] = SimpleQueue()
        self._open = 0
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._is_over = False

    def give(self, item: Item) -> None:
        """Queue an item, once a place is free."""
        self._free.acquire()
        self._open += 1
        self._given.put((item,))
        if len(self._threads) < self._workers:
            thread = threading.Thread(target=self._work, name=f"transfer-{len(self._threads)}")
            self._threads.append(thread)  # first, since Ctrl-C can be raised in `start`
            thread.start()

    def finished(self) -> Iterator[tuple[Item, DsmopsError | None]]:
        """Yield what is done now."""
        while self._open:
            try:
                yield self._outcome(*self._done.get_nowait())
            except Empty:
                return

    def rest(self) -> Iterator[tuple[Item, DsmopsError | None]]:
        """Yield what is still to be done."""
        while self._open:
            yield self._outcome(*self._done.get())

    def _outcome(self, item: Item, error: BaseException | None) -> tuple[Item, DsmopsError | None]:
        self._open -= 1
        if error is None or (
            isinstance(error, DsmopsError) and not isinstance(error, EnvironmentMissingError)
        ):
            return item, error
        raise error

    def end(self) -> None:
        """Try no further item, and wait for the threads."""
        self._is_over = True
        self._given.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _work(self) -> None:
        while (given := self._given.get()) is not None:
            (item,) = given
            self._done.put((item, self._try(item)))
            self._free.release()
        self._given.put(None)  # One ends all, however many have started.

    def _try(self, item: Item) -> BaseException | None:
        if self._is_over:
            return TransferError(
                "not tried: the store failed or refused again and again",
                hint="See the errors before this one.",
            )
        try:
            self._act(item)
        except BaseException as exc:  # noqa: BLE001 raised again by the caller's thread
            error: BaseException | None = exc
        else:
            error = None
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if _is_of_the_store(error) else 0
            if self._in_a_row >= GIVE_UP_AFTER or isinstance(error, EnvironmentMissingError):
                self._is_over = True
        return error


def _is_of_the_store(error: BaseException | None) -> bool:
    return isinstance(error, TransferError) or (
        isinstance(error, DsmopsError) and error.code == REFUSED
    )
