"""The logs that a report is made of: files, folders, published logs, objects in a bucket."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dsmops.errors import InputError, SourceError
from dsmops.files import os_errors
from dsmops.logs import logs_in, open_source
from dsmops.logs.sources import local_path
from dsmops.progress import Progress

if TYPE_CHECKING:
    from dsmops.publish.store import StoreOptions

_STORE = re.compile(r"(?:s3://|file:(?!//)).", re.IGNORECASE)
Note = Callable[[str], object]
Open = Callable[[Progress, Note], AbstractContextManager[Iterator[bytes]]]


@dataclass(frozen=True, slots=True)
class Log:
    """A log to read. `open` gives its decompressed bytes, in a context.

    `size_bytes` is None for a stream. `path` is that of a local file, None for an object in a
    store.
    """

    name: str
    size_bytes: int | None
    path: str | None
    open: Open


def find_logs(sources: Sequence[Path | str], options: StoreOptions | None = None) -> list[Log]:
    """Return the logs of all sources.

    A source is a file, a folder of logs, `-` for standard input, or a store: `s3://BUCKET/PREFIX`,
    `file:FOLDER`. Of a store, what `publish-logs` put there is read, every byte compared with its
    digest; where nothing was published, the objects with the name of a log. `options` are for
    stores.

    Raises:
        SourceError, FileAccessError: one of them is not there, or cannot be read.
        InputError: there is no log in a folder or a store.
        CredentialsError, RemoteError: a store cannot be read.
    """
    logs: list[Log] = []
    for source in map(str, sources):
        if _STORE.match(source):
            # Imported only for stores, which need more libraries.
            from dsmops.operations.log_report.stored import stored_logs

            logs += stored_logs(source, options)
        elif "://" in source and not source.startswith("file://"):
            raise SourceError(
                f"{source}: logs cannot be read from there",
                hint="Name a file, a folder, s3://BUCKET/PREFIX, or - for stdin.",
            )
        else:
            logs += _local(local_path(source))
    return logs


def _local(source: Path) -> list[Log]:
    with os_errors(source):
        paths = logs_in(source) if source.is_dir() else [source]
    if not paths:
        raise InputError(
            f"{source} holds no log",
            hint="Logs are called log.NAME.DATE or NAME.log; name the files otherwise.",
            code="log.none",
        )
    return [_file(path) for path in paths]


def _file(path: Path) -> Log:
    def opened(progress: Progress, on_note: Note) -> AbstractContextManager[Iterator[bytes]]:
        return open_source(str(path), progress=progress, on_note=on_note)

    size_bytes = path.stat().st_size if path.is_file() else None
    return Log(path.name, size_bytes, str(path), opened)
