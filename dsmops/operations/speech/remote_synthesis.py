"""`synthesize --url`: a text through any moshi-server, into a file, a pipe or a loudspeaker."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

from dsmops.errors import DsmopsError
from dsmops.operations.speech.incomplete import Incomplete
from dsmops.operations.speech.synthesis_result import (
    Sink,
    Synthesis,
    SynthesisEvent,
    SynthesisMeter,
    SynthesizedWord,
)
from dsmops.progress import SILENT, Progress
from dsmops.protocol.text import BREAK, clean_text, with_server_breaks

_MAX_WAITING = 250
"""Words and frames that a server may be ahead of the sink, besides what the client keeps."""
_DRAIN_S = 0.1


_UNREPORTED = {ord("’"): "'", **dict.fromkeys(map(ord, ":()– \t\r\n\u00a0"))}
"""Characters that servers replace or drop in every text."""
_LEAST_SHARE = 0.5


def synthesize_remotely(
    text: str,
    sink: Sink,
    url: str,
    *,
    voice: str | None = None,
    api_key: str | None = None,
    target: Path | None = None,
    progress: Progress = SILENT,
) -> Synthesis:
    """Synthesize `text` at the server at `url`, with its voice of that name, None for its default.

    When the stream fails after its first sound, the sink gets the sound so far, and the result says
    why it is incomplete.

    Raises:
        InputError: the address or the target cannot be used, or the server refused the text.
        CredentialsError, TransferError: the server refused, cannot be reached, or failed before the
            first sound.
        ExtraMissingError: the client's libraries are not installed.
    """
    from dsmops.client.address import TTS_PATH, websocket_url

    address = websocket_url(url, TTS_PATH)
    text = with_server_breaks(clean_text(text))
    meter = SynthesisMeter(progress)
    failures: list[DsmopsError] = []

    def events() -> Generator[SynthesisEvent]:
        meter.begin(len(text.split()))
        has_sound = False
        try:
            for event in _remote_events(address, text, voice, api_key):
                has_sound = has_sound or not isinstance(event, SynthesizedWord)
                # A server reports pauses as words.
                if not isinstance(event, SynthesizedWord) or not event.text.startswith("<break"):
                    yield event
        except DsmopsError as exc:
            if not has_sound:
                raise
            failures.append(exc)

    meter.pour(events(), sink)
    result = meter.synthesis()
    return replace(
        result,
        output=target,
        skipped="" if failures or result.incomplete else _skipped(text, result),
        model=address,
        voices=(voice,) if voice is not None else (),
        incomplete=Incomplete.because(failures[0]) if failures else result.incomplete,
    )


def _skipped(text: str, result: Synthesis) -> str:
    """Return the characters of the text that are in no word of the answers, each once.

    Our worker reports words without the characters that its tokenizer does not know. A sink that
    stopped early has not seen all words, and nothing can be told.
    """
    received = Counter("".join(word.text for word in result.words))
    sent = Counter(BREAK.sub(" ", text).translate(_UNREPORTED))
    if received.total() < _LEAST_SHARE * sum(1 for _ in sent.elements()):
        return ""
    return "".join(sent - received)


def _remote_events(
    address: str, text: str, voice: str | None, api_key: str | None
) -> Generator[SynthesisEvent]:
    """Yield the words and the sound of a text as a server sends them.

    A thread of its own talks to the server: while the sink waits for a loudspeaker, pings must be
    sent and answered.
    """
    from dsmops.client.tts import synthesize
    from dsmops.protocol import TtsText

    events: queue.Queue[SynthesisEvent | BaseException | None] = queue.Queue(_MAX_WAITING)
    loop = asyncio.new_event_loop()

    async def converse() -> None:
        async with aclosing(synthesize(address, [text], voice=voice, api_key=api_key)) as answers:
            async for answer in answers:
                if isinstance(answer, TtsText):
                    word = SynthesizedWord(answer.text, answer.start_s, answer.stop_s)
                    await asyncio.to_thread(events.put, word)
                else:
                    await asyncio.to_thread(events.put, answer.pcm)

    conversation = loop.create_task(converse())

    def run() -> None:
        failure: BaseException | None = None
        try:
            loop.run_until_complete(conversation)
        except BaseException as exc:  # noqa: BLE001 raised again where the events are read
            failure = exc
        finally:
            loop.close()
        events.put(failure)

    thread = threading.Thread(target=run, name="speech-client", daemon=True)
    thread.start()
    try:
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        with suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(conversation.cancel)
        # Blocked puts must return, or the process could not end.
        while thread.is_alive() or not events.empty():
            with suppress(queue.Empty):
                events.get(timeout=_DRAIN_S)
