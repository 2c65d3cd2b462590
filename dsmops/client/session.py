"""A conversation with one module: opened with retries, refused with one error per cause.

Whether a server is full, dead, foreign or silent, and whether trying again helps, does not depend
on the module's type.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

import aiohttp

from dsmops.client.address import KEY_HEADER
from dsmops.client.connection import CLOSE_S, IDLE_S, PING_S, Closed, Connection
from dsmops.client.http import CHECK_PATH, CONNECT_S, UPGRADE_S, new_session, reason
from dsmops.errors import CredentialsError, InputError, RemoteError, TransferError
from dsmops.protocol import NO_FREE_CHANNELS, CloseCode, ProtocolError

_UNAUTHORIZED, _NOT_FOUND = 401, 404
_DEFAULT_PORTS = {"ws": 80, "wss": 443}
_TLS_S = 2.0

AwaitSlot = Callable[[aiohttp.ClientSession, Connection], Awaitable[None]]
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds, and how often to try to open a conversation.

    `upgrade_s`: for the answer to the request for a WebSocket. `first_s`: for a first message,
    before asking which module it is. `ready_s`: for `Ready` where it must come. `silence_s`: for
    the next message of a server that must send one. `ping_s` and `idle_s`: after so long without a
    frame, or without a binary frame, the client sends one of its own.
    """

    connect_s: float = CONNECT_S
    upgrade_s: float = UPGRADE_S
    first_s: float = 2.0
    ready_s: float = 20.0
    silence_s: float = 30.0
    close_s: float = CLOSE_S
    ping_s: float = PING_S
    idle_s: float = IDLE_S
    attempts: int = 4
    back_off_s: float = 1.0


@asynccontextmanager
async def open_session(
    url: str,
    api_key: str | None,
    patience: Patience,
    await_slot: AwaitSlot,
    query: Mapping[str, str] | None = None,
) -> AsyncIterator[Connection]:
    """Open a WebSocket for which `await_slot` returns.

    A server that is full or unreachable is tried again, each time after twice as long.

    Raises:
        CredentialsError: the server refused the key.
        TransferError: it cannot be reached, is full or is not a moshi-server.
    """
    headers = {KEY_HEADER: api_key} if api_key else {}
    async with new_session(headers, patience.connect_s) as session:
        wait_s = patience.back_off_s
        for attempt in range(1, patience.attempts + 1):
            try:
                connection = await _open(session, url, patience, await_slot, query)
                break
            except TransferError as exc:
                if attempt == patience.attempts or exc.code not in (
                    "server.full",
                    "server.unreachable",
                ):
                    raise
            await asyncio.sleep(wait_s)
            wait_s *= 2
        try:
            yield connection
        finally:
            await connection.close()


async def next_answer(
    connection: Connection, url: str, decode: Callable[[bytes], AnswerT]
) -> AnswerT | Closed:
    """Return the next message as `decode` reads it, or how the server ended the connection.

    Raises:
        TransferError: a moshi-server does not send such a message.
    """
    while True:
        message = await connection.receive()
        if isinstance(message, Closed):
            return message
        if message.type is aiohttp.WSMsgType.BINARY:
            try:
                return decode(message.data)
            except ProtocolError as exc:
                raise TransferError(
                    f"{url} sent a message that a moshi-server does not send: {exc}",
                    hint=CHECK_PATH,
                    code="server.foreign",
                ) from exc


def ended(
    url: str, awaited: str, said: str = "", closed: Closed | None = None
) -> TransferError | InputError:
    """Return the error for a stream that ended before `awaited` was complete.

    `said` is the server's reason and, on a second line, its advice. A request that our worker
    refuses as a bad message was the user's input.
    """
    code = closed.code if closed else None
    if said and code == CloseCode.BAD_MESSAGE:
        message, _, advice = said.partition("\n")
        return InputError(
            f"{url}: {message}",
            hint=advice or f"{CHECK_PATH} The server's log may say more.",
            code="server.refused",
        )
    if said.startswith(NO_FREE_CHANNELS) or code == CloseCode.FULL:
        return TransferError(
            f"{url} is full: no slot is free",
            hint="Try again later, or serve with a larger batch_size (`dsmops plan`).",
            code="server.full",
        )
    return TransferError(
        f"{url} ended the stream before its {awaited} was complete: {said or closed}",
        hint="Look at the server's log; runbooks/capacity-and-close-codes.md explains the codes.",
        code="server.ended",
    )


