"""The logs that a report is made of: files, folders, published logs, objects in a bucket."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from dsmops.errors import InputError
from dsmops.files import os_errors
from dsmops.logs import decompressed, logs_in, open_source
from dsmops.progress import SILENT, Progress, SilentProgress
from dsmops.publish.manifest import read_catalogue
from dsmops.publish.names import is_log
from dsmops.publish.pull import published_logs
from dsmops.publish.store import ObjectStore, StoreOptions
from dsmops.publish.stores import open_store

_STORE = re.compile(r"(?:s3://|file:(?!//)).", re.IGNORECASE)
Note = Callable[[str], object]
Logs = Iterator[tuple[str, Iterator[bytes]]]


@contextmanager
def logs_of(
    sources: Sequence[Path | str],
    *,
    options: StoreOptions | None = None,
    on_note: Note = lambda _: None,
    progress: Progress = SILENT,
) -> Iterator[Logs]:
    """Yield the logs of all sources, each with its name and its decompressed bytes.

    A source is a file, a folder of logs, `-` for standard input, or a store: `s3://BUCKET/PREFIX`,
    `file:FOLDER`. Of a store, what `publish-logs` put there is read, every byte compared with its
    digest; where nothing was published, the objects with the name of a log.

    Raises:
        SourceError, FileAccessError: one of them is not there, or cannot be read.
        InputError: there is no log in a folder or a store, or compressed data is damaged.
        CredentialsError, RemoteError: a store cannot be read.
    """
    files: list[tuple[str, ObjectStore | None, str | None, int | None]] = []
    for source in map(str, sources):
        if _STORE.match(source):
            files += _stored(open_store(source, options))
        else:
            files += _local(Path(source))
    sizes = [size for *_, size in files if size is not None]
    progress.start("Reading logs", sum(sizes) if len(sizes) == len(files) else None)
    try:
        yield _opened(files, on_note, _Advance(progress))
    finally:
        progress.finish()


class _Advance(SilentProgress):
    """Moves a bar that others have begun."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def advance(self, amount: int) -> None:
        self._progress.advance(amount)


_File = tuple[str, "ObjectStore | None", "str | None", "int | None"]
"""Name, store, digest, size in bytes."""


def _local(source: Path) -> list[_File]:
    with os_errors(source):
        paths = logs_in(source) if source.is_dir() else [source]
    if not paths:
        raise InputError(
            f"{source} holds no log",
            hint="Logs are called log.NAME.DATE or NAME.log; name the files otherwise.",
            code="log.none",
        )
    return [
        (str(path), None, None, path.stat().st_size if path.is_file() else None) for path in paths
    ]


def _stored(store: ObjectStore) -> list[_File]:
    published = published_logs(read_catalogue(store))
    files: list[_File] = [
        (log.entry.key, store, log.entry.sha256, log.entry.size_bytes) for log in published
    ]
    if not files:
        files = [
            (item.key, store, None, item.size_bytes)
            for item in store.list("")
            if is_log(item.key.rpartition("/")[2])
        ]
    if not files:
        raise InputError(
            f"{store.url} holds no log",
            hint="Compare the prefix with `dsmops pull-logs --bucket BUCKET --prefix PREFIX "
            "--list`. Objects that are not published must be called log.NAME.DATE or NAME.log.",
            code="log.none",
        )
    return files


def _opened(files: Sequence[_File], on_note: Note, progress: Progress) -> Logs:
    for key, store, sha256, _ in files:
        name = key.rpartition("/")[2]
        if store is None:
            with open_source(key, progress=progress, on_note=on_note) as chunks:
                yield name, chunks
            continue
        # A report on bytes that are not those published would be worth nothing, so an object is
        # read once its digest is right.
        with tempfile.TemporaryFile() as file:
            with os_errors(Path(tempfile.gettempdir())):
                store.get(key, file.write, sha256=sha256, progress=progress)
                file.seek(0)
            yield name, decompressed(cast(BinaryIO, file), f"{store.url}/{key}", on_note=on_note)
