"""The checksum that an upload carries, and which of them a server is known to refuse.

The checksum in a request is only a second guard. The store reads an ETag or the object itself back
whatever the mode, so a server that takes no checksum loses nothing but an early refusal.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

from dsmops.errors import DsmopsError
from dsmops.files import open_regular, os_errors, state_folder, write_text_atomically
from dsmops.publish.store import ChecksumMode

_AUTO: tuple[ChecksumMode, ...] = ("sha256", "md5", "none")
"""Tried in this order. Backblaze B2 refuses `x-amz-checksum-*` and takes Content-MD5; buckets with
Object Lock need one of the two; some proxies refuse both."""

# Error codes of a server that refuses a header. B2: 400 InvalidArgument `Unsupported header`; R2:
# 501 NotImplemented; other gateways: 400 InvalidRequest.
# Codes alone are not enough: InvalidArgument is also the answer to a wrong ACL.
_CODES = {
    "InvalidArgument",
    "InvalidRequest",
    "InvalidHeader",
    "BadRequest",
    "NotImplemented",
    "UnsupportedHeader",
    "XNotImplemented",
    "400",
    "501",
}
_WORDS = ("checksum", "content-md5", "unsupported header", "x-amz-sdk", "trailer")

_HEADERS = {
    "ChecksumSHA256": "x-amz-checksum-sha256",
    "ChecksumCRC32": "x-amz-checksum-crc32",
    "ContentMD5": "content-md5",
}

_MEMORY = "s3-checksums.json"
_MAX_MEMORY_BYTES = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checksum:
    """One way to give a server a checksum, as parameters of the client library's calls."""

    mode: ChecksumMode

    def of_object(self, data: bytes) -> dict[str, str]:
        """Return the parameters for a PutObject or UploadPart with this body."""
        match self.mode:
            case "sha256":
                return {"ChecksumSHA256": _base64(hashlib.sha256(data).digest())}
            case "crc32":
                return {"ChecksumCRC32": _base64(zlib.crc32(data).to_bytes(4, "big"))}
            case "md5":
                return {"ContentMD5": _base64(md5(data).digest())}
            case _:
                return {}

    def headers(self, data: bytes) -> dict[str, str]:
        """Return the same as HTTP headers, names in lower case."""
        return {_HEADERS[name]: value for name, value in self.of_object(data).items()}

    def of_upload(self) -> dict[str, str]:
        """Return the parameters for a CreateMultipartUpload whose parts carry this checksum."""
        algorithm = {"sha256": "SHA256", "crc32": "CRC32"}.get(self.mode)
        return {"ChecksumAlgorithm": algorithm} if algorithm else {}


class ChecksumChoice:
    """Which checksum to send to one endpoint. With `auto` it starts at what worked there before.

    A refusal is remembered in the state folder, so that it costs one request per endpoint and not
    one per run. Any thread may call every method.
    """

    def __init__(self, wanted: ChecksumMode, endpoint: str) -> None:
        self._wanted, self._endpoint = wanted, endpoint
        self._mode = _recall(endpoint) if wanted == "auto" else wanted

    @property
    def current(self) -> Checksum:
        return Checksum(self._mode)

    def after_refusal(self, refused: Checksum, code: str, message: str) -> bool:
        """Tell whether the server refused the checksum itself and another one is worth a try.

        If so, `current` is that other one from now on.
        """
        if self._wanted != "auto" or not _is_about_checksums(code, message):
            return False
        if refused.mode != self._mode:
            return True  # another thread has moved on already
        following = _AUTO[_AUTO.index(refused.mode) + 1 :]
        if not following:
            return False
        self._mode = following[0]
        return True

    def worked(self, checksum: Checksum) -> None:
        """Remember what the endpoint took, if it is not what `auto` starts with."""
        if self._wanted == "auto" and checksum.mode != _recall(self._endpoint):
            _log.info("%s refuses the SHA-256 header; sending %s", self._endpoint, checksum.mode)
            _remember(self._endpoint, checksum.mode)


def md5(data: bytes) -> Any:
    """Return the MD5 of `data`, which S3 gives as ETag and takes as Content-MD5."""
    return hashlib.md5(data, usedforsecurity=False)


def _is_about_checksums(code: str, message: str) -> bool:
    words = message.lower()
    # A bare 501 (some proxies answer parts so) has no words to go by. "Content-MD5 or
    # x-amz-sdk-checksum-algorithm header required" comes with any code, for Object Lock.
    return (
        code == "501"
        or (code in _CODES and any(word in words for word in _WORDS))
        or ("content-md5" in words and "required" in words)
    )


def _recall(endpoint: str) -> ChecksumMode:
    mode = _read_memory().get(endpoint)
    return mode if mode in _AUTO else _AUTO[0]


def _read_memory() -> dict[str, Any]:
    path = state_folder() / _MEMORY
    try:
        with os_errors(path), open_regular(path) as file:
            found = json.loads(file.read(_MAX_MEMORY_BYTES))
    except (DsmopsError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(endpoint: str, mode: ChecksumMode) -> None:
    path = state_folder() / _MEMORY
    try:
        write_text_atomically(path, json.dumps({**_read_memory(), endpoint: mode}, indent=1) + "\n")
    except DsmopsError as exc:  # a read-only home costs one refused request per run
        _log.debug("%s: not remembered: %s", path, exc)


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
