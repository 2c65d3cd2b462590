"""HTTP as every part of this room speaks it: a key goes to the address that was named, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import TypeVar

import aiohttp

from dsmops.errors import TransferError

CONNECT_S = 10.0
UPGRADE_S = 20.0

CHECK_PATH = "Check the path: /api/modules_info lists each module's."
"""The hint where something answers that is no such module."""

AnswerT = TypeVar("AnswerT")


def new_session(
    headers: dict[str, str] | None = None, connect_s: float = CONNECT_S
) -> aiohttp.ClientSession:
    """Return a session that follows no redirection: the key among its headers would go along, to whatever host.

    A request that is redirected raises TransferError.
    """
    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_refuse)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s)
    return aiohttp.ClientSession(headers=headers, timeout=timeout, trace_configs=[trace])


async def answered(upgrade: Awaitable[AnswerT], url: str, within_s: float = UPGRADE_S) -> AnswerT:
    """Return what the request `upgrade` for a WebSocket at `url` brings. aiohttp alone would wait for its answer without end.

    Raises:
        TransferError: no answer came in time.
    """
    try:
        async with asyncio.timeout(within_s) as limit:
            return await upgrade
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise TransferError(
            f"{url} did not answer in {within_s:g} s",
            hint="Check address and port: what listens there is no speech server, or hangs.",
            code="server.mute",
        ) from exc


async def _refuse(
    _: aiohttp.ClientSession, __: SimpleNamespace, params: aiohttp.TraceRequestRedirectParams
) -> None:
    where = params.response.headers.get("Location", "elsewhere")
    raise TransferError(
        f"{params.url} answered {params.response.status} and points to {where[:200]}, which no moshi-server does",
        hint="Check the address; if the server has moved, name its new one.",
        code="server.redirect",
    )


def reason(exc: Exception) -> str:
    """Return why a connection failed, as people speak of it: without the library's note on TLS, which names plain addresses too."""
    return str(exc).replace(" ssl:default", "") or type(exc).__name__
