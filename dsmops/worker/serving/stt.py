"""A speech-to-text module as clients see it: its WebSocket and its POST, on a model loop."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from aiohttp import web

from dsmops import protocol
from dsmops.audio import SAMPLE_RATE_HZ, Samples, open_audio
from dsmops.errors import DsmopsError, InputError
from dsmops.protocol import NO_FREE_CHANNELS, CloseCode
from dsmops.worker.runtime.loop import StreamFailed
from dsmops.worker.runtime.stt.interface import SttEngineProtocol
from dsmops.worker.runtime.stt.loop import SttLoop, SttObserver
from dsmops.worker.runtime.stt.stream import SttMarkerReached, SttStream
from dsmops.worker.runtime.stt.words import SttWord, SttWordEnd
from dsmops.worker.serving.connection import Ending
from dsmops.worker.serving.logs import ASR, BATCHED_ASR, MAIN, UTILS, Shown
from dsmops.worker.serving.module import (
    POST_PAUSE_S,
    LoopModule,
    ModuleContext,
    addr_field,
    require_sender,
)
from dsmops.worker.serving.stt_connection import (
    BATCHED,
    UNBATCHED,
    SttConnection,
    error_message,
    stt_answer,
)

STT_SESSIONS = 8
"""Slots of an `Asr` module, whose config names no number. The original makes a new model state for
each session, without a limit."""
_ASR_SESSION_S = 360.0
_POST_SILENCE_S = 10
"""Fed behind a posted file, so that its marker comes back: more than any model's text delay."""


@dataclass(frozen=True, slots=True)
class SttSettings:
    """One module of the config.

    `kind` is `BatchedAsr` or `Asr`; the file names are for `/api/modules_info`.
    """

    name: str
    kind: str
    path: str
    slots: int
    lm_file: str
    audio_tokenizer_file: str
    open_engine: Callable[[], SttEngineProtocol]

    def open(self, context: ModuleContext) -> SttModule:
        """Return the module, not yet started."""
        return SttModule(self, context)


