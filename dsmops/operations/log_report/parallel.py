"""Big plain logs read by several processes, to the batches that one reader would give.

A file is cut where one of its blocks ends and a record follows, see `plan_block_sections`. Each
process reads every Nth section, and this one takes their batches in the order of the log.

One `Collector` follows streams and runs across sections. A reader carries over only containers,
wrappers and times without a zone. Where one of these occurs, one process reads the log.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from queue import Queue
from typing import NamedTuple

from dsmops.errors import DsmopsError
from dsmops.logs.sections import Child, Section, forked, processors, signals_held, sizes_from
from dsmops.logs.wrappers import AUTO, NONE
from dsmops.operations.log_report.events import Batch
from dsmops.operations.log_report.log_reader import Learned, LogReader

_MOST_WAITING = 8
"""How many batches a process may queue."""


class NotInSectionsError(DsmopsError):
    """A log has to be read by one process."""


class _End(NamedTuple):
    """The end of a section, and what it tells of the whole log."""

    knows_containers: bool
    clock_guessed: bool
    has_local_times: bool


class SectionReaders:
    """Processes that read the sections of logs."""

    def __init__(
        self, sections: Sequence[Section], since: datetime | None, until: datetime | None
    ) -> None:
        """`sections` are those of all logs, in their order."""
        self._sections, self._times = sections, (since, until)
        self._processes: list[Child] = []
        """Empty where the system gives no process."""
        self._taken = 0

    def __enter__(self) -> SectionReaders:
        count = min(processors(), len(self._sections)) if self._sections else 0
        try:
            with signals_held():
                for number in range(count):
                    self._start(self._sections[number::count])
        except OSError:  # `batches` says that the logs have to be read by one process.
            self.end()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _start(self, sections: Sequence[Section]) -> None:
        child = forked(lambda results: _work(sections, self._times, results), self._processes)
        self._processes.append(child)

    def batches(self, sections: Sequence[Section]) -> Iterator[Batch]:
        """Yield what the next sections tell, which are those of one log.

        Raises:
            NotInSectionsError: it has to be read by one process. The caller must end the readers.
        """
        if not self._processes:
            raise NotInSectionsError("no process has started")
        has_local_times = False
        for place, _ in enumerate(sections, start=1):
            results = self._processes[self._taken % len(self._processes)].results
            self._taken += 1
            try:
                while isinstance(item := pickle.load(results), Batch):  # noqa: S301 of our own child
                    yield item
            except (EOFError, pickle.UnpicklingError) as exc:
                raise NotInSectionsError("a process has failed") from exc
            goes_on = item.knows_containers and place < len(sections)
            if goes_on or (item.clock_guessed and has_local_times):
                raise NotInSectionsError("lines depend on those of an earlier section")
            has_local_times |= item.has_local_times

    def end(self) -> None:
        """Leave no process behind."""
        for child in self._processes:
            child.end()
        self._processes.clear()


def _work(
    sections: Sequence[Section], times: tuple[datetime | None, datetime | None], results: int
) -> None:
    """Read sections in the child."""
    waiting: Queue[bytes | None] = Queue(_MOST_WAITING)

    def write() -> None:
        # Beside the next block: the reader of the pipe may be busy with another section.
        try:
            with os.fdopen(results, "wb") as file:
                while (data := waiting.get()) is not None:
                    file.write(data)
                    file.flush()
        finally:
            os._exit(0)

    writer = threading.Thread(target=write)
    writer.start()
    learned = Learned()
    for section in sections:
        wrapper = NONE if section.begin else AUTO
        reader = LogReader(*times, learned=learned, wrapper=wrapper)
        for batch in reader.read(section.chunks(sizes=sizes_from(section.begin))):
            waiting.put(pickle.dumps(batch, pickle.HIGHEST_PROTOCOL))
        end = _End(reader.knows_containers, reader.clock_guessed, reader.has_local_times)
        waiting.put(pickle.dumps(end))
    waiting.put(None)
    writer.join()
