"""Streaming speech-to-text from a moshi-server: paced by an absolute clock, ended so that the last word arrives.

One WebSocket, two tasks: one sends frames, one reads answers. The end follows what the server's protocol needs: silence, a marker, at once
silence again, then reading until the marker is back. Works with the original server, which leaves closing handshakes unanswered.

Source: moshi-server 0.6.4, `batched_asr.rs` and `asr.rs`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import numpy as np
from numpy.typing import NDArray

from dsmops.audio import FRAME_SAMPLES
from dsmops.errors import CredentialsError, RemoteError, TransferError
from dsmops.models import FRAME_MS
from dsmops.worker.protocol import (
    Audio,
    CloseCode,
    EndWord,
    Error,
    Marker,
    ProtocolError,
    Ready,
    ServerMessage,
    Step,
    Word,
    decode_answer,
    encode,
)

FRAME_S = FRAME_MS / 1000
LEAD_IN_FRAMES = 13
"""Silence before the audio, about the second that Kyutai's clients send: the 2.6B model needs it, the 1B does not mind."""
CLOSING_FRAMES = 40
"""Silence before the marker and again behind it: more than the largest text delay (32 frames), with some to spare."""
KEY_HEADER = "kyutai-api-key"

_SILENCE = np.zeros(FRAME_SAMPLES, np.float32)
_UNAUTHORIZED, _NOT_FOUND = 401, 404

Answer = Step | Word | EndWord
Frames = AsyncIterator[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds, and how often to try while nothing was sent.

    `first_s`: for a first message, before asking which module it is. `ready_s`: for `Ready` where it must come. `marker_s`: for the next
    message once all is sent.
    """

    connect_s: float = 10.0
    first_s: float = 2.0
    ready_s: float = 20.0
    marker_s: float = 30.0
    close_s: float = 2.0
    attempts: int = 4
    back_off_s: float = 1.0


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

    `speed` is × real time, 0 for as fast as the server takes it. Setting `stop` ends the audio early; what was sent is still transcribed.
    Times in answers count from the first of `frames`: the lead-in is taken off, and never gives less than 0.

    Raises:
        CredentialsError: the server refused the key.
        TransferError: it cannot be reached, is full, stopped answering or is no such server. The hint says whether trying again helps.
    """
    patience = patience or Patience()
    clock = asyncio.get_running_loop().time
    async with _session(url, api_key, patience) as socket:
        reader = _Reader(socket, url, take)
        sender = asyncio.create_task(_send(socket, frames, speed, stop or asyncio.Event()))
        receiver = asyncio.create_task(reader.read_to_marker())
        try:
            # Whichever fails ends both.
            await asyncio.wait({sender, receiver}, return_when=asyncio.FIRST_COMPLETED)
            if receiver.done():
                receiver.result()
            await sender
            sent_s = clock()
            while not receiver.done():
                left_s = max(sent_s, reader.last_s) + patience.marker_s - clock()
                if left_s <= 0:
                    raise _silent(url, patience.marker_s)
                await asyncio.wait({receiver}, timeout=left_s)
            receiver.result()
        finally:
            for task in (sender, receiver):
                task.cancel()
            await asyncio.gather(sender, receiver, return_exceptions=True)


async def _send(socket: aiohttp.ClientWebSocketResponse, frames: Frames, speed: float, stop: asyncio.Event) -> None:
    """Send lead-in, audio and end. A frame is due at its place on the clock, so that one late frame delays no other."""
    clock = asyncio.get_running_loop().time
    begin_s = clock()
    try:
        await _send_audio(socket, np.tile(_SILENCE, LEAD_IN_FRAMES))
        number = 0
        async for frame in frames:
            if stop.is_set():
                break
            await _send_audio(socket, frame)
            number += 1
            if speed:
                await _sleep_until(begin_s + number * FRAME_S / speed, stop)
        closing = np.tile(_SILENCE, CLOSING_FRAMES)
        await _send_audio(socket, closing)
        await socket.send_bytes(encode(Marker(0)))
        # In one message right behind the marker: the stream then steps on until the marker is due, whatever other streams do.
        await _send_audio(socket, closing)
    except (aiohttp.ClientConnectionError, ConnectionError):
        return  # The reader knows why.


async def _send_audio(socket: aiohttp.ClientWebSocketResponse, pcm: NDArray[np.float32]) -> None:
    await socket.send_bytes(encode(Audio(pcm)))


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

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, url: str, take: Callable[[Answer], None]) -> None:
        self._socket, self._url, self._take = socket, url, take
        self.last_s = 0.0

    async def read_to_marker(self) -> None:
        while not isinstance(answer := await _next(self._socket, self._url), Marker):
            self.last_s = asyncio.get_running_loop().time()
            if isinstance(answer, Error):
                raise _ended(self._url, answer.message)
            if not isinstance(answer, Ready):
                self._take(_on_the_recordings_clock(answer))


