"""The routes of the server, its answers that need no model, and incoming connections.

It serves in one process alone, or in each of several fronts.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from dsmops.errors import DsmopsError
from dsmops.worker.serving import page
from dsmops.worker.serving.access import Access
from dsmops.worker.serving.admission import Acceptor, Admission, most_connections, note_request
from dsmops.worker.serving.connection import Ending
from dsmops.worker.serving.logs import MAIN, UTILS, Log, Shown
from dsmops.worker.serving.metrics import CONTENT_TYPE, Metrics
from dsmops.worker.serving.module import ModuleContext
from dsmops.worker.serving.openai.refusals import restated
from dsmops.worker.serving.openai.routes import OpenAiRoutes
from dsmops.worker.serving.settings import (
    BUILD_INFO,
    ModuleSettings,
    SttSettings,
    TtsSettings,
    WorkerSettings,
)
from dsmops.worker.serving.stt import SttModule
from dsmops.worker.serving.tally import Tally
from dsmops.worker.serving.throttle import Bucket
from dsmops.worker.serving.token_keys import Tokens
from dsmops.worker.serving.tts import TtsModule

MAX_BODY_BYTES = 2 << 20
STRANGERS_PER_S, STRANGERS_AT_ONCE = 100.0, 200.0
"""Requests without a known key, over all connections; those for health do not count."""
_HEALTH = ("/livez", "/readyz")
_logger = logging.getLogger(__name__)


class Module(Protocol):
    """What the server asks of a module, whatever it does."""

    name: str
    died: asyncio.Future[DsmopsError]

    async def check_ready(self) -> str | None: ...
    async def check_devices(self) -> dict[str, str | None]: ...
    async def start(self) -> None: ...
    def stop(self) -> bool: ...
    def add_routes(self, router: web.UrlDispatcher) -> None: ...
    def info(self) -> dict[str, str] | None: ...
    @property
    def is_idle(self) -> bool: ...
    def end(self, ending: Ending) -> None: ...


def open_module(settings: ModuleSettings, context: ModuleContext) -> Module:
    """Return a module of the config, not yet started."""
    match settings:
        case SttSettings():
            return SttModule(settings, context)
        case TtsSettings():
            return TtsModule(settings, context)
    raise TypeError(type(settings).__name__)


class Site:
    """The routes of some modules. Event loop only."""

    def __init__(
        self,
        settings: WorkerSettings,
        modules: Sequence[Module],
        access: Access,
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._settings, self._modules, self._log, self._metrics = settings, modules, log, metrics
        self._parting = False
        self._access = access
        self._acceptor: Acceptor | None = None
        self._strangers = Bucket(per_s=STRANGERS_PER_S, at_once=STRANGERS_AT_ONCE)
        self._throttled = Tally(log, "requests had to wait: too many came")
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=1.0)

    async def listen(self, listener: socket.socket) -> None:
        """Take connections from a bound socket."""
        limits = self._settings.limits
        self._access.start()
        await self._runner.setup()
        admission = Admission(
            cast("web.Server", self._runner.server),
            most=limits.connections or most_connections(),
            first_request_s=limits.first_request_s,
            on_dropped=Tally(self._log, "connections were cut: too many, or too slow").add,
        )
        self._acceptor = Acceptor(listener, admission)

    def part(self) -> None:
        """Take no more connections, and refuse further requests on those that are open."""
        self._parting = True
        if self._acceptor is not None:
            self._acceptor.close()

    async def cleanup(self) -> None:
        """Close what is still open."""
        self.part()
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application(
            client_max_size=MAX_BODY_BYTES, middlewares=[self._refuse, _guard(self._log)]
        )
        app.router.add_get(
            "/api/build_info",
            _without_query(lambda: web.json_response(BUILD_INFO)),
            allow_head=True,
        )
        app.router.add_get("/api/modules_info", _without_query(self._modules_info), allow_head=True)
        app.router.add_get("/metrics", _without_query(self._exposition), allow_head=True)
        app.router.add_get("/livez", _livez, allow_head=True)
        app.router.add_get("/readyz", self._readyz, allow_head=True)
        for module in self._modules:
            module.add_routes(app.router)
        OpenAiRoutes(
            self._modules,
            self._access,
            self._settings.limits,
            self._log,
            started_s=self._settings.started_s,
        ).add_to(app.router)
        app.router.add_get("/{path:.*}", self._static, allow_head=True)
        return app

    @web.middleware
    async def _refuse(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let requests wait that come too often, and refuse those that may not be served.

        Refused are requests of foreign pages, and requests on kept-open connections after the end
        began.
        """
        waited = await note_request(request)
        if request.path not in _HEALTH and not await self._access.identify(request):
            waited |= await self._strangers.take()
        if waited:
            self._metrics.throttled()
            self._throttled.add()
        if self._parting:
            return restated(request, web.Response(status=503, text="the server is shutting down\n"))
        if not is_own_origin(request, self._settings.allowed_origins):
            return restated(
                request,
                web.Response(status=403, text="pages of other sites may not use this server\n"),
            )
        return await handler(request)

    def _modules_info(self) -> web.Response:
        return web.json_response(
            [info for module in self._modules if (info := module.info()) is not None]
        )

    async def _readyz(self, _: web.Request) -> web.Response:
        """Say which modules have stepped lately; 503 unless all have."""
        reasons = await asyncio.gather(*(module.check_ready() for module in self._modules))
        modules = [
            {"name": module.name, "ready": reason is None, "reason": reason}
            for module, reason in zip(self._modules, reasons, strict=True)
        ]
        ready = not any(reasons)
        document: dict[str, Any] = {"ready": ready, "modules": modules}
        devices: dict[str, str | None] = {}
        for module in self._modules:
            for name, reason in (await module.check_devices()).items():
                devices[name] = devices.get(name) or reason
        if len(devices) > 1:
            document["devices"] = [
                {"name": name, "ready": reason is None, "reason": reason}
                for name, reason in devices.items()
            ]
        return web.json_response(document, status=200 if ready else 503)

    def _exposition(self) -> web.Response:
        return web.Response(
            body=self._metrics.exposition().encode(), headers={"Content-Type": CONTENT_TYPE}
        )

    async def _static(self, request: web.Request) -> web.StreamResponse:
        """Answer with a file of `static_dir`, and with nothing from elsewhere.

        A folder is answered with its `index.html`.
        """
        root = self._settings.static_dir.resolve()
        try:
            path = (root / request.match_info["path"]).resolve()
            if path.is_dir():
                path /= "index.html"
            if path.is_relative_to(root) and path.is_file():
                return web.FileResponse(path)
        except (OSError, ValueError):  # a name too long, or with a NUL in it
            pass
        found = page.answer(request.match_info["path"])
        if found is None:
            raise web.HTTPNotFound
        return found


