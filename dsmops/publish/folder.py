"""A plain folder as a store: for a shared disk, for tests, and to keep the promises free of S3."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from dsmops.errors import InputError, MissingObjectError, TargetBusyError
from dsmops.files import BLOCK_BYTES, open_regular, os_errors, replace_atomically
from dsmops.progress import SILENT, Progress
from dsmops.publish.store import (
    REPUBLISH,
    Digest,
    Meter,
    StoredObject,
    StoreOptions,
    blocks_of,
    require_unchanged,
)

_PARTIAL = ".dsmops-partial"
_BUSY_ATTEMPTS = 10
_BUSY_FIRST_WAIT_S = 0.02


class FolderStore:
    """See `ObjectStore`. A key is a path below `folder`, which appears with the first object."""

    def __init__(self, folder: Path) -> None:
        self.url = "file://" + str(folder).replace("%", "%25")
        self.meter = Meter()
        self.folder = folder

    def put(
        self,
        source: Path | bytes,
        key: str,
        *,
        sha256: str,
        size_bytes: int,
        progress: Progress = SILENT,
    ) -> None:
        self.meter.count("put")
        for attempt in range(_BUSY_ATTEMPTS):
            try:
                return self._put(source, key, sha256, size_bytes, progress)
            except TargetBusyError:
                # Another publisher is writing the same content. Wait for it: it may yet fail.
                if attempt == _BUSY_ATTEMPTS - 1:
                    raise
                time.sleep(_BUSY_FIRST_WAIT_S * 2**attempt)
        return None

    def _put(
        self, source: Path | bytes, key: str, sha256: str, size_bytes: int, progress: Progress
    ) -> None:
        digest = hashlib.sha256()
        with replace_atomically(self.folder / key) as partial:
            for block in blocks_of(source, size_bytes):
                digest.update(block)
                partial.write(block)
                self.meter.count(sent_bytes=len(block))
                progress.advance(len(block))
            require_unchanged(source, digest.hexdigest(), sha256)

    def get(
        self,
        key: str,
        write: Callable[[bytes], object],
        *,
        sha256: str | None,
        progress: Progress = SILENT,
    ) -> None:
        path = self.folder / key
        digest = Digest(str(path), sha256)
        self.meter.count("get")
        with os_errors(path):
            try:
                file = open_regular(path)
            except (FileNotFoundError, NotADirectoryError) as exc:
                raise MissingObjectError(f"{path} does not exist", hint=REPUBLISH) from exc
        with file:
            while True:
                with os_errors(path):
                    block = file.read(BLOCK_BYTES)
                if not block:
                    break
                self.meter.count(received_bytes=len(block))
                digest.update(block)
                write(block)
                progress.advance(len(block))
        digest.check()

    def list(self, prefix: str) -> Iterator[StoredObject]:
        self.meter.count("list")
        if not self._can_be_a_folder():
            raise InputError(
                f"{self.folder} is not a folder",
                hint="Write a folder after `file:`. It need not exist yet.",
                code="publish.store",
            )
        found = [
            StoredObject(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))
            for path, status in self._files(prefix.rpartition("/")[0])
            if (key := path.relative_to(self.folder).as_posix()).startswith(prefix)
            and not path.name.endswith(_PARTIAL)
        ]
        yield from sorted(found, key=lambda item: item.key)

    def delete(self, key: str) -> None:
        self.meter.count("delete")
        path = self.folder / key
        with os_errors(path):
            path.unlink(missing_ok=True)

    def abort_unfinished(self, started_before: datetime) -> int:
        count = 0
        for path, status in self._files(""):
            if (
                path.name.endswith(_PARTIAL)
                and datetime.fromtimestamp(status.st_mtime, UTC) < started_before
            ):
                with os_errors(path):
                    path.unlink(missing_ok=True)
                count += 1
        return count

    def link(self, key: str, *, valid_s: int) -> str:  # noqa: ARG002
        raise InputError(
            f"--presign: {self.url} is a folder, and only S3 makes links",
            hint="Omit --presign.",
            code="publish.options",
        )

    def options_to_reach(self) -> tuple[str, ...]:
        return ("--bucket", self.url)

    def _can_be_a_folder(self) -> bool:
        try:
            return stat.S_ISDIR(self.folder.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError) as exc:
            return isinstance(exc, FileNotFoundError)

    def _files(self, below: str) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield the regular files below a subfolder. One that goes away meanwhile is omitted."""
        start = self.folder / below
        with os_errors(start):
            for path in start.rglob("*"):
                try:
                    status = path.lstat()
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield path, status


def open_store(url: str, options: StoreOptions) -> FolderStore:
    """Return the store that `file:FOLDER`, `file:///FOLDER` or `file://localhost/FOLDER` names.

    Raises:
        InputError: there is no folder in it, it is on another host, or an option is for S3 only.
    """
    if names := options.given_for_s3():
        raise InputError(
            f"{', '.join(names)}: only S3 has that, and {url} is a folder",
            hint="Omit it.",
            code="publish.options",
        )
    path = url.partition(":")[2]
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        path = unquote(slash + path) if host in ("", "localhost") else ""
    if not path:
        raise InputError(
            f"{url!r} does not name a folder of this machine",
            hint="Write file:FOLDER or file:///FOLDER.",
            code="publish.store",
        )
    return FolderStore(Path(path).expanduser().absolute())
