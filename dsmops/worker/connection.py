"""One WebSocket of a speech-to-text module, from its slot to its closing handshake.

Two tasks share it: one reads messages as long as the stream has room, one sends what the model loop gives. Whichever ends first ends
both. The slot is given back before the closing handshake, which may take as long as the client likes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from aiohttp import WSMsgType, web

from dsmops.audio import OpusDecoder
from dsmops.errors import InputError
from dsmops.worker import protocol
from dsmops.worker.protocol import CloseCode
from dsmops.worker.runtime.loop import Started, StreamFailed
from dsmops.worker.runtime.slots import Event, MarkerReached, Stepped, Stream
from dsmops.worker.runtime.words import Word, WordEnd


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds. Those up to `session_s` are moshi-server's."""

    ping_s: float = 10.0
    """Without anything to send, a ping."""
    silence_s: float = 20.0
    """Without any frame from the client, the end."""
    no_audio_s: float = 120.0
    """Without a binary frame, the end, when another frame comes."""
    session_s: float | None = None
    stalled_s: float = 20.0
    """How long a client may leave what is sent to it unread."""
    close_s: float = 1.0
    """For the client's part of the closing handshake."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How the types of modules differ on the wire."""

    kind: str
    has_init: bool
    """Whether `Init` and `Ready` exist."""
    counts_all_steps: bool
    """Whether `step_idx` counts the steps of all streams, and `buffered_pcm` is told."""
    receive_timeouts: bool


BATCHED = Rules("BatchedAsr", has_init=True, counts_all_steps=True, receive_timeouts=True)
UNBATCHED = Rules("Asr", has_init=False, counts_all_steps=False, receive_timeouts=False)


class Ending(Exception):  # noqa: N818 not every ending is an error
    """Why a connection ends. `said` goes to the client as an `Error`, if it is still there; `logged` is for the log."""

    def __init__(self, code: CloseCode, said: str = "", *, logged: str = "", task: str = "recv_loop", gone: bool = False) -> None:
        super().__init__(said or logged)
        self.code, self.said, self.logged, self.task, self.gone = code, said, logged or said, task, gone


