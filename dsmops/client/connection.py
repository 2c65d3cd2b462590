"""One WebSocket to a server: kept alive while it waits, and clear about how it ended.

moshi-server drops a client that sends no frame of any kind for 20 s (30 s for a Python module), and
one that sends no binary frame for 120 s. It pings only while it sends nothing else, so the client
sends pings of its own. At the end it sends a Close frame and drops the TCP connection at once: the
answer to that Close often cannot be sent, which is not a failure.

Source: moshi-server 0.6.4, `batched_asr.rs` and `py_module.rs`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

from dsmops.client.http import UPGRADE_S, answered

PING_S = 5.0
"""A ping goes out after so long without a frame: well below the server's 20 s."""
IDLE_S = 45.0
"""An idle message goes out after so long without a binary frame: well below the server's 120 s."""
CLOSE_S = 2.0

_NO_CODE = 1005
"""What RFC 6455 calls the code of a Close frame without one. aiohttp calls it 0."""


@dataclass(frozen=True, slots=True)
class Closed:
    """How the server ended the connection.

    `code` is the close code, 1005 for a Close frame without one, None for no Close frame at all.
    """

    code: int | None

    def __str__(self) -> str:
        if self.code is None:
            return "the connection dropped without a Close frame"
        if self.code == _NO_CODE:
            return "closed without a code"
        return f"closed with code {self.code}"


class Connection:
    """A WebSocket that is open. `closed` says how the server ended it, None until then."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.closed: Closed | None = None
        self._ws = ws
        self._alive: asyncio.Task[None] | None = None
        self._last_frame_s = self._last_binary_s = _now_s()

    @classmethod
    async def open(
        cls,
        session: aiohttp.ClientSession,
        url: str,
        *,
        query: Mapping[str, str] | None = None,
        max_message_bytes: int = 0,
        upgrade_s: float = UPGRADE_S,
        close_s: float = CLOSE_S,
    ) -> Connection:
        """Connect to the WebSocket address `url`. `max_message_bytes` 0 means no limit.

        Raises:
            TransferError: nothing answered in `upgrade_s`.
            aiohttp.ClientError, OSError: the server refused, or it cannot be reached.
        """
        # Without autoclose aiohttp does not answer a Close frame by itself. With it, a failure to
        # answer replaces the server's close code by 1006.
        upgrade = session.ws_connect(
            url,
            params=query,
            max_msg_size=max_message_bytes,
            timeout=aiohttp.ClientWSTimeout(ws_close=close_s),
            autoclose=False,
            autoping=False,
        )
        return cls(await answered(upgrade, url, upgrade_s))

    async def send(self, data: bytes) -> None:
        """Send a binary frame; wait while the server does not read.

        Raises:
            ConnectionError: the connection has ended. `receive` says how.
        """
        try:
            await self._ws.send_bytes(data)
            # Sending does not yield while the system takes the data. Answers must be read too:
            # a reset discards those that are still unread.
            await asyncio.sleep(0)
        except aiohttp.ClientConnectionError as exc:
            raise ConnectionError(str(exc)) from exc
        self._last_frame_s = self._last_binary_s = _now_s()

    async def receive(self) -> aiohttp.WSMessage | Closed:
        """Return the next data frame, or the end. Pings are answered and pongs dropped."""
        while self.closed is None:
            message = await self._ws.receive()
            match message.type:
                case aiohttp.WSMsgType.PING:
                    # What the server sent before it left is still to be read.
                    with suppress(aiohttp.ClientConnectionError, ConnectionError):
                        await self._ws.pong(message.data)
                        self._last_frame_s = _now_s()
                case aiohttp.WSMsgType.PONG:
                    continue
                case aiohttp.WSMsgType.CLOSE:
                    self.closed = Closed(message.data or _NO_CODE)
                case aiohttp.WSMsgType.ERROR | aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.CLOSED:
                    self.closed = Closed(None)
                case _:
                    return message
        return self.closed

    def keep_alive(
        self, idle_message: bytes | None = None, *, ping_s: float = PING_S, idle_s: float = IDLE_S
    ) -> None:
        """Start the pings and the idle messages.

        A ping goes out after `ping_s` without a frame, `idle_message` after `idle_s` without a
        binary one.
        """
        self._alive = asyncio.create_task(self._keep_alive(idle_message, ping_s, idle_s))

    async def _keep_alive(self, idle_message: bytes | None, ping_s: float, idle_s: float) -> None:
        with suppress(aiohttp.ClientConnectionError, ConnectionError):  # the reader sees the end
            while True:
                due_s = self._last_frame_s + ping_s
                if idle_message is not None:
                    due_s = min(due_s, self._last_binary_s + idle_s)
                await asyncio.sleep(max(0.0, due_s - _now_s()))
                if idle_message is not None and _now_s() >= self._last_binary_s + idle_s:
                    await self.send(idle_message)
                elif _now_s() >= self._last_frame_s + ping_s:
                    await self._ws.ping()
                    self._last_frame_s = _now_s()

    async def close(self) -> Closed:
        """Send a Close frame, wait for how the server ends the connection, and return that.

        Messages on their way are dropped.
        """
        await self._end_keep_alive()
        await self._ws.close()
        if self.closed is None:
            code = self._ws.close_code
            is_abnormal = code in (None, aiohttp.WSCloseCode.ABNORMAL_CLOSURE)
            self.closed = Closed(None if is_abnormal else code or _NO_CODE)
        return self.closed

    async def abandon(self, *, reset: bool) -> None:
        """Send nothing more. With `reset`, the end of the TCP connection will be a reset."""
        await self._end_keep_alive()
        link = self._ws.get_extra_info("socket") if reset else None
        if link is not None:
            # Data still to be sent is then dropped.
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _end_keep_alive(self) -> None:
        task, self._alive = self._alive, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
