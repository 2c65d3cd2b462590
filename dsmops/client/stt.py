"""Streaming speech-to-text from a moshi-server, so that the last word arrives.

One WebSocket, two tasks: one sends frames on an absolute clock, one reads answers. The end is
silence, a marker, at once silence again, and then reading until the marker is back. The original
server needs it this way, and it leaves closing handshakes unanswered.

Source: moshi-server 0.6.4, `batched_asr.rs` and `asr.rs`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import numpy as np
from numpy.typing import NDArray

from dsmops.audio import FRAME_SAMPLES
from dsmops.client.connection import Closed, Connection
from dsmops.client.session import Patience, ended, next_answer, not_ready, open_session, silent
from dsmops.client.window import FRAME_S, SEND_AHEAD_S, SendWindow
from dsmops.protocol import (
    Audio,
    EndWord,
    Error,
    Marker,
    Step,
    SttAnswer,
    Word,
    decode_stt_answer,
    encode,
)

LEAD_IN_FRAMES = 13
"""Silence before the audio: the second that Kyutai's clients send, which the 2.6B model needs."""
CLOSING_FRAMES = 40
"""Silence before the last marker and behind it: more than the largest text delay, 32 frames."""

_HISTOGRAM = "asr_model_step_duration"
_LAST_MARKER = 0
_SILENCE = np.zeros(FRAME_SAMPLES, np.float32)
_NO_AUDIO = encode(Audio(np.zeros(0, np.float32)))
"""Adds nothing to the stream, and counts as a binary message."""

Answer = Step | Word | EndWord
Frames = AsyncIterator[NDArray[np.float32]]


