"""A WebSocket to a moshi-server for whoever wants to see what the server does, rather than to be served well.

Nothing is tried twice, nothing is smoothed over: a refusal, a close code and a silence are values.
`client.asr` is the well-behaved client.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import aiohttp

from dsmops.client.http import CHECK_PATH, CONNECT_S, answered, new_session, reason
from dsmops.client.session import KEY_HEADER
from dsmops.errors import TransferError
from dsmops.protocol import ProtocolError, SttRequest, TtsRequest, encode
from dsmops.units import size

AnswerT = TypeVar("AnswerT")
Decode = Callable[[bytes], AnswerT]

_MOST_BODY_BYTES = 4 << 20
_MOST_MESSAGE_BYTES = 64 << 20
_ENDINGS = (
    aiohttp.WSMsgType.CLOSE,
    aiohttp.WSMsgType.CLOSING,
    aiohttp.WSMsgType.CLOSED,
    aiohttp.WSMsgType.ERROR,
)


@dataclass(frozen=True, slots=True)
class Closed:
    """The other side ended the connection: with a close code (1005: a Close frame without one), or without a Close frame at all."""

    code: int | None

    def __str__(self) -> str:
        return (
            "the connection dropped without a Close frame"
            if self.code is None
            else f"closed with code {self.code}"
        )


class Probe(Generic[AnswerT]):
    """One conversation. Use `Probe.open`, and then `close` or `vanish`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        ws: aiohttp.ClientWebSocketResponse,
        url: str,
        decode: Decode[AnswerT],
    ) -> None:
        self._session, self._ws, self._url, self._decode = session, ws, url, decode

    @classmethod
    async def open(
        cls, url: str, api_key: str | None, decode: Decode[AnswerT]
    ) -> Probe[AnswerT] | int:
        """Connect to the WebSocket address `url`, and return the conversation, or the HTTP status of a refusal.

        `decode` reads the messages that come.

        Raises:
            TransferError: nothing answers there.
        """
        session = new_session({KEY_HEADER: api_key} if api_key else {})
        try:
            ws = await answered(session.ws_connect(url, max_msg_size=_MOST_MESSAGE_BYTES), url)
            return cls(session, ws, url, decode)
        except aiohttp.WSServerHandshakeError as exc:
            await session.close()
            return exc.status
        except TransferError:
            await session.close()
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            await session.close()
            raise _unreachable(url, exc) from exc

    async def send(self, *messages: SttRequest | TtsRequest) -> None:
        """Send messages; into a connection that is gone they go nowhere, and `receive` says that it is gone."""
        try:
            for message in messages:
                await self._ws.send_bytes(encode(message))
        except (aiohttp.ClientConnectionError, ConnectionError):
            return

    async def receive(self) -> AnswerT | Closed:
        """Return the next message, or the end.

        Raises:
            TransferError: it is none that a moshi-server sends.
        """
        message = await self._ws.receive()
        if message.type in _ENDINGS:
            # aiohttp says 1006 where no Close frame came.
            code = self._ws.close_code
            return Closed(None if code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE else code)
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise TransferError(
                f"{self._url} sent {message.type.name}, and its messages are binary",
                hint=CHECK_PATH,
            )
        try:
            return self._decode(message.data)
        except ProtocolError as exc:
            said = f"{self._url} sent what no moshi-server sends: {exc}"
            raise TransferError(said, hint=CHECK_PATH, code="server.foreign") from exc

    async def close(self) -> Closed:
        """Send a Close frame, wait for how the server ends the connection, and return that. Messages on their way are dropped."""
        try:
            await self._ws.close()
        finally:
            await self._session.close()
        code = self._ws.close_code
        return Closed(None if code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE else code)

    async def vanish(self, *, reset: bool = False) -> None:
        """Drop the TCP connection without a Close frame: as a process that died does, or, with `reset`, as a lost host's."""
        link = self._ws.get_extra_info("socket")
        if reset and link is not None:
            # Closing then sends RST, and drops what is still to be sent.
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self._session.close()


async def get(url: str) -> tuple[int, str]:
    """Return status and text of what is at an HTTP address.

    Raises:
        TransferError: nothing answers there, or more than anybody has to say.
    """
    async with new_session() as session:
        try:
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=CONNECT_S)) as response:
                body = await response.content.read(_MOST_BODY_BYTES)
                # A short read is no end of the body.
                while len(body) <= _MOST_BODY_BYTES and (
                    more := await response.content.read(_MOST_BODY_BYTES)
                ):
                    body += more
        except TimeoutError as exc:
            raise TransferError(
                f"{url} did not answer within {CONNECT_S:g} s",
                hint="See its log.",
                code="server.silent",
            ) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise _unreachable(url, exc) from exc
    if len(body) > _MOST_BODY_BYTES:
        raise TransferError(
            f"{url} answered with more than {size(_MOST_BODY_BYTES)}",
            hint="Check the address.",
            code="server.foreign",
        )
    return response.status, body.decode(errors="replace")


def _unreachable(url: str, exc: Exception) -> TransferError:
    return TransferError(
        f"{url} cannot be reached: {reason(exc)}",
        hint="See whether the server runs and listens there, and whether it speaks TLS (wss://) or not (ws://).",
        code="server.unreachable",
    )
