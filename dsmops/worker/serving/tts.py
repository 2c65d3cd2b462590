"""A text-to-speech module as clients see it: its WebSocket and its POST, on a model loop.

moshi-server replaces an unknown voice by its default one. This worker refuses it: the client did
not ask for another voice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from aiohttp import web

from dsmops.audio import Samples, pcm_16, stream_header
from dsmops.errors import DsmopsError, InputError
from dsmops.protocol import NO_FREE_CHANNELS, CloseCode, TtsFormat
from dsmops.worker.runtime.loop import StreamFailed
from dsmops.worker.runtime.tts.interface import TtsRequest
from dsmops.worker.runtime.tts.loop import (
    TtsConversation,
    TtsEnded,
    TtsEvent,
    TtsLoop,
    TtsRefused,
)
from dsmops.worker.runtime.tts.utterance import TtsAudio
from dsmops.worker.serving.connection import Ending
from dsmops.worker.serving.desk import Place
from dsmops.worker.serving.logs import MAIN, PY, UTILS, Shown, causes
from dsmops.worker.serving.module import (
    POST_PAUSE_S,
    Line,
    LoopModule,
    ModuleContext,
    NoFreeSlotError,
    client_fields,
    cut,
    read_body,
    require_sender,
)
from dsmops.worker.serving.observers import open_tts_loop
from dsmops.worker.serving.settings import TtsSettings
from dsmops.worker.serving.tts_connection import SKIPPED, TtsConnection, TtsWire, refusal

SCRIPT = "tts.py"
"""What `/api/modules_info` calls the script that moshi-server would run here."""


_LONGEST_NAME = 255
"""Characters of a voice's name; no file system takes a longer part of a path."""
_SHOWN_NAME = 80
_KEY_OF_NAME = b'"voice"'
_NAME_BEGINS = re.compile(rb'\s{0,64}:\s{0,64}"')
_LONGEST_NAME_BYTES = 12 * _LONGEST_NAME
"""Of a name in JSON, where a character takes at most two escapes."""


class TtsLine(Line, Protocol):
    """A loop that lends its slots as streams."""

    def open(self, request: TtsRequest, slot: int) -> TtsConversation | None: ...
    def close(self, stream: Any) -> None: ...


