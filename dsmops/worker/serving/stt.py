"""A speech-to-text module as clients see it: its WebSocket and its POST, on a model loop."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from aiohttp import web

from dsmops import protocol
from dsmops.errors import DsmopsError
from dsmops.protocol import NO_FREE_CHANNELS, CloseCode
from dsmops.worker.runtime.stt.loop import SttLoop
from dsmops.worker.runtime.stt.stream import SttEvent, SttStream
from dsmops.worker.runtime.stt.words import SttWord, SttWordEnd
from dsmops.worker.serving.connection import Connection, Ending
from dsmops.worker.serving.desk import Place
from dsmops.worker.serving.logs import ASR, BATCHED_ASR, MAIN, UTILS, Shown
from dsmops.worker.serving.module import (
    Line,
    LoopModule,
    ModuleContext,
    NoFreeSlotError,
    client_fields,
    read_body,
)
from dsmops.worker.serving.observers import stt_observer
from dsmops.worker.serving.settings import Limits, SttSettings
from dsmops.worker.serving.stt_connection import (
    BATCHED,
    UNBATCHED,
    SttConnection,
    error_message,
    stt_answer,
)
from dsmops.worker.serving.stt_recording import Recording, RecordingTooLongError

_ASR_SESSION_S = 360.0


class SttLine(Line, Protocol):
    """A loop that lends its slots as streams."""

    def open(self, slot: int) -> SttStream | None: ...
    def close(self, stream: SttStream) -> None: ...


class SttModule(LoopModule[SttStream]):
    """Serves one module."""

    loop: SttLoop | None

    def __init__(self, settings: SttSettings, context: ModuleContext) -> None:
        self._settings = settings
        self.model_name = settings.model_name or settings.name
        self.facts = settings.facts
        self._is_batched = settings.module_type == BATCHED.module_type
        super().__init__(
            settings.name, settings.path, BATCHED_ASR if self._is_batched else ASR, context
        )
        self._rules = BATCHED if self._is_batched else UNBATCHED
        if not self._is_batched:
            self._limits = replace(self._limits, session_s=self._limits.session_s or _ASR_SESSION_S)
        self._metrics = context.metrics.asr
        remote = context.remote.get(settings.name)
        self.loop = None
        if remote is None:
            self.loop = SttLoop(
                settings.name,
                settings.open_engine,
                stt_observer(
                    settings,
                    context.log,
                    context.metrics,
                    started=self._on_started,
                    news=self._on_news,
                    died=self._on_died,
                ),
            )
        self.lines: Sequence[SttLine] = [self.loop] if self.loop else remote.lines if remote else []

    def info(self) -> dict[str, str] | None:
        """Return what `/api/modules_info` says, None where it says nothing."""
        if not self._is_batched:
            return None
        return {
            "type": "batched_asr",
            "path": self.path,
            "lm": self._settings.lm_file,
            "audio_tokenizer": self._settings.audio_tokenizer_file,
            "used_slots": str(self.used_slots),
            "total_slots": str(self.slots),
        }

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add what clients may ask for."""
        router.add_get(self.path, self.socket, allow_head=False)
        if self._is_batched:
            router.add_post(self.path, self.post)

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """Serve a WebSocket."""
        ws = self.socket_for(request)
        if not isinstance(ws, web.WebSocketResponse):
            return ws
        self._access.require(request, query=True)
        if self._is_batched:
            self._log.info(MAIN, "handling batched asr-streaming query", **client_fields(request))
            given = 'Some("<redacted>")' if "auth_id" in request.query else "None"
            self._log.info(
                BATCHED_ASR,
                "batched-asr ws query",
                query=Shown(f"AsrStreamingQuery {{ auth_id: {given} }}"),
            )
        else:
            self._log.info(MAIN, "handling asr-streaming query", **client_fields(request))
        await self.converse(
            request,
            ws,
            lambda stream, limits: SttConnection(ws, stream, self._rules, limits),
            error_message,
        )
        return ws

    async def converse(
        self,
        request: web.Request,
        ws: web.WebSocketResponse,
        connect: Callable[[SttStream, Limits], Connection[SttEvent]],
        message_of: Callable[[Ending], bytes | str | None],
    ) -> None:
        """Serve a WebSocket, whose key is known, with a stream of its own until either ends.

        `connect` puts the stream on the socket, under the module's limits. `message_of` says why
        none was free.
        """
        if self._is_batched:
            self._metrics.connected()
        await ws.prepare(request)
        place = await self._borrow(request, post=False)
        stream = None if place is None else self._open(place)
        if place is None or stream is None:
            self._log.error(self._origin, NO_FREE_CHANNELS)
            ending = Ending(CloseCode.FULL, NO_FREE_CHANNELS)
            await self._refuse_socket(request, ws, ending, message_of(ending))
            return
        if self._is_batched:
            self._log.info(BATCHED_ASR, "batched-asr channel", batch_idx=stream.slot)
        await self._serve(request, ws, stream, place, connect(stream, self._limits))

    async def post(self, request: web.Request) -> web.Response:
        """Transcribe the audio file in the body."""
        self._access.require(request, query=False)
        with self.posting():
            return await self._transcribe(request)

    async def _transcribe(self, request: web.Request) -> web.Response:
        body = await read_body(request, self._limits)
        self._log.info(MAIN, "handling asr post query", len=len(body), **client_fields(request))
        self._log.info(BATCHED_ASR, "batched-asr post query")
        recording = Recording(io.BytesIO(body), self._limits.post_audio_s)
        try:
            async with contextlib.aclosing(self.transcribe(request, recording)) as events:
                words = [stt_answer(event, BATCHED) async for event in events]
        except RecordingTooLongError as exc:
            self._log.error(UTILS, "returning client error 413", err=Shown(exc.message))
            return web.Response(status=413, text=f"{exc.message}\n{exc.hint}\n")
        except NoFreeSlotError:
            return web.Response(status=500, text=NO_FREE_CHANNELS)
        except DsmopsError as exc:
            self._log.error(UTILS, "returning internal server error 500", err=Shown(exc.message))
            return web.Response(status=500, text=f"{exc.message}\n{exc.hint}\n")
        return web.Response(
            body=protocol.encode_json([word for word in words if word is not None]),
            content_type="application/json",
            headers=[("Warning", f'199 - "{warning}"') for warning in recording.warnings],
        )

    async def transcribe(
        self, request: web.Request, recording: Recording
    ) -> AsyncGenerator[SttWord | SttWordEnd, None]:
        """Yield the words of a recording that a request has brought, in a slot that it waits for.

        Raises:
            InputError: the recording is not audio, or too long.
            NoFreeSlotError: no slot became free in time.
            DsmopsError: the stream failed.
            ConnectionResetError: the client has hung up.
        """
        await asyncio.to_thread(recording.check)
        place = await self._borrow(request, post=True)
        stream = None if place is None else self._open(place)
        if place is None or stream is None:
            self._log.error(self._origin, "no free channels after 1000 tries")
            raise NoFreeSlotError
        try:
            if self._is_batched:
                self._log.info(BATCHED_ASR, "batched-asr channel", batch_idx=stream.slot)
            async with contextlib.aclosing(recording.words(stream, request)) as words:
                async for event in words:
                    yield event
        finally:
            self._give_back(stream, place)
        for warning in recording.warnings:
            self._log.warn(self._origin, warning)

    def _open(self, place: Place) -> SttStream | None:
        """Return a stream in a slot that was lent, None where its loop has died."""
        stream = self.lines[place.device].open(place.slot)
        if stream is None:
            self._lender.give_back(place)
        elif self._is_batched:
            self._metrics.slot_taken()
        return stream

    def _release(self, stream: SttStream, place: Place) -> None:
        self.lines[place.device].close(stream)
        if self._is_batched:
            self._metrics.slot_released(stream.steps)

    def _log_timeout(self, ending: Ending, stream: SttStream) -> None:
        if self._is_batched:
            self._log.info(BATCHED_ASR, ending.logged, batch_idx=stream.slot)
        else:
            self._log.error(ASR, ending.logged)
