"""Searches new files in processes of their own, so that others are sent meanwhile.

Batches are handed on in their order: a large file holds back those after it.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from dsmops.logs.sections import Child, forked, processors, signals_held
from dsmops.publish.plan import Findings
from dsmops.publish.source import Snapshot

Note = Callable[[str], object]
"""Takes a note for people about a file."""

Search = Callable[[Sequence[Snapshot], Note], Findings]
"""Searches a batch of files."""

_ENDING_S = 0.1
"""How long a thread that was told to end may take."""
_LOOK_S = 1.0
"""How often a process looks whether its parent still runs."""

_log = logging.getLogger(__name__)


class Searchers:
    """Processes that search batches of files. What they find comes in the order of the batches.

    A process waits while its pipe is full, so memory is bounded. There are no processes for a
    single batch or beside other threads: then this process searches. It also searches what a
    process that died has not, and the share of one that the system did not give.
    """

    def __init__(self, batches: Sequence[Sequence[Snapshot]], search: Search, note: Note) -> None:
        self._batches, self._search, self._note = batches, search, note
        self._children: dict[int, Child] = {}
        self._shares = 1

    def __enter__(self) -> Searchers:
        if len(self._batches) > 1 and _is_alone():
            self._shares = min(processors(), len(self._batches))
            try:
                with signals_held():
                    self._start_all()
            except BaseException:
                self.end()
                raise
        return self

    def _start_all(self) -> None:
        try:
            for share in range(self._shares):
                self._children[share] = self._start(share)
        except OSError as exc:
            _log.debug("%d of %d processes: %s", len(self._children), self._shares, exc)

    def _start(self, share: int) -> Child:
        batches, parent = self._batches[share :: self._shares], os.getpid()
        return forked(
            lambda results: _work(batches, self._search, results, parent), self._children.values()
        )

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Leave no process behind."""
        for child in self._children.values():
            child.end()
        self._children.clear()

    def found(self) -> Iterator[tuple[Sequence[Snapshot], Findings]]:
        """Yield each batch with what is in it."""
        for number, batch in enumerate(self._batches):
            findings = self._received(number % self._shares)
            if findings is None:
                findings = self._search(batch, self._note)
            yield batch, findings

    def _received(self, share: int) -> Findings | None:
        """Return what a process found in its next batch, or None where there is none (any more)."""
        if (child := self._children.get(share)) is None:
            return None
        notes: list[str]
        findings: Findings
        try:
            notes, findings = pickle.load(child.results)  # noqa: S301 of our own child
        except (EOFError, pickle.UnpicklingError):
            exit_code = child.end()
            del self._children[share]
            _log.debug("search process %d ended early, exit code %s", child.pid, exit_code)
            return None
        for note in notes:
            self._note(note)
        return findings


def _is_alone() -> bool:
    """Tell whether no other thread runs: to fork beside one could lock a child forever.

    A timer that was cancelled needs a moment to end.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(_ENDING_S)
            if thread.is_alive():
                return False
    return threading.active_count() == 1


def _work(batches: Sequence[Sequence[Snapshot]], search: Search, results: int, parent: int) -> None:
    """Search batches in the child, and write the notes and findings of each."""

    def watch() -> None:
        while True:
            if os.getppid() != parent:  # It was killed, and will not read the results.
                os._exit(0)
            time.sleep(_LOOK_S)

    threading.Thread(target=watch, daemon=True).start()
    with os.fdopen(results, "wb") as file:
        for batch in batches:
            notes: list[str] = []
            findings = search(batch, notes.append)
            file.write(pickle.dumps((notes, findings), pickle.HIGHEST_PROTOCOL))
            file.flush()
