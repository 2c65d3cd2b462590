"""A speech-to-text module as clients see it: its WebSocket and its POST, on a model loop."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from aiohttp import web

from dsmops.audio import SAMPLE_RATE_HZ, Samples, open_audio
from dsmops.errors import DsmopsError
from dsmops.worker import protocol
from dsmops.worker.access import Access
from dsmops.worker.connection import BATCHED, UNBATCHED, Connection, Ending, Limits, answer, part
from dsmops.worker.logs import ASR, BATCHED_ASR, MAIN, UTILS, Origin, ServerLog, Shown, causes
from dsmops.worker.metrics import AsrMetrics
from dsmops.worker.protocol import CloseCode
from dsmops.worker.runtime.loop import StreamFailed
from dsmops.worker.runtime.slots import AsrLoop, Engine, MarkerReached, Observer, Stream
from dsmops.worker.runtime.words import Word, WordEnd

NO_FREE_CHANNELS = "no free channels"
ASR_SESSIONS = 8
"""Slots of an `Asr` module, whose config names no number. The original makes a new model state for each session, without a limit."""
_ASR_SESSION_S = 360.0
_POST_TRIES, _POST_PAUSE_S = 1000, 0.1
_POST_SILENCE_S = 10
"""Fed behind a posted file, so that its marker comes back: more than any model's text delay."""


@dataclass(frozen=True, slots=True)
class AsrSettings:
    """One module of the config. `kind` is `BatchedAsr` or `Asr`; the file names are for `/api/modules_info`."""

    name: str
    kind: str
    path: str
    slots: int
    lm_file: str
    audio_tokenizer_file: str
    open_engine: Callable[[], Engine]


class AsrModule:
    """Serves one module. All methods belong to the event loop but for what the loop's thread calls."""

    def __init__(self, settings: AsrSettings, access: Access, log: ServerLog, metrics: AsrMetrics, limits: Limits) -> None:
        self.settings = settings
        self.is_batched = settings.kind == BATCHED.kind
        self._rules = BATCHED if self.is_batched else UNBATCHED
        self._limits = limits if self.is_batched else replace(limits, session_s=limits.session_s or _ASR_SESSION_S)
        self._origin: Origin = BATCHED_ASR if self.is_batched else ASR
        self._access, self._log, self._metrics = access, log, metrics
        self._event_loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = self._event_loop.create_future()
        self.died: asyncio.Future[DsmopsError] = self._event_loop.create_future()
        self.loop = AsrLoop(settings.name, settings.open_engine, self._observer())
        self.connections: set[Connection] = set()
        self.posts = 0

    def _observer(self) -> Observer:
        def on_event_loop(call: Callable[[], None]) -> None:
            # The event loop is closed when a step that hung comes back after all.
            if not self._event_loop.is_closed():
                self._event_loop.call_soon_threadsafe(call)

        def started(slots: int) -> None:
            self._log.info(self._origin, f"starting asr loop {slots}")
            on_event_loop(lambda: self.started.set_result(None))

        def stepped(step_ms: float, step_idx: int, with_data: int) -> None:
            self._log.info(self._origin, f"{step_ms:.2f}ms", step_idx=step_idx, with_data=with_data)
            if self.is_batched:
                self._metrics.stepped(step_ms / 1000)

        def news(streams: Iterable[Stream]) -> None:
            listeners = [stream.on_news for stream in streams]

            def tell() -> None:
                for listener in listeners:
                    listener()

            on_event_loop(tell)

        def died(exc: DsmopsError) -> None:
            self._log.error(UTILS, "task failed", causes(exc), name="model_loop", err=Shown(exc.message))
            on_event_loop(lambda: self.died.set_result(exc))

        return Observer(
            warming_up=lambda: self._log.info(self._origin, "warming-up the asr"),
            started=started,
            stepped=stepped,
            marker=lambda slot, marker_id: self._log.info(self._origin, "received marker", bid=slot, id=marker_id),
            news=news,
            died=died,
        )

    async def start(self) -> None:
        """Load and warm up.

        Raises:
            DsmopsError: that failed.
        """
        self.loop.start()
        either: list[asyncio.Future[Any]] = [self.started, self.died]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self.died.done():
            raise self.died.result()

    def info(self) -> dict[str, str]:
        """Return what `/api/modules_info` says."""
        return {
            "type": "batched_asr",
            "path": self.settings.path,
            "lm": self.settings.lm_file,
            "audio_tokenizer": self.settings.audio_tokenizer_file,
            "used_slots": str(self.loop.used_slots),
            "total_slots": str(self.loop.slots),
        }

    @property
    def is_idle(self) -> bool:
        """Whether nobody is being served."""
        return not self.connections and not self.posts

    def tell(self, ending: Ending) -> None:
        """End every conversation."""
        for connection in self.connections:
            connection.tell(ending)

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """Serve a WebSocket."""
        ws = web.WebSocketResponse(timeout=self._limits.close_s, autoping=False, compress=False, max_msg_size=protocol.MAX_MESSAGE_BYTES)
        if not ws.can_prepare(request):
            return web.Response(status=400, text="Connection header did not include 'upgrade'\n")
        self._access.require(request, query=True)
        addr = _addr(request)
        if self.is_batched:
            self._log.info(MAIN, "handling batched asr-streaming query", **addr)
            given = 'Some("<redacted>")' if "auth_id" in request.query else "None"
            self._log.info(BATCHED_ASR, "batched-asr ws query", query=Shown(f"AsrStreamingQuery {{ auth_id: {given} }}"))
            self._metrics.connected()
        else:
            self._log.info(MAIN, "handling asr-streaming query", **addr)
        await ws.prepare(request)
        stream = self._open()
        if stream is None:
            self._log.error(self._origin, NO_FREE_CHANNELS)
            await part(ws, request.transport, Ending(CloseCode.FULL, NO_FREE_CHANNELS), self._limits)
            return ws
        connection = Connection(ws, stream, self._rules, self._limits)
        self.connections.add(connection)
        try:
            if self.is_batched:
                self._log.info(BATCHED_ASR, "batched-asr channel", batch_idx=stream.slot)
            try:
                ending = await connection.converse()
            finally:
                self._close(stream)
            self._log_ending(ending, stream)
            await part(ws, request.transport, ending, self._limits)
        finally:
            self.connections.discard(connection)
        return ws

    async def post(self, request: web.Request) -> web.Response:
        """Transcribe the audio file in the body."""
        self._access.require(request, query=False)
        body = await request.read()
        self._log.info(MAIN, "handling asr post query", len=len(body))
        self._log.info(BATCHED_ASR, "batched-asr post query")
        self.posts += 1
        try:
            stream = await self._wait_for_slot(request)
            if stream is None:
                self._log.error(BATCHED_ASR, "no free channels after 1000 tries")
                return web.Response(status=500, text=NO_FREE_CHANNELS)
            try:
                self._log.info(BATCHED_ASR, "batched-asr channel", batch_idx=stream.slot)
                words = await _transcribe(stream, body, request)
            finally:
                self._close(stream)
        except DsmopsError as exc:
            self._log.error(UTILS, "returning internal server error 500", err=Shown(exc.message))
            return web.Response(status=500, text=f"{exc.message}\n{exc.hint}\n")
        finally:
            self.posts -= 1
        return web.Response(body=protocol.encode_json(words), content_type="application/json")

    def _open(self) -> Stream | None:
        stream = self.loop.open()
        if stream is not None and self.is_batched:
            self._metrics.slot_taken()
        return stream

    def _close(self, stream: Stream) -> None:
        self.loop.close(stream)
        if self.is_batched:
            self._metrics.slot_released(stream.steps)

    async def _wait_for_slot(self, request: web.Request) -> Stream | None:
        for _ in range(_POST_TRIES):
            _require_sender(request)
            stream = self._open()
            if stream is not None:
                return stream
            await asyncio.sleep(_POST_PAUSE_S)
        return None

    def _log_ending(self, ending: Ending, stream: Stream) -> None:
        if ending.logged.endswith("timeout"):
            if self.is_batched:
                self._log.info(BATCHED_ASR, ending.logged, batch_idx=stream.slot)
            else:
                self._log.error(ASR, ending.logged)
        elif ending.logged:
            self._log.error(UTILS, "task failed", causes(ending), name=ending.task, err=Shown(ending.logged))
        else:
            for task in ("recv_loop", "send_loop"):
                self._log.info(UTILS, "task completed successfully", name=task)


