"""Logs in a store: those that `publish-logs` put there, or plain objects."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from dsmops.errors import InputError
from dsmops.files import os_errors
from dsmops.logs import decompressed
from dsmops.operations.log_report.sources import Log
from dsmops.progress import Progress
from dsmops.publish.manifest import read_catalogue
from dsmops.publish.names import is_log
from dsmops.publish.pull import published_logs
from dsmops.publish.store import ObjectStore, StoreOptions
from dsmops.publish.stores import open_store


def stored_logs(url: str, options: StoreOptions | None) -> list[Log]:
    """Return the published logs of a store; where there are none, the objects named like logs.

    Raises:
        InputError: there is neither.
        CredentialsError, RemoteError: the store cannot be read.
    """
    store = open_store(url, options)
    logs = [
        _log(store, log.entry.key, log.entry.sha256, log.entry.size_bytes)
        for log in published_logs(read_catalogue(store))
    ] or [
        _log(store, item.key, None, item.size_bytes)
        for item in store.list("")
        if is_log(item.key.rpartition("/")[2])
    ]
    if not logs:
        raise InputError(
            f"{store.url} holds no log",
            hint="Compare the prefix with `dsmops pull-logs --bucket BUCKET --prefix PREFIX "
            "--list`. Objects that are not published must be called log.NAME.DATE or NAME.log.",
            code="log.none",
        )
    return logs


def _log(store: ObjectStore, key: str, sha256: str | None, size_bytes: int) -> Log:
    @contextmanager
    def opened(progress: Progress, on_note: Callable[[str], object]) -> Iterator[Iterator[bytes]]:
        # A report on bytes that are not those published would be worth nothing, so an object is
        # read once its digest is right.
        with tempfile.TemporaryFile() as file:
            with os_errors(Path(tempfile.gettempdir())):
                store.get(key, file.write, sha256=sha256, progress=progress)
                file.seek(0)
            yield decompressed(cast(BinaryIO, file), f"{store.url}/{key}", on_note=on_note)

    return Log(key.rpartition("/")[2], size_bytes, None, opened)