class TtsModule(LoopModule[TtsConversation]):
    """Serves one module."""

    loop: TtsLoop | None

    def __init__(self, settings: TtsSettings, context: ModuleContext) -> None:
        super().__init__(settings.name, settings.path, PY, context)
        self._settings = settings
        self.model_name = settings.model_name or settings.name
        self.facts = settings.facts
        self._metrics = context.metrics.py
        remote = context.remote.get(settings.name)
        self.loop = None
        if remote is None:
            self.loop = open_tts_loop(
                settings,
                context.log,
                context.metrics,
                started=self._on_started,
                news=self._on_news,
                died=self._on_died,
            )
        self.lines: Sequence[TtsLine] = [self.loop] if self.loop else remote.lines if remote else []

    def info(self) -> dict[str, str]:
        """Return what `/api/modules_info` says."""
        return {
            "type": "py",
            "path": self.path,
            "script": SCRIPT,
            "used_slots": str(self.used_slots),
            "total_slots": str(self.slots),
        }

    async def voices(self) -> list[dict[str, object]]:
        """Return the voices that a client may name.

        Raises:
            DsmopsError: their folder is on the hub, which does not answer.
        """
        names = await asyncio.to_thread(self._settings.list_voices)
        default = self._settings.default_voice
        return [{"id": name, "object": "voice", "is_default": name == default} for name in names]

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add what clients may ask for."""
        router.add_get(self.path, self.socket, allow_head=False)
        router.add_post(self.path, self.post)

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """Serve a WebSocket."""
        ws = self.socket_for(request)
        if not isinstance(ws, web.WebSocketResponse):
            return ws
        form, voice = _query(request)
        self._access.require(request, query=True)
        self._log.info(MAIN, "handling py streaming query", **client_fields(request))
        given = 'Some("<redacted>")' if "auth_id" in request.query else "None"
        asked = "None" if voice is None else f"Some({json.dumps(_cut_name(voice))})"
        self._log.info(
            PY,
            "py query",
            query=Shown(f"PyStreamingQuery {{ auth_id: {given}, format: {form}, voice: {asked} }}"),
        )
        self._metrics.connected()
        await ws.prepare(request)
        wire = TtsWire(form)
        try:
            wanted = await self._request(voice)
            place = await self._borrow(request, post=False)
            stream = None if place is None else self._open(place, wanted)
        except DsmopsError as exc:
            ending = refusal(exc)
            self._log.error(
                UTILS, "task failed", causes(exc), name=ending.task, err=Shown(ending.logged)
            )
            await self._refuse_socket(request, ws, ending, wire.error_message(ending))
            return ws
        if place is None or stream is None:
            self._log.error(PY, NO_FREE_CHANNELS)
            ending = Ending(CloseCode.FULL, NO_FREE_CHANNELS)
            await self._refuse_socket(request, ws, ending, wire.error_message(ending))
            return ws
        self._log.info(PY, "batched-py channel", bidx=stream.slot)
        connection = TtsConnection(ws, stream, wire, wanted, self._limits, self._log)
        await self._serve(request, ws, stream, place, connection)
        return ws

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Synthesize the text in the body, and stream it as a WAV."""
        self._access.require(request, query=False)
        _require_json(request)
        with self.posting():
            return await self._synthesize(request)

    async def _synthesize(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, self._limits)
        try:
            refuse_long_name(body)
        except InputError as exc:
            return self._refused(exc)
        text, voice = _parse_query(body)
        self._log.info(
            MAIN,
            f'handling py streaming post query Json(TtsQuery {{ text: "<redacted>", voice: '
            f"{json.dumps(_cut_name(voice))} }})",
            **client_fields(request),
        )
        self._log.info(PY, "py handle-query")
        try:
            async with self.speaking(request, text, voice) as speech:
                return await self._say(request, speech)
        except NoFreeSlotError:
            return web.Response(status=500, text=NO_FREE_CHANNELS)
        except InputError as exc:
            return self._refused(exc)
        except DsmopsError as exc:
            self._log.error(UTILS, "returning internal server error 500", err=Shown(exc.message))
            return web.Response(status=500, text=f"{exc.message}\n{exc.hint}\n")

    def _refused(self, exc: InputError) -> web.Response:
        """Return the answer to a post that asks for something impossible."""
        self._log.error(UTILS, "returning client error 400", err=Shown(refusal(exc).logged))
        return web.Response(status=400, text=f"{exc.message}\n{exc.hint}\n")

    @contextlib.asynccontextmanager
    async def speaking(
        self, request: web.Request, text: str, voice: str | None
    ) -> AsyncIterator[Speech]:
        """Synthesize the text of a request, in a slot that it waits for.

        Raises:
            InputError: the voice is unknown, or the text cannot be synthesized.
            NoFreeSlotError: no slot became free in time.
            DsmopsError: the voice cannot be had.
            ConnectionResetError: the client has hung up.
        """
        self._metrics.connected()
        wanted = await self._request(voice)
        place = await self._borrow(request, post=True)
        stream = None if place is None else self._open(place, wanted)
        if place is None or stream is None:
            self._log.error(PY, "no free channels after 1000 tries")
            raise NoFreeSlotError
        try:
            self._log.info(PY, "batched-py channel", batch_idx=stream.slot)
            await asyncio.to_thread(stream.add_text, text)
            await asyncio.to_thread(stream.end_text)
            if stream.skipped:
                self._log.warn(PY, SKIPPED, batch_idx=stream.slot, count=stream.skipped)
            yield Speech(stream, request)
            self._log.info(PY, "tts finished", batch_idx=stream.slot)
        finally:
            self._give_back(stream, place)

    async def _say(self, request: web.Request, speech: Speech) -> web.StreamResponse:
        """Answer a post with the sound of its text.

        Raises:
            InputError: the text cannot be synthesized.
            DsmopsError: the stream failed before its first sound.
            ConnectionResetError: the client has hung up, or the sound ends early; then the
                connection is cut.
        """
        headers = {"Content-Type": "audio/wav"}
        if speech.warning:
            headers["Warning"] = f'199 - "{speech.warning}"'
        response = web.StreamResponse(headers=headers)
        try:
            async with contextlib.aclosing(speech.frames()) as frames:
                async for pcm in frames:
                    if not response.prepared:
                        await response.prepare(request)
                        await self.write(request, response, stream_header())
                    await self.write(request, response, pcm_16(pcm).tobytes())
        except DsmopsError as exc:
            if response.prepared:
                raise cut(request, exc.message) from exc
            raise
        await response.write_eof()
        return response

    async def _request(self, voice: str | None) -> TtsRequest:
        """Return how a stream with this voice speaks.

        Raises:
            InputError: the voice is unknown.
        """
        name = voice or ""
        if len(name) > _LONGEST_NAME:
            raise _name_too_long(name)
        voices = await asyncio.to_thread(self._settings.find_voice, name)
        return replace(self._settings.request, voices=voices, seed=secrets.randbits(32))

    def _open(self, place: Place, wanted: TtsRequest) -> TtsConversation | None:
        """Return a stream in a slot that was lent, None where its loop has died.

        Raises:
            InputError: the engine cannot follow the request.
        """
        stream: TtsConversation | None = None
        try:
            stream = self.lines[place.device].open(wanted, place.slot)
        finally:
            if stream is None:
                self._lender.give_back(place)
        if stream is not None:
            self._metrics.slot_taken()
        return stream

    def _release(self, stream: TtsConversation, place: Place) -> None:
        self.lines[place.device].close(stream)
        self._metrics.slot_released(stream.steps)

    def _log_timeout(self, ending: Ending, stream: TtsConversation) -> None:
        self._log.info(PY, ending.logged, bidx=stream.slot)


