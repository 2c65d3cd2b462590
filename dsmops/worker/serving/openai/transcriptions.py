"""`POST /v1/audio/transcriptions`: a file in a form; words as JSON, text, captions or events."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from aiohttp import web

from dsmops.captions import WORD_MS, cues_of, srt, webvtt
from dsmops.errors import DsmopsError
from dsmops.worker.runtime.stt.words import SttWord, SttWordEnd, TimedWord
from dsmops.worker.serving.logs import MAIN, Log
from dsmops.worker.serving.module import client_fields
from dsmops.worker.serving.openai.forms import FILE, Form, read_form
from dsmops.worker.serving.openai.refusals import Refusal, as_refusal, event, require_choice
from dsmops.worker.serving.openai.served import Served
from dsmops.worker.serving.settings import Limits
from dsmops.worker.serving.stt import SttModule
from dsmops.worker.serving.stt_recording import Recording, RecordingTooLongError

_FORMS = ("json", "text", "srt", "verbose_json", "vtt")
_STREAMED = ("json", "text")
_GRANULARITIES = ("word", "segment")
_UNUSED = ("language", "prompt", "temperature", "keywords", "languages")
"""Fields that this server takes and does not use: its models have nothing to do with them."""
_UNSUPPORTED = ("include", "known_speaker_names", "known_speaker_references")
"""Fields that ask for what the models do not have."""


async def transcriptions(
    request: web.Request, served: Served, limits: Limits, log: Log
) -> web.StreamResponse:
    """Answer one request, whose key is known.

    Raises:
        Refusal: it cannot be served.
        ConnectionResetError: the client has hung up.
    """
    async with read_form(request, limits) as form:
        module = served.stt(form.text("model"))
        shape = form.choice("response_format", _FORMS, "json")
        is_streamed = form.flag("stream")
        _require_supported(form, shape, is_streamed=is_streamed)
        log.info(
            MAIN,
            "handling openai transcription query",
            len=form.file_bytes,
            **client_fields(request),
        )
        recording = Recording(form.file, limits.post_audio_s)
        try:
            with module.posting():
                async with contextlib.aclosing(module.transcribe(request, recording)) as events:
                    if is_streamed:
                        return await _stream(request, module, events, form)
                    words = timed_words([one async for one in events])
        except RecordingTooLongError as exc:
            raise Refusal(413, f"{exc.message}. {exc.hint}", code=exc.code, param=FILE) from exc
        except DsmopsError as exc:
            raise as_refusal(exc, param=FILE) from exc
        answer = _answer(words, recording, shape, form)
        for warning in (*_warnings(form), *recording.warnings):
            answer.headers.add("Warning", f'199 - "{warning}"')
        return answer


def timed_words(events: Iterable[SttWord | SttWordEnd]) -> list[TimedWord]:
    """Return words with their ends; one that the model gave no end has none."""
    words: list[TimedWord] = []
    for one in events:
        if isinstance(one, SttWord):
            words.append(TimedWord(one.text, one.start_s, None))
        elif words:
            words[-1] = TimedWord(words[-1].text, words[-1].start_s, one.stop_s)
    return words


def _require_supported(form: Form, shape: str, *, is_streamed: bool) -> None:
    if is_streamed and shape not in _STREAMED:
        raise Refusal(
            400,
            f"with stream, response_format is {' or '.join(_STREAMED)}; it is {shape}",
            param="stream",
        )
    for name in _UNSUPPORTED:
        if form.fields.get(name):
            raise Refusal(400, f"{name} is not supported", param=name)
    for value in form.fields.get("timestamp_granularities", ()):
        require_choice("timestamp_granularities", value, _GRANULARITIES)
    if form.fields.get("timestamp_granularities") and shape != "verbose_json":
        raise Refusal(
            400,
            "timestamp_granularities needs response_format verbose_json",
            param="timestamp_granularities",
        )


def _warnings(form: Form) -> list[str]:
    unused = [name for name in _UNUSED if any(form.fields.get(name, ()))]
    return [f"not used by this model: {', '.join(unused)}"] if unused else []


def _answer(words: Sequence[TimedWord], recording: Recording, shape: str, form: Form) -> Any:
    match shape:
        case "text":
            return web.Response(text=f"{_text(words)}\n")
        case "srt":
            return web.Response(text=srt(words), content_type="application/x-subrip")
        case "vtt":
            return web.Response(text=webvtt(words), content_type="text/vtt")
    usage = {"type": "duration", "seconds": round(recording.duration_s, 3)}
    document: dict[str, Any] = {"text": _text(words)}
    if shape == "verbose_json":
        wanted = form.fields.get("timestamp_granularities") or ["segment"]
        # The model does not tell the language.
        document = {
            "task": "transcribe",
            "language": None,
            "duration": usage["seconds"],
            **document,
            **({"words": _words(words)} if "word" in wanted else {}),
            **({"segments": _segments(words)} if "segment" in wanted else {}),
        }
    return web.json_response({**document, "usage": usage})


def _text(words: Iterable[TimedWord]) -> str:
    return " ".join(word.text for word in words)


def _words(words: Sequence[TimedWord]) -> list[dict[str, object]]:
    """Return the words with both times.

    A word without an end lasts until the next one, 0.4 s at most.
    """
    listed = []
    for word, following in zip(words, [*words[1:], None], strict=True):
        stop_s = word.stop_s
        if stop_s is None:
            stop_s = word.start_s + WORD_MS / 1000
            stop_s = stop_s if following is None else min(stop_s, following.start_s)
        listed.append({"word": word.text, "start": word.start_s, "end": round(stop_s, 3)})
    return listed


def _segments(words: Sequence[TimedWord]) -> list[dict[str, object]]:
    """Return what captions would show at once. What these models do not know is null."""
    unknown = ("tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob")
    return [
        {
            "id": number,
            "seek": 0,
            "start": cue.start_ms / 1000,
            "end": cue.stop_ms / 1000,
            "text": " ".join(cue.lines),
            **dict.fromkeys(unknown),
        }
        for number, cue in enumerate(cues_of(words))
    ]


async def _stream(
    request: web.Request,
    module: SttModule,
    events: AsyncIterator[SttWord | SttWordEnd],
    form: Form,
) -> web.StreamResponse:
    """Answer with an event for each word as it comes, and one with the whole text.

    Raises:
        DsmopsError: the stream failed before its first word. Later the client gets an event.
    """
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    for warning in _warnings(form):
        response.headers.add("Warning", f'199 - "{warning}"')
    texts: list[str] = []
    try:
        async for one in events:
            if isinstance(one, SttWord):
                delta = f" {one.text}" if texts else one.text
                texts.append(one.text)
                await _send(
                    module, request, response, {"type": "transcript.text.delta", "delta": delta}
                )
    except DsmopsError as exc:
        if not response.prepared:
            raise
        await module.write(request, response, event(as_refusal(exc, param=FILE).document))
    else:
        done = {"type": "transcript.text.done", "text": " ".join(texts)}
        await _send(module, request, response, done)
    await response.write_eof()
    return response


async def _send(
    module: SttModule,
    request: web.Request,
    response: web.StreamResponse,
    document: Mapping[str, object],
) -> None:
    if not response.prepared:
        await response.prepare(request)
    await module.write(request, response, event(document, name=str(document["type"])))
