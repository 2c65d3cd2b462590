"""`GET /v1/realtime`: the transcription session of OpenAI's realtime API, on a WebSocket.

Events of the older `transcription_session` are taken and answered too. Words come as the model
makes them, before their turn ends.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from aiohttp import WSMessage, WSMsgType, web

from dsmops.protocol import CloseCode
from dsmops.worker.runtime.loop import StreamFailed
from dsmops.worker.runtime.stt.stream import SttEvent, SttStream
from dsmops.worker.serving.connection import Connection, Ending
from dsmops.worker.serving.logs import MAIN, Log
from dsmops.worker.serving.module import client_fields
from dsmops.worker.serving.openai.realtime_input import (
    InputAudio,
    InputSettings,
    default_settings,
    updated,
)
from dsmops.worker.serving.openai.realtime_turns import Event, Turns, new_event
from dsmops.worker.serving.openai.refusals import Refusal
from dsmops.worker.serving.openai.served import Served
from dsmops.worker.serving.settings import Limits

PROTOCOL = "realtime"
"""The subprotocol of browsers, which send their key as another one."""
_PIECE_BYTES = 48_000
"""Taken at once from a large message; a second of 16-bit samples."""
_OLD = "transcription_session"


async def realtime(request: web.Request, served: Served, log: Log) -> web.StreamResponse:
    """Serve one session, whose key is known.

    Raises:
        Refusal: it cannot be served.
    """
    name = request.query.get("model", "")
    module = served.realtime(name)
    ws = module.socket_for(request, (PROTOCOL,))
    if not isinstance(ws, web.WebSocketResponse):
        raise Refusal(400, "this is a WebSocket", code="websocket_required")
    log.info(MAIN, "handling openai realtime query", **client_fields(request))
    is_old = "realtime=v1" in request.headers.get("OpenAI-Beta", "")

    def connect(stream: SttStream, limits: Limits) -> RealtimeConnection:
        return RealtimeConnection(ws, stream, limits, served, served.name_of(module), is_old=is_old)

    await module.converse(request, ws, connect, ending_message)
    return ws


class RealtimeConnection(Connection[SttEvent]):
    """A session on a stream."""

    opcode = 0x1

    def __init__(
        self,
        ws: web.WebSocketResponse,
        stream: SttStream,
        limits: Limits,
        served: Served,
        model: str,
        *,
        is_old: bool,
    ) -> None:
        super().__init__(
            ws, stream, limits, silence_s=limits.silence_s, no_audio_s=limits.no_audio_s
        )
        self._asr_stream, self._served, self._model, self._is_old = stream, served, model, is_old
        self._session_id = f"sess_{secrets.token_hex(8)}"
        self._settings = default_settings(stream.heads)
        self._sound = InputAudio(self._settings.format)
        self._turns = Turns(stream)
        self._turns.detect(self._settings.head)

    async def _receive(self) -> None:
        await self._answer(_encoded([self._session_event("created", old=self._is_old)]))
        await self._wait_for_room()
        await super()._receive()

    async def _take(self, message: WSMessage) -> None:
        asked: dict[str, Any] = {}
        try:
            asked = _parsed(message)
            events = await self._do(asked)
        except Refusal as exc:
            event_id = asked.get("event_id")
            known = event_id if isinstance(event_id, str) else None
            events = [new_event("error", error={**exc.error, "event_id": known})]
        await self._answer(_encoded(events))
        # Whatever comes next stays in the socket until then.
        await self._wait_for_room()

    async def _do(self, asked: dict[str, Any]) -> list[Event]:
        """Do what a client's event asks for, and return the answer.

        Raises:
            Refusal: it cannot be done. The session goes on.
        """
        kind = asked.get("type")
        match kind:
            case "input_audio_buffer.append":
                await self._append(asked.get("audio"))
                return []
            case "input_audio_buffer.commit":
                self._finish_sound()
                return self._turns.commit()
            case "input_audio_buffer.clear":
                self._finish_sound()
                return self._turns.clear()
            case "session.update" | "transcription_session.update":
                return self._update(asked.get("session"), old=kind != "session.update")
        raise Refusal(
            400,
            f"{str(kind)[:80]!r} is not an event of a transcription session",
            param="type",
            code="invalid_value",
        )

    async def _append(self, audio: object) -> None:
        if not isinstance(audio, str):
            raise Refusal(400, "audio is not a base64 string", param="audio", code="invalid_value")
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise Refusal(
                400, f"audio is not base64: {exc}", param="audio", code="invalid_value"
            ) from exc
        for begin in range(0, len(data), _PIECE_BYTES):
            for pcm in self._sound.take(data[begin : begin + _PIECE_BYTES]):
                self._turns.append(pcm)
            await self._wait_for_room()
            # A long message may take a slow model longer than a client may be silent.
            self._note_audio()

    def _finish_sound(self) -> None:
        for pcm in self._sound.finish():
            self._turns.append(pcm)

    def _update(self, session: object, *, old: bool) -> list[Event]:
        if not isinstance(session, dict):
            raise Refusal(400, "session is not an object", param="session", code="invalid_type")
        update = updated(self._settings, session, self._asr_stream.heads, old=old)
        if (
            update.model
            and self._served.name_of(self._served.realtime(update.model)) != self._model
        ):
            raise Refusal(
                400,
                f"this session runs on {self._model}; name another one in the address, as"
                " ?model=NAME",
                param="model",
                code="model_not_found",
            )
        self._apply(update.settings)
        return [self._session_event("updated", old=old)]

    def _apply(self, settings: InputSettings) -> None:
        if settings.format != self._settings.format:
            self._finish_sound()
            self._sound = InputAudio(settings.format)
        if settings.head != self._settings.head:
            self._turns.detect(settings.head)
        self._settings = settings

    def _session_event(self, what: str, *, old: bool) -> Event:
        session = self._settings.document(self._session_id, self._model, old=old)
        return new_event(f"{_OLD if old else 'session'}.{what}", session=session)

    def _messages_of(self, event: SttEvent) -> Iterable[bytes]:
        if isinstance(event, StreamFailed):
            raise Ending(CloseCode.FAILED, event.reason, task="send_loop")
        return _encoded(list(self._turns.take(event)))

    def error_message(self, ending: Ending) -> str | None:
        return ending_message(ending)


def ending_message(ending: Ending) -> str | None:
    """Return the event that says why a session ends, None where there is nothing to say."""
    if not ending.reason:
        return None
    status = {CloseCode.FULL: 503, CloseCode.FAILED: 500}.get(ending.code, 400)
    refusal = Refusal(status, ending.reason, code=ending.code.name.lower())
    return json.dumps(new_event("error", error={**refusal.error, "event_id": None}))


def _parsed(message: WSMessage) -> dict[str, Any]:
    if message.type is not WSMsgType.TEXT:
        raise Refusal(400, "send events as JSON in text messages", code="invalid_json")
    try:
        asked = json.loads(message.data)
    except (ValueError, RecursionError) as exc:
        raise Refusal(400, f"the event is not JSON: {exc}", code="invalid_json") from exc
    if not isinstance(asked, dict):
        raise Refusal(400, "the event is not a JSON object", code="invalid_json")
    return asked


def _encoded(events: Sequence[Event]) -> list[bytes]:
    return [json.dumps(event).encode() for event in events]
