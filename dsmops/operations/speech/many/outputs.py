"""Where the results of a run are kept: its own folder, or a bucket.

In a bucket the notes of a run are kept too, so that a run can be continued on another machine.
Leases are locks of files, and stay in the run folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from dsmops.errors import DsmopsError, InputError, TargetBusyError
from dsmops.files import os_errors, replace_atomically, sha256, state_folder
from dsmops.operations.speech.many.run_folder import (
    NOTES,
    RUN_FILE,
    RunFolder,
    without_collector,
)
from dsmops.publish.store import ObjectStore, StoreOptions
from dsmops.publish.stores import open_store

_UPLOADS = 8
"""Results that are sent at a time."""
_PART_BYTES = 64 << 20
"""Smaller results are sent in one request, so that a kill leaves no unfinished upload of them."""
_SEND_NOTES_EVERY_S = 60.0
_MOST_KEY_BYTES = 1024
"""S3's own limit, prefix included."""


class Outputs(Protocol):
    """Where results are kept. Each appears whole or not at all. It closes as a context manager.

    Errors of the disk or the bucket may come from any method.
    """

    def __enter__(self) -> Outputs: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def place(self, name: str) -> Path | None:
        """Return the file that a result will be, None for an object.

        Raises:
            InputError: an object cannot have this name.
        """

    def names(self, folders: Iterable[str]) -> set[str]:
        """Return the names of all results in these folders, and maybe of others."""

    def has(self, name: str) -> bool:
        """Return whether a result is there."""

    def put(self, name: str, content: bytes) -> Future[None]:
        """Keep a result; the future raises why it could not be kept."""

    def file(self, name: str) -> AbstractContextManager[Path]:
        """Give a path to write a result to, which is kept when the block ends well."""


