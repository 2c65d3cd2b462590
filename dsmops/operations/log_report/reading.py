"""Logs to a report: found, read, counted, and answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from dsmops.logs.blocks import gathered
from dsmops.logs.sections import Section, plan_block_sections
from dsmops.operations.log_report.capacity import NOTHING, Served, with_capacity
from dsmops.operations.log_report.collector import Collector
from dsmops.operations.log_report.events import Batch
from dsmops.operations.log_report.log_reader import Learned, LogReader
from dsmops.operations.log_report.parallel import NotInSectionsError, SectionReaders
from dsmops.operations.log_report.result import LogReport
from dsmops.operations.log_report.sources import Log, Note, find_logs
from dsmops.progress import SILENT, Progress, SilentProgress

if TYPE_CHECKING:
    from dsmops.publish.store import StoreOptions


def read_logs(
    sources: Sequence[Path | str],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    options: StoreOptions | None = None,
    known: Served = NOTHING,
    on_note: Callable[[str], object] = lambda _: None,
    progress: Progress = SILENT,
) -> LogReport:
    """Read logs and return what they say together. `sources` are those of `find_logs`.

    `options` are for stores. `known` is what else is known: the card, the model.

    Raises:
        SourceError, FileAccessError: one of them is not there, or cannot be read.
        InputError: there is no log in a folder or a store, or compressed data is damaged.
        CredentialsError, RemoteError: a store cannot be read.
    """
    logs = find_logs(sources, options)
    collector = _collected(logs, since, until, on_note, progress)
    names = tuple(log.name for log in logs)
    report = replace(collector.report(names), since=since, until=until)
    return with_capacity(report, known, collector.engines, is_worker=collector.is_worker)


def _collected(
    logs: Sequence[Log],
    since: datetime | None,
    until: datetime | None,
    on_note: Note,
    progress: Progress,
) -> Collector:
    """Return what all logs tell."""
    collector, learned = Collector(), Learned()
    sections = {log: _sections(log) for log in logs}
    # Before the bar, which has a thread: to fork beside other threads could lock a child.
    with SectionReaders([*chain(*sections.values())], since, until) as readers:
        sizes = [log.size_bytes for log in logs if log.size_bytes is not None]
        progress.start("Reading logs", sum(sizes) if len(sizes) == len(logs) else None)
        try:
            for log in logs:
                collector.begin_log(log.name)
                if sections[log]:
                    before, bar = deepcopy(collector), _Advance(progress)
                    try:
                        _take(collector, readers.batches(sections[log]), bar)
                        continue
                    except NotInSectionsError:
                        readers.end()
                        sections, collector = {log: [] for log in logs}, before
                        progress.advance(-bar.moved_bytes)
                with log.open(_Advance(progress), on_note) as chunks:
                    reader = LogReader(since, until, learned=learned)
                    _take(collector, reader.read(gathered(chunks)))
        finally:
            progress.finish()
    return collector


def _sections(log: Log) -> list[Section]:
    """Return the sections that several processes read, none where one reads the whole log."""
    found = plan_block_sections(log.path) if log.path else []
    return found if len(found) > 1 else []


def _take(collector: Collector, batches: Iterator[Batch], progress: Progress = SILENT) -> None:
    for batch in batches:
        progress.advance(batch.read_bytes)
        collector.take(batch)


class _Advance(SilentProgress):
    """Moves a bar that others have begun, and counts by how much."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.moved_bytes = 0

    def advance(self, amount: int) -> None:
        self.moved_bytes += amount
        self._progress.advance(amount)
