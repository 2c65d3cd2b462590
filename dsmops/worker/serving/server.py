"""The server in one process: sockets and model loops share it, and one event loop has all sockets.

Order of events: the port is bound first, so that a taken one is known at once, but nothing listens
before every module is loaded and warm: who can connect, can talk. SIGTERM closes the port, lets
conversations end by themselves for `DRAIN_S`, tells the others, and ends with exit code 0. A dead
model loop tells every client and ends the process with its error.

`supervisor` does the same with processes of their own for models and sockets.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from dsmops.protocol import CloseCode
from dsmops.worker.runtime.collector import Collector
from dsmops.worker.serving.addresses import Listening, address_errors, bind, where
from dsmops.worker.serving.connection import Ending
from dsmops.worker.serving.logs import MAIN, ServerLog, Shown
from dsmops.worker.serving.metrics import Metrics
from dsmops.worker.serving.module import ModuleContext
from dsmops.worker.serving.settings import (
    PARTING_S,
    PATIENT_SIGNALS,
    Ended,
    WorkerSettings,
    build_info,
)
from dsmops.worker.serving.site import (
    Module,
    Site,
    access_of,
    log_failures,
    open_module,
    silence_libraries,
)

_POLL_S = 0.05


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

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        """End the server, as the signal does."""
        self._signals.put_nowait(by)

    async def run(
        self, on_ready: Callable[[Listening], None], *, handle_signals: bool = True
    ) -> Ended:
        """As `serve`, on a running event loop."""
        settings = self._settings
        event_loop = asyncio.get_running_loop()
        self._log.info(MAIN, "", build_info=build_info())
        self._log.info(MAIN, "starting worker", num_workers=1)
        if handle_signals:
            for number in (*PATIENT_SIGNALS, signal.SIGINT):
                # What the caller wants ignored (nohup) stays ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    event_loop.add_signal_handler(number, self.stop, number)
        silence_libraries()
        log_failures(self._log)
        stopped = asyncio.ensure_future(self._signals.get())
        hangs = False
        with bind(settings.addr, settings.port) as listener:
            collector = Collector()
            access = access_of(settings, self._log, self._metrics)
            context = ModuleContext(
                access,
                self._log,
                self._metrics,
                settings.limits,
                collector,
            )
            self._modules = [open_module(module, context) for module in settings.modules]
            site = Site(settings, self._modules, access, self._log, self._metrics)
            try:
                if await self._load(stopped):
                    with collector.running():
                        with address_errors(*listener.getsockname()[:2]):
                            await site.listen(listener)
                        self._log.info(MAIN, f"listening on {where(listener).url}")
                        on_ready(where(listener))
                        await self._answer(site, stopped)
            finally:
                await site.cleanup()
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

    async def _answer(self, site: Site, stopped: asyncio.Future[signal.Signals]) -> None:
        """Serve until a signal comes or a module dies, then let conversations end."""
        ends: list[asyncio.Future[Any]] = [stopped, *(module.died for module in self._modules)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        site.part()
        clock = asyncio.get_running_loop().time
        patient = stopped.done() and stopped.result() in PATIENT_SIGNALS
        until_s = clock() + (self._settings.drain_s if patient else 0)
        while clock() < until_s and not self._is_idle and self._signals.empty():
            await asyncio.sleep(_POLL_S)
        if stopped.done():
            self._log.info(MAIN, "shutting down", signal=Shown(stopped.result().name))
            for module in self._modules:
                module.end(shutting_down())
        until_s = clock() + PARTING_S
        while clock() < until_s and not self._is_idle:
            await asyncio.sleep(_POLL_S)

    @property
    def _is_idle(self) -> bool:
        return all(module.is_idle for module in self._modules)


def shutting_down() -> Ending:
    """Return the ending of conversations that outlast the drain."""
    return Ending(CloseCode.GOING_AWAY, "the server is shutting down", task="send_loop")
