"""Finds the files to publish and takes a snapshot of each.

A live log grows while it is read. Its snapshot is a length and a digest. The scan and the upload
read the file again, up to that length, and compare. So what was scanned is what is sent, or the
file waits for the next run.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

from dsmops.errors import DsmopsError, InputError, SourceError
from dsmops.files import BLOCK_BYTES, open_regular, os_errors, translate
from dsmops.progress import SILENT, Progress
from dsmops.publish.names import (
    MAX_NUMBER,
    REPORT_BEGINNINGS,
    REPORT_ENDINGS,
    is_log,
    matches_any,
    require_safe,
)

RAW = "raw"
"""A folder of this name holds logs as the server wrote them, with keys and addresses."""
_HEAD_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be published. `name` is its path below the source, `/`-separated.

    Both are strings: a `Path` each would double the time to list.
    """

    name: str
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of a source to publish, by name, and how many others are skipped, by reason."""

    files: tuple[Candidate, ...]
    skipped: dict[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file's content at one moment."""

    name: str
    path: str
    size_bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be published or fetched, and why."""

    name: str
    error: DsmopsError


def find_logs(
    source: Path, *, include_raw: bool = False, reports: bool = False, also: Sequence[str] = ()
) -> Selection:
    """Return the logs below `source`, by their names.

    Hidden files are skipped, and so are folders named `raw` unless `include_raw` is set. `also` are
    shell patterns of further names; with `reports`, what `log-report` wrote is found by how it
    begins. Symbolic links are not followed: they could lead out of the
    source, or into `raw`.

    Raises:
        SourceError: the folder does not exist.
        InputError: the source is itself a raw folder, or is inside one.
        FileAccessError: the folder cannot be read. A folder below it that cannot is skipped.
    """
    if not source.is_dir():
        kind = "is not a folder" if source.exists() else "does not exist"
        raise SourceError(
            f"{source} {kind}", hint="Name the folder of formatted logs with --source."
        )
    source = source.resolve()
    if not include_raw and RAW in (part.lower() for part in source.parts):
        raise InputError(
            f"{source} is a folder of raw logs, which hold keys, addresses and spoken text",
            hint="Format them first with `dsmops format-log`, or add --include-raw.",
            code="publish.raw",
        )
    files: list[Candidate] = []
    skipped: Counter[str] = Counter()
    for name, entry in _walk(source, "", skipped, include_raw=include_raw):
        if is_log(entry.name) or matches_any(name, also) or (reports and _is_report(entry)):
            try:
                files.append(Candidate(name, entry.path, entry.stat(follow_symlinks=False).st_size))
            except FileNotFoundError:
                # Rotation: its new name is found now or in the next run.
                skipped["gone since it was listed"] += 1
        else:
            skipped["not a log by its name"] += 1
    return Selection(
        tuple(sorted(files, key=lambda file: file.name)), dict(sorted(skipped.items()))
    )


def _is_report(entry: os.DirEntry[str]) -> bool:
    """Return whether a file is a page, a document or a series of `log-report`."""
    if not entry.name.lower().endswith(REPORT_ENDINGS):
        return False
    try:
        with open_regular(entry.path) as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, DsmopsError):
        return False  # It is counted as no log, as without the option.
    return any(beginning.match(head) for beginning in REPORT_BEGINNINGS)


def _walk(
    folder: Path | str, prefix: str, skipped: Counter[str], *, include_raw: bool
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as exc:
        if not prefix:
            raise translate(exc, folder) from exc
        skipped["folder that cannot be read"] += 1  # `lost+found`, or gone since it was listed
        return
    for entry in found:
        if entry.name.startswith("."):
            skipped["hidden"] += 1
        elif entry.name.lower() == RAW and not include_raw:
            skipped["raw"] += 1
        elif entry.is_symlink():
            skipped["symbolic link"] += 1
        elif entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", skipped, include_raw=include_raw)
        elif entry.is_file():
            yield prefix + entry.name, entry
        else:
            skipped["pipe or device"] += 1


def take_snapshots(
    files: Iterable[Candidate], progress: Progress = SILENT
) -> tuple[list[Snapshot], list[Failure]]:
    """Read each file once, up to the length it has when opened, and return its snapshot.

    `progress` counts bytes. A file that cannot be read becomes a `Failure`. So does one that went
    away since it was listed, or that could not be restored.
    """
    snapshots: list[Snapshot] = []
    failures: list[Failure] = []
    for file in files:
        try:
            require_safe(file.name)
            snapshots.append(_snapshot(file))
        except InputError as exc:
            failures.append(Failure(file.name, exc))
        except OSError as exc:
            failures.append(Failure(file.name, translate(exc, file.path)))
        progress.advance(file.size_bytes)
    return snapshots, failures


def _snapshot(file: Candidate) -> Snapshot:
    # Since it was listed the name may have become a link (O_NOFOLLOW), or a pipe, which would wait
    # for a writer (O_NONBLOCK).
    fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        digest = hashlib.sha256()
        left = status.st_size
        while left and (block := os.read(fd, min(left, BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
    finally:
        os.close(fd)
    return Snapshot(
        file.name,
        file.path,
        status.st_size - left,
        min(max(0, status.st_mtime_ns), MAX_NUMBER),
        digest.hexdigest(),
    )


class SnapshotReader(RawIOBase):
    """A snapshot's bytes as a binary stream. `finish` reads the rest and compares the digest.

    `beginnings` maps lengths to digests of earlier contents. After `finish`, `continues` is the
    digest of the longest that this content begins with, or empty.
    """

    def __init__(
        self, snapshot: Snapshot, beginnings: Mapping[int, Iterable[str]] | None = None
    ) -> None:
        super().__init__()
        self._snapshot = snapshot
        self._beginnings = {
            size: set(digests)
            for size, digests in (beginnings or {}).items()
            if size < snapshot.size_bytes
        }
        self._marks = sorted(self._beginnings, reverse=True)
        self._digest = hashlib.sha256()
        self._done = 0
        self.continues = ""
        with os_errors(snapshot.path):
            self._file = open_regular(snapshot.path, "log")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        with os_errors(self._snapshot.path):
            count: int = self._file.readinto(  # type: ignore[attr-defined]
                view[: self._snapshot.size_bytes - self._done]
            )
        self._take(view[:count])
        return count

    def finish(self) -> None:
        """Check the rest of the bytes.

        Raises:
            InputError: they are no longer those of the snapshot.
        """
        while self.read(BLOCK_BYTES):
            pass
        if self._digest.hexdigest() != self._snapshot.sha256:
            raise InputError(
                f"{self._snapshot.path} was rewritten while it was being read",
                hint="Run the command again.",
                code="publish.changed",
            )

    def close(self) -> None:
        self._file.close()
        super().close()

    def _take(self, block: memoryview) -> None:
        while self._marks and self._marks[-1] <= self._done + len(block):
            mark = self._marks.pop()
            self._digest.update(block[: mark - self._done])
            block = block[mark - self._done :]
            self._done = mark
            if (digest := self._digest.hexdigest()) in self._beginnings[mark]:
                self.continues = digest
        self._digest.update(block)
        self._done += len(block)
