"""Download contents from the hub to the disk.

A download resumes where an earlier run stopped, is retried and verified. A file appears only when
it is complete.

The bytes are written here rather than by `hf_hub_download`, because since huggingface_hub 1.x that
throws away what an interrupted download had (its issue 4196), does not go on after a reset
connection, and does not compare the content with its SHA-256. What this gives up is Xet's parallel
transfer; every file of the hub can be had over plain HTTP too.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from dsmops.errors import IntegrityError, TransferError
from dsmops.files import (
    BLOCK_BYTES,
    PartialFile,
    os_errors,
    remember_sha256,
    replace_atomically,
)
from dsmops.hub import cache, client
from dsmops.hub.settings import HubSettings
from dsmops.hub.source import FileVersion, HubFile
from dsmops.progress import Progress

ASK_WAITS_S = (1.0, 2.0)
"""Pauses between attempts to ask the hub something. Few: without a network people should know at
once."""
CONTENT_WAITS_S = (1.0, 2.0, 4.0, 8.0)
"""Pauses between attempts in a row that bring nothing new of a content."""
LONGEST_WAIT_S = 60
"""A longer wait that the hub asks for (its rate limits span 5 minutes) is shown as an error
instead."""

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


class _IsThereError(Exception):
    """The content is here already."""


class _Patience:
    """How often and how long to wait for a hub that fails now and may not fail later."""

    def __init__(self, waits_s: Sequence[float]) -> None:
        self._waits_s = list(waits_s)
        self._attempts = 0

    def spend(self, error: client.TryLaterError) -> None:
        """Wait before the next attempt, or raise `error` when there is none left."""
        self._attempts += 1
        if not self._waits_s or error.wait_s > LONGEST_WAIT_S:
            asked = f" and asks to wait {error.wait_s} s" if error.wait_s else ""
            tried = f" ({self._attempts} attempts)" if self._attempts > 1 else ""
            raise TransferError(f"{error.message}{asked}{tried}", hint=error.hint) from error
        wait_s = max(self._waits_s.pop(0), error.wait_s)
        _log.warning("%s; trying again in %.0f s", error.message, wait_s)
        time.sleep(wait_s)


def ask_version(file: HubFile, settings: HubSettings, commit: str | None = None) -> FileVersion:
    """Return the version that the revision of `file` has now, or that `commit` has.

    Retries; raises as `client.read_version`.
    """
    return _patiently(lambda: client.read_version(file, settings, commit))


def list_files(file: HubFile, settings: HubSettings) -> list[str]:
    """Return the names of all files of the repository. Retries; raises as `client.list_files`."""
    return _patiently(lambda: client.list_files(file, settings))


def read_head(file: HubFile, commit: str, size: int, settings: HubSettings) -> bytes:
    """Return the first `size` bytes, fewer if the file is shorter, and read no more than these.

    Retries.
    """

    def read() -> bytes:
        head = b""
        with client.open_content(file, commit, settings, stop=size) as (_, blocks):
            for block in blocks:
                head += block
                if len(head) >= size:
                    break
        return head[:size]

    return _patiently(read)


def download(
    file: HubFile, version: FileVersion, settings: HubSettings, progress: Progress
) -> None:
    """Store the content of `file` as its blob in the cache.

    `progress` counts the bytes that come over the network.

    When interrupted, what has arrived stays beside the blob and the next call goes on from there.
    Content that differs from the promised size or SHA-256 is removed. Nothing is done where another
    process has just stored the content.

    Raises:
        IntegrityError: the content is not what the hub promised.
        TransferError: the network or the hub failed, again and again.
        DiskFullError: no room; what had arrived is removed.
        TargetBusyError: another process downloads the same content.
    """
    try:
        _download(file, version, settings, progress)
    except _IsThereError:
        return
    if version.sha256 is not None:
        blob = cache.blob_path(settings.cache, file, version.etag)
        # Without links, another process may just have moved it to its snapshot.
        with os_errors(blob), suppress(FileNotFoundError):
            remember_sha256(blob, version.sha256, blob.stat())


def _download(
    file: HubFile, version: FileVersion, settings: HubSettings, progress: Progress
) -> None:
    blob = cache.blob_path(settings.cache, file, version.etag)
    with replace_atomically(blob, resume=True) as partial:
        if cache.is_there(settings.cache, file, version):
            # The lock was another process's until now. An empty file does not stay.
            os.ftruncate(partial.fd, 0)
            raise _IsThereError
        incoming = _Incoming(partial, version, progress)
        patience = _Patience(CONTENT_WAITS_S)
        while incoming.missing_bytes > 0:
            try:
                with client.open_content(
                    file, version.commit, settings, start=incoming.size_bytes
                ) as (start, blocks):
                    incoming.rewind(start)
                    for block in blocks:
                        incoming.append(block)
                        patience = _Patience(CONTENT_WAITS_S)
                        if incoming.missing_bytes < 0:
                            break
            except client.TryLaterError as error:
                patience.spend(error)
            else:
                if incoming.missing_bytes > 0:
                    patience.spend(
                        client.TryLaterError(
                            f"the connection for {file} ended early", hint="Check the network."
                        )
                    )
        fault = incoming.fault()
        if fault:
            incoming.clear()
            raise IntegrityError(
                f"what arrived for {file} is damaged: {fault}; it was removed",
                hint="Try again. If it happens again, a proxy or mirror between here and the hub "
                "changes the content.",
            )


class _Incoming:
    """The part of a content that is on the disk, and its running SHA-256."""

    def __init__(self, partial: PartialFile, version: FileVersion, progress: Progress) -> None:
        self._partial, self._version, self._progress = partial, version, progress
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        while block := os.read(partial.fd, BLOCK_BYTES):
            self._digest.update(block)
            self.size_bytes += len(block)
        # A leftover that no SHA-256 will prove right is not worth the risk; such files are small.
        if version.sha256 is None or self.missing_bytes < 0:
            self.clear()

    @property
    def missing_bytes(self) -> int:
        """What is still to come; negative when more came than the hub promised."""
        return self._version.size_bytes - self.size_bytes

    def fault(self) -> str:
        """Return how the content differs from what the hub promised, or nothing."""
        if self.missing_bytes:
            return f"more than its {self._version.size_bytes} bytes came"
        if self._version.sha256 not in (None, self._digest.hexdigest()):
            return f"its SHA-256 is {self._digest.hexdigest()}, not {self._version.sha256}"
        return ""

    def append(self, block: bytes) -> None:
        self._partial.write(block)
        self._digest.update(block)
        self.size_bytes += len(block)
        self._progress.advance(len(block))

    def rewind(self, start: int) -> None:
        """Prepare for bytes from `start` on.

        That is the present position, or 0 if the server does not support ranges.
        """
        if start != self.size_bytes:
            self._progress.advance(-self.size_bytes)
            self.clear()

    def clear(self) -> None:
        os.ftruncate(self._partial.fd, 0)
        os.lseek(self._partial.fd, 0, os.SEEK_SET)
        self._digest = hashlib.sha256()
        self.size_bytes = 0


def _patiently(ask: Callable[[], _Answer]) -> _Answer:
    patience = _Patience(ASK_WAITS_S)
    while True:
        try:
            return ask()
        except client.TryLaterError as error:
            patience.spend(error)