def _guard(records: Log) -> Middleware:
    """Return the middleware that answers 500 where a handler raises.

    The traceback goes into the log.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as exc:
            # As a response of its own: aiohttp would keep the exception beside its own frame, which
            # its traceback holds, and so the whole connection until a collection.
            headers = {k: v for k, v in exc.headers.items() if k != "Content-Length"}
            return web.Response(
                status=exc.status, reason=exc.reason, body=exc.body, headers=headers
            )
        except ConnectionError as exc:
            # The client left before the answer; it will not see this status.
            records.error(UTILS, "returning internal server error 500", err=Shown(str(exc)))
        except Exception as exc:  # noqa: BLE001 the edge of one connection: its bug must not become the server's
            records.error(
                UTILS,
                "returning internal server error 500",
                traceback.format_exc().splitlines(),
                err=Shown(repr(exc)),
            )
        return web.Response(status=500)

    return guarded


def is_own_origin(request: web.Request, allowed: Sequence[str]) -> bool:
    """Return whether the page of a request may use the server.

    It may where the request comes from no page, from a page of this server, or from a page that the
    operator allows. Browsers send `Origin`; other clients do not.
    """
    origin = request.headers.get("Origin")
    if origin is None or "*" in allowed or origin in allowed:
        return True
    _, _, host = origin.partition("://")
    return bool(host) and _without_port(host) == _without_port(request.host)


def _without_port(host: str) -> str:
    """Return a host with its port, unless that is a default one. Behind TLS ports differ."""
    return host.lower().removesuffix(":443").removesuffix(":80")


async def _livez(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _without_query(answer: Callable[[], web.Response]) -> Handler:
    """Return a handler that refuses every query parameter, as moshi-server does."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.query:
            raise web.HTTPBadRequest(text="Failed to deserialize query string: expected unit")
        return answer()

    return handler


def silence_libraries() -> None:
    """Turn off what libraries log: it repeats what clients send, keys among it."""
    for name in ("aiohttp", "websockets"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def log_failures(log: Log) -> None:
    """Have the running event loop's own errors counted in the log, instead of a traceback each."""
    tally = Tally(log, "the event loop met errors")

    def handle(_: asyncio.AbstractEventLoop, found: dict[str, Any]) -> None:
        _logger.debug("%s", found.get("message"), exc_info=found.get("exception"))
        tally.add()

    asyncio.get_running_loop().set_exception_handler(handle)


def access_of(settings: WorkerSettings, log: Log, metrics: Metrics) -> Access:
    """Return who may use the worker; refusals are counted."""
    tallies: dict[str, Tally] = {}

    def refused(reason: str) -> None:
        metrics.unauthorized()
        if reason not in tallies:
            said = "requests without a known key were refused"
            tallies[reason] = Tally(log, f"a token was refused: {reason}" if reason else said)
        tallies[reason].add()

    def warn(why: str) -> None:
        log.warn(MAIN, "the keys that check tokens are not complete", reason=why)

    tokens = None if settings.tokens is None else Tokens(settings.tokens, warn)
    return Access(settings.authorized_ids, refused, tokens)
