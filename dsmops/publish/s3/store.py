"""A bucket as a store: see `ObjectStore`.

An upload carries a checksum where the server takes one, but servers exist that answer 200 to a
wrong one. So an object counts as stored only when its ETag is the MD5 of the bytes sent (a server
can know that only by having received them) or, where an ETag means something else (KMS encryption,
parts on R2), after it was read back.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from botocore import exceptions as sdk

from dsmops.errors import (
    InputError,
    IntegrityError,
    MissingObjectError,
    RemoteError,
    TransferError,
)
from dsmops.progress import SILENT, Progress
from dsmops.publish.s3.account import open_client, open_session, read_account
from dsmops.publish.s3.checksums import Checksum, ChecksumChoice, md5
from dsmops.publish.s3.errors import (
    ENDPOINT,
    NO_BUCKET,
    Translator,
    code_of,
    message_of,
    reason_of,
)
from dsmops.publish.s3.small_puts import SmallPuts, ca_bundle_of
from dsmops.publish.store import (
    Digest,
    Meter,
    RequestKind,
    StoredObject,
    StoreOptions,
    blocks_of,
    path_segments,
    require_unchanged,
)

MAX_PARTS = 10_000
"""S3's own limit on the parts of one upload."""

_READ_BYTES = 256 << 10
_BACKOFF_MAX_S = 20.0
_SMALL_BYTES = 64 << 10
"""Smaller bodies are sent without asking the server first: a connection buffers as much anyway."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

_KINDS: dict[str, RequestKind] = {
    "ListObjectsV2": "list",
    "ListMultipartUploads": "list",
    "GetObject": "get",
    "PutObject": "put",
    "DeleteObject": "delete",
}
_CONTENT_TYPES = {
    ".gz": "application/gzip",
    ".zst": "application/zstd",
    ".json": "application/json",
}

_log = logging.getLogger(__name__)


class S3Store:
    """See `ObjectStore`. Nothing is contacted before the first request."""

    def __init__(self, bucket: str, prefix: str, options: StoreOptions) -> None:
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.meter = Meter()
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self._options = options
        self._connect()
        self._buffers = threading.BoundedSemaphore(options.workers)
        self._part_pool = ThreadPoolExecutor(options.workers, thread_name_prefix="part")
        given = {
            "ACL": options.acl,
            "ServerSideEncryption": options.sse,
            "SSEKMSKeyId": options.sse_kms_key_id,
            "StorageClass": options.storage_class,
        }
        self._prepared = threading.local()
        self._payer = {"RequestPayer": "requester"} if options.requester_pays else {}
        self._on_write = self._payer | {k: v for k, v in given.items() if v is not None}

    def _connect(self) -> None:
        """Set the client and what depends on its account and endpoint."""
        options = self._options
        self._translator = Translator(options, None)
        try:
            with self._errors():
                self._session = open_session(options)
                account = read_account(self._session, options)
            self._translator = Translator(options, account)
            with self._errors():
                self._client = open_client(self._session, options)
        except ValueError as exc:  # how the library reports an endpoint that is not a URL
            raise InputError(f"{self.url}: {exc}", hint=ENDPOINT, code="publish.endpoint") from exc
        self._checksums = ChecksumChoice(options.checksum, self._client.meta.endpoint_url)
        self._small_puts = SmallPuts(
            lambda: self._session.get_credentials().get_frozen_credentials(),
            ca_bundle=ca_bundle_of(self._session.get_config_variable("ca_bundle")),
            timeout_s=options.timeout_s,
            max_bytes=_SMALL_BYTES,
            on_send=lambda size_bytes: self.meter.count("put", sent_bytes=size_bytes),
        )
        self._client.meta.events.register("before-send.s3", self._count)
        self._client.meta.events.register_last("before-call.s3", _send_at_once)

    def _errors(self, key: str | None = None) -> Any:
        what = self.url if key is None else f"{self.url}/{key}"
        return self._translator.errors(what)

    def _count(self, event_name: str, request: Any, **_: object) -> None:
        """Note a request that the library is about to send."""
        operation = event_name.rpartition(".")[2]
        if operation == "PutObject":
            self._prepared.request = request
        kind = _KINDS.get(operation, "head" if operation.startswith("Head") else "multipart")
        is_content = operation in ("PutObject", "UploadPart")
        self.meter.count(
            kind, sent_bytes=int(request.headers["Content-Length"]) if is_content else 0
        )

    def put(
        self,
        source: Path | bytes,
        key: str,
        *,
        sha256: str,
        size_bytes: int,
        progress: Progress = SILENT,
    ) -> None:
        part_bytes = part_size(size_bytes, self._options.part_bytes)
        with self._errors(key):
            if size_bytes <= part_bytes:
                self._put_whole(source, key, sha256, size_bytes, progress)
            else:
                self._put_parts(source, key, sha256, size_bytes, part_bytes, progress)

    def _put_whole(
        self, source: Path | bytes, key: str, sha256: str, size_bytes: int, progress: Progress
    ) -> None:
        with self._buffers:
            data = b"".join(blocks_of(source, size_bytes))
            require_unchanged(source, hashlib.sha256(data).hexdigest(), sha256)
            for _ in range(self._options.attempts):
                if self._is_held(key, sha256, self._send_whole(key, data, sha256), data):
                    progress.advance(size_bytes)
                    return
        raise self._damaged(key)

    def _send_whole(self, key: str, data: bytes, sha256: str) -> str:
        """Send an object by the fastest way that works here, and return its ETag."""
        full_key, checksum = self._root + key, self._checksums.current
        fast = {"content-type": _content_type(key), **checksum.headers(data)}
        etag = self._small_puts.put(full_key, data, sha256, fast)
        if etag is not None:
            return etag

        def send(checksum: Checksum) -> dict[str, Any]:
            answer: dict[str, Any] = self._client.put_object(
                Bucket=self._bucket,
                Key=full_key,
                Body=data,
                ContentType=_content_type(key),
                **checksum.of_object(data),
                **self._on_write,
            )
            return answer

        answer = self._with_checksum(send)
        if len(data) <= _SMALL_BYTES:
            prepared = self._prepared.request
            self._small_puts.learn(prepared.url, prepared.headers, full_key)
        return str(answer.get("ETag", ""))

    def _with_checksum(self, send: Callable[[Checksum], Any]) -> Any:
        """Call `send` with the checksum that the server takes, and return what it returns."""
        while True:
            checksum = self._checksums.current
            try:
                answer = send(checksum)
            except sdk.ClientError as exc:
                if not self._checksums.after_refusal(checksum, code_of(exc), message_of(exc)):
                    raise
                _log.debug("%s: checksum refused: %s", self.url, reason_of(exc))
            else:
                self._checksums.worked(checksum)
                return answer

    def _is_held(self, key: str, sha256: str, etag: str, data: bytes) -> bool:
        return etag.strip('"') == md5(data).hexdigest() or self._reads_back(key, sha256)

    def _put_parts(
        self,
        source: Path | bytes,
        key: str,
        sha256: str,
        size_bytes: int,
        part_bytes: int,
        progress: Progress,
    ) -> None:
        """Send in parts. A refused checksum starts the upload again, with the next one."""

        def send(checksum: Checksum) -> None:
            self._upload_parts(source, key, sha256, size_bytes, part_bytes, checksum, progress)

        self._with_checksum(send)

    def _upload_parts(
        self,
        source: Path | bytes,
        key: str,
        sha256: str,
        size_bytes: int,
        part_bytes: int,
        checksum: Checksum,
        progress: Progress,
    ) -> None:
        """Send in parts, reading the source once.

        The upload is completed only after the digest of all parts is the promised one.
        """
        where = {"Bucket": self._bucket, "Key": self._root + key, **self._payer}
        begun = self._client.create_multipart_upload(
            **where | self._on_write, ContentType=_content_type(key), **checksum.of_upload()
        )
        upload = {**where, "UploadId": begun["UploadId"]}
        digest, md5s = hashlib.sha256(), b""
        blocks = blocks_of(source, size_bytes, part_bytes)
        sent: list[Future[dict[str, Any]]] = []
        try:
            while (data := self._next_part(blocks, sent)) is not None:
                digest.update(data)
                md5s += md5(data).digest()
                number = len(sent) + 1
                sent.append(
                    self._part_pool.submit(self._put_part, upload, number, data, checksum, progress)
                )
            parts = [future.result() for future in sent]
            require_unchanged(source, digest.hexdigest(), sha256)
        except BaseException as exc:
            for future in sent:
                if future.cancel():
                    self._buffers.release()
            running = [future for future in sent if not future.cancelled()]
            self._abort(upload, running, exc)
            arrived = sum(1 for future in running if future.exception() is None)
            progress.advance(-min(arrived * part_bytes, size_bytes))
            raise
        try:
            answer = self._client.complete_multipart_upload(
                **upload, MultipartUpload={"Parts": parts}
            )
        except (sdk.ClientError, sdk.BotoCoreError) as exc:
            # When the first answer was lost, the retry finds no such upload: look whether the
            # object is there.
            with suppress(RemoteError):
                if self._reads_back(key, sha256):
                    return
            self._abort(upload, [], exc)
            raise
        etag = f"{md5(md5s).hexdigest()}-{len(parts)}"
        if answer.get("ETag", "").strip('"') != etag and not self._reads_back(key, sha256):
            raise self._damaged(key)

    def _next_part(
        self, blocks: Iterator[bytes], sent: list[Future[dict[str, Any]]]
    ) -> bytes | None:
        """Wait for a free buffer, then read a part into it. `_put_part` frees the buffer.

        Returns None at the end, or when an earlier part failed.
        """
        self._buffers.acquire()
        data = None
        try:
            if not any(future.done() and future.exception() for future in sent):
                data = next(blocks, None)
        finally:
            if data is None:
                self._buffers.release()
        return data

    def _put_part(
        self,
        upload: dict[str, str],
        number: int,
        data: bytes,
        checksum: Checksum,
        progress: Progress,
    ) -> dict[str, Any]:
        """Send one part, and return its line in the list that completes the upload."""
        given = checksum.of_object(data)
        try:
            answer = self._client.upload_part(**upload, PartNumber=number, Body=data, **given)
        finally:
            self._buffers.release()
        progress.advance(len(data))
        # Some servers answer without an ETag. They still compare it when the upload is completed.
        etag = answer.get("ETag") or f'"{md5(data).hexdigest()}"'
        given.pop("ContentMD5", None)
        return {"PartNumber": number, "ETag": etag, **given}

    def _abort(
        self, upload: dict[str, str], running: list[Future[dict[str, Any]]], cause: BaseException
    ) -> None:
        """Abort an upload that cannot be completed. If that fails too, report which one is left."""
        for future in running:
            future.exception()  # wait: a part that arrives after the abort would stay
        try:
            self._client.abort_multipart_upload(**upload)
        except (sdk.ClientError, sdk.BotoCoreError) as exc:
            if code_of(exc) == "NoSuchUpload":
                return
            upload_id = upload["UploadId"]
            _log.warning(
                "the unfinished upload %s of %s could not be aborted: %s",
                upload_id,
                upload["Key"],
                exc,
            )
            if isinstance(cause, Exception):
                error = TransferError(
                    f"{self.url}: sending failed ({reason_of(cause)}), and the unfinished upload "
                    f"{upload_id} of {upload['Key']} could not be aborted",
                    hint="Run the command again later: it aborts uploads older than a day.",
                )
                error.upload_id = upload_id
                raise error from cause

    def _reads_back(self, key: str, sha256: str) -> bool:
        """Tell whether the object is there with the right bytes, by reading it."""
        try:
            self.get(key, lambda _: None, sha256=sha256)
        except (IntegrityError, MissingObjectError):
            return False
        return True

    def _damaged(self, key: str) -> IntegrityError:
        return IntegrityError(
            f"{self.url}/{key}: the store keeps other bytes than were sent",
            hint="Something between here and the store alters data. Try another network, or an "
            "https endpoint.",
        )

    def get(
        self,
        key: str,
        write: Callable[[bytes], object],
        *,
        sha256: str | None,
        progress: Progress = SILENT,
    ) -> None:
        what = f"{self.url}/{key}"
        digest = Digest(what, sha256)
        done, failures = 0, 0
        with self._errors(key):
            while True:
                body = self._open_body(key, done)
                try:
                    while block := body.read(_READ_BYTES):
                        self.meter.count(received_bytes=len(block))
                        done += len(block)
                        digest.update(block)
                        write(block)
                        progress.advance(len(block))
                    break
                except (sdk.HTTPClientError, sdk.IncompleteReadError) as exc:
                    failures += 1
                    if failures >= self._options.attempts:
                        raise
                    _log.debug("%s: interrupted after %d bytes (%s)", what, done, exc)
                    pause_s = random.random() * min(_BACKOFF_MAX_S, 2.0**failures)  # noqa: S311
                    time.sleep(pause_s)
                finally:
                    body.close()
        digest.check()

    def _open_body(self, key: str, offset: int) -> Any:
        """Return the object's bytes from `offset` on as a stream.

        A server that ignores ranges works too: what it sends before `offset` is dropped.
        """
        wanted = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            answer = self._client.get_object(
                Bucket=self._bucket, Key=self._root + key, **self._payer, **wanted
            )
        except sdk.ClientError as exc:
            if offset and code_of(exc) == "InvalidRange":
                return BytesIO()  # all of it had arrived
            raise
        if offset and "ContentRange" not in answer:
            answer["Body"].read(offset)
        return answer["Body"]

    def list(self, prefix: str) -> Iterator[StoredObject]:
        wanted = {"Bucket": self._bucket, "Prefix": self._root + prefix, **self._payer}
        while True:
            page, token = self._page(wanted)
            yield from page
            if token is None:
                return
            if token == wanted.get("ContinuationToken"):
                raise InputError(
                    f"{self.url}: the server's listing never ends",
                    hint=ENDPOINT,
                    code="publish.endpoint",
                )
            wanted["ContinuationToken"] = token

    def _page(self, wanted: dict[str, str]) -> tuple[Sequence[StoredObject], str | None]:
        """Return a page of a listing and the token of the next one."""
        try:
            with self._errors():
                answer = self._client.list_objects_v2(**wanted)
                page = [
                    StoredObject(
                        item["Key"].removeprefix(self._root), item["Size"], item["LastModified"]
                    )
                    for item in answer.get("Contents", ())
                ]
                token = answer["NextContinuationToken"] if answer["IsTruncated"] else None
        except MissingObjectError as exc:
            raise InputError(exc.message, hint=NO_BUCKET) from exc
        except (KeyError, ValueError) as exc:
            # To the library a web page with status 200 is an answer without content.
            raise InputError(
                f"{self.url}: what answers is not an S3 server ({exc!r})",
                hint=ENDPOINT,
                code="publish.endpoint",
            ) from exc
        return page, token

    def delete(self, key: str) -> None:
        with self._errors(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._root + key, **self._payer)

    def abort_unfinished(self, started_before: datetime) -> int:
        with self._errors():
            found = [
                upload for upload in self._unfinished() if upload["Initiated"] < started_before
            ]
            for upload in found:
                self._client.abort_multipart_upload(
                    Bucket=self._bucket,
                    Key=upload["Key"],
                    UploadId=upload["UploadId"],
                    **self._payer,
                )
        return len(found)

    def link(self, key: str, *, valid_s: int) -> str:
        with self._errors(key):
            # By default the library signs links with version 2, which R2 and B2 refuse.
            client = open_client(self._session, self._options, signature="s3v4")
            url: str = client.generate_presigned_url(
                "get_object",
                Params={"Bucket": self._bucket, "Key": self._root + key, **self._payer},
                ExpiresIn=valid_s,
            )
        return url

    def options_to_reach(self) -> tuple[str, ...]:
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        found = ["--bucket", bucket]
        if prefix:
            found += ["--prefix", prefix]
        endpoint, region = self._client.meta.endpoint_url, self._client.meta.region_name
        if not _is_aws(endpoint):
            found += ["--endpoint-url", endpoint]
        if self._options.region or (region and _is_aws(endpoint)):
            found += ["--region", region]
        if self._options.requester_pays:
            found.append("--requester-pays")
        return tuple(found)

    def _unfinished(self) -> Iterator[dict[str, Any]]:
        wanted = {"Bucket": self._bucket, "Prefix": self._root, **self._payer}
        while True:
            try:
                page = self._client.list_multipart_uploads(**wanted)
            except sdk.ClientError as exc:
                if code_of(exc) == "NoSuchUpload":  # so `rclone serve s3` says that there are none
                    return
                raise
            yield from page.get("Uploads", ())
            if not page.get("IsTruncated"):
                return
            wanted |= {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }


def part_size(size_bytes: int, wanted_bytes: int) -> int:
    """Return the bytes per part of an object: as wanted, or more where 10,000 parts are too few."""
    return max(wanted_bytes, -(-size_bytes // MAX_PARTS))


def _send_at_once(params: dict[str, Any], **_: object) -> None:
    """Remove `Expect: 100-continue` from a small put: it costs a second round trip for each."""
    body = params.get("body")
    if isinstance(body, BytesIO) and body.getbuffer().nbytes <= _SMALL_BYTES:
        params["headers"].pop("Expect", None)


def _content_type(key: str) -> str:
    return _CONTENT_TYPES.get(PurePosixPath(key).suffix, "text/plain; charset=utf-8")


def _is_aws(endpoint_url: str) -> bool:
    host = urlsplit(endpoint_url).hostname or ""
    return ".amazonaws." in host or host.endswith(".aws")


def open_store(url: str, options: StoreOptions) -> S3Store:
    """Return the store that `s3://BUCKET[/PREFIX]` names.

    Raises:
        InputError: that cannot be the name of a bucket, or an option is malformed.
        CredentialsError: the profile does not exist, or cannot be used here.
    """
    bucket, _, prefix = url.partition(":")[2].removeprefix("//").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise InputError(
            f"{bucket!r} cannot be the name of a bucket",
            hint="Names have 3 to 63 lower-case letters, digits, dots and hyphens. "
            "Write a folder as file:FOLDER.",
            code="publish.bucket",
        )
    return S3Store(bucket, "/".join(path_segments(prefix)), options)
