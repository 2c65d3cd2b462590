"""What STT and TTS modules share: a model loop, its WebSockets, posts that wait."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from aiohttp import web

from dsmops import protocol
from dsmops.errors import DsmopsError, ResourceError
from dsmops.worker.runtime.board import LoopBoard
from dsmops.worker.runtime.collector import Collector
from dsmops.worker.runtime.facts import FactsBoard
from dsmops.worker.runtime.loop import ModelLoop, Stream
from dsmops.worker.serving.access import Access, caller_of
from dsmops.worker.serving.connection import (
    Connection,
    Ending,
    close_socket,
    forget_errors,
)
from dsmops.worker.serving.desk import Desk, Lender, LocalLender, Place
from dsmops.worker.serving.logs import UTILS, Log, Origin, Shown, causes
from dsmops.worker.serving.metrics import Metrics
from dsmops.worker.serving.settings import Limits

POST_PAUSE_S = 0.1
"""Pause between two checks whether a slot is free and the post's sender is still there."""
POST_PATIENCE_S = 100.0
"""For which a post waits for a slot, as in moshi-server."""
READY_STEP_S = 2.0
"""A module that has made a step in this time is ready."""
READY_PATIENCE_S = 2.0
"""For the step that an idle module is asked for."""
_READY_PAUSE_S = 0.02

StreamT = TypeVar("StreamT", bound=Stream[Any])


class NoFreeSlotError(ResourceError):
    """A post waited in vain for a slot."""

    def __init__(self) -> None:
        super().__init__(protocol.NO_FREE_CHANNELS, hint="Try again later.", code="slots.full")


