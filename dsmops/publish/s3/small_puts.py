"""Sends small objects with a fraction of the client library's cost per request.

The library takes 1.0 ms of processor time for a put, while holding the interpreter's lock: the
endpoint rules, header dictionaries, two passes of signing, response parsing. Ten thousand small
logs then take longer than with a compiled tool, however many threads send. A put by this module
takes 0.3 ms.

It is only a fast path. The first small put of a run goes through the library, and what it sent
(address, constant headers, region of the signature) is the pattern for the others. Whatever is not
a plain 200 with an ETag, such as a redirect, a refusal, a slow-down or a broken connection, is left
to the library, which sends the same object again with all its retries. Where the pattern is not
what this module can repeat (proxies, other signatures), the library sends everything.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import logging
import os
import re
import socket
import ssl
import struct
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

from botocore.httpsession import get_cert_path

_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/([^/]+)/([^/]+)/aws4_request,")
_PER_REQUEST = {
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "authorization",
    "content-length",
    "content-md5",
    "content-type",
    "expect",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
}
# What this module cannot repeat: chunked bodies, and session tokens of directory buckets.
_UNREPEATABLE = {"transfer-encoding", "x-amz-trailer", "x-amz-s3session-token"}
_RECEIVE_BYTES, _MOST_HEAD_BYTES = 64 << 10, 64 << 10
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\b")
_GIVE_UP_AFTER = 3
"""Failures in a row after which everything goes through the library."""

_log = logging.getLogger(__name__)


class Keys(Protocol):
    """Credentials at one moment."""

    access_key: str
    secret_key: str
    token: str | None


class SmallPuts:
    """Puts objects of at most `max_bytes` in the pattern that `learn` was shown.

    Any thread may call every method. Connections are kept open and used again.
    """

    def __init__(
        self,
        keys: Callable[[], Keys],
        *,
        ca_bundle: str | None,
        timeout_s: float,
        max_bytes: int,
        on_send: Callable[[int], None],
    ) -> None:
        """`on_send` gets the bytes of every body that is sent, repetitions included."""
        self._keys, self._timeout_s, self._max_bytes = keys, timeout_s, max_bytes
        self._ca_bundle, self._on_send = ca_bundle, on_send
        self._pattern: _Pattern | None = None
        self._idle: list[socket.socket] = []
        self._failures = 0
        weakref.finalize(self, _close_all, self._idle)

    @property
    def is_ready(self) -> bool:
        return self._pattern is not None and self._failures < _GIVE_UP_AFTER

    def learn(self, url: str, headers: Mapping[str, Any], key: str) -> None:
        """Take a prepared put of the library for the full key `key` as the pattern."""
        if self._pattern is None:
            self._pattern = _Pattern.of(url, headers, key)

    def put(self, key: str, body: bytes, sha256: str, headers: Mapping[str, str]) -> str | None:
        """Send an object under its full key, and return the ETag; None when the library must.

        `sha256` is the digest of `body` in hex; `headers` are those that belong to this object.
        """
        pattern = self._pattern
        if not self.is_ready or pattern is None or len(body) > self._max_bytes:
            return None
        path = pattern.base_path + _quoted(key)
        signed = pattern.sign(path, headers, sha256, self._keys(), datetime.now(UTC))
        try:
            status, etag = self._ask(pattern, path, body, signed)
        except (OSError, http.client.HTTPException) as exc:
            self._failed(f"{type(exc).__name__}: {exc}")
            return None
        if status != http.HTTPStatus.OK or not etag:
            self._failed(f"status {status}, ETag {etag}")
            return None
        self._failures = 0
        return etag

    def _ask(
        self, pattern: _Pattern, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, str | None]:
        """Send a request, read the answer to its end, and return its status and ETag."""
        try:
            connection, is_new = self._idle.pop(), False
        except IndexError:
            connection, is_new = self._connect(pattern), True
        try:
            self._on_send(len(body))
            # In one piece: headers and body apart are two system calls here and two reads in the
            # server.
            connection.sendall(_request(path, headers, body))
            answer = _read_answer(connection)
        except BaseException as exc:
            connection.close()
            if is_new or not isinstance(exc, OSError | http.client.HTTPException):
                raise
            # Servers close connections that were idle; that is not a failure.
            return self._ask(pattern, path, body, headers)
        if answer.status == http.HTTPStatus.OK and answer.keeps_open:
            self._idle.append(connection)
        else:
            connection.close()
        return answer.status, answer.etag

    def _failed(self, reason: str) -> None:
        _log.debug("small put left to the library: %s", reason)
        self._failures += 1

    def _connect(self, pattern: _Pattern) -> socket.socket:
        if pattern.is_tls:
            context = ssl.create_default_context(cafile=self._ca_bundle)
            secure = http.client.HTTPSConnection(
                pattern.netloc, timeout=self._timeout_s, context=context
            )
            secure.connect()
            return cast(socket.socket, secure.sock)
        plain = http.client.HTTPConnection(pattern.netloc, timeout=self._timeout_s)
        plain.connect()
        connection = cast(socket.socket, plain.sock)
        # The system's own time-outs: with Python's, each call is two, one that waits before.
        connection.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, option, _timeval(self._timeout_s))
        return connection


class _Answer(NamedTuple):
    status: int
    etag: str | None
    keeps_open: bool
    """Whether its end was seen and another request may follow."""


_HEADER = re.compile(
    rb"\r\n(etag|content-length|transfer-encoding|connection):[ \t]*([^\r\n]*)", re.IGNORECASE
)


def _read_answer(connection: socket.socket) -> _Answer:
    """Read an answer to its end.

    The parser of the standard library takes three times as long: it makes a mail message of the
    headers. An answer whose end it does not say is read no further, and the connection is not used
    again.

    Raises:
        OSError: the connection broke, or was silent for too long.
        HTTPException: this is not an answer of HTTP, or is far too long.
    """
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > _MOST_HEAD_BYTES:
            raise http.client.LineTooLong("headers")
        if not (more := connection.recv(_RECEIVE_BYTES)):
            raise http.client.RemoteDisconnected("the connection was closed before the answer")
        data += more
    status = _STATUS.match(data)
    if status is None:
        raise http.client.BadStatusLine(repr(data[:80]))
    fields = {
        name.lower(): value.strip().decode("latin-1")
        for name, value in _HEADER.findall(data, 0, end)
    }
    length = fields.get(b"content-length", "")
    known = length.isascii() and length.isdigit() and b"transfer-encoding" not in fields
    left = int(length) - (len(data) - end - 4) if known else 0
    while left > 0:
        if not (more := connection.recv(min(left, _RECEIVE_BYTES))):
            raise http.client.IncompleteRead(b"", left)
        left -= len(more)
    keeps_open = known and left == 0 and fields.get(b"connection", "").lower() != "close"
    return _Answer(int(status[1]), fields.get(b"etag"), keeps_open and status[0][7:8] == b"1")


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))


class _Pattern:
    """What all puts of a run have in common."""

    def __init__(
        self,
        url: str,
        base_path: str,
        region: str,
        service: str,
        headers: dict[str, str],
        *,
        signs_body: bool,
    ) -> None:
        parts = urlsplit(url)
        self.netloc, self.is_tls = parts.netloc, parts.scheme == "https"
        self.base_path = base_path
        self._region, self._service = region, service
        self._headers, self._signs_body = headers, signs_body
        self._signing_key: tuple[tuple[str, str], bytes] = ("", ""), b""

    @classmethod
    def of(cls, url: str, headers: Mapping[str, Any], key: str) -> _Pattern | None:
        """Return the pattern of a put; None where this module cannot repeat it."""
        texts = {name.lower(): _text(value) for name, value in headers.items()}
        parts = urlsplit(url)
        scope = _SCOPE.match(texts.get("authorization", ""))
        base_path = parts.path.removesuffix(_quoted(key))
        if (
            scope is None
            or base_path == parts.path
            or parts.query
            or texts.keys() & _UNREPEATABLE
            or _has_proxy(parts.scheme, parts.hostname or "")
        ):
            return None
        constant = {
            name: value
            for name, value in texts.items()
            if name not in _PER_REQUEST and not name.startswith(("x-amz-checksum-", "x-amz-sdk-"))
        }
        body = texts.get("x-amz-content-sha256", "")
        return cls(url, base_path, scope[1], scope[2], constant, signs_body=len(body) == 64)

    def sign(
        self, path: str, headers: Mapping[str, str], sha256: str, keys: Keys, now: datetime
    ) -> dict[str, str]:
        """Return all headers of a put, signed.

        Source: "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)"
        in the API reference of Amazon S3.
        """
        stamp = f"{now:%Y%m%dT%H%M%SZ}"
        body = sha256 if self._signs_body else "UNSIGNED-PAYLOAD"
        sent = {**self._headers, **headers, "host": self.netloc}
        sent |= {"x-amz-content-sha256": body, "x-amz-date": stamp}
        if keys.token:
            sent["x-amz-security-token"] = keys.token
        to_sign = sorted(name for name in sent if name != "user-agent")
        names = ";".join(to_sign)
        lines = "".join(f"{name}:{' '.join(sent[name].split())}\n" for name in to_sign)
        canonical = hashlib.sha256(f"PUT\n{path}\n\n{lines}\n{names}\n{body}".encode()).hexdigest()
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        signature = hmac.digest(
            self._key(keys.secret_key, stamp[:8]),
            f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{canonical}".encode(),
            "sha256",
        ).hex()
        sent["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return sent

    def _key(self, secret: str, day: str) -> bytes:
        # Derived once a day: four of the five HMACs of a signature.
        (known, key) = self._signing_key
        if known != (secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._signing_key = (secret, day), key
        return key


def ca_bundle_of(configured: object) -> str | None:
    """Return the file of certificates that the library trusts, by its rules."""
    path = configured or os.environ.get("REQUESTS_CA_BUNDLE") or get_cert_path(True)
    return str(path) if path else None


def _close_all(connections: list[socket.socket]) -> None:
    for connection in connections:
        connection.close()


def _has_proxy(scheme: str, host: str) -> bool:
    return scheme in getproxies() and not proxy_bypass(host)


def _request(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return a put as it goes over the wire.

    Raises:
        HTTPException: a value would begin another header.
    """
    lines = [f"PUT {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise http.client.HTTPException("a header with a line break")
    head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
    return head.encode("latin-1") + body


def _quoted(key: str) -> str:
    return quote(key, safe="/~")


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
