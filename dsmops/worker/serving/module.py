"""What the modules of both kinds have in common: a model loop, the WebSockets on it, posts that
wait for a slot.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from aiohttp import web

from dsmops import protocol
from dsmops.errors import DsmopsError
from dsmops.worker.runtime.collector import Collector
from dsmops.worker.runtime.loop import ModelLoop, Stream
from dsmops.worker.serving.access import Access
from dsmops.worker.serving.connection import (
    Connection,
    Ending,
    Limits,
    close_socket,
    forget_errors,
)
from dsmops.worker.serving.logs import UTILS, Origin, ServerLog, Shown, causes
from dsmops.worker.serving.metrics import Metrics

POST_PAUSE_S = 0.1
"""How often a post looks whether a slot is free, and whether its sender is still there."""
POST_PATIENCE_S = 100.0
"""For which a post waits for a slot, as in moshi-server."""
READY_STEP_S = 2.0
"""A module that has made a step in this time is ready."""
READY_PATIENCE_S = 2.0
"""For the step that an idle module is asked for."""
_READY_PAUSE_S = 0.02

StreamT = TypeVar("StreamT", bound=Stream[Any])


@dataclass(frozen=True, slots=True)
class ModuleContext:
    """What the modules of one server share."""

    access: Access
    log: ServerLog
    metrics: Metrics
    limits: Limits
    collector: Collector = field(default_factory=Collector)


class LoopModule(ABC, Generic[StreamT]):
    """Serves one model loop.

    All methods belong to the event loop but for what the loop's thread calls.
    """

    loop: ModelLoop[StreamT]

    def __init__(self, name: str, path: str, origin: Origin, context: ModuleContext) -> None:
        self.name, self.path = name, path
        self._collector = context.collector
        self._queue: dict[asyncio.Future[StreamT], Callable[[], StreamT | None]] = {}
        """Posts that wait for a slot, in order of arrival."""
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

    async def start(self) -> None:
        """Load and warm up.

        Raises:
            DsmopsError: that failed.
        """
        self.loop.collector = self._collector
        self._collector.loops.append(self.loop)
        self.loop.start()
        either: list[asyncio.Future[Any]] = [self._started, self.died]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self.died.done():
            raise self.died.result()

    async def check_ready(self) -> str | None:
        """Return why the module cannot serve, None where it has made a step lately.

        A loop without streams makes no steps; it is asked for one.
        """
        loop, begin_s = self.loop, time.monotonic()
        if loop.failure is None and begin_s - loop.board.last_step_s > READY_STEP_S:
            loop.probe()
            while loop.failure is None and loop.board.last_step_s < begin_s:
                if time.monotonic() - begin_s > READY_PATIENCE_S:
                    return (
                        f"the model has made no step for {begin_s - loop.board.last_step_s:.1f} s"
                    )
                await asyncio.sleep(_READY_PAUSE_S)
        return None if loop.failure is None else loop.failure.message

    def stop(self) -> bool:
        """End the model loop, and return whether it ended."""
        return self.loop.stop()

    @property
    def is_idle(self) -> bool:
        """Whether no client is being served."""
        return not self.connections and not self.posts

    def end(self, ending: Ending) -> None:
        """End every conversation."""
        for connection in self.connections:
            connection.end(ending)

    @abstractmethod
    def _release(self, stream: StreamT) -> None:
        """Give a stream's slot back."""

    @abstractmethod
    def _log_timeout(self, ending: Ending, stream: StreamT) -> None: ...

    def _socket(self, request: web.Request) -> web.WebSocketResponse | web.Response:
        """Return a WebSocket to be prepared, or the refusal of a request that asks for none."""
        ws = web.WebSocketResponse(
            timeout=self._limits.close_s,
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
        connection: Connection[Any],
    ) -> None:
        """Serve a stream that has its slot until it ends, then close the socket."""
        self.connections.add(connection)
        try:
            try:
                ending = await connection.converse()
            finally:
                self._give_back(stream)
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
        error_message: bytes | None,
    ) -> None:
        """Close the socket of a client that gets no stream."""
        await close_socket(ws, request.transport, ending, self._limits, error_message)

    async def _wait_for_slot(
        self, request: web.Request, lend: Callable[[], StreamT | None]
    ) -> StreamT | None:
        """Return what `lend` gives once a slot is free; posts get slots in order of arrival.

        None when that takes too long.

        Raises:
            ConnectionResetError: the client has hung up.
            HTTPServiceUnavailable: too many posts wait already.
            DsmopsError: what `lend` raises.
        """
        if not self._queue and (stream := lend()) is not None:
            return stream
        turn: asyncio.Future[StreamT] = self._event_loop.create_future()
        self._queue[turn] = lend
        until_s = self._event_loop.time() + POST_PATIENCE_S
        try:
            while self._event_loop.time() < until_s:
                await asyncio.wait([turn], timeout=POST_PAUSE_S)
                if turn.done():
                    return turn.result()
                require_sender(request)
                self._serve_queue()
        except BaseException:
            # The slot came in the moment in which the client left.
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_back(turn.result())
            raise
        finally:
            self._queue.pop(turn, None)
        return None

    def _require_room(self) -> None:
        """Raise HTTPServiceUnavailable where too many posts wait for a slot."""
        if self.posts >= self.loop.slots + self._limits.waiting_posts:
            raise web.HTTPServiceUnavailable(
                text="too many posts wait for a slot\n", headers={"Retry-After": "10"}
            )

    def _give_back(self, stream: StreamT) -> None:
        """Give a stream's slot back, to the post that has waited longest where one waits."""
        self._release(stream)
        self._serve_queue()

    def _serve_queue(self) -> None:
        while self._queue:
            turn, lend = next(iter(self._queue.items()))
            try:
                stream = lend()
            except DsmopsError as exc:
                turn.set_exception(exc)
            else:
                if stream is None:
                    return
                turn.set_result(stream)
            del self._queue[turn]

    async def _read_body(self, request: web.Request) -> bytes:
        """Return what was posted.

        Raises:
            HTTPException: it is larger than 2 MiB (413), cannot be unpacked (400), or does not come
                (408).
            ConnectionResetError: the client has hung up.
        """
        try:
            async with asyncio.timeout(self._limits.body_s):
                return await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout(
                text=f"the body did not come within {self._limits.body_s:g} s\n"
            ) from None
        except web.RequestPayloadError as exc:
            raise web.HTTPBadRequest(text=f"Failed to read the request body: {exc}\n") from exc

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

    def _on_news(self, streams: Iterable[StreamT]) -> None:
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


def addr_field(request: web.Request) -> dict[str, str]:
    """Return the log field of the client's address, where a proxy tells it."""
    addr = request.headers.get("X-Real-IP")
    return {} if addr is None else {"addr": addr}


def require_sender(request: web.Request) -> None:
    """Raise ConnectionResetError when the client has hung up."""
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError("the client has left")