class SttModule(LoopModule[SttStream]):
    """Serves one module."""

    loop: SttLoop

    def __init__(self, settings: SttSettings, context: ModuleContext) -> None:
        self._settings = settings
        self._is_batched = settings.kind == BATCHED.kind
        super().__init__(
            settings.name, settings.path, BATCHED_ASR if self._is_batched else ASR, context
        )
        self._rules = BATCHED if self._is_batched else UNBATCHED
        if not self._is_batched:
            self._limits = replace(self._limits, session_s=self._limits.session_s or _ASR_SESSION_S)
        self._metrics = context.metrics.asr
        self.loop = SttLoop(settings.name, settings.open_engine, self._observer())

    def _observer(self) -> SttObserver:
        def started(slots: int) -> None:
            self._log.info(self._origin, f"starting asr loop {slots}")
            self._on_started()

        def stepped(step_ms: float, step_idx: int, with_data: int) -> None:
            self._log.info(self._origin, f"{step_ms:.2f}ms", step_idx=step_idx, with_data=with_data)
            if self._is_batched:
                self._metrics.stepped(step_ms / 1000)

        return SttObserver(
            warming_up=lambda: self._log.info(self._origin, "warming-up the asr"),
            started=started,
            stepped=stepped,
            marker=lambda slot, marker_id: self._log.info(
                self._origin, "received marker", bid=slot, id=marker_id
            ),
            news=self._on_news,
            died=self._on_died,
        )

    def info(self) -> dict[str, str] | None:
        """Return what `/api/modules_info` says, None where it says nothing."""
        if not self._is_batched:
            return None
        return {
            "type": "batched_asr",
            "path": self.path,
            "lm": self._settings.lm_file,
            "audio_tokenizer": self._settings.audio_tokenizer_file,
            "used_slots": str(self.loop.used_slots),
            "total_slots": str(self.loop.slots),
        }

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add what clients may ask for."""
        router.add_get(self.path, self.socket, allow_head=False)
        if self._is_batched:
            router.add_post(self.path, self.post)

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """Serve a WebSocket."""
        ws = self._socket(request)
        if not isinstance(ws, web.WebSocketResponse):
            return ws
        self._access.require(request, query=True)
        if self._is_batched:
            self._log.info(MAIN, "handling batched asr-streaming query", **addr_field(request))
            given = 'Some("<redacted>")' if "auth_id" in request.query else "None"
            self._log.info(
                BATCHED_ASR,
                "batched-asr ws query",
                query=Shown(f"AsrStreamingQuery {{ auth_id: {given} }}"),
            )
            self._metrics.connected()
        else:
            self._log.info(MAIN, "handling asr-streaming query", **addr_field(request))
        await ws.prepare(request)
        stream = self._lend()
        if stream is None:
            self._log.error(self._origin, NO_FREE_CHANNELS)
            ending = Ending(CloseCode.FULL, NO_FREE_CHANNELS)
            await self._refuse_socket(request, ws, ending, error_message(ending))
            return ws
        if self._is_batched:
            self._log.info(BATCHED_ASR, "batched-asr channel", batch_idx=stream.slot)
        await self._serve(request, ws, stream, SttConnection(ws, stream, self._rules, self._limits))
        return ws

    async def post(self, request: web.Request) -> web.Response:
        """Transcribe the audio file in the body."""
        self._access.require(request, query=False)
        self._require_room()
        self.posts += 1
        try:
            return await self._transcribe(request)
        finally:
            self.posts -= 1

    async def _transcribe(self, request: web.Request) -> web.Response:
        body = await self._read_body(request)
        warnings: list[str] = []
        self._log.info(MAIN, "handling asr post query", len=len(body))
        self._log.info(BATCHED_ASR, "batched-asr post query")
        try:
            await asyncio.to_thread(_check_length, body, self._limits.post_audio_s)
            stream = await self._wait_for_slot(request, self._lend)
            if stream is None:
                self._log.error(BATCHED_ASR, "no free channels after 1000 tries")
                return web.Response(status=500, text=NO_FREE_CHANNELS)
            try:
                self._log.info(BATCHED_ASR, "batched-asr channel", batch_idx=stream.slot)
                words = await _transcribe(
                    stream, body, request, self._limits.post_audio_s, warnings
                )
            finally:
                self._give_back(stream)
        except _TooLongError as exc:
            self._log.error(UTILS, "returning client error 413", err=Shown(exc.message))
            return web.Response(status=413, text=f"{exc.message}\n{exc.hint}\n")
        except DsmopsError as exc:
            self._log.error(UTILS, "returning internal server error 500", err=Shown(exc.message))
            return web.Response(status=500, text=f"{exc.message}\n{exc.hint}\n")
        for warning in warnings:
            self._log.warn(BATCHED_ASR, warning)
        return web.Response(
            body=protocol.encode_json(words),
            content_type="application/json",
            headers=[("Warning", f'199 - "{warning}"') for warning in warnings],
        )

    def _lend(self) -> SttStream | None:
        stream = self.loop.open()
        if stream is not None and self._is_batched:
            self._metrics.slot_taken()
        return stream

    def _release(self, stream: SttStream) -> None:
        self.loop.close(stream)
        if self._is_batched:
            self._metrics.slot_released(stream.steps)

    def _log_timeout(self, ending: Ending, stream: SttStream) -> None:
        if self._is_batched:
            self._log.info(BATCHED_ASR, ending.logged, batch_idx=stream.slot)
        else:
            self._log.error(ASR, ending.logged)


async def _transcribe(
    stream: SttStream, body: bytes, request: web.Request, most_s: float, warnings: list[str]
) -> list[protocol.SttAnswer]:
    """Return the words of a whole audio file. `warnings` gets what of it is missing or not used.

    Raises:
        InputError: the body is not audio.
        DsmopsError: the stream failed.
        ConnectionResetError: the client has hung up.
    """
    news = asyncio.Event()
    stream.on_news = news.set
    feeder = asyncio.ensure_future(_feed(stream, body, most_s, warnings))
    feeder.add_done_callback(lambda _: news.set())
    words: list[protocol.SttAnswer] = []
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POST_PAUSE_S):
                    await news.wait()
            news.clear()
            require_sender(request)
            if feeder.done():
                feeder.result()
            for event in stream.fetch():
                if isinstance(event, StreamFailed):
                    raise DsmopsError(event.reason)
                if isinstance(event, SttMarkerReached):
                    return words
                message = (
                    stt_answer(event, BATCHED) if isinstance(event, SttWord | SttWordEnd) else None
                )
                if message is not None:
                    words.append(message)
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)


async def _feed(stream: SttStream, body: bytes, most_s: float, warnings: list[str]) -> None:
    """Hand a file to the stream as it has room; then a marker, then silence."""
    blocks, samples = _blocks(body, warnings), 0
    while (block := await asyncio.to_thread(next, blocks, None)) is not None:
        while stream.is_full:
            await asyncio.sleep(POST_PAUSE_S)
        samples += len(block)
        if samples > most_s * SAMPLE_RATE_HZ:
            raise _too_long(most_s)
        stream.push(block)
    stream.mark(0)
    stream.push(np.zeros(_POST_SILENCE_S * SAMPLE_RATE_HZ, np.float32))


class _TooLongError(InputError):
    """A post holds more audio than a client may send at once."""


def _too_long(most_s: float) -> _TooLongError:
    return _TooLongError(
        f"the recording is longer than {most_s:,.0f} s",
        hint="Send it in parts, or stream it.",
        code="audio.long",
    )


def _check_length(body: bytes, most_s: float) -> None:
    """Raise `_TooLongError` where the file's own header says that it is too long."""
    with open_audio(io.BytesIO(body)) as audio:
        if audio.duration_s is not None and audio.duration_s > most_s:
            raise _too_long(most_s)


def _blocks(body: bytes, warnings: list[str]) -> Iterator[Samples]:
    with open_audio(io.BytesIO(body)) as audio:
        yield from audio.blocks()
        warnings += audio.warnings
