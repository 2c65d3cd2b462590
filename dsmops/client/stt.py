"""Streaming speech-to-text from a moshi-server: paced by an absolute clock, ended so that the last word arrives.

One WebSocket, two tasks: one sends frames, one reads answers. The end follows what the server's
protocol needs: silence, a marker, at once silence again, then reading until the marker is back.
Works with the original server, which leaves closing handshakes unanswered.

Source: moshi-server 0.6.4, `batched_asr.rs` and `asr.rs`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import numpy as np
from numpy.typing import NDArray

from dsmops.audio import FRAME_SAMPLES
from dsmops.client.session import (
    Patience,
    Socket,
    ended,
    next_answer,
    not_ready,
    open_session,
    silent,
)
from dsmops.models import FRAME_MS
from dsmops.protocol import (
    Audio,
    EndWord,
    Error,
    Marker,
    Ready,
    Step,
    SttAnswer,
    SttRequest,
    Word,
    decode_stt_answer,
    encode,
)

FRAME_S = FRAME_MS / 1000
LEAD_IN_FRAMES = 13
"""Silence before the audio, about the second that Kyutai's clients send: the 2.6B model needs it, the 1B does not mind."""
CLOSING_FRAMES = 40
"""Silence before the marker and again behind it: more than the largest text delay (32 frames), with some to spare."""

_SILENCE = np.zeros(FRAME_SAMPLES, np.float32)

Answer = Step | Word | EndWord
Frames = AsyncIterator[NDArray[np.float32]]


async def transcribe(
    url: str,
    frames: Frames,
    take: Callable[[Answer], None],
    *,
    api_key: str | None = None,
    speed: float = 1.01,
    stop: asyncio.Event | None = None,
    patience: Patience | None = None,
) -> None:
    """Send `frames` (float32 [1920], 24 kHz mono) to the WebSocket address `url`, and hand each answer to `take`, until all are out.

    `speed` is × real time, 0 for as fast as the server takes it. Setting `stop` ends the audio
    early; what was sent is still transcribed. Times in answers count from the first of `frames`:
    the lead-in is taken off, and never gives less than 0.

    Raises:
        CredentialsError: the server refused the key.
        TransferError: it cannot be reached, is full, stopped answering or is no such server. The hint says whether trying again helps.
    """
    patience = patience or Patience()
    clock = asyncio.get_running_loop().time

    async def await_slot(session: aiohttp.ClientSession, socket: Socket) -> None:
        await _await_slot(session, socket, url, patience)

    async with open_session(url, api_key, patience, await_slot) as socket:
        reader = _Reader(socket, url, take)
        outlet = _Outlet(socket)
        sender = asyncio.create_task(_send(outlet, frames, speed, stop or asyncio.Event()))
        receiver = asyncio.create_task(reader.read_to_marker())
        try:
            # Whichever fails ends both.
            while not (sender.done() or receiver.done()):
                left_s = patience.marker_s
                if (
                    outlet.waits_since_s is not None
                ):  # a server that still answers is slow, and not dead
                    left_s += max(outlet.waits_since_s, reader.last_s) - clock()
                if left_s <= 0:
                    raise silent(url, "text", patience.marker_s, "asr_model_step_duration")
                await asyncio.wait(
                    {sender, receiver}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
                )
            if receiver.done():
                receiver.result()
            await sender
            sent_s = clock()
            while not receiver.done():
                left_s = max(sent_s, reader.last_s) + patience.marker_s - clock()
                if left_s <= 0:
                    raise silent(url, "text", patience.marker_s, "asr_model_step_duration")
                await asyncio.wait({receiver}, timeout=left_s)
            receiver.result()
        finally:
            for task in (sender, receiver):
                task.cancel()
            await asyncio.gather(sender, receiver, return_exceptions=True)


async def _send(outlet: _Outlet, frames: Frames, speed: float, stop: asyncio.Event) -> None:
    """Send lead-in, audio and end. A frame is due at its place on the clock, so that one late frame delays no other."""
    clock = asyncio.get_running_loop().time
    begin_s = clock()
    try:
        await outlet.send(Audio(np.tile(_SILENCE, LEAD_IN_FRAMES)))
        number = 0
        async for frame in frames:
            if stop.is_set():
                break
            await outlet.send(Audio(frame))
            number += 1
            if speed:
                await _sleep_until(begin_s + number * FRAME_S / speed, stop)
        closing = Audio(np.tile(_SILENCE, CLOSING_FRAMES))
        await outlet.send(closing)
        await outlet.send(Marker(0))
        # In one message right behind the marker: the stream then steps on until the marker is due,
        # whatever other streams do.
        await outlet.send(closing)
    except (aiohttp.ClientConnectionError, ConnectionError):
        return  # The reader knows why.


class _Outlet:
    """Sends messages; `waits_since_s` is since when one waits for a server that does not read, on the event loop's clock."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self.waits_since_s: float | None = None

    async def send(self, message: SttRequest) -> None:
        self.waits_since_s = asyncio.get_running_loop().time()
        await self._socket.send_bytes(encode(message))
        self.waits_since_s = None


async def _sleep_until(due_s: float, stop: asyncio.Event) -> None:
    wait_s = due_s - asyncio.get_running_loop().time()
    if wait_s > 0:
        try:
            async with asyncio.timeout(wait_s):
                await stop.wait()
        except TimeoutError:
            return


class _Reader:
    """Reads answers; `last_s` is when the last one came, on the event loop's clock."""

    def __init__(self, socket: Socket, url: str, take: Callable[[Answer], None]) -> None:
        self._socket, self._url, self._take = socket, url, take
        self.last_s = 0.0

    async def read_to_marker(self) -> None:
        while not isinstance(answer := await _next(self._socket, self._url), Marker):
            self.last_s = asyncio.get_running_loop().time()
            if isinstance(answer, Error):
                raise ended(self._url, "text", answer.message)
            if not isinstance(answer, Ready):
                self._take(_on_the_recordings_clock(answer))


def _on_the_recordings_clock(answer: Answer) -> Answer:
    lead_in_s = LEAD_IN_FRAMES * FRAME_S
    match answer:
        case Word():
            return Word(answer.text, max(0.0, answer.start_time - lead_in_s))
        case EndWord():
            return EndWord(max(0.0, answer.stop_time - lead_in_s))
    return answer


async def _next(socket: Socket, url: str) -> SttAnswer:
    answer = await next_answer(socket, url, decode_stt_answer)
    if answer is None:
        raise ended(url, "text", "", socket.close_code)
    return answer


async def _await_slot(
    session: aiohttp.ClientSession, socket: Socket, url: str, patience: Patience
) -> None:
    """Return when the stream has a slot: at once after `Ready`, or when the module is one that never sends it."""
    try:
        async with asyncio.timeout(patience.first_s):
            answer = await _next(socket, url)
    except TimeoutError:
        if not await _is_batched(session, url):
            return
        try:
            async with asyncio.timeout(max(0.0, patience.ready_s - patience.first_s)):
                answer = await _next(socket, url)
        except TimeoutError:
            raise not_ready(url, patience.ready_s) from None
    if isinstance(answer, Error):
        raise ended(url, "text", answer.message)


async def _is_batched(session: aiohttp.ClientSession, url: str) -> bool:
    """Return whether the server lists a batched module at this path; those send `Ready` when they have a slot."""
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