async def transcribe(
    url: str,
    frames: Frames,
    take: Callable[[Answer], None],
    *,
    api_key: str | None = None,
    speed: float = 1.01,
    send_ahead_s: float = SEND_AHEAD_S,
    stop: asyncio.Event | None = None,
    patience: Patience | None = None,
) -> None:
    """Send `frames` (float32 [1920], 24 kHz mono) to `url`, and hand each answer to `take`.

    Returns when all answers are in. `speed` is × real time, 0 for as fast as the server answers.
    Audio goes out at most `send_ahead_s` ahead of the answers. Setting `stop` ends the audio early;
    what was sent is still transcribed. Times in answers count from the first of `frames`: the
    lead-in is subtracted, and a time is never below 0.

    Raises:
        CredentialsError: the server refused the key.
        TransferError: it cannot be reached, is full, stopped answering, ended the stream or is not
            a moshi-server. What was answered before has gone to `take`.
    """
    patience = patience or Patience()
    clock = asyncio.get_running_loop().time

    async def await_slot(session: aiohttp.ClientSession, connection: Connection) -> None:
        connection.keep_alive(_NO_AUDIO, ping_s=patience.ping_s, idle_s=patience.idle_s)
        await await_module(session, connection, url, patience)

    async with open_session(url, api_key, patience, await_slot) as connection:
        window = SendWindow(send_ahead_s)
        reader = _Reader(connection, url, take, window)
        sender = _Sender(connection, window, stop or asyncio.Event())
        sending = asyncio.create_task(sender.run(frames, speed))
        reading = asyncio.create_task(reader.read_to_last_marker())
        try:
            while not reading.done():
                if sending.done():
                    sending.result()  # the recording may have failed
                # A recording or a microphone may be slow; a server with work to do must answer.
                left_s = patience.silence_s
                if sender.waits_since_s is not None:
                    left_s += max(sender.waits_since_s, reader.last_s) - clock()
                if left_s <= 0:
                    raise silent(url, "text", patience.silence_s, _HISTOGRAM)
                await asyncio.wait(
                    {reading} if sending.done() else {reading, sending},
                    timeout=left_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            reading.result()
        finally:
            for task in (sending, reading):
                task.cancel()
            await asyncio.gather(sending, reading, return_exceptions=True)


class _Sender:
    """Sends a stream. `waits_since_s` is since when the server must answer, None while it need not.

    Times are those of the event loop's clock.
    """

    def __init__(self, connection: Connection, window: SendWindow, stop: asyncio.Event) -> None:
        self.waits_since_s: float | None = None
        self._connection, self._window, self._stop = connection, window, stop
        self._clock = asyncio.get_running_loop().time

    async def run(self, frames: Frames, speed: float) -> None:
        """Send lead-in, audio and end.

        A frame is due at its place on the clock, so that one late frame delays no other.
        """
        begin_s = self._clock()
        try:
            await self._send_audio(np.tile(_SILENCE, LEAD_IN_FRAMES))
            number = 0
            async for frame in frames:
                await self._wait_for_room()
                if self._stop.is_set():
                    break
                await self._send_audio(frame)
                if (marker := self._window.due_marker()) is not None:
                    await self._send(marker)
                number += 1
                if speed:
                    await _first_of(
                        self._stop.wait(),
                        within_s=begin_s + number * FRAME_S / speed - self._clock(),
                    )
            closing = np.tile(_SILENCE, CLOSING_FRAMES)
            await self._send_audio(closing)
            await self._send(Marker(_LAST_MARKER))
            # In one message right behind the marker: the stream then steps on until the marker is
            # due, whatever other streams do.
            await self._send_audio(closing)
            self.waits_since_s = self._clock()
        except ConnectionError:
            return  # the reader knows why

    async def _send_audio(self, pcm: NDArray[np.float32]) -> None:
        await self._send(Audio(pcm))
        self._window.sent(-(-len(pcm) // FRAME_SAMPLES))

    async def _send(self, message: Audio | Marker) -> None:
        self.waits_since_s = self._clock()
        await self._connection.send(encode(message))
        self.waits_since_s = None

    async def _wait_for_room(self) -> None:
        while self._window.is_full and not self._stop.is_set():
            self.waits_since_s = self.waits_since_s or self._clock()
            await _first_of(self._window.moved(), self._stop.wait())
        self.waits_since_s = None


class _Reader:
    """Reads answers. `last_s` is when the last one came, on the event loop's clock."""

    def __init__(
        self,
        connection: Connection,
        url: str,
        take: Callable[[Answer], None],
        window: SendWindow,
    ) -> None:
        self._connection, self._url, self._take, self._window = connection, url, take, window
        self.last_s = 0.0

    async def read_to_last_marker(self) -> None:
        while True:
            answer = await _next(self._connection, self._url)
            self.last_s = asyncio.get_running_loop().time()
            self._window.take(answer)
            match answer:
                case Error():
                    raise ended(self._url, "text", answer.message)
                case Marker(id=marker_id):
                    if marker_id == _LAST_MARKER:
                        return
                case Step() | Word() | EndWord():
                    self._take(_on_the_recordings_clock(answer))


def _on_the_recordings_clock(answer: Answer) -> Answer:
    lead_in_s = LEAD_IN_FRAMES * FRAME_S
    match answer:
        case Word():
            return Word(answer.text, max(0.0, answer.start_time - lead_in_s))
        case EndWord():
            return EndWord(max(0.0, answer.stop_time - lead_in_s))
    return answer


async def _first_of(*events: Coroutine[Any, Any, object], within_s: float | None = None) -> None:
    """Wait for the first of some events, at most `within_s` seconds, not at all for 0 or less."""
    waiting = [asyncio.ensure_future(event) for event in events]
    try:
        await asyncio.wait(
            waiting,
            timeout=None if within_s is None else max(0.0, within_s),
            return_when=asyncio.FIRST_COMPLETED,
        )
    finally:
        for task in waiting:
            task.cancel()


async def _next(connection: Connection, url: str) -> SttAnswer:
    answer = await next_answer(connection, url, decode_stt_answer)
    if isinstance(answer, Closed):
        raise ended(url, "text", closed=answer)
    return answer


async def await_module(
    session: aiohttp.ClientSession, connection: Connection, url: str, patience: Patience
) -> None:
    """Return when the stream has a slot: after `Ready`, or when the module never sends it."""
    try:
        async with asyncio.timeout(patience.first_s):
            answer = await _next(connection, url)
    except TimeoutError:
        if not await _is_batched(session, url):
            return
        try:
            async with asyncio.timeout(max(0.0, patience.ready_s - patience.first_s)):
                answer = await _next(connection, url)
        except TimeoutError:
            raise not_ready(url, patience.ready_s) from None
    if isinstance(answer, Error):
        raise ended(url, "text", answer.message)


async def _is_batched(session: aiohttp.ClientSession, url: str) -> bool:
    """Return whether the server lists a batched module at this path. Those send `Ready`."""
    parts = urlsplit(url)
    address = urlunsplit(
        (parts.scheme.replace("ws", "http", 1), parts.netloc, "/api/modules_info", "", "")
    )
    try:
        async with session.get(address, timeout=aiohttp.ClientTimeout(total=5)) as response:
            modules = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return True
    listed = modules if isinstance(modules, list) else []
    return any(isinstance(module, dict) and module.get("path") == parts.path for module in listed)
