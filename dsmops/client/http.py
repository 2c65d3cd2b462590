"""HTTP for all clients: a key goes to the address that the user named, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import TypeVar

import aiohttp

from dsmops.errors import TransferError

CONNECT_S = 10.0
UPGRADE_S = 20.0

CHECK_PATH = "Check the path: /api/modules_info lists the path of each module."
"""The hint where something answers that is not such a module."""

AnswerT = TypeVar("AnswerT")


def new_session(
    headers: dict[str, str] | None = None, connect_s: float = CONNECT_S
) -> aiohttp.ClientSession:
    """Return a session that follows no redirection: its headers hold the key.

    A request that is redirected raises TransferError.
    """
    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_refuse)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s)
    return aiohttp.ClientSession(headers=headers, timeout=timeout, trace_configs=[trace])


async def answered(upgrade: Awaitable[AnswerT], url: str, within_s: float = UPGRADE_S) -> AnswerT:
    """Return the answer to `upgrade`, the request for a WebSocket at `url`.

    aiohttp alone would wait for it without end.

    Raises:
        TransferError: no answer came within `within_s`.
    """
    try:
        async with asyncio.timeout(within_s) as limit:
            return await upgrade
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise TransferError(
            f"{url} did not answer in {within_s:g} s",
            hint="Check address and port: the program there hangs, or is not a speech server.",
            code="server.mute",
        ) from exc


async def _refuse(
    _: aiohttp.ClientSession, __: SimpleNamespace, params: aiohttp.TraceRequestRedirectParams
) -> None:
    where = params.response.headers.get("Location", "elsewhere")
    raise TransferError(
        f"{params.url} answered {params.response.status} and points to {where[:200]}; "
        "a moshi-server never redirects",
        hint="Check the address; if the server has moved, give its new address.",
        code="server.redirect",
    )


def reason(exc: Exception) -> str:
    """Return why a connection failed, without aiohttp's note on TLS that plain addresses get."""
    return str(exc).replace(" ssl:default", "") or type(exc).__name__
