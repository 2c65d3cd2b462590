"""The server around the model loops: addresses, routes, readiness, draining.

One event loop owns all sockets.

Order of events: the port is bound first, so that a taken one is known at once, but nothing listens
before every module is loaded and warm: who can connect, can talk. SIGTERM closes the port, lets
conversations end by themselves for `DRAIN_S`, tells the others, and ends with exit code 0. A dead
model loop tells every client and ends the process with its error.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import logging
import os
import platform
import signal
import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from dsmops import __version__
from dsmops.errors import DsmopsError, InputError, PortInUseError, ResourceError
from dsmops.protocol import CloseCode
from dsmops.worker.runtime.collector import Collector
from dsmops.worker.serving.access import Access
from dsmops.worker.serving.admission import Admission, most_connections, note_request
from dsmops.worker.serving.connection import Ending, Limits
from dsmops.worker.serving.logs import MAIN, UTILS, ServerLog, Shown
from dsmops.worker.serving.metrics import CONTENT_TYPE, Metrics
from dsmops.worker.serving.module import ModuleContext
from dsmops.worker.serving.tally import Tally

MAX_BODY_BYTES = 2 << 20
DRAIN_S = 8.0
"""How long conversations may go on after SIGTERM. Docker kills after 10 s."""
_PARTING_S = 1.5
"""For the closing handshakes of the remaining clients."""
_POLL_S = 0.05
_BACKLOG = 1024
_PATIENT_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""After these conversations may end by themselves."""
_logger = logging.getLogger(__name__)

BUILD_INFO = {
    **dict.fromkeys(
        ("build_timestamp", "build_date", "git_branch", "git_timestamp", "git_date", "git_hash"),
        "unknown",
    ),
    "git_describe": f"dsmops {__version__}",
    "rustc_host_triple": f"{platform.machine()}-unknown-{platform.system().lower()}",
    "rustc_version": f"none, Python {platform.python_version()}",
    "cargo_target_triple": f"{platform.machine()}-unknown-{platform.system().lower()}",
}
"""The keys of moshi-server's, all strings; `git_describe` says who answers."""


class Module(Protocol):
    """What the server asks of a module, whatever it does."""

    name: str
    died: asyncio.Future[DsmopsError]

    async def check_ready(self) -> str | None: ...
    async def start(self) -> None: ...
    def stop(self) -> bool: ...
    def add_routes(self, router: web.UrlDispatcher) -> None: ...
    def info(self) -> dict[str, str] | None: ...
    @property
    def is_idle(self) -> bool: ...
    def end(self, ending: Ending) -> None: ...


