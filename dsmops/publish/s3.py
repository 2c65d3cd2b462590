"""An S3 bucket as a store. The only module that knows the S3 client library.

botocore is used without boto3's layers: that halves the start-up, and its transfer manager would
complete an upload before the digest of what was sent is known. Every upload carries its SHA-256,
but since servers exist that take a wrong one with 200, an object counts as stored only when its
ETag is the MD5 that the sent bytes give (a server can only know it by having received them) or,
where an ETag means something else (KMS encryption), after it was read back.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import botocore
import botocore.session
from botocore import exceptions as sdk
from botocore.config import Config

from dsmops import __version__
from dsmops.errors import (
    CredentialsError,
    DsmopsError,
    InputError,
    IntegrityError,
    MissingObjectError,
    RemoteError,
    TransferError,
)
from dsmops.progress import SILENT, Progress
from dsmops.publish.store import (
    Digest,
    Meter,
    RequestKind,
    StoredObject,
    StoreOptions,
    blocks_of,
    require_unchanged,
)

MAX_PARTS = 10_000
"""S3's own limit on the parts of one upload."""

_READ_BYTES = 256 << 10
_BACKOFF_MAX_S = 20.0
_CONNECT_S = 10.0
_SMALL_BYTES = 64 << 10
"""A body that is sent without waiting for the server's word: as much as a connection's buffers take anyway."""

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
        try:
            with _errors(self.url):
                self._client = self._connect()
        except ValueError as exc:  # how the library reports an endpoint that is no URL
            raise InputError(f"{self.url}: {exc}", hint=_ENDPOINT, code="publish.endpoint") from exc
        self._buffers = threading.BoundedSemaphore(options.workers)
        self._part_pool = ThreadPoolExecutor(options.workers, thread_name_prefix="part")
        given = {
            "ACL": options.acl,
            "ServerSideEncryption": options.sse,
            "SSEKMSKeyId": options.sse_kms_key_id,
            "StorageClass": options.storage_class,
        }
        self._on_write = {name: value for name, value in given.items() if value is not None}

    def _connect(self) -> Any:
        options = self._options
        client = botocore.session.Session(profile=options.profile).create_client(
            "s3",
            region_name=options.region,
            endpoint_url=options.endpoint_url,
            config=Config(
                connect_timeout=min(_CONNECT_S, options.timeout_s),
                read_timeout=options.timeout_s,
                retries={"mode": "standard", "total_max_attempts": options.attempts},
                max_pool_connections=2 * options.workers,
                # The SDK's own CRC32 in a trailer is refused by R2, older MinIO, GCS and Ceph; we
                # send SHA-256 in a header instead.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                # Given whole: else the library puts it together anew for every request, twice.
                user_agent=f"dsmops/{__version__} Botocore/{botocore.__version__}",
            ),
        )
        client.meta.events.register("before-send.s3", self._count)
        client.meta.events.register_last("before-call.s3", _send_at_once)
        return client

    def _count(self, event_name: str, request: Any, **_: object) -> None:
        operation = event_name.rpartition(".")[2]
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
        with _errors(f"{self.url}/{key}"):
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
                answer = self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._root + key,
                    Body=data,
                    ContentType=_content_type(key),
                    ChecksumSHA256=_base64(bytes.fromhex(sha256)),
                    **self._on_write,
                )
                if self._holds(key, sha256, answer, _md5(data).hexdigest()):
                    progress.advance(size_bytes)
                    return
        raise self._damaged(key)

    def _put_parts(
        self,
        source: Path | bytes,
        key: str,
        sha256: str,
        size_bytes: int,
        part_bytes: int,
        progress: Progress,
    ) -> None:
        """Send in parts, reading the source once; complete the upload only after the digest of all parts is right."""
        where = {"Bucket": self._bucket, "Key": self._root + key}
        begun = self._client.create_multipart_upload(
            **where, ContentType=_content_type(key), ChecksumAlgorithm="SHA256", **self._on_write
        )
        upload = {**where, "UploadId": begun["UploadId"]}
        digest, md5s = hashlib.sha256(), b""
        blocks = blocks_of(source, size_bytes, part_bytes)
        sent: list[Future[dict[str, Any]]] = []
        try:
            while (data := self._next_part(blocks, sent)) is not None:
                digest.update(data)
                md5s += _md5(data).digest()
                sent.append(
                    self._part_pool.submit(self._put_part, upload, len(sent) + 1, data, progress)
                )
            parts = [future.result() for future in sent]
            require_unchanged(source, digest.hexdigest(), sha256)
        except BaseException as exc:
            for future in sent:
                if future.cancel():
                    self._buffers.release()
            self._abort(upload, [future for future in sent if not future.cancelled()], exc)
            raise
        try:
            answer = self._client.complete_multipart_upload(
                **upload, MultipartUpload={"Parts": parts}
            )
        except (sdk.ClientError, sdk.BotoCoreError) as exc:
            # An answer that was lost on its way makes the retry find no such upload: look whether
            # the object is there.
            with suppress(RemoteError):
                if self._reads_back(key, sha256):
                    return
            self._abort(upload, [], exc)
            raise
        if not self._holds(key, sha256, answer, f"{_md5(md5s).hexdigest()}-{len(parts)}"):
            raise self._damaged(key)

    def _next_part(
        self, blocks: Iterator[bytes], sent: list[Future[dict[str, Any]]]
    ) -> bytes | None:
        """Wait for a free buffer, then read a part into it; None at the end, or when a part before it failed. `_put_part` frees it."""
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
        self, upload: dict[str, str], number: int, data: bytes, progress: Progress
    ) -> dict[str, Any]:
        try:
            checksum = _base64(hashlib.sha256(data).digest())
            answer = self._client.upload_part(
                **upload, PartNumber=number, Body=data, ChecksumSHA256=checksum
            )
        finally:
            self._buffers.release()
        progress.advance(len(data))
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

    def _abort(
        self, upload: dict[str, str], running: list[Future[dict[str, Any]]], cause: BaseException
    ) -> None:
        """Take back an upload that cannot be completed; when that fails too, say which one is left."""
        for future in running:
            future.exception()  # a part that arrives after the abort would stay behind
        try:
            self._client.abort_multipart_upload(**upload)
        except (sdk.ClientError, sdk.BotoCoreError) as exc:
            if _code_of(exc) == "NoSuchUpload":
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
                    f"{self.url}: sending failed ({_reason(cause)}), and the unfinished upload {upload_id} of {upload['Key']} "
                    "could not be taken back",
                    hint="Run the command again later; it clears unfinished uploads older than a day. Or abort it by its id.",
                )
                error.upload_id = upload_id
                raise error from cause

    def _holds(self, key: str, sha256: str, answer: dict[str, Any], etag: str) -> bool:
        return answer.get("ETag", "").strip('"') == etag or self._reads_back(key, sha256)

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
            hint="Something between here and the store alters data; try another network, or an https endpoint.",
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
        with _errors(what):
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
                    _log.debug("%s: interrupted after %d bytes (%s); going on", what, done, exc)
                    time.sleep(random.random() * min(_BACKOFF_MAX_S, 2.0**failures))  # noqa: S311 spreading retries
                finally:
                    body.close()
        digest.check()

    def _open_body(self, key: str, offset: int) -> Any:
        """Return the object's bytes from `offset` on as a stream, also from a server that ignores ranges."""
        wanted = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._root + key, **wanted)
        except sdk.ClientError as exc:
            if offset and _code_of(exc) == "InvalidRange":
                return BytesIO()  # all of it had arrived
            raise
        if offset and "ContentRange" not in answer:
            answer["Body"].read(offset)
        return answer["Body"]

    def list(self, prefix: str) -> Iterator[StoredObject]:
        wanted = {"Bucket": self._bucket, "Prefix": self._root + prefix}
        while True:
            page, token = self._page(wanted)
            yield from page
            if token is None:
                return
            if token == wanted.get("ContinuationToken"):
                raise InputError(
                    f"{self.url}: the server's listing goes in a circle",
                    hint=_ENDPOINT,
                    code="publish.endpoint",
                )
            wanted["ContinuationToken"] = token

    def _page(self, wanted: dict[str, str]) -> tuple[Sequence[StoredObject], str | None]:
        """Return a page of a listing and the token of the next one."""
        try:
            with _errors(self.url):
                answer = self._client.list_objects_v2(**wanted)
                page = [
                    StoredObject(
                        item["Key"].removeprefix(self._root), item["Size"], item["LastModified"]
                    )
                    for item in answer.get("Contents", ())
                ]
                token = answer["NextContinuationToken"] if answer["IsTruncated"] else None
        except MissingObjectError as exc:
            raise InputError(exc.message, hint=_NO_BUCKET) from exc
        except (
            KeyError,
            ValueError,
        ) as exc:  # a web page with status 200, for one, is to the library an answer without content
            raise InputError(
                f"{self.url}: what answers is no S3 server ({exc!r})",
                hint=_ENDPOINT,
                code="publish.endpoint",
            ) from exc
        return page, token

    def delete(self, key: str) -> None:
        with _errors(f"{self.url}/{key}"):
            self._client.delete_object(Bucket=self._bucket, Key=self._root + key)

    def abort_unfinished(self, started_before: datetime) -> int:
        with _errors(self.url):
            found = [
                upload for upload in self._unfinished() if upload["Initiated"] < started_before
            ]
            for upload in found:
                self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
        return len(found)

    def _unfinished(self) -> Iterator[dict[str, Any]]:
        wanted = {"Bucket": self._bucket, "Prefix": self._root}
        while True:
            try:
                page = self._client.list_multipart_uploads(**wanted)
            except sdk.ClientError as exc:
                if (
                    _code_of(exc) == "NoSuchUpload"
                ):  # what `rclone serve s3` says when there are none
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
    """Return the bytes per part for an object: as wanted, or more where S3's 10,000 parts would not do."""
    return max(wanted_bytes, -(-size_bytes // MAX_PARTS))


def _send_at_once(params: dict[str, Any], **_: object) -> None:
    """Take back `Expect: 100-continue` for a small body: waiting for the answer would cost each small file a second round trip."""
    body = params.get("body")
    if isinstance(body, BytesIO) and body.getbuffer().nbytes <= _SMALL_BYTES:
        params["headers"].pop("Expect", None)


def _content_type(key: str) -> str:
    return _CONTENT_TYPES.get(PurePosixPath(key).suffix, "text/plain; charset=utf-8")


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _md5(data: bytes) -> Any:
    return hashlib.md5(data, usedforsecurity=False)


# Error codes of S3 and what they mean for a user. What is not listed, nor has status 401 or 403, is
# a TransferError in the server's words.
_REFUSED = "The least rights that publishing needs are in runbooks/s3-setup.md."
_LOGIN = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile with --profile."
_NO_BUCKET = "Check --bucket, --region and --endpoint-url; dsmops never creates a bucket."
_ENDPOINT = "--endpoint-url is http://HOST:PORT or https://HOST, of the server's S3 service, not of its console."
_BY_CODE: dict[str, tuple[type[DsmopsError], str]] = {
    "AccessDenied": (CredentialsError, _REFUSED),
    "ExpiredToken": (CredentialsError, "Sign in again, then repeat the command."),
    "InvalidAccessKeyId": (CredentialsError, _LOGIN),
    "InvalidToken": (CredentialsError, _LOGIN),
    "SignatureDoesNotMatch": (
        CredentialsError,
        "The secret key is wrong, or this machine's clock is.",
    ),
    "RequestTimeTooSkewed": (CredentialsError, "Set this machine's clock."),
    "NoSuchBucket": (InputError, _NO_BUCKET),
    "InvalidBucketName": (InputError, "Check --bucket."),
    "PermanentRedirect": (InputError, "The bucket is in another region: name it with --region."),
    "AuthorizationHeaderMalformed": (
        InputError,
        "The bucket is in another region: name it with --region.",
    ),
    "IllegalLocationConstraintException": (
        InputError,
        "The bucket is in another region: name it with --region.",
    ),
    "AccessControlListNotSupported": (
        InputError,
        "The bucket's owner controls all objects: leave out --acl.",
    ),
    "InvalidStorageClass": (InputError, "Check --storage-class."),
    "InvalidArgument": (InputError, "Check --acl, --sse, --sse-kms-key-id and --storage-class."),
    "KMS.NotFoundException": (InputError, "Check --sse-kms-key-id."),
    "KeyTooLongError": (
        InputError,
        "S3 keys have at most 1,024 bytes: shorten --prefix or the file's name.",
    ),
    "NoSuchKey": (
        MissingObjectError,
        "Publish the file again with --force from where it still exists.",
    ),
    "404": (MissingObjectError, "Publish the file again with --force from where it still exists."),
    "BadDigest": (
        IntegrityError,
        "Something between here and the store alters data; try another network.",
    ),
    "XAmzContentSHA256Mismatch": (
        IntegrityError,
        "Something between here and the store alters data; try another network.",
    ),
}
_BY_TYPE: tuple[tuple[type[Exception], type[DsmopsError], str], ...] = (
    (sdk.NoCredentialsError, CredentialsError, _LOGIN),
    (sdk.PartialCredentialsError, CredentialsError, _LOGIN),
    (sdk.CredentialRetrievalError, CredentialsError, _LOGIN),
    (
        sdk.ProfileNotFound,
        CredentialsError,
        "Look at ~/.aws/config for the names, or leave out --profile.",
    ),
    (sdk.UnauthorizedSSOTokenError, CredentialsError, "Sign in again with `aws sso login`."),
    (sdk.SSOError, CredentialsError, "Sign in again with `aws sso login`."),
    (sdk.TokenRetrievalError, CredentialsError, "Sign in again with `aws sso login`."),
    (sdk.NoRegionError, InputError, "Name it with --region."),
    (sdk.InvalidRegionError, InputError, "Check --region."),
    (sdk.InvalidEndpointConfigurationError, InputError, _ENDPOINT),
    (sdk.EndpointProviderError, InputError, _ENDPOINT),
    (
        sdk.ConfigParseError,
        InputError,
        "Correct the file, or name another with AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE.",
    ),
    (sdk.ParamValidationError, InputError, "Check the options of the store."),
    (
        sdk.HTTPClientError,
        TransferError,
        "Check the network and --endpoint-url, then run the command again.",
    ),
    (
        sdk.ConnectionError,
        TransferError,
        "Check the network and --endpoint-url, then run the command again.",
    ),
)


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn every error of the client library into ours. The only table of them."""
    try:
        yield
    except (sdk.BotoCoreError, sdk.ClientError) as exc:
        raise _translate(exc, what) from exc
    except RecursionError as exc:  # sent elsewhere, the library asks the bucket where it is, is sent elsewhere, asks again
        raise InputError(
            f"{what}: the server redirects elsewhere",
            hint="Check --endpoint-url (http or https?) and --region.",
            code="publish.endpoint",
        ) from exc


def _translate(exc: Exception, what: str) -> DsmopsError:
    if isinstance(exc, sdk.ClientError):
        refused = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (401, 403)
        unlisted = (
            (CredentialsError, _REFUSED)
            if refused
            else (TransferError, "Run the command again; what arrived is kept.")
        )
        kind, hint = _BY_CODE.get(_code_of(exc), unlisted)
        return kind(f"{what}: {_reason(exc)}", hint=hint)
    if isinstance(exc, sdk.HTTPClientError) and "header value" in str(
        exc
    ):  # the library's words repeat the value, a token perhaps
        return InputError(
            f"{what}: a credential or an option holds a line break",
            hint="Look at the AWS_ variables and the options.",
        )
    for of_sdk, kind, hint in _BY_TYPE:
        if isinstance(exc, of_sdk):
            return kind(f"{what}: {_reason(exc)}", hint=hint)
    return TransferError(
        f"{what}: {_reason(exc)}", hint="Run the command again; what arrived is kept."
    )


def _code_of(exc: Exception) -> str:
    """Return the error code, or the HTTP status where a server gives none; empty for what is no answer of a server."""
    if not isinstance(exc, sdk.ClientError):
        return ""
    return str(
        exc.response.get("Error", {}).get("Code")
        or exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    )


def _reason(exc: BaseException) -> str:
    """Say what the server said, `AccessDenied: ...`, without the library's own frame round it."""
    if isinstance(exc, sdk.ClientError):
        error = exc.response.get("Error", {})
        tries = exc.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) + 1
        words = ": ".join(filter(None, (_code_of(exc), error.get("Message"))))
        return words + (f" (tried {tries} times)" if tries > 1 else "")
    return str(exc)
