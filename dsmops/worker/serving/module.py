"""What the modules of both kinds have in common: a model loop, the WebSockets on it, posts that wait for a slot."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aiohttp import web

from dsmops import protocol
from dsmops.errors import DsmopsError
from dsmops.worker.runtime.loop import ModelLoop, SlotStream
from dsmops.worker.serving.access import Access
from dsmops.worker.serving.connection import Connection, Ending, Limits, close_socket
from dsmops.worker.serving.logs import UTILS, Origin, ServerLog, Shown, causes
from dsmops.worker.serving.metrics import Metrics

NO_FREE_CHANNELS = "no free channels"
POST_PAUSE_S = 0.1
"""How often a post looks whether a slot is free, and whether its sender is still there."""
_POST_TRIES = 1000

StreamT = TypeVar("StreamT", bound=SlotStream[Any])


@dataclass(frozen=True, slots=True)
class ModuleContext:
    """What the modules of one server share."""

    access: Access
    log: ServerLog
    metrics: Metrics
    limits: Limits


class LoopModule(ABC, Generic[StreamT]):
    """Serves one model loop. All methods belong to the event loop but for what the loop's thread calls."""

    loop: ModelLoop[StreamT]

    def __init__(self, path: str, origin: Origin, context: ModuleContext) -> None:
        self.path = path
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
        self.loop.start()
        either: list[asyncio.Future[Any]] = [self._started, self.died]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self.died.done():
            raise self.died.result()

    def stop(self) -> bool:
        """End the model loop, and return whether it ended."""
        return self.loop.stop()

    @property
    def is_idle(self) -> bool:
        """Whether nobody is being served."""
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
        """Serve a stream that has its slot until it ends, and say goodbye."""
        self.connections.add(connection)
        try:
            try:
                ending = await connection.converse()
            finally:
                self._release(stream)
            self._log_ending(ending, stream)
            await close_socket(
                ws, request.transport, ending, self._limits, connection.error_message(ending)
            )
        finally:
            self.connections.discard(connection)

    async def _refuse_socket(
        self,
        request: web.Request,
        ws: web.WebSocketResponse,
        ending: Ending,
        error_message: bytes | None,
    ) -> None:
        """Say goodbye to a client that gets no stream."""
        await close_socket(ws, request.transport, ending, self._limits, error_message)

    async def _wait_for_slot(
        self, request: web.Request, lend: Callable[[], StreamT | None]
    ) -> StreamT | None:
        """Return what `lend` gives once it gives something, None when that takes too long.

        Raises:
            ConnectionResetError: whoever asked has hung up.
        """
        for _ in range(_POST_TRIES):
            require_sender(request)
            stream = lend()
            if stream is not None:
                return stream
            await asyncio.sleep(POST_PAUSE_S)
        return None

    async def _read_body(self, request: web.Request) -> bytes:
        """Return what was posted.

        Raises:
            HTTPException: it is larger than 2 MiB (413), cannot be unpacked (400), or does not come (408).
            ConnectionResetError: whoever sends it has hung up.
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
    """Raise ConnectionResetError when whoever asked has hung up."""
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError("the client has left")
