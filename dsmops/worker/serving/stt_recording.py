"""A whole recording through a stream of a speech-to-text module: a file in, words out."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager
from typing import BinaryIO, cast

import numpy as np
from aiohttp import web

from dsmops.audio import SAMPLE_RATE_HZ, AudioSource, Samples, open_audio
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


class _EndableFile:
    """A file that can be made to end while a decoder in another thread reads it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._has_ended = False

    def end(self) -> None:
        """Let each further read return nothing."""
        self._has_ended = True

    def read(self, count: int = -1) -> bytes:
        return b"" if self._has_ended else self._file.read(count)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return 0 if self._has_ended else self._file.seek(offset, whence)

    def seekable(self) -> bool:
        return True


class Recording:
    """An audio file that a client has sent, `most_s` seconds long at most.

    After `words` has ended, `duration_s` is how much audio there was, and `warnings` what of the
    file is missing or not used.
    """

    def __init__(self, file: BinaryIO, most_s: float) -> None:
        self._file, self._most_s = _EndableFile(file), most_s
        self.duration_s = 0.0
        self.warnings: list[str] = []

    def check(self) -> None:
        """Look at the file's header. Any thread.

        Raises:
            RecordingTooLongError: it says that there is too much audio.
            InputError: the file is not audio.
        """
        with self._open() as audio:
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
        decoded: asyncio.Future[Samples | None]
        try:
            while True:
                decoded = asyncio.ensure_future(asyncio.to_thread(next, blocks, None))
                # Cancelled, the thread goes on; it must be waited for, and no longer read the file.
                block = await asyncio.shield(decoded)
                if block is None:
                    break
                while stream.is_full:
                    await asyncio.sleep(POST_PAUSE_S)
                samples += len(block)
                if samples > self._most_s * SAMPLE_RATE_HZ:
                    raise RecordingTooLongError(self._most_s)
                stream.push(block)
        finally:
            self._file.end()
            _closing.add(closing := asyncio.ensure_future(_close(blocks, decoded)))
            closing.add_done_callback(_closing.discard)
        self.duration_s = samples / SAMPLE_RATE_HZ
        stream.mark(0)
        stream.push(np.zeros(_SILENCE_S * SAMPLE_RATE_HZ, np.float32))

    def _blocks(self) -> Generator[Samples, None, None]:
        with self._open() as audio:
            yield from audio.blocks()
            self.warnings += audio.warnings

    def _open(self) -> AbstractContextManager[AudioSource]:
        return open_audio(cast(BinaryIO, self._file))


_closing: set[asyncio.Future[None]] = set()
"""What waits for decoders that end: a slot and a client need not wait for them."""


async def _close(
    blocks: Generator[Samples, None, None], decoded: asyncio.Future[Samples | None]
) -> None:
    """Close a decoder once its thread is out of it. Closing may wait for a program to end."""
    await asyncio.wait([decoded])
    if not decoded.cancelled():
        decoded.exception()
    await asyncio.to_thread(blocks.close)