def _silent(url: str, marker_s: float) -> TransferError:
    return TransferError(
        f"{url} stopped answering: nothing came for {marker_s:g} s, and the text is not all out",
        hint="Its model loop may have died, or it is far behind: look at its log and at asr_model_step_duration in /metrics.",
        code="server.silent",
    )


def _on_the_recordings_clock(answer: Answer) -> Answer:
    lead_in_s = LEAD_IN_FRAMES * FRAME_S
    match answer:
        case Word():
            return Word(answer.text, max(0.0, answer.start_time - lead_in_s))
        case EndWord():
            return EndWord(max(0.0, answer.stop_time - lead_in_s))
    return answer


async def _next(socket: aiohttp.ClientWebSocketResponse, url: str) -> ServerMessage:
    while True:
        message = await socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            try:
                return decode_answer(message.data)
            except ProtocolError as exc:
                raise TransferError(f"{url} sent what no moshi-server sends: {exc}", hint="Check the path.", code="server.foreign") from exc
        if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.ERROR):
            raise _ended(url, "", socket.close_code)


def _ended(url: str, said: str, close_code: int | None = None) -> TransferError:
    if said.startswith(_FULL) or close_code == CloseCode.FULL:
        return _full(url)
    reason = said or f"the connection closed{f' with code {close_code}' if close_code else ''}"
    return TransferError(
        f"{url} ended the stream before its text was out: {reason}",
        hint="Look at the server's log; runbooks/capacity-and-close-codes.md explains the codes.",
        code="server.ended",
    )


_FULL = "no free channels"


def _full(url: str) -> TransferError:
    return TransferError(
        f"{url} is full: no slot is free", hint="Try again later, or serve with a larger batch_size (`dsmops plan`).", code="server.full"
    )


@asynccontextmanager
async def _session(url: str, api_key: str | None, patience: Patience) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """Open a WebSocket with a slot behind it. Full or unreachable servers are tried again, each time after twice as long."""
    headers = {KEY_HEADER: api_key} if api_key else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=patience.connect_s)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        wait_s = patience.back_off_s
        for attempt in range(1, patience.attempts + 1):
            try:
                socket = await _open(session, url, patience)
                break
            except TransferError as exc:
                if attempt == patience.attempts or exc.code not in ("server.full", "server.unreachable"):
                    raise
            await asyncio.sleep(wait_s)
            wait_s *= 2
        try:
            yield socket
        finally:
            await socket.close()


async def _open(session: aiohttp.ClientSession, url: str, patience: Patience) -> aiohttp.ClientWebSocketResponse:
    try:
        socket = await session.ws_connect(
            url,
            max_msg_size=0,
            timeout=aiohttp.ClientWSTimeout(ws_close=patience.close_s),
        )
    except aiohttp.WSServerHandshakeError as exc:
        raise _refused(url, exc.status) from exc
    except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError) as exc:
        raise TransferError(
            f"no TLS connection to {url}: {exc}",
            hint="moshi-server itself speaks no TLS: use ws://, or the address of its proxy. SSL_CERT_FILE adds a certificate authority.",
            code="server.tls",
        ) from exc
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise TransferError(
            f"{url} cannot be reached: {str(exc) or type(exc).__name__}",
            hint="See whether the server runs and listens there.",
            code="server.unreachable",
        ) from exc
    try:
        await _await_slot(session, socket, url, patience)
    except BaseException:
        await socket.close()
        raise
    return socket


async def _await_slot(session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse, url: str, patience: Patience) -> None:
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
            raise TransferError(
                f"{url} took the connection and sent no Ready in {patience.ready_s:g} s: its model loop does not run",
                hint='Look for `task failed name="model_loop"` in its log; on cards before Ampere see `dsmops prep-sm75`.',
                code="server.not_ready",
            ) from None
    if isinstance(answer, Error):
        raise _ended(url, answer.message)


async def _is_batched(session: aiohttp.ClientSession, url: str) -> bool:
    """Return whether the server lists a batched module at this path; those send `Ready` when they have a slot."""
    parts = urlsplit(url)
    address = urlunsplit((parts.scheme.replace("ws", "http", 1), parts.netloc, "/api/modules_info", "", ""))
    try:
        async with session.get(address, timeout=aiohttp.ClientTimeout(total=5)) as response:
            modules = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return True
    return any(isinstance(module, dict) and module.get("path") == parts.path for module in modules if isinstance(modules, list))


def _refused(url: str, status: int) -> RemoteError | CredentialsError:
    if status == _UNAUTHORIZED:
        return CredentialsError(
            f"{url} refused the key", hint="Give one of the server's authorized_ids: --api-key, or DSMOPS_API_KEY.", code="server.key"
        )
    if status == _NOT_FOUND:
        return TransferError(
            f"{url}: the server has nothing at that path",
            hint="Use the path of its config's [modules.asr]; /api/modules_info lists them.",
            code="server.path",
        )
    return TransferError(f"{url} answered {status} instead of opening a stream", hint="Check address and path.", code="server.status")
