"""The page for a server that has none: the page's own files from here, all else from there.

Bytes pass as they are in both directions. Keys are neither kept nor logged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from aiohttp import WSMsgType, web

from dsmops.errors import RemoteError
from dsmops.worker.serving import page
from dsmops.worker.serving.addresses import Listening, address_errors, bind, where
from dsmops.worker.serving.site import is_own_origin, silence_libraries

_CONNECT_S = 10.0
_MESSAGE_BYTES = 64 << 20
"""What moshi-server takes."""
_PASSED = ("Authorization", "Content-Type", "Accept", "kyutai-api-key")
_RETURNED = ("Content-Type", "Retry-After", "Warning", "Cache-Control")
_PIECE_BYTES = 64 << 10
_NORMAL, _NO_CODE, _ABNORMAL = 1000, 1005, 1006
"""Close codes: RFC 6455, section 7.4.1."""


async def serve_page(
    upstream: str, addr: str, port: int, on_ready: Callable[[Listening], None]
) -> None:
    """Serve the page for the server at `upstream`, `ws://host:port`, until cancelled.

    `on_ready` is called once browsers can connect. `port` 0 lets the system choose.

    Raises:
        RemoteError: that server does not answer.
        PortInUseError, InputError, ResourceError: the address here cannot be used.
    """
    silence_libraries()
    parts = urlsplit(upstream)
    base = urlunsplit((parts.scheme.replace("ws", "http"), parts.netloc, "", "", ""))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        await _require_answer(session, base)
        app = web.Application(client_max_size=_MESSAGE_BYTES)
        app.router.add_route("*", "/{path:.*}", _Proxy(session, base).answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            listener = bind(addr, port)
            with address_errors(*listener.getsockname()[:2]):
                await web.SockSite(runner, listener).start()
            on_ready(where(listener))
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


async def _require_answer(session: aiohttp.ClientSession, base: str) -> None:
    try:
        async with asyncio.timeout(_CONNECT_S), session.get(f"{base}/api/modules_info") as answer:
            if answer.ok:
                return
            reason = f"answers {answer.status} to /api/modules_info"
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        reason = f"does not answer: {type(exc).__name__}"
    raise RemoteError(
        f"{base} {reason}",
        hint="Check address and port; `dsmops smoke-test --url` tests a server.",
        code="server.unreachable",
    )


class _Proxy:
    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session, self._base = session, base

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a browser's request, with the page or what the server says."""
        if not is_own_origin(request, ()):
            return web.Response(status=403, text="pages of other sites may not use this server\n")
        if request.method in ("GET", "HEAD"):
            found = page.answer(request.match_info["path"])
            if found is not None:
                return found
        try:
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._socket(request)
            return await self._pass(request)
        except aiohttp.WSServerHandshakeError as exc:
            return web.Response(status=exc.status)
        except (aiohttp.ClientError, OSError) as exc:
            return web.Response(status=502, text=f"the server failed: {type(exc).__name__}\n")

    def _url(self, request: web.Request) -> str:
        return f"{self._base}{request.raw_path}"

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        async with self._session.request(
            request.method,
            self._url(request),
            headers=_kept(request.headers, _PASSED),
            data=await request.read() if request.can_read_body else None,
            allow_redirects=False,
        ) as answer:
            response = web.StreamResponse(
                status=answer.status, headers=_kept(answer.headers, _RETURNED)
            )
            await response.prepare(request)
            async for piece in answer.content.iter_chunked(_PIECE_BYTES):
                await response.write(piece)
            await response.write_eof()
            return response

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        async with self._session.ws_connect(
            self._url(request),
            headers=_kept(request.headers, _PASSED),
            max_msg_size=_MESSAGE_BYTES,
        ) as there:
            here = web.WebSocketResponse(max_msg_size=_MESSAGE_BYTES)
            await here.prepare(request)
            tasks = [
                asyncio.ensure_future(_copy(here, there)),
                asyncio.ensure_future(_copy(there, here)),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            # A server that hung up without a word is repeated too: no code is invented for it.
            if not here.closed and there.close_code in (None, _ABNORMAL):
                if request.transport is not None:
                    request.transport.abort()
            elif not here.closed:
                code = there.close_code or _NO_CODE
                with contextlib.suppress(ConnectionError):
                    await here.close(code=_NORMAL if code == _NO_CODE else code)
            return here


def _kept(headers: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


async def _copy(
    source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
    target: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
) -> None:
    async for message in source:
        if message.type is WSMsgType.BINARY:
            await target.send_bytes(message.data)
        elif message.type is WSMsgType.TEXT:
            await target.send_str(message.data)
