"""Searches new files in processes of their own, so that found files are sent meanwhile."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count

from dsmops.logs.sections import Child, forked, processors, signals_held
from dsmops.publish.plan import Findings
from dsmops.publish.source import Snapshot

Note = Callable[[str], object]
Search = Callable[[Sequence[Snapshot], Note], Findings]

_ENDING_S = 0.1
_LOOK_S = 1.0


class Searchers:
    """Processes that search batches of files. What they find comes in the order of the batches.

    A process waits while its pipe is full, so memory is bounded. There are no processes for a
    single batch, beside other threads, or where the system gives none: then this process searches,
    and it searches what a process that died has not.
    """

    def __init__(self, batches: Sequence[Sequence[Snapshot]], search: Search, note: Note) -> None:
        self._batches, self._search, self._note = batches, search, note
        self._children: list[Child] = []

    def __enter__(self) -> Searchers:
        if len(self._batches) > 1 and _is_alone():
            processes = min(processors(), len(self._batches))
            try:
                with signals_held(), suppress(OSError):
                    for number in range(processes):
                        self._children.append(self._start(number, processes))
            except BaseException:
                self.end()
                raise
            if len(self._children) < processes:
                self.end()
        return self

    def _start(self, number: int, processes: int) -> Child:
        batches, parent = self._batches[number::processes], os.getpid()
        return forked(lambda results: _work(batches, self._search, results, parent), self._children)

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Leave no process behind."""
        for child in self._children:
            child.end()
        self._children.clear()

    def found(self) -> Iterator[tuple[Sequence[Snapshot], Findings]]:
        """Yield each batch with what is in it."""
        dead: set[int] = set()
        for number, batch in enumerate(self._batches):
            place = number % len(self._children) if self._children else 0
            findings = None
            if self._children and place not in dead:
                findings = self._received(self._children[place])
                if findings is None:
                    dead.add(place)
            yield batch, findings or self._search(batch, self._note)

    def _received(self, child: Child) -> Findings | None:
        """Return what a process found in its next batch, or None where it has died."""
        try:
            while not isinstance(item := pickle.load(child.results), Findings):  # noqa: S301 of our own child
                self._note(item)
        except (EOFError, pickle.UnpicklingError):
            return None
        return item


def _is_alone() -> bool:
    """Tell whether no other thread runs: to fork beside one could lock a child forever.

    A timer that was cancelled needs a moment to end.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(_ENDING_S)
    return threading.active_count() == 1


def _work(batches: Sequence[Sequence[Snapshot]], search: Search, results: int, parent: int) -> None:
    """Search batches in the child, and write notes and findings."""

    def watch() -> None:
        for _ in count():
            if os.getppid() != parent:  # It was killed, and will not read the results.
                os._exit(0)
            time.sleep(_LOOK_S)

    threading.Thread(target=watch, daemon=True).start()
    with os.fdopen(results, "wb") as file:

        def write(item: str | Findings) -> None:
            file.write(pickle.dumps(item, pickle.HIGHEST_PROTOCOL))
            file.flush()

        for batch in batches:
            write(search(batch, write))
