"""The door to where artefacts are kept: a few methods that an S3 bucket and a plain folder can both keep their word on.

A store is a flat map from key to bytes below one root. Nothing here relies on conditional writes or
on the far side comparing
checksums: some servers ignore the first and answer 200 to a wrong second, so every promise is kept by reading or proving bytes here.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Literal, Protocol, get_args
from urllib.parse import unquote

from dsmops.errors import InputError, IntegrityError
from dsmops.files import BLOCK_BYTES, os_errors
from dsmops.progress import SILENT, Progress

RequestKind = Literal["list", "get", "head", "put", "multipart", "delete"]

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a listing. `modified` is when the store took it, by the store's clock."""

    key: str
    size_bytes: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run asked of a store: requests by kind and object bytes each way, every retry counted."""

    requests: dict[RequestKind, int]
    total_requests: int
    sent_bytes: int
    received_bytes: int


@dataclass(slots=True)
class Meter:
    """Counts requests and bytes; any thread may."""

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
    """Keys are relative to the store's root, `/`-separated, printable ASCII. Every method may be called from any thread.

    All methods raise:
        CredentialsError: no credentials, or the store refused them. Not retried.
        TransferError: the store could not be reached or kept failing; retries were used up.
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
        """Store the first `size_bytes` of `source` under `key`, replacing what was there.

        The object appears whole or not at all, and only after its bytes were found to have the
        digest `sha256` (64 hex digits) here and, by proof or by reading back, in the store. On
        failure an unfinished upload is aborted; when even that cannot reach the store, the
        `TransferError` carries `upload_id`. `progress` counts bytes and may go backwards.

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
        """Hand the object's bytes to `write`, in order, in pieces; an interrupted transfer goes on where it stopped.

        Raises:
            MissingObjectError: there is no such object.
            IntegrityError: all was handed over, and its digest is not `sha256`; the caller discards it.
        """

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield every object whose key begins with `prefix`, in key order; none when the root does not exist."""

    def delete(self, key: str) -> None:
        """Remove the object; it is no error when it is gone already."""

    def abort_unfinished(self, started_before: datetime) -> int:
        """Clean up what killed runs left half-sent before that time; return how many there were."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to talk to a store. All but `workers` concern S3; None means the SDK's own default."""

    profile: str | None = None
    region: str | None = None
    endpoint_url: str | None = None
    acl: str | None = None
    sse: str | None = None
    sse_kms_key_id: str | None = None
    storage_class: str | None = None
    attempts: int = 5
    """How often a request is tried, back-off between; SDK standard mode."""
    timeout_s: float = 30.0
    """How long a connection may be silent."""
    part_bytes: int = 8 << 20
    """Files above this are sent in parts of it. S3 takes 5 MiB to 5 GiB."""
    workers: int = 8
    """Transfers at a time. Peak memory is about `part_bytes * workers`."""

    def set_for_s3(self) -> list[str]:
        """Names of the options that were given and that only S3 knows."""
        only = (
            "profile",
            "region",
            "endpoint_url",
            "acl",
            "sse",
            "sse_kms_key_id",
            "storage_class",
        )
        return [name for name in only if getattr(self, name) is not None]


def open_store(url: str, options: StoreOptions | None = None) -> ObjectStore:
    """Return the store that `url` names: `s3://bucket[/prefix]` or `file:FOLDER`. Nothing is contacted or created yet.

    Raises:
        InputError: no such kind of store, a malformed name, or options that this kind does not have.
    """
    options = options or StoreOptions()
    scheme, _, _ = url.partition(":")
    opener = _OPENERS.get(scheme.lower()) if ":" in url else None
    if opener is None:
        raise InputError(
            f"{url!r} names no store",
            hint="A bucket is s3://NAME/PREFIX, a folder file:FOLDER.",
            code="publish.store",
        )
    return opener(url, options)