class ModuleSettings(Protocol):
    """A module of the config."""

    def open(self, context: ModuleContext) -> Module: ...


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What to serve, and where. `port` 0 lets the system choose."""

    addr: str
    port: int
    static_dir: Path
    authorized_ids: Sequence[str]
    modules: Sequence[ModuleSettings]
    limits: Limits = field(default_factory=Limits)
    drain_s: float = DRAIN_S


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server that is ready listens."""

    url: str
    addr: str
    port: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How serving ended: by which signal, and whether a step hangs that would keep the process
    alive.
    """

    signal: signal.Signals
    hangs: bool


def serve(settings: WorkerSettings, log: ServerLog, on_ready: Callable[[Listening], None]) -> Ended:
    """Serve until a signal comes.

    `on_ready` is called once, when clients can connect. To be called on the main thread.

    Raises:
        PortInUseError: something else listens there.
        InputError: no such address on this machine.
        DsmopsError: a model cannot be loaded, or its loop died.
    """
    return asyncio.run(Server(settings, log).run(on_ready))


class Server:
    """One run. `stop` may be called instead of sending a signal."""

    def __init__(self, settings: WorkerSettings, log: ServerLog) -> None:
        self._settings, self._log = settings, log
        self._metrics = Metrics()
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._modules: list[Module] = []
        self._parting = False

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        """End the server, as the signal does."""
        self._signals.put_nowait(by)

    async def run(
        self, on_ready: Callable[[Listening], None], *, handle_signals: bool = True
    ) -> Ended:
        """As `serve`, on a running event loop."""
        settings = self._settings
        event_loop = asyncio.get_running_loop()
        build = ", ".join(f"{key}: {json.dumps(value)}" for key, value in BUILD_INFO.items())
        self._log.info(
            MAIN,
            "",
            build_info=Shown(f"BuildInfo {{ {build} }}"),
        )
        self._log.info(MAIN, "starting worker", num_workers=1)
        if handle_signals:
            for number in (*_PATIENT_SIGNALS, signal.SIGINT):
                # What the caller wants ignored (nohup) stays ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    event_loop.add_signal_handler(number, self.stop, number)
        _silence_libraries()
        self._log_failures_of(event_loop)
        stopped = asyncio.ensure_future(self._signals.get())
        hangs = False
        with bind(settings.addr, settings.port) as listener:
            unknown_keys = Tally(self._log, "requests without a known key were refused")

            def refused() -> None:
                self._metrics.unauthorized()
                unknown_keys.add()

            collector = Collector()
            context = ModuleContext(
                Access(settings.authorized_ids, refused),
                self._log,
                self._metrics,
                settings.limits,
                collector,
            )
            self._modules = [module.open(context) for module in settings.modules]
            runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            try:
                if await self._load(stopped):
                    with collector.running():
                        await self._answer(runner, listener, on_ready, stopped)
            finally:
                await runner.cleanup()
                for module in self._modules:
                    hangs |= not module.stop()
        for module in self._modules:
            if module.died.done():
                raise module.died.result()
        return Ended(stopped.result(), hangs)

    async def _load(self, stopped: asyncio.Future[signal.Signals]) -> bool:
        """Load one module after the other. Return False where a signal came first."""
        for module in self._modules:
            starting = asyncio.ensure_future(module.start())
            either: list[asyncio.Future[Any]] = [starting, stopped]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                starting.cancel()
                return False
            starting.result()
        return True

    async def _answer(
        self,
        runner: web.AppRunner,
        listener: socket.socket,
        on_ready: Callable[[Listening], None],
        stopped: asyncio.Future[signal.Signals],
    ) -> None:
        """Listen until a signal comes or a module dies, then let conversations end."""
        limits = self._settings.limits
        admission = Admission(
            cast("web.Server", runner.server),
            most=limits.connections or most_connections(),
            first_request_s=limits.first_request_s,
            on_dropped=Tally(self._log, "connections were cut: too many, or too slow").add,
        )
        with address_errors(*listener.getsockname()[:2]):
            listening = await asyncio.get_running_loop().create_server(
                admission, sock=listener, backlog=_BACKLOG
            )
        self._log.info(MAIN, f"listening on {where(listener).url}")
        on_ready(where(listener))
        ends: list[asyncio.Future[Any]] = [stopped, *(module.died for module in self._modules)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        listening.close()
        await self._part(stopped)

    async def _part(self, stopped: asyncio.Future[signal.Signals]) -> None:
        """Let conversations end, as long as the signal allows; then end the others."""
        self._parting = True
        clock = asyncio.get_running_loop().time
        patient = stopped.done() and stopped.result() in _PATIENT_SIGNALS
        until_s = clock() + (self._settings.drain_s if patient else 0)
        while clock() < until_s and not self._is_idle and self._signals.empty():
            await asyncio.sleep(_POLL_S)
        if stopped.done():
            self._log.info(MAIN, "shutting down", signal=Shown(stopped.result().name))
            for module in self._modules:
                module.end(
                    Ending(CloseCode.GOING_AWAY, "the server is shutting down", task="send_loop")
                )
        until_s = clock() + _PARTING_S
        while clock() < until_s and not self._is_idle:
            await asyncio.sleep(_POLL_S)

    @property
    def _is_idle(self) -> bool:
        return all(module.is_idle for module in self._modules)

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
        app.router.add_get("/{path:.*}", self._static, allow_head=True)
        return app

    @web.middleware
    async def _refuse(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer 503 on connections that were kept open from before the end began."""
        note_request(request)
        return (
            web.Response(status=503, text="the server is shutting down\n")
            if self._parting
            else await handler(request)
        )

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
        return web.json_response({"ready": ready, "modules": modules}, status=200 if ready else 503)

    def _log_failures_of(self, event_loop: asyncio.AbstractEventLoop) -> None:
        """Have the event loop's own errors counted in the log, instead of a traceback each."""
        tally = Tally(self._log, "the event loop met errors")

        def handle(_: asyncio.AbstractEventLoop, found: dict[str, Any]) -> None:
            _logger.debug("%s", found.get("message"), exc_info=found.get("exception"))
            tally.add()

        event_loop.set_exception_handler(handle)

    def _exposition(self) -> web.Response:
        return web.Response(
            body=self._metrics.exposition().encode(), headers={"Content-Type": CONTENT_TYPE}
        )

    async def _static(self, request: web.Request) -> web.StreamResponse:
        """Answer with a file of `static_dir`, a folder's `index.html` for the folder, and nothing
        from elsewhere.
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
        raise web.HTTPNotFound


def _guard(records: ServerLog) -> Middleware:
    """Return what stands between a handler's bug and everybody else: the traceback goes into the
    log, the client gets 500.
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