def _addr(request: web.Request) -> dict[str, str]:
    """Return the log field of the client's address, where a proxy tells it."""
    addr = request.headers.get("X-Real-IP")
    return {} if addr is None else {"addr": addr}


def _require_sender(request: web.Request) -> None:
    """Raise ConnectionResetError when whoever asked has hung up."""
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError("the client has left")


async def _transcribe(stream: Stream, body: bytes, request: web.Request) -> list[protocol.ServerMessage]:
    """Return the words of a whole audio file.

    Raises:
        InputError: the body is no audio.
        DsmopsError: the stream failed.
        ConnectionResetError: nobody waits for the words any more.
    """
    news = asyncio.Event()
    stream.on_news = news.set
    feeder = asyncio.ensure_future(_feed(stream, body))
    feeder.add_done_callback(lambda _: news.set())
    words: list[protocol.ServerMessage] = []
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POST_PAUSE_S):
                    await news.wait()
            news.clear()
            _require_sender(request)
            if feeder.done():
                feeder.result()
            for event in stream.fetch():
                if isinstance(event, StreamFailed):
                    raise DsmopsError(event.reason)
                if isinstance(event, MarkerReached):
                    return words
                message = answer(event, BATCHED) if isinstance(event, Word | WordEnd) else None
                if message is not None:
                    words.append(message)
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)


async def _feed(stream: Stream, body: bytes) -> None:
    """Hand a file to the stream as it has room; then a marker, then silence."""
    blocks = _blocks(body)
    while (block := await asyncio.to_thread(next, blocks, None)) is not None:
        while stream.is_full:
            await asyncio.sleep(_POST_PAUSE_S)
        stream.push(block)
    stream.mark(0)
    stream.push(np.zeros(_POST_SILENCE_S * SAMPLE_RATE_HZ, np.float32))


def _blocks(body: bytes) -> Iterator[Samples]:
    with open_audio(io.BytesIO(body)) as audio:
        yield from audio.blocks()