def join_url(bucket: str, prefix: str) -> str:
    """Return the store URL of a `--bucket` (a bare name, `s3://` or `file:`) and a `--prefix`.

    Raises:
        InputError: `bucket` is a path, or the prefix holds `.` or `..` segments, or characters that cannot be seen.
    """
    if bucket.startswith(("/", "~", ".")):
        raise InputError(
            f"{bucket!r} is a path, and no bucket's name",
            hint=f"A folder is written file:{bucket}.",
            code="publish.bucket",
        )
    base = bucket if ":" in bucket else f"s3://{bucket}"
    return "/".join([base.rstrip("/"), *_segments(prefix)])


def _segments(prefix: str) -> list[str]:
    segments = [segment for segment in prefix.split("/") if segment]
    if any(segment in (".", "..") for segment in segments):
        raise InputError(
            f"the prefix {prefix!r} holds a relative segment",
            hint="Name it in full.",
            code="publish.prefix",
        )
    if not prefix.isprintable():
        raise InputError(
            f"the prefix {prefix!r} holds characters that cannot be seen",
            hint="Leave them out.",
            code="publish.prefix",
        )
    return segments


def blocks_of(
    source: Path | bytes, size_bytes: int, block_bytes: int = BLOCK_BYTES
) -> Iterator[bytes]:
    """Yield the first `size_bytes` of what `put` was given, in blocks that are full but for the last; fewer when it has become shorter.

    Raises:
        SourceError, FileAccessError: the file is gone, or cannot be read.
    """
    name = "data" if isinstance(source, bytes) else source
    with (
        os_errors(name),
        BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
    ):
        left = size_bytes
        while left and (block := file.read(min(left, block_bytes))):
            left -= len(block)
            yield block


def require_unchanged(source: Path | bytes, digest: str, sha256: str) -> None:
    """Check that what was read to be sent is what was promised.

    Raises:
        InputError: it is not; the file was rewritten after it was first read.
    """
    if digest != sha256:
        name = "the data" if isinstance(source, bytes) else str(source)
        raise InputError(
            f"{name} changed while it was being sent",
            hint="Run the command again.",
            code="publish.changed",
        )


class Digest:
    """Collects what `ObjectStore.get` hands over and says at the end whether it was the right thing."""

    def __init__(self, what: str, sha256: str | None) -> None:
        self._what, self._wanted = what, sha256
        self._digest = hashlib.sha256()

    def update(self, block: bytes) -> None:
        self._digest.update(block)

    def check(self) -> None:
        if self._wanted is not None and self._digest.hexdigest() != self._wanted:
            raise IntegrityError(
                f"{self._what}: the bytes that arrived are not the ones that were published",
                hint="Publish the file again with --force from where it still exists; the object in the store is damaged.",
            )


def _open_s3(url: str, options: StoreOptions) -> ObjectStore:
    from dsmops.publish.s3 import S3Store

    bucket, _, prefix = url.partition(":")[2].removeprefix("//").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise InputError(
            f"{bucket!r} cannot be a bucket's name",
            hint="3 to 63 lower-case letters, digits, dots and hyphens. A folder is written file:FOLDER.",
            code="publish.bucket",
        )
    return S3Store(bucket, "/".join(_segments(prefix)), options)


def _open_folder(url: str, options: StoreOptions) -> ObjectStore:
    from dsmops.publish.local import FolderStore

    if names := options.set_for_s3():
        flags = ", ".join("--" + name.replace("_", "-") for name in names)
        raise InputError(
            f"{flags}: only S3 has that, and {url} is a folder",
            hint="Leave it out.",
            code="publish.options",
        )
    path = url.partition(":")[2]
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        path = unquote(slash + path) if host in ("", "localhost") else ""
    if not path:
        raise InputError(
            f"{url!r} names no folder",
            hint="Write file:FOLDER or file:///FOLDER.",
            code="publish.store",
        )
    return FolderStore(Path(path).expanduser().absolute())


_OPENERS: dict[str, Callable[[str, StoreOptions], ObjectStore]] = {
    "s3": _open_s3,
    "file": _open_folder,
}