class Line(Protocol):
    """A model loop as a module sees it, in this process or in another."""

    board: LoopBoard
    failure: DsmopsError | None

    @property
    def device(self) -> str: ...
    @property
    def slots(self) -> int: ...
    @property
    def used_slots(self) -> int: ...
    def probe(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Remote:
    """The model loops of one module in other processes, one for each device."""

    lines: Sequence[Any]
    lender: Lender


@dataclass(frozen=True, slots=True)
class ModuleContext:
    """What the modules of one server share.

    `remote` has, by the module's name, the loops that run elsewhere; a module that is not in it
    runs its own.
    """

    access: Access
    log: Log
    metrics: Metrics
    limits: Limits
    collector: Collector = field(default_factory=Collector)
    remote: dict[str, Remote] = field(default_factory=dict)


class LoopModule(ABC, Generic[StreamT]):
    """Serves the model loops of one module.

    All methods belong to the event loop but for what a loop's thread calls.
    """

    loop: ModelLoop[Any] | None
    """The loop in this process, None where the loops run elsewhere."""
    lines: Sequence[Any]
    """The loops, one for each device, as `Line` with what the subclass needs besides."""
    model_name: str
    """The model's own name where it is known, else the module's."""
    facts: FactsBoard

    def __init__(self, name: str, path: str, origin: Origin, context: ModuleContext) -> None:
        self.name, self.path = name, path
        self._collector = context.collector
        self._origin, self._log, self._access, self._limits = (
            origin,
            context.log,
            context.access,
            context.limits,
        )
        self._event_loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._event_loop.create_future()
        self.died: asyncio.Future[DsmopsError] = self._event_loop.create_future()
        self.connections: set[Connection[Any]] = set()
        self.posts = 0
        remote = context.remote.get(name)
        self.desk = Desk()
        self._lender: Lender = LocalLender(self.desk) if remote is None else remote.lender

    async def start(self) -> None:
        """Load and warm up the loop of this process.

        Raises:
            DsmopsError: that failed.
        """
        if self.loop is None:
            return
        self.loop.collector = self._collector
        self._collector.loops.append(self.loop)
        self.loop.start()
        either: list[asyncio.Future[Any]] = [self._started, self.died]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self.died.done():
            raise self.died.result()
        self.desk.add_device(0, self.loop.slots)

    async def check_ready(self) -> str | None:
        """Return why the module cannot serve, None where a device of it has made a step lately.

        A loop without streams makes no steps; it is asked for one.
        """
        reasons = (await self.check_devices()).values()
        return None if None in reasons else next(iter(reasons), "it has no device")

    async def check_devices(self) -> dict[str, str | None]:
        """Return for each device why it cannot serve, None where it can."""
        reasons = await asyncio.gather(*map(_check_line, self.lines))
        return {line.device: reason for line, reason in zip(self.lines, reasons, strict=True)}

    def stop(self) -> bool:
        """End the model loop of this process, and return whether it ended."""
        return self.loop is None or self.loop.stop()

    @property
    def slots(self) -> int:
        """Slots of all devices that work."""
        return sum(line.slots for line in self.lines if line.failure is None)

    @property
    def used_slots(self) -> int:
        """Slots that a stream holds."""
        return sum(line.used_slots for line in self.lines if line.failure is None)

    @property
    def is_idle(self) -> bool:
        """Whether no client is being served."""
        return not self.connections and not self.posts

    def end(self, ending: Ending) -> None:
        """End every conversation."""
        for connection in self.connections:
            connection.end(ending)

    @abstractmethod
    def _release(self, stream: StreamT, place: Place) -> None:
        """End a stream."""

    @abstractmethod
    def _log_timeout(self, ending: Ending, stream: StreamT) -> None: ...

    def socket_for(
        self, request: web.Request, protocols: Sequence[str] = ()
    ) -> web.WebSocketResponse | web.Response:
        """Return a WebSocket to be prepared, or the refusal of a request that asks for none.

        `protocols` are the subprotocols of which the client may choose.
        """
        ws = web.WebSocketResponse(
            timeout=self._limits.close_s,
            protocols=protocols,
            autoping=False,
            compress=False,
            max_msg_size=protocol.MAX_MESSAGE_BYTES,
        )
        return (
            ws
            if ws.can_prepare(request)
            else web.Response(status=400, text="Connection header did not include 'upgrade'\n")
        )

    async def _serve(
        self,
        request: web.Request,
        ws: web.WebSocketResponse,
        stream: StreamT,
        place: Place,
        connection: Connection[Any],
    ) -> None:
        """Serve a stream that has its slot until it ends, then close the socket."""
        self.connections.add(connection)
        try:
            try:
                ending = await connection.converse(request.transport)
            finally:
                self._give_back(stream, place)
            self._log_ending(ending, stream)
            await close_socket(
                ws, request.transport, ending, self._limits, connection.error_message(ending)
            )
        finally:
            self.connections.discard(connection)
            forget_errors(ws)

    async def _refuse_socket(
        self,
        request: web.Request,
        ws: web.WebSocketResponse,
        ending: Ending,
        error_message: bytes | str | None,
    ) -> None:
        """Close the socket of a client that gets no stream."""
        await close_socket(ws, request.transport, ending, self._limits, error_message)
        forget_errors(ws)

    async def _borrow(self, request: web.Request, *, post: bool) -> Place | None:
        """Return a slot. A post waits for one, in order of arrival; None when that takes too long.

        Raises:
            ConnectionResetError: the client of a post has hung up.
        """
        asked = self._lender.ask(post=post)
        until_s = self._event_loop.time() + POST_PATIENCE_S
        try:
            while not asked.done() and self._event_loop.time() < until_s:
                await asyncio.wait([asked], timeout=POST_PAUSE_S)
                if post and not asked.done():
                    require_sender(request)
        except BaseException:
            # The slot came in the moment in which the client left.
            if asked.done() and not asked.cancelled() and (place := asked.result()) is not None:
                self._lender.give_back(place)
            raise
        finally:
            asked.cancel()
        return None if asked.cancelled() else asked.result()

    @contextlib.contextmanager
    def posting(self) -> Iterator[None]:
        """Count a post while it is served.

        Raises:
            HTTPServiceUnavailable: too many posts wait for a slot.
        """
        if self.posts >= self.slots + self._limits.waiting_posts:
            raise web.HTTPServiceUnavailable(
                text="too many posts wait for a slot\n", headers={"Retry-After": "10"}
            )
        self.posts += 1
        try:
            yield
        finally:
            self.posts -= 1

    def _give_back(self, stream: StreamT, place: Place) -> None:
        """Give a stream's slot back."""
        self._release(stream, place)
        self._lender.give_back(place)

    async def write(self, request: web.Request, response: web.StreamResponse, data: bytes) -> None:
        """Send a part of an answer.

        Raises:
            ConnectionResetError: the client has hung up, or reads nothing; it is cut then.
        """
        try:
            async with asyncio.timeout(self._limits.stalled_s):
                await response.write(data)
        except TimeoutError:
            raise cut(
                request, f"the client read nothing for {self._limits.stalled_s:g} s"
            ) from None

    def _log_ending(self, ending: Ending, stream: StreamT) -> None:
        if ending.logged.endswith("timeout"):
            self._log_timeout(ending, stream)
        elif ending.logged:
            self._log.error(
                UTILS, "task failed", causes(ending), name=ending.task, err=Shown(ending.logged)
            )
        else:
            for task in ("recv_loop", "send_loop"):
                self._log.info(UTILS, "task completed successfully", name=task)

    # What follows is called on the loop's thread.

    def _on_started(self) -> None:
        self._on_event_loop(lambda: self._started.set_result(None))

    def _on_news(self, streams: Iterable[Stream[Any]]) -> None:
        listeners = [stream.on_news for stream in streams]

        def tell() -> None:
            for listener in listeners:
                listener()

        self._on_event_loop(tell)

    def _on_died(self, exc: DsmopsError) -> None:
        self._log.error(
            UTILS, "task failed", causes(exc), name="model_loop", err=Shown(exc.message)
        )
        self._on_event_loop(lambda: self.died.set_result(exc))

    def _on_event_loop(self, call: Callable[[], None]) -> None:
        # It is closed when a step that hung comes back after all.
        if not self._event_loop.is_closed():
            self._event_loop.call_soon_threadsafe(call)


async def _check_line(line: Line) -> str | None:
    board, begin_s = line.board, time.monotonic()
    if line.failure is None and begin_s - board.last_step_s > READY_STEP_S:
        line.probe()
        while line.failure is None and board.last_step_s < begin_s:
            if time.monotonic() - begin_s > READY_PATIENCE_S:
                return f"the model has made no step for {begin_s - board.last_step_s:.1f} s"
            await asyncio.sleep(_READY_PAUSE_S)
    return None if line.failure is None else line.failure.message


def client_fields(request: web.Request) -> dict[str, str]:
    """Return log fields of a client: its address where a proxy tells it, the caller of a token."""
    fields = {"addr": request.headers.get("X-Real-IP"), "caller": caller_of(request) or None}
    return {name: value for name, value in fields.items() if value is not None}


def require_sender(request: web.Request) -> None:
    """Raise ConnectionResetError when the client has hung up."""
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError("the client has left")


def cut(request: web.Request, reason: str) -> ConnectionResetError:
    """Cut the connection of an answer that has begun, and return the error to raise.

    The cut tells the client that the answer is incomplete.
    """
    if request.transport is not None:
        request.transport.abort()
    return ConnectionResetError(reason)


async def read_body(request: web.Request, limits: Limits) -> bytes:
    """Return what was posted.

    Raises:
        HTTPException: it is larger than 2 MiB (413), cannot be unpacked (400), or does not come
            (408).
        ConnectionResetError: the client has hung up.
    """
    try:
        async with asyncio.timeout(limits.body_s):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(
            text=f"the body did not come within {limits.body_s:g} s\n"
        ) from None
    except web.RequestPayloadError as exc:
        raise web.HTTPBadRequest(text=f"Failed to read the request body: {exc}\n") from exc
