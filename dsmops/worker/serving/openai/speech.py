"""`POST /v1/audio/speech`: a text in JSON, its sound as it is made."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

from aiohttp import web

from dsmops.audio import StreamEncoder, StreamFormat, open_encoder
from dsmops.errors import DsmopsError, InputError
from dsmops.worker.runtime.tts.loop import MOST_TEXT
from dsmops.worker.serving.logs import MAIN, Log
from dsmops.worker.serving.module import client_fields, cut, read_body
from dsmops.worker.serving.openai.refusals import Refusal, as_refusal, event, require_choice
from dsmops.worker.serving.openai.served import Served
from dsmops.worker.serving.settings import Limits
from dsmops.worker.serving.tts import Speech, TtsModule

_DEFAULT_FORMAT = StreamFormat.MP3
_STREAM_FORMATS = ("audio", "sse")
_OPENAI_VOICES = frozenset(
    (
        *("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable"),
        *("marin", "nova", "onyx", "sage", "shimmer", "verse"),
    )
)
"""OpenAI's own voices, for programs that offer no choice: the default voice answers."""


async def speech(
    request: web.Request, served: Served, limits: Limits, log: Log
) -> web.StreamResponse:
    """Answer one request, whose key is known.

    Raises:
        Refusal: it cannot be served.
        ConnectionResetError: the client has hung up, or the sound ends early; the connection is
            cut then.
    """
    if request.content_type != "application/json":
        raise Refusal(415, "the body must be application/json")
    asked = _Asked(_parsed(await read_body(request, limits)))
    module = served.tts(asked.model)
    log.info(MAIN, "handling openai speech query", len=len(asked.text), **client_fields(request))
    try:
        with module.posting():
            async with module.speaking(request, asked.text, asked.voice) as spoken:
                return await _answer(request, module, spoken, asked)
    except InputError as exc:
        param = "voice" if exc.code.startswith("voice.") else "input"
        raise as_refusal(exc, param=param) from exc
    except DsmopsError as exc:
        raise as_refusal(exc) from exc


class _Asked:
    """What a request asks for, checked."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.text = _string(body, "input")
        self.model = _string(body, "model", "")
        voice = body.get("voice", "")
        self.voice = _string(voice, "id") if isinstance(voice, dict) else _string(body, "voice", "")
        self.warnings: list[str] = []
        if self.voice in _OPENAI_VOICES:
            self.warnings.append(f"{self.voice} is not here: the default voice speaks")
            self.voice = ""
        if body.get("instructions"):
            self.warnings.append("not used by this model: instructions")
        if not self.text.strip():
            raise Refusal(400, "the input is empty", param="input", code="text.empty")
        if len(self.text) > MOST_TEXT:
            raise Refusal(
                400,
                f"the input has {len(self.text):,} characters, and at most {MOST_TEXT:,} are read",
                param="input",
                code="string_above_max_length",
            )
        form = _string(body, "response_format", "") or _DEFAULT_FORMAT
        self.format = StreamFormat(require_choice("response_format", form, tuple(StreamFormat)))
        form = _string(body, "stream_format", "") or "audio"
        self.has_events = require_choice("stream_format", form, _STREAM_FORMATS) == "sse"
        speed = body.get("speed", 1.0)
        if isinstance(speed, bool) or speed != 1.0:
            raise Refusal(
                400,
                "speed must be 1.0: these models have one pace",
                param="speed",
                code="unsupported_value",
            )


async def _answer(
    request: web.Request, module: TtsModule, spoken: Speech, asked: _Asked
) -> web.StreamResponse:
    encoder = open_encoder(asked.format)
    response = web.StreamResponse()
    response.content_type = "text/event-stream" if asked.has_events else asked.format.content_type
    for warning in (*asked.warnings, *filter(None, [spoken.warning])):
        response.headers.add("Warning", f'199 - "{warning}"')
    try:
        async with contextlib.aclosing(spoken.frames()) as frames:
            async for pcm in frames:
                if not response.prepared:
                    await response.prepare(request)
                await _send(request, module, response, encoder.encode(pcm), asked)
    except DsmopsError as exc:
        if not response.prepared:
            raise
        if not asked.has_events:
            raise cut(request, exc.message) from exc
        await module.write(request, response, event(as_refusal(exc).document))
    else:
        await _finish(request, module, response, encoder, asked)
    await response.write_eof()
    return response


async def _finish(
    request: web.Request,
    module: TtsModule,
    response: web.StreamResponse,
    encoder: StreamEncoder,
    asked: _Asked,
) -> None:
    await _send(request, module, response, encoder.finish(), asked)
    if asked.has_events:
        done = {"type": "speech.audio.done"}
        await module.write(request, response, event(done, name=done["type"]))


async def _send(
    request: web.Request,
    module: TtsModule,
    response: web.StreamResponse,
    sound: bytes,
    asked: _Asked,
) -> None:
    """Send a piece of the file, as it is or in an event."""
    if not sound:
        return
    if asked.has_events:
        delta = {"type": "speech.audio.delta", "audio": base64.b64encode(sound).decode()}
        sound = event(delta, name=delta["type"])
    await module.write(request, response, sound)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise Refusal(400, f"the body is not JSON: {exc}") from exc
    if not isinstance(parsed, dict):
        raise Refusal(400, "the body is not a JSON object")
    # Some clients send null for what they do not set.
    return {name: value for name, value in parsed.items() if value is not None}


def _string(body: dict[str, Any], name: str, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        what = "is missing" if value is None else "is not a string"
        raise Refusal(400, f"{name} {what}", param=name)
    return value