class FolderOutputs:
    """Results in the run folder itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> FolderOutputs:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def place(self, name: str) -> Path:
        return self._folder / name

    def names(self, folders: Iterable[str]) -> set[str]:
        there: set[str] = set()
        with without_collector():
            for folder in folders:
                prefix = folder and f"{folder}/"
                with suppress(OSError):
                    there.update([prefix + file for file in os.listdir(self._folder / folder)])  # noqa: PTH208 fast
        return there

    def has(self, name: str) -> bool:
        return self.place(name).exists()

    def put(self, name: str, content: bytes) -> Future[None]:
        with replace_atomically(self.place(name), durable=False) as file:
            file.write(content)
        kept: Future[None] = Future()
        kept.set_result(None)
        return kept

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        yield self.place(name)


class BucketOutputs:
    """Results at the address `s3://BUCKET/PREFIX`, of the run whose folder is `folder`."""

    def __init__(self, address: str, folder: Path) -> None:
        self._store = _open(address)
        self._folder = folder
        self._threads = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="upload")
        self._sent_bytes: dict[str, int] = {}
        """Of each file of notes, how much of it is in the bucket."""
        self._sending = threading.Lock()
        self._sent_s = time.monotonic()

    def __enter__(self) -> BucketOutputs:
        for one in self._store.list(f"{NOTES}/"):
            self._sent_bytes[one.key] = one.size_bytes
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        try:
            self._send_notes()
        except DsmopsError:
            # The next run of this machine sends them; it knows what they say.
            if exc is None:
                raise

    def place(self, name: str) -> None:
        prefix = self._store.url.removeprefix("s3://").partition("/")[2]
        try:
            if len(f"{prefix}/{name}".encode()) > _MOST_KEY_BYTES:
                why = f"more than {_MOST_KEY_BYTES} bytes"
            elif any(unicodedata.category(char) == "Cc" for char in name):
                why = "a control character"
            else:
                return
        except UnicodeEncodeError:
            why = "not UTF-8"
        raise InputError(
            f"{name!r} cannot be the name of an object: {why}",
            hint="Rename the file, or name its outputs by the id of a manifest.",
            code="run.object_name",
        )

    def names(self, folders: Iterable[str]) -> set[str]:  # noqa: ARG002 one listing has all
        return {one.key for one in self._store.list("")}

    def has(self, name: str) -> bool:
        return any(one.key == name for one in self._store.list(name))

    def put(self, name: str, content: bytes) -> Future[None]:
        if time.monotonic() - self._sent_s > _SEND_NOTES_EVERY_S:
            self._sent_s = time.monotonic()
            self._threads.submit(self._send_notes)
        return self._threads.submit(_put, self._store, name, content)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        with os_errors(tempfile.gettempdir()), tempfile.TemporaryDirectory() as made:
            # What is written depends on its ending.
            path = Path(made, f"result{name[name.rfind('.') :]}")
            yield path
            digest, size_bytes = sha256(path), path.stat().st_size
            self._store.put(path, name, sha256=digest, size_bytes=size_bytes)

    def _send_notes(self) -> None:
        """Send what the bucket does not have of the notes here."""
        with self._sending:
            for path in (self._folder / NOTES).glob("*.jsonl"):
                name = path.relative_to(self._folder).as_posix()
                with os_errors(path):
                    content = path.read_bytes()
                if len(content) > self._sent_bytes.get(name, 0):
                    _put(self._store, name, content)
                    self._sent_bytes[name] = len(content)


def open_run(
    folder: Path, bucket: str | None, settings: Mapping[str, Any], schema: str
) -> RunFolder:
    """Open a run folder; of a run into a bucket, with what the bucket knows of the run.

    Raises:
        InputError: as `RunFolder`, or the bucket holds objects that are not of such a run.
        CredentialsError, RemoteError: the bucket cannot be used.
        DiskFullError, FileAccessError: the folder cannot be written.
    """
    if bucket is None:
        return RunFolder(folder, settings, schema)
    store = _open(bucket)
    _require_folder_of(folder, bucket)
    is_begun = _fetch_notes(store, folder)
    settings = {**settings, "bucket": bucket}
    try:
        run = RunFolder(folder, settings, schema, shown=bucket)
    except InputError as exc:
        if is_begun or exc.code != "run.other_settings":
            raise
        # The run that was begun here has lost its objects: another one may begin.
        _forget(folder)
        run = RunFolder(folder, settings, schema, shown=bucket)
    if not is_begun:
        # Before any result, so that these are never taken for objects of another program.
        _put(store, RUN_FILE.as_posix(), (folder / RUN_FILE).read_bytes())
    return run


def default_run_folder(bucket: str) -> Path:
    """Return the folder for the run into `bucket` on this machine, where none is named."""
    return state_folder() / "runs" / hashlib.sha256(bucket.encode()).hexdigest()[:16]


def open_outputs(folder: Path, bucket: str | None) -> Outputs:
    """Return where the results of a run are kept."""
    return FolderOutputs(folder) if bucket is None else BucketOutputs(bucket, folder)


def _require_folder_of(folder: Path, bucket: str) -> None:
    """Refuse the folder of a run whose results are elsewhere."""
    with os_errors(folder), suppress(FileNotFoundError):
        text = (folder / RUN_FILE).read_bytes()
        try:
            before = json.loads(text)["bucket"]
        except (ValueError, KeyError, TypeError):
            before = "files in it"
        if before != bucket:
            raise InputError(
                f"{folder} is the folder of another run, whose results are {before}",
                hint="Name another --run-dir.",
                code="run.foreign_folder",
            )


def _fetch_notes(store: ObjectStore, folder: Path) -> bool:
    """Bring what a bucket knows of a run into its folder; return whether it knows of one."""
    known = _known(store)
    # Another host may begin the run between two listings.
    if RUN_FILE.as_posix() not in known and next(iter(store.list("")), None) is not None:
        known = _known(store)
        if RUN_FILE.as_posix() not in known:
            raise InputError(
                f"{store.url} holds objects that are not of such a run",
                hint="Name another prefix, under which there is nothing.",
                code="run.foreign_folder",
            )
    if RUN_FILE.as_posix() not in known:
        return False
    begun = bytearray()
    store.get(RUN_FILE.as_posix(), begun.extend, sha256=None)
    with os_errors(folder):
        here = folder / RUN_FILE
        if not here.exists() or here.read_bytes() != begun:
            _forget(folder)
            with replace_atomically(here, durable=False) as file:
                file.write(begun)
        for name, size_bytes in known.items():
            path = folder / name
            # A file of notes only grows. Other names are not of this program.
            is_notes = Path(name).parent == NOTES and name.endswith(".jsonl")
            if not is_notes or (path.exists() and path.stat().st_size >= size_bytes):
                continue
            with suppress(TargetBusyError), replace_atomically(path, durable=False) as file:
                store.get(name, file.write, sha256=None)
    return True


def _known(store: ObjectStore) -> dict[str, int]:
    return {one.key: one.size_bytes for one in store.list(f"{NOTES.parent.as_posix()}/")}


def _forget(folder: Path) -> None:
    """Remove what is known here of a run whose objects were deleted."""
    with os_errors(folder):
        (folder / RUN_FILE).unlink(missing_ok=True)
        for path in (folder / NOTES).glob("*.jsonl"):
            path.unlink(missing_ok=True)


def _open(address: str) -> ObjectStore:
    return open_store(address, StoreOptions(part_bytes=_PART_BYTES, workers=_UPLOADS))


def _put(store: ObjectStore, name: str, content: bytes) -> None:
    store.put(content, name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
