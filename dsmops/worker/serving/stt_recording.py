"""A whole recording through a stream of a speech-to-text module: a file in, words out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import BinaryIO

import numpy as np
from aiohttp import web

from dsmops.audio import SAMPLE_RATE_HZ, Samples, open_audio
from dsmops.errors import DsmopsError, InputError
from dsmops.worker.runtime.loop import StreamFailed
from dsmops.worker.runtime.stt.stream import SttMarkerReached, SttStream
from dsmops.worker.runtime.stt.words import SttWord, SttWordEnd
from dsmops.worker.serving.module import POST_PAUSE_S, require_sender

_SILENCE_S = 10
"""Fed behind the recording, so that its marker comes back: more than any model's text delay."""


class RecordingTooLongError(InputError):
    """A recording holds more audio than a client may send at once."""

    def __init__(self, most_s: float) -> None:
        super().__init__(
            f"the recording is longer than {most_s:,.0f} s",
            hint="Send it in parts, or stream it.",
            code="audio.long",
        )


class Recording:
    """An audio file that a client has sent, `most_s` seconds long at most.

    After `words` has ended, `duration_s` is how much audio there was, and `warnings` what of the
    file is missing or not used.
    """

    def __init__(self, file: BinaryIO, most_s: float) -> None:
        self._file, self._most_s = file, most_s
        self.duration_s = 0.0
        self.warnings: list[str] = []

    def check(self) -> None:
        """Look at the file's header. Any thread.

        Raises:
            RecordingTooLongError: it says that there is too much audio.
            InputError: the file is not audio.
        """
        with open_audio(self._file) as audio:
            if audio.duration_s is not None and audio.duration_s > self._most_s:
                raise RecordingTooLongError(self._most_s)

    async def words(
        self, stream: SttStream, request: web.Request
    ) -> AsyncGenerator[SttWord | SttWordEnd, None]:
        """Yield the words as they come.

        Raises:
            InputError: the file is not audio, or too long.
            DsmopsError: the stream failed.
            ConnectionResetError: the client has hung up.
        """
        news = asyncio.Event()
        stream.on_news = news.set
        feeder = asyncio.ensure_future(self._feed(stream))
        feeder.add_done_callback(lambda _: news.set())
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
                    match event:
                        case StreamFailed():
                            raise DsmopsError(event.reason)
                        case SttMarkerReached():
                            return
                        case SttWord() | SttWordEnd():
                            yield event
        finally:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)

    async def _feed(self, stream: SttStream) -> None:
        """Hand the file to the stream as it has space; then a marker, then silence."""
        blocks, samples = self._blocks(), 0
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            while stream.is_full:
                await asyncio.sleep(POST_PAUSE_S)
            samples += len(block)
            if samples > self._most_s * SAMPLE_RATE_HZ:
                raise RecordingTooLongError(self._most_s)
            stream.push(block)
        self.duration_s = samples / SAMPLE_RATE_HZ
        stream.mark(0)
        stream.push(np.zeros(_SILENCE_S * SAMPLE_RATE_HZ, np.float32))

    def _blocks(self) -> Iterator[Samples]:
        with open_audio(self._file) as audio:
            yield from audio.blocks()
            self.warnings += audio.warnings