def _cut_name(name: str) -> str:
    """Return the start of a voice's name, for a log line or an error."""
    return name if len(name) <= _SHOWN_NAME else f"{name[:_SHOWN_NAME]}…"


def _name_too_long(name: str) -> InputError:
    return InputError(
        f"this server has no voice {_cut_name(name)!r}",
        hint=f"Names of voices have at most {_LONGEST_NAME} characters.",
        code="voice.unknown",
    )


def refuse_long_name(body: bytes) -> None:
    """Refuse JSON whose voice has a name that is too long, before anything is decoded.

    A name of 2 MB takes some 10 ms to decode, and 0.1 ms to be refused so.

    Raises:
        InputError: the name is too long.
    """
    # In a string the second quotation mark would be escaped.
    key = body.find(_KEY_OF_NAME) if len(body) > _LONGEST_NAME_BYTES else -1
    found = _NAME_BEGINS.match(body, key + len(_KEY_OF_NAME)) if key >= 0 else None
    if found is None:
        return
    begin, most = found.end(), found.end() + _LONGEST_NAME_BYTES
    if len(body) > most and body.find(b'"', begin, most + 1) < 0:
        raise _name_too_long(body[begin:most].decode("utf-8", "replace"))


def _query(request: web.Request) -> tuple[TtsFormat, str | None]:
    """Return format and voice that a WebSocket's query asks for.

    Raises:
        HTTPBadRequest: it names one of them twice, or an unknown format.
    """
    for key in ("format", "voice"):
        if len(request.query.getall(key, [])) > 1:
            raise web.HTTPBadRequest(
                text=f"Failed to deserialize query string: duplicate field `{key}`"
            )
    form = request.query.get("format", TtsFormat.OGG_OPUS)
    try:
        return TtsFormat(form), request.query.get("voice")
    except ValueError:
        known = ", ".join(
            f"`{known}`" for known in ("Pcm", "PcmMessagePack", "OggOpus", "OggOpusMessagePack")
        )
        raise web.HTTPBadRequest(
            text=(
                f"Failed to deserialize query string: unknown variant `{form}`, expected one of "
                f"{known}"
            )
        ) from None


def _require_json(request: web.Request) -> None:
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(
            text="Expected request with `Content-Type: application/json`"
        )


def _parse_query(data: bytes) -> tuple[str, str]:
    """Return text and voice of a post's body.

    Raises:
        HTTPException: it is not JSON (400) or lacks a key (422).
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise web.HTTPBadRequest(text=f"Failed to parse the request body as JSON: {exc}") from exc
    for key in ("text", "voice"):
        if not isinstance(body, dict) or not isinstance(body.get(key), str):
            raise web.HTTPUnprocessableEntity(
                text=(
                    "Failed to deserialize the JSON body into the target type: missing field "
                    f"`{key}`"
                )
            )
    return body["text"], body["voice"]


class Speech:
    """A text that is being synthesized in a slot."""

    def __init__(self, stream: TtsConversation, request: web.Request) -> None:
        self._stream, self._request = stream, request
        self.warning = f"{stream.skipped} {SKIPPED}" if stream.skipped else ""
        """What of the text is skipped."""

    async def frames(self) -> AsyncGenerator[Samples, None]:
        """Yield the sound as it comes, float32 [1920] at 24 kHz.

        Raises:
            InputError: the engine cannot follow the request, or the text has no words.
            DsmopsError: the stream failed.
            ConnectionResetError: the client has hung up.
        """
        is_silent = True
        async for event in _events(self._stream, self._request):
            match event:
                case TtsAudio():
                    is_silent = False
                    yield event.pcm
                case TtsRefused():
                    raise event.error
                case StreamFailed():
                    raise DsmopsError(event.reason)
        if is_silent:
            raise InputError("the text has no words", hint="Send some words.", code="text.empty")


async def _events(stream: TtsConversation, request: web.Request) -> AsyncIterator[TtsEvent]:
    """Yield the events of a stream, up to its end.

    Raises:
        ConnectionResetError: the client has hung up.
    """
    news = asyncio.Event()
    stream.on_news = news.set
    while True:
        news.clear()
        events = stream.fetch()
        for event in events:
            if isinstance(event, TtsEnded):
                return
            yield event
        require_sender(request)
        if not events:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POST_PAUSE_S):
                    await news.wait()
