"""Logs to a report: found, read, counted, and answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from dsmops.logs.blocks import gathered
from dsmops.operations.log_report.capacity import NOTHING, Served, with_capacity
from dsmops.operations.log_report.collector import Collector
from dsmops.operations.log_report.log_reader import Learned, LogReader
from dsmops.operations.log_report.result import LogReport
from dsmops.operations.log_report.sources import logs_of
from dsmops.progress import SILENT, Progress
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
    """Read logs and return what they say together. `sources` are those of `logs_of`.

    `options` are for stores. `known` is what else is known: the card, the model.

    Raises:
        SourceError, FileAccessError: one of them is not there, or cannot be read.
        InputError: there is no log in a folder or a store, or compressed data is damaged.
        CredentialsError, RemoteError: a store cannot be read.
    """
    collector, learned = Collector(), Learned()
    names = []
    with logs_of(sources, options=options, on_note=on_note, progress=progress) as logs:
        for name, chunks in logs:
            names.append(name)
            collector.begin_log(name)
            for batch in LogReader(since, until, learned=learned).read(gathered(chunks)):
                collector.take(batch)
    report = replace(collector.report(tuple(names)), since=since, until=until)
    return with_capacity(report, known, collector.engines, is_worker=collector.is_worker)
