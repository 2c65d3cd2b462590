"""What a store of published logs promises, and what every kind of store needs to keep it.

A store is a flat map from key to bytes below one root. `stores` opens one by its URL. The promises
need neither conditional writes nor checksums compared by the server: some servers ignore the first
and answer 200 to a wrong second. Every promise is kept by checking or reading back the bytes here.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, get_args

from dsmops.errors import InputError, IntegrityError
from dsmops.files import BLOCK_BYTES, open_regular, os_errors
from dsmops.progress import SILENT, Progress

RequestKind = Literal["list", "get", "head", "put", "multipart", "delete"]

ChecksumMode = Literal["auto", "sha256", "crc32", "md5", "none"]
"""The checksum that an upload carries for the server to compare."""

REFUSED = "publish.refused"
"""Error code of what a store refuses and would refuse again: for the next file, too."""

REPUBLISH = "Publish the file again with --force from a machine that still has it."


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a listing. `modified` is when the store took it, by the store's clock."""

    key: str
    size_bytes: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run asked of a store: requests by kind and object bytes each way, with retries."""

    requests: dict[RequestKind, int]
    total_requests: int
    sent_bytes: int
    received_bytes: int


@dataclass(slots=True)
class Meter:
    """Counts requests and bytes. Any thread may call it."""

    requests: dict[RequestKind, int] = field(
        default_factory=lambda: dict.fromkeys(get_args(RequestKind), 0)
    )
    sent_bytes: int = 0
    received_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(
        self, kind: RequestKind | None = None, *, sent_bytes: int = 0, received_bytes: int = 0
    ) -> None:
        with self.lock:
            if kind is not None:
                self.requests[kind] += 1
            self.sent_bytes += sent_bytes
            self.received_bytes += received_bytes

    def usage(self) -> Usage:
        with self.lock:
            return Usage(
                dict(self.requests),
                sum(self.requests.values()),
                self.sent_bytes,
                self.received_bytes,
            )


class ObjectStore(Protocol):
    """A place that keeps objects. Any thread may call every method.

    Keys are relative to the store's root, `/`-separated, without control characters. Those of
    published logs are ASCII, see `names`.

    All methods raise:
        CredentialsError: there are no credentials, or the store refused them. Not retried.
        TransferError: the store could not be reached or kept failing, after all retries.
    """

    url: str
    """Where this is, as people write it: `s3://bucket/prefix`, `file:///folder`."""
    meter: Meter

    def put(
        self,
        source: Path | bytes,
        key: str,
        *,
        sha256: str,
        size_bytes: int,
        progress: Progress = SILENT,
    ) -> None:
        """Store the first `size_bytes` of `source` under `key` and replace what was there.

        The object appears whole or not at all. It counts as stored only after its bytes had the
        digest `sha256` (64 hex digits) here and, by proof or by reading back, in the store. On
        failure an unfinished upload is aborted; when that fails too, the `TransferError` carries
        `upload_id`. `progress` counts bytes and may go backwards.

        Raises:
            InputError: the source no longer holds those bytes; nothing was stored.
            IntegrityError: the store keeps other bytes than were sent.
        """

    def get(
        self,
        key: str,
        write: Callable[[bytes], object],
        *,
        sha256: str | None,
        progress: Progress = SILENT,
    ) -> None:
        """Hand the object's bytes to `write`, in order, in pieces.

        An interrupted transfer continues where it stopped.

        Raises:
            MissingObjectError: the object does not exist.
            IntegrityError: all bytes were handed over and their digest is not `sha256`. The caller
                discards them.
        """

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield every object whose key begins with `prefix`, in key order.

        A root that does not exist holds no objects.
        """

    def delete(self, key: str) -> None:
        """Remove the object. An object that is already gone is not an error."""

    def abort_unfinished(self, started_before: datetime) -> int:
        """Remove uploads that killed runs left unfinished before that time; return how many."""

    def link(self, key: str, *, valid_s: int) -> str:
        """Return a URL from which anyone can download the object for `valid_s` seconds.

        Raises:
            InputError: this kind of store has no links.
        """

    def options_to_reach(self) -> tuple[str, ...]:
        """Return the command-line options by which another machine reaches this store."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to talk to a store. None means the default of the S3 client library."""

    profile: str | None = None
    region: str | None = None
    endpoint_url: str | None = None
    acl: str | None = None
    sse: str | None = None
    sse_kms_key_id: str | None = None
    storage_class: str | None = None
    checksum: ChecksumMode = "auto"
    requester_pays: bool = False
    """Accept that the caller's account pays for the requests and the traffic."""
    attempts: int = 5
    """How often a request is tried, with growing pauses between."""
    timeout_s: float = 30.0
    """How long a connection may be silent."""
    part_bytes: int = 8 << 20
    """Larger files are sent in parts of this size. S3 takes 5 MiB to 5 GiB."""
    workers: int = 8
    """Transfers at a time. Peak memory is about `part_bytes * workers`."""

    def given_for_s3(self) -> list[str]:
        """Return the options that were given and that only S3 knows, as typed (`--sse`)."""
        unset = StoreOptions()
        names = (
            "profile",
            "region",
            "endpoint_url",
            "acl",
            "sse",
            "sse_kms_key_id",
            "storage_class",
            "checksum",
            "requester_pays",
        )
        return [
            "--" + name.replace("_", "-")
            for name in names
            if getattr(self, name) != getattr(unset, name)
        ]