class Connection:
    """A stream on a WebSocket."""

    def __init__(self, ws: web.WebSocketResponse, stream: Stream, rules: Rules, limits: Limits) -> None:
        self._ws, self._stream, self._rules, self._limits = ws, stream, rules, limits
        self._opus: OpusDecoder | None = None
        self._output = asyncio.Event()
        self._room = asyncio.Event()
        self._told: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        stream.on_news = self._on_news

    def tell(self, ending: Ending) -> None:
        """End the conversation for a reason from outside."""
        if not self._told.done():
            self._told.set_result(ending)

    async def converse(self) -> Ending:
        """Serve the stream until it ends, and return why."""
        tasks = [asyncio.ensure_future(self._receive()), asyncio.ensure_future(self._send())]
        either: list[asyncio.Future[Any]] = [*tasks, self._told]
        try:
            done, _ = await asyncio.wait(either, timeout=self._limits.session_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._told.done():
            return self._told.result()
        if not done:
            return Ending(CloseCode.TIMED_OUT, f"the session's {self._limits.session_s:g} s are over", logged="reached timeout")
        failures = [exc for future in done if (exc := future.exception()) is not None]
        return _as_ending(failures[0]) if failures else Ending(CloseCode.NORMAL)

    def _on_news(self) -> None:
        self._output.set()
        self._room.set()

    async def _receive(self) -> None:
        """Read until the client closes."""
        limits, clock = self._limits, asyncio.get_running_loop().time
        last_binary_s = clock()
        while True:
            await self._wait_for_room()
            try:
                async with asyncio.timeout(limits.silence_s if self._rules.receive_timeouts else None):
                    message = await self._ws.receive()
            except TimeoutError:
                raise Ending(CloseCode.TIMED_OUT, f"nothing came for {limits.silence_s:g} s", logged="recv loop short timeout") from None
            if message.type is WSMsgType.BINARY:
                last_binary_s = clock()
                await self._take(message.data)
            elif message.type is WSMsgType.CLOSE:
                return
            elif message.type is WSMsgType.PING:
                await self._ws.pong(message.data)
            elif message.type is WSMsgType.ERROR:
                raise Ending(CloseCode.TOO_BIG, logged=f"WebSocket protocol error: {message.data}", gone=True)
            elif message.type in (WSMsgType.CLOSED, WSMsgType.CLOSING):
                raise Ending(CloseCode.NORMAL, logged="WebSocket protocol error: Connection reset without closing handshake", gone=True)
            if self._rules.receive_timeouts and clock() - last_binary_s > limits.no_audio_s:
                raise Ending(CloseCode.TIMED_OUT, f"no audio came for {limits.no_audio_s:g} s", logged="recv loop long timeout")

    async def _wait_for_room(self) -> None:
        while self._stream.is_full:
            self._room.clear()
            if self._stream.is_full:
                await self._room.wait()

    async def _take(self, data: bytes) -> None:
        try:
            match protocol.decode(data):
                case protocol.Audio(pcm=pcm):
                    self._stream.push(pcm)
                case protocol.OggOpus(data=pages):
                    self._opus = self._opus or OpusDecoder()
                    for pcm in self._opus.decode(pages):
                        self._stream.push(pcm)
                        await self._wait_for_room()
                case protocol.Marker(id=marker_id):
                    self._stream.mark(marker_id)
                case protocol.Init():
                    if self._rules.has_init:
                        self._stream.restart()
        except ValueError as exc:  # a ProtocolError, or too many markers
            raise Ending(CloseCode.BAD_MESSAGE, str(exc)) from exc
        except InputError as exc:
            raise Ending(CloseCode.BAD_MESSAGE, f"{exc.message}. {exc.hint}") from exc

    async def _send(self) -> None:
        while True:
            self._output.clear()
            events = self._stream.fetch()
            self._room.set()
            for event in events:
                await self._send_event(event)
            if not events:
                try:
                    async with asyncio.timeout(self._limits.ping_s):
                        await self._output.wait()
                except TimeoutError:
                    await self._ws.ping()

    async def _send_event(self, event: Event) -> None:
        if isinstance(event, StreamFailed):
            raise Ending(CloseCode.FAILED, event.reason, task="send_loop")
        message = answer(event, self._rules)
        if message is None:
            return
        try:
            async with asyncio.timeout(self._limits.stalled_s):
                await self._ws.send_bytes(protocol.encode(message))
        except TimeoutError:
            reason = f"the client read nothing for {self._limits.stalled_s:g} s"
            raise Ending(CloseCode.TIMED_OUT, logged=reason, task="send_loop", gone=True) from None


def _as_ending(exc: BaseException) -> Ending:
    """Return what an exception of a conversation means."""
    if isinstance(exc, Ending):
        return exc
    if isinstance(exc, ConnectionError):
        ending = Ending(CloseCode.NORMAL, logged="Trying to work with closed connection", task="send_loop", gone=True)
    else:
        ending = Ending(CloseCode.FAILED, "the server failed; its log says how", logged="unforeseen")
    ending.__cause__ = exc
    return ending


def answer(event: Event, rules: Rules) -> protocol.ServerMessage | None:
    """Return what a client is sent about an event, None where that is nothing."""
    match event:
        case Started():
            return protocol.Ready() if rules.has_init else None
        case Stepped():
            if rules.counts_all_steps:
                return protocol.Step(event.step_idx, event.pauses, event.waiting_samples)
            return protocol.Step(event.own_step, event.pauses, 0)
        case Word():
            return protocol.Word(event.text, event.start_s)
        case WordEnd():
            return protocol.EndWord(event.stop_s)
        case MarkerReached():
            return protocol.Marker(event.id)
        case StreamFailed():
            return protocol.Error(event.reason)


async def part(ws: web.WebSocketResponse, transport: asyncio.Transport | None, ending: Ending, limits: Limits) -> None:
    """Close the socket for the reason given: an `Error` where there is something to say, then the closing handshake."""
    if ending.gone:
        # Nobody reads; what is still to be written would wait for ever.
        if transport is not None:
            transport.abort()
        return
    try:
        async with asyncio.timeout(2 * limits.close_s):
            if ending.said:
                await ws.send_bytes(protocol.encode(protocol.Error(ending.said)))
            await ws.close(code=ending.code, message=ending.said.encode()[:_MOST_REASON_BYTES].decode(errors="ignore").encode())
    except (TimeoutError, ConnectionError):
        return


_MOST_REASON_BYTES = 123
"""A Close frame has room for 125 bytes, two of them for the code."""