def silent(url: str, awaited: str, after_s: float, histogram: str) -> TransferError:
    """Return the error for a server that sent nothing for `after_s`.

    `histogram` is the metric that shows its step times.
    """
    return TransferError(
        f"{url} stopped answering: nothing came for {after_s:g} s, "
        f"and its {awaited} is not complete",
        hint="Its model loop died, or a step takes too long: look at its log "
        f"and at {histogram} in /metrics.",
        code="server.silent",
    )


def not_ready(url: str, after_s: float) -> TransferError:
    """Return the error for a server that accepts a connection and then sends nothing."""
    return TransferError(
        f"{url} accepted the connection and sent no Ready in {after_s:g} s: "
        "its model loop does not run",
        hint='Look for `task failed name="model_loop"` in its log; '
        "on cards before Ampere see `dsmops prep-sm75`.",
        code="server.not_ready",
    )


async def _open(
    session: aiohttp.ClientSession,
    url: str,
    patience: Patience,
    await_slot: AwaitSlot,
    query: Mapping[str, str] | None,
) -> Connection:
    try:
        connection = await Connection.open(
            session, url, query=query, upgrade_s=patience.upgrade_s, close_s=patience.close_s
        )
    except aiohttp.WSServerHandshakeError as exc:
        raise _refused(url, exc.status) from exc
    except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError) as exc:
        raise TransferError(
            f"no TLS connection to {url}: {reason(exc)}",
            hint="moshi-server itself has no TLS: use ws://, or the address of its proxy. "
            "SSL_CERT_FILE adds a certificate authority.",
            code="server.tls",
        ) from exc
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise await _unreachable(url, exc) from exc
    try:
        await await_slot(session, connection)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _unreachable(url: str, exc: Exception) -> TransferError:
    """Return the error for a connection that failed, with the address that was probably meant."""
    parts = urlsplit(url)
    is_refused = isinstance(exc, aiohttp.ClientConnectorError)
    if not is_refused and parts.scheme == "ws" and await _has_tls(parts):
        return TransferError(
            f"{url} cannot be reached: the port expects TLS",
            hint=f"Use wss:// there: --url wss://{parts.netloc}{parts.path}",
            code="server.tls",
        )
    if is_refused and parts.port is None:
        return TransferError(
            f"{url} cannot be reached: the address has no port, and nothing answers on "
            f"{_DEFAULT_PORTS.get(parts.scheme, 80)}",
            hint=f"moshi-server listens on 8080: --url {parts.scheme}://{parts.netloc}:8080",
            code="server.port",
        )
    return TransferError(
        f"{url} cannot be reached: {reason(exc)}",
        hint="Check that the server runs and listens there.",
        code="server.unreachable",
    )


async def _has_tls(parts: SplitResult) -> bool:
    """Return whether a TLS handshake works there, with any certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_TLS_S):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _refused(url: str, status: int) -> RemoteError | CredentialsError:
    if status == _UNAUTHORIZED:
        return CredentialsError(
            f"{url} refused the key",
            hint="Give one of the server's authorized_ids: --api-key, or DSMOPS_API_KEY.",
            code="server.key",
        )
    if status == _NOT_FOUND:
        return TransferError(
            f"{url}: the server has nothing at that path",
            hint=CHECK_PATH,
            code="server.path",
        )
    return TransferError(
        f"{url} answered {status} instead of opening a stream",
        hint="Check address and path.",
        code="server.status",
    )