def path_segments(prefix: str) -> list[str]:
    """Return the parts of a prefix between its slashes; empty parts are dropped.

    Raises:
        InputError: a part is `.` or `..`, or the prefix has characters that cannot be printed.
    """
    segments = [segment for segment in prefix.split("/") if segment]
    if any(segment in (".", "..") for segment in segments):
        raise InputError(
            f"the prefix {prefix!r} has a relative part",
            hint="Write the prefix in full, without . and .. between slashes.",
            code="publish.prefix",
        )
    if not prefix.isprintable():
        raise InputError(
            f"the prefix {prefix!r} has characters that cannot be printed",
            hint="Omit them.",
            code="publish.prefix",
        )
    return segments


def blocks_of(
    source: Path | bytes, size_bytes: int, block_bytes: int = BLOCK_BYTES
) -> Iterator[bytes]:
    """Yield the first `size_bytes` of what `put` was given, in blocks of `block_bytes`.

    The last block may be shorter. A source that has become shorter yields fewer bytes.

    Raises:
        SourceError, FileAccessError: the file is gone, or cannot be read.
    """
    name = "data" if isinstance(source, bytes) else source
    with (
        os_errors(name),
        _open(source) as file,
    ):
        left = size_bytes
        while left and (block := file.read(min(left, block_bytes))):
            left -= len(block)
            yield block


def _open(source: Path | bytes) -> BinaryIO:
    # Buffered: a read then returns all that was asked for. R2 wants parts of one size.
    if isinstance(source, bytes):
        return BytesIO(source)
    return BufferedReader(open_regular(source))  # type: ignore[type-var]


def require_unchanged(source: Path | bytes, digest: str, sha256: str) -> None:
    """Check that the bytes read for sending have the promised digest.

    Raises:
        InputError: they do not; the file was rewritten after it was first read.
    """
    if digest != sha256:
        name = "the data" if isinstance(source, bytes) else str(source)
        raise InputError(
            f"{name} changed while it was being sent",
            hint="Run the command again.",
            code="publish.changed",
        )


class Digest:
    """Collects what `ObjectStore.get` hands over and checks its digest at the end."""

    def __init__(self, what: str, sha256: str | None) -> None:
        self._what, self._wanted = what, sha256
        self._digest = hashlib.sha256()

    def update(self, block: bytes) -> None:
        self._digest.update(block)

    def check(self) -> None:
        if self._wanted is not None and self._digest.hexdigest() != self._wanted:
            raise IntegrityError(
                f"{self._what}: the bytes that arrived are not the ones that were published",
                hint=f"The object in the store is damaged. {REPUBLISH}",
            )
