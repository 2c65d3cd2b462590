"""`synthesize --url`: a text through any moshi-server, into a file, a pipe or a loudspeaker."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Generator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

from dsmops.operations.speech.synthesis_result import (
    Sink,
    Synthesis,
    SynthesisEvent,
    SynthesisMeter,
    SynthesizedWord,
)
from dsmops.progress import SILENT, Progress

_MOST_WAITING = 250
"""Words and frames that a server may be ahead of the sink, besides what the client keeps."""
_DRAIN_S = 0.1


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
    """Say `text` at the server at `url`, in its voice of that name, its default one for None.

    Raises:
        InputError: the address or the target cannot be used.
        CredentialsError, TransferError: the server refused, failed or cannot be reached.
        ExtraMissingError: the worker's libraries are not installed.
    """
    from dsmops.client.address import TTS_PATH, websocket_url

    address = websocket_url(url, TTS_PATH)
    meter = SynthesisMeter(progress)

    def events() -> Generator[SynthesisEvent]:
        meter.begin(len(text.split()))
        yield from _remote_events(address, text, voice, api_key)

    meter.pour(events(), sink)
    return replace(
        meter.synthesis(),
        output=target,
        model=address,
        voices=(voice,) if voice is not None else (),
    )


def _remote_events(
    address: str, text: str, voice: str | None, api_key: str | None
) -> Generator[SynthesisEvent]:
    """Yield what a server says. A thread of its own talks to it: while the sink waits for a loudspeaker, pings are to be answered."""
    from dsmops.client.tts import synthesize as talk
    from dsmops.protocol import TtsText

    events: queue.Queue[SynthesisEvent | BaseException | None] = queue.Queue(_MOST_WAITING)
    loop = asyncio.new_event_loop()

    async def converse() -> None:
        async with aclosing(talk(address, [text], voice=voice, api_key=api_key)) as answers:
            async for answer in answers:
                if isinstance(answer, TtsText):
                    await asyncio.to_thread(
                        events.put, SynthesizedWord(answer.text, answer.start_s, answer.stop_s)
                    )
                else:
                    await asyncio.to_thread(events.put, answer.pcm)

    conversation = loop.create_task(converse())

    def run() -> None:
        failure: BaseException | None = None
        try:
            loop.run_until_complete(conversation)
        except BaseException as exc:  # noqa: BLE001 whatever it is, it is raised where the events are read
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
        with suppress(RuntimeError):  # closed already
            loop.call_soon_threadsafe(conversation.cancel)
        # Whatever waits to be put must get away, or the process could not end.
        while thread.is_alive() or not events.empty():
            with suppress(queue.Empty):
                events.get(timeout=_DRAIN_S)
