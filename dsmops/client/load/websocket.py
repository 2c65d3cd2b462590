"""A WebSocket client connection that does little for each frame: RFC 6455 on `asyncio.Protocol`.

A frame to send is masked once and sent many times, and a frame that comes costs one slice and one
call. So one core carries hundreds of streams, and what is measured is the server. RFC 6455 asks
for a new mask for each frame, which protects proxies from hostile scripts in browsers; servers do
not look at it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlencode, urlsplit

from dsmops.client.address import KEY_HEADER

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_CONTINUATION = 0
_MAX_MESSAGE_BYTES = 64 << 20
_MAX_HEAD_BYTES = 64 << 10
_ACCEPT_SUFFIX = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NO_CODE = 1005

clock = time.monotonic
"""The clock of all times here. All processes of a machine share it."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is, and the request that opens a WebSocket there."""

    host: str
    port: int
    has_tls: bool
    request: bytes
    accept: bytes


def parse_address(url: str, api_key: str | None, query: Mapping[str, str]) -> Address:
    """Return the address of the WebSocket address `url`, as `websocket_url` writes it."""
    parts = urlsplit(url)
    has_tls = parts.scheme == "wss"
    nonce = base64.b64encode(os.urandom(16)).decode()
    digest = hashlib.sha1((nonce + _ACCEPT_SUFFIX).encode(), usedforsecurity=False).digest()
    headers = {
        "Host": parts.netloc,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": nonce,
        "Sec-WebSocket-Version": "13",
        **({KEY_HEADER: api_key} if api_key else {}),
    }
    target = parts.path + (f"?{urlencode(query)}" if query else "")
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return Address(
        parts.hostname or "",
        parts.port or (443 if has_tls else 80),
        has_tls,
        f"GET {target} HTTP/1.1\r\n{head}\r\n".encode(),
        base64.b64encode(digest),
    )


def client_frame(opcode: int, payload: bytes) -> bytes:
    """Return a whole frame, masked, ready to be sent any number of times."""
    size, mask = len(payload), os.urandom(4)
    head = bytes([0x80 | opcode]) + (
        bytes([0x80 | size])
        if size < 126
        else struct.pack(">BH", 0x80 | 126, size)
        if size < 1 << 16
        else struct.pack(">BQ", 0x80 | 127, size)
    )
    key = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")
    return head + mask + masked.to_bytes(size, "little")


class LeanWebSocket(asyncio.Protocol, ABC):
    """One connection. A subclass says what a message means.

    `ended` is why it is over, empty until then, and `ended_s` is when. `close_code` is the code of
    the server's Close frame, 1005 for one without a code, None where none came.
    """

    def __init__(self, address: Address) -> None:
        self.transport: asyncio.Transport | None = None
        self.ended = ""
        self.ended_s = float("inf")
        self.close_code: int | None = None
        self._address = address
        self._is_open = False
        self._rest = b""
        self._pieces: list[bytes] = []
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        """Done when the WebSocket is open, or was refused: then `ended` says why."""
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when `Ready` came, or the connection is over. A subclass says when."""
        self.over: asyncio.Future[None] = loop.create_future()

    @abstractmethod
    def message(self, payload: bytes, now_s: float) -> None:
        """Take a binary message that came at `now_s`."""

    def send(self, frame: bytes) -> None:
        """Send a frame that `client_frame` made. Never waits."""
        if self.transport is not None and not self.ended:
            self.transport.write(frame)

    @property
    def unsent_bytes(self) -> int:
        """What the server did not take yet."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    @property
    def is_closed(self) -> bool:
        """Whether the server has ended the connection, too."""
        return self.transport is None or self.transport.is_closing()

    def close(self) -> None:
        """Send a Close frame. The server ends the connection, or `abort` does."""
        if self.transport is not None and not self.ended:
            self.transport.write(client_frame(CLOSE, struct.pack(">H", 1000)))
        self.end("closed by the client")

    def abort(self, reason: str) -> None:
        """End the connection at once."""
        self.end(reason)
        if self.transport is not None:
            self.transport.abort()

    def end(self, reason: str) -> None:
        """Note why the connection is over. The first reason counts."""
        if not self.ended:
            self.ended, self.ended_s = reason, clock()
        for future in (self.opened, self.ready, self.over):
            if not future.done():
                future.set_result(None)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._address.request)

    def connection_lost(self, _: Exception | None) -> None:
        self.end("dropped without a Close frame")

    def eof_received(self) -> bool:
        return False  # the transport closes itself

    def data_received(self, data: bytes) -> None:
        now_s = clock()
        if self._rest:
            data = self._rest + data
        if not self._is_open:
            data = self._read_head(data)
        position, size = 0, len(data)
        while size - position >= 2:
            first, length = data[position], data[position + 1]
            start = position + 2
            if length == 126:
                start += 2
                length = int.from_bytes(data[position + 2 : start], "big")
            elif length == 127:
                start += 8
                length = int.from_bytes(data[position + 2 : start], "big")
            if length > _MAX_MESSAGE_BYTES:
                self.abort("a message of more than 64 MiB, or not a WebSocket")
                return
            end = start + length
            if end > size:
                break
            if first == 0x80 | BINARY:
                self.message(data[start:end], now_s)
            else:
                self._other_frame(first, data[start:end], now_s)
            position = end
        self._rest = data[position:] if position < size else b""

    def _read_head(self, data: bytes) -> bytes:
        """Read the answer to the upgrade, and return what comes after it."""
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            self._rest = data
            if len(data) > _MAX_HEAD_BYTES:
                self.abort("an answer that is not HTTP")
            return b""
        self._rest = b""
        status = head[:40].partition(b"\r")[0].split(b" ")
        if len(status) < 2 or not status[0].startswith(b"HTTP/") or not status[1].isdigit():
            self.abort("an answer that is not HTTP")
            return b""
        if status[1] != b"101":
            self.abort(f"refused with status {int(status[1])}")
            return b""
        if self._address.accept not in head:
            self.abort("an answer that does not open a WebSocket")
            return b""
        self._is_open = True
        self.opened.set_result(None)
        return rest

    def _other_frame(self, first: int, payload: bytes, now_s: float) -> None:
        opcode, is_last = first & 0x0F, bool(first & 0x80)
        if opcode == PING:
            self.send(client_frame(PONG, payload))
        elif opcode == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big") if payload else _NO_CODE
            words = "without a code" if not payload else f"with code {self.close_code}"
            if self.transport is not None and not self.ended:
                self.transport.write(client_frame(CLOSE, payload[:2]))
            self.end(f"closed {words}")
            if self.transport is not None:
                self.transport.close()
        elif opcode in (BINARY, _CONTINUATION):
            self._pieces.append(payload)
            if is_last:
                whole, self._pieces = b"".join(self._pieces), []
                self.message(whole, now_s)