async def _livez(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _silence_libraries() -> None:
    """Turn off what libraries log: it repeats what clients send, keys among it."""
    for name in ("aiohttp", "websockets"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _without_query(answer: Callable[[], web.Response]) -> Handler:
    """Return a handler that refuses every query parameter, as moshi-server does."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.query:
            raise web.HTTPBadRequest(text="Failed to deserialize query string: expected unit")
        return answer()

    return handler


def address_family(addr: str) -> socket.AddressFamily:
    """Return the family of an IP address.

    Raises:
        InputError: `addr` is not an IP address.
    """
    try:
        return socket.AF_INET6 if ipaddress.ip_address(addr).version == 6 else socket.AF_INET
    except ValueError as exc:
        raise InputError(
            f"{addr!r} is not an IP address",
            hint="Use 127.0.0.1, or 0.0.0.0 for every network.",
            code="addr.unusable",
        ) from exc


def bind(addr: str, port: int) -> socket.socket:
    """Return a socket that has the address, and does not listen yet.

    Raises:
        InputError: `addr` is not an IP address of this machine.
        PortInUseError: the port is taken.
        ResourceError: it may not be taken by this user.
    """
    listener = socket.socket(address_family(addr), socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        with address_errors(addr, port):
            listener.bind((addr, port))
    except DsmopsError:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def address_errors(addr: str, port: int) -> Iterator[None]:
    """Translate the system's errors about an address."""
    try:
        yield
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} of {addr} is in use",
                hint=f"`ss -ltnp 'sport = :{port}'` shows by which process; or use another --port.",
            ) from exc
        if exc.errno == errno.EADDRNOTAVAIL:
            raise InputError(
                f"{addr} is not an address of this machine",
                hint="`ip addr` lists them.",
                code="addr.unusable",
            ) from exc
        raise ResourceError(
            f"cannot listen on port {port} of {addr}: {os.strerror(exc.errno or 0)}",
            hint="Use a --port of 1024 or above.",
            code="port.refused",
        ) from exc


def where(listener: socket.socket) -> Listening:
    """Return the address that the system gave."""
    addr, port = listener.getsockname()[:2]
    return Listening(
        f"http://[{addr}]:{port}" if ":" in addr else f"http://{addr}:{port}", addr, port
    )
