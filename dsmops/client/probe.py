"""A WebSocket to a moshi-server that shows what the server does, for `smoke-test`.

Nothing is tried twice and nothing is hidden: a refusal, a close code and a silence are values.
`client.stt` and `client.tts` are the well-behaved clients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import aiohttp

from dsmops.client.address import KEY_HEADER
from dsmops.client.connection import Closed, Connection
from dsmops.client.http import CHECK_PATH, CONNECT_S, new_session, reason
from dsmops.errors import TransferError
from dsmops.protocol import ProtocolError, SttRequest, TtsRequest, encode
from dsmops.units import size

AnswerT = TypeVar("AnswerT")
Decode = Callable[[bytes], AnswerT]

_MAX_BODY_BYTES = 4 << 20
_MAX_MESSAGE_BYTES = 64 << 20


class Probe(Generic[AnswerT]):
    """One conversation. Use `Probe.open`, and then `close` or `vanish`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        connection: Connection,
        url: str,
        decode: Decode[AnswerT],
    ) -> None:
        self._session, self._connection = session, connection
        self._url, self._decode = url, decode

    @classmethod
    async def open(
        cls, url: str, api_key: str | None, decode: Decode[AnswerT]
    ) -> Probe[AnswerT] | int:
        """Connect to the WebSocket address `url`; return the conversation, or a refusal's status.

        `decode` reads the messages that come.

        Raises:
            TransferError: nothing answers there.
        """
        session = new_session({KEY_HEADER: api_key} if api_key else {})
        try:
            connection = await Connection.open(session, url, max_message_bytes=_MAX_MESSAGE_BYTES)
            # A server that falls behind would drop a client that only waits for its answers.
            connection.keep_alive()
            return cls(session, connection, url, decode)
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
        """Send messages. When the connection has ended they are dropped; `receive` says so."""
        try:
            for message in messages:
                await self._connection.send(encode(message))
        except ConnectionError:
            return

    async def receive(self) -> AnswerT | Closed:
        """Return the next message, or the end.

        Raises:
            TransferError: a moshi-server does not send such a message.
        """
        message = await self._connection.receive()
        if isinstance(message, Closed):
            return message
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise TransferError(
                f"{self._url} sent {message.type.name}; a moshi-server sends binary messages only",
                hint=CHECK_PATH,
            )
        try:
            return self._decode(message.data)
        except ProtocolError as exc:
            said = f"{self._url} sent a message that a moshi-server does not send: {exc}"
            raise TransferError(said, hint=CHECK_PATH, code="server.foreign") from exc

    async def close(self) -> Closed:
        """Send a Close frame, wait for how the server ends the connection, and return that.

        Messages on their way are dropped.
        """
        try:
            return await self._connection.close()
        finally:
            await self._session.close()

    async def vanish(self, *, reset: bool = False) -> None:
        """Drop the TCP connection without a Close frame, as a process that died does.

        With `reset` the connection is reset, as that of a host that is gone.
        """
        await self._connection.abandon(reset=reset)
        await self._session.close()


async def get(url: str) -> tuple[int, str]:
    """Return status and text of what is at an HTTP address.

    Raises:
        TransferError: nothing answers there, or the answer is longer than 4 MiB.
    """
    async with new_session() as session:
        try:
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=CONNECT_S)) as response:
                body = await response.content.read(_MAX_BODY_BYTES)
                # A short read is not the end of the body.
                while len(body) <= _MAX_BODY_BYTES and (
                    more := await response.content.read(_MAX_BODY_BYTES)
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
    if len(body) > _MAX_BODY_BYTES:
        raise TransferError(
            f"{url} answered with more than {size(_MAX_BODY_BYTES)}",
            hint="Check the address.",
            code="server.foreign",
        )
    return response.status, body.decode(errors="replace")


def _unreachable(url: str, exc: Exception) -> TransferError:
    return TransferError(
        f"{url} cannot be reached: {reason(exc)}",
        hint="Check that the server runs and listens there, "
        "and whether it uses TLS (wss://) or not (ws://).",
        code="server.unreachable",
    )
