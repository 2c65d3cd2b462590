"""A WebSocket to a module of a moshi-server with a slot behind it: opened with patience, refused in words.

What full, dead, foreign and silent servers are, and whether trying again helps, is the same
whatever the module does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import aiohttp

from dsmops.client.http import CHECK_PATH, CONNECT_S, UPGRADE_S, answered, new_session, reason
from dsmops.errors import CredentialsError, InputError, RemoteError, TransferError
from dsmops.protocol import CloseCode, ProtocolError

KEY_HEADER = "kyutai-api-key"
_UNAUTHORIZED, _NOT_FOUND = 401, 404
_FULL = "no free channels"

Socket = aiohttp.ClientWebSocketResponse
AwaitSlot = Callable[[aiohttp.ClientSession, Socket], Awaitable[None]]
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds, and how often to try while nothing was sent.

    `upgrade_s`: for the answer to the request for a WebSocket. `first_s`: for a first message,
    before asking which module it is. `ready_s`: for `Ready` where it must come. `marker_s`: for the
    next message once all is sent.
    """

    connect_s: float = CONNECT_S
    upgrade_s: float = UPGRADE_S
    first_s: float = 2.0
    ready_s: float = 20.0
    marker_s: float = 30.0
    close_s: float = 2.0
    attempts: int = 4
    back_off_s: float = 1.0


@asynccontextmanager
async def open_session(
    url: str,
    api_key: str | None,
    patience: Patience,
    await_slot: AwaitSlot,
    query: Mapping[str, str] | None = None,
) -> AsyncIterator[Socket]:
    """Open a WebSocket for which `await_slot` returns. Full or unreachable servers are tried again, each time after twice as long.

    Raises:
        CredentialsError: the server refused the key.
        TransferError: it cannot be reached, is full or is no such server.
    """
    headers = {KEY_HEADER: api_key} if api_key else {}
    async with new_session(headers, patience.connect_s) as session:
        wait_s = patience.back_off_s
        for attempt in range(1, patience.attempts + 1):
            try:
                socket = await _open(session, url, patience, await_slot, query)
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
            yield socket
        finally:
            await socket.close()


async def next_answer(
    socket: Socket, url: str, decode: Callable[[bytes], AnswerT]
) -> AnswerT | None:
    """Return the next message as `decode` reads it, None where the server has closed.

    Raises:
        TransferError: what came is no message.
    """
    while True:
        message = await socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            try:
                return decode(message.data)
            except ProtocolError as exc:
                raise TransferError(
                    f"{url} sent what no moshi-server sends: {exc}",
                    hint=CHECK_PATH,
                    code="server.foreign",
                ) from exc
        if message.type in (
            aiohttp.WSMsgType.CLOSE,
            aiohttp.WSMsgType.CLOSED,
            aiohttp.WSMsgType.CLOSING,
            aiohttp.WSMsgType.ERROR,
        ):
            return None


def ended(
    url: str, awaited: str, said: str, close_code: int | None = None
) -> TransferError | InputError:
    """Return the error for a stream that ended before `awaited` was out; `said` is what the server gave as its reason, and, on a second
    line, as its advice. What our worker refuses as a bad message was the user's input.
    """
    if said and close_code == CloseCode.BAD_MESSAGE:
        message, _, advice = said.partition("\n")
        return InputError(
            f"{url}: {message}",
            hint=advice or f"{CHECK_PATH} The server's log may say more.",
            code="server.refused",
        )
    if said.startswith(_FULL) or close_code == CloseCode.FULL:
        return TransferError(
            f"{url} is full: no slot is free",
            hint="Try again later, or serve with a larger batch_size (`dsmops plan`).",
            code="server.full",
        )
    reason = said or f"the connection closed{f' with code {close_code}' if close_code else ''}"
    return TransferError(
        f"{url} ended the stream before its {awaited} was out: {reason}",
        hint="Look at the server's log; runbooks/capacity-and-close-codes.md explains the codes.",
        code="server.ended",
    )


def silent(url: str, awaited: str, after_s: float, figures: str) -> TransferError:
    """Return the error for a server from which nothing came for so long; `figures` names what to look at."""
    return TransferError(
        f"{url} stopped answering: nothing came for {after_s:g} s, and the {awaited} is not all out",
        hint=f"Its model loop may have died, or it is far behind: look at its log and at {figures} in /metrics.",
        code="server.silent",
    )


def not_ready(url: str, after_s: float) -> TransferError:
    """Return the error for a server that takes a connection and then says nothing."""
    return TransferError(
        f"{url} took the connection and sent no Ready in {after_s:g} s: its model loop does not run",
        hint='Look for `task failed name="model_loop"` in its log; on cards before Ampere see `dsmops prep-sm75`.',
        code="server.not_ready",
    )


async def _open(
    session: aiohttp.ClientSession,
    url: str,
    patience: Patience,
    await_slot: AwaitSlot,
    query: Mapping[str, str] | None,
) -> Socket:
    try:
        limits = aiohttp.ClientWSTimeout(ws_close=patience.close_s)
        socket = await answered(
            session.ws_connect(url, params=query, max_msg_size=0, timeout=limits),
            url,
            patience.upgrade_s,
        )
    except aiohttp.WSServerHandshakeError as exc:
        raise _refused(url, exc.status) from exc
    except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError) as exc:
        raise TransferError(
            f"no TLS connection to {url}: {reason(exc)}",
            hint="moshi-server itself speaks no TLS: use ws://, or the address of its proxy. SSL_CERT_FILE adds a certificate authority.",
            code="server.tls",
        ) from exc
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise TransferError(
            f"{url} cannot be reached: {reason(exc)}",
            hint="See whether the server runs and listens there.",
            code="server.unreachable",
        ) from exc
    try:
        await await_slot(session, socket)
    except BaseException:
        await socket.close()
        raise
    return socket


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
