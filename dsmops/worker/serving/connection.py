"""One WebSocket of a module, from its slot to its closing handshake.

Two tasks share it: one reads messages as long as the stream takes them, one sends pings, and waits
for a client that reads slowly. Whichever ends first ends both. What the model loop gives is sent
when it comes, all messages of a step in one write. The slot is given back before the closing
handshake, which may take as long as the client likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from aiohttp import WSMessage, WSMsgType, web

from dsmops.protocol import CloseCode
from dsmops.worker.serving.settings import Limits
from dsmops.worker.serving.throttle import Bucket


class Ending(Exception):  # noqa: N818 not every ending is an error
    """Why a connection ends.

    `reason` goes to the client as an `Error`, if it is still there; `logged` is for the log.
    """

    def __init__(
        self,
        code: CloseCode,
        reason: str = "",
        *,
        logged: str = "",
        task: str = "recv_loop",
        gone: bool = False,
    ) -> None:
        super().__init__(reason or logged)
        self.code, self.reason, self.logged, self.task, self.gone = (
            code,
            reason,
            logged or reason,
            task,
            gone,
        )


_MOST_UNSENT_BYTES = 64 << 10
"""Of one connection in this process, besides what the system buffers."""
_LOOK_EVERY_S = 0.02
_FREE_MESSAGE_BYTES = 1000
"""Larger messages carry enough to be worth their handling; 10 ms of audio are 1,200 bytes."""
SMALL_PER_S, SMALL_AT_ONCE = 100.0, 2_000
"""Smaller messages of one client: so many a second in the long run, and without a pause."""

EventT = TypeVar("EventT")
_EventT_co = TypeVar("_EventT_co", covariant=True)


class Stream(Protocol[_EventT_co]):
    """What a connection asks of a model loop's stream."""

    on_news: Callable[[], None]

    @property
    def is_full(self) -> bool: ...
    def fetch(self) -> Sequence[_EventT_co]: ...


class Connection(ABC, Generic[EventT]):
    """A stream on a WebSocket.

    What a message does to the stream, and what an event is sent as, is the subclass's.
    """

    opcode = 0x2
    """Of the messages that are sent: binary, or 0x1 for text. RFC 6455, section 5.2."""
    pings_while_sending = False
    """Whether a ping goes out every `ping_s`, rather than only where nothing else did."""

    def __init__(
        self,
        ws: web.WebSocketResponse,
        stream: Stream[EventT],
        limits: Limits,
        *,
        silence_s: float | None,
        no_audio_s: float | None,
    ) -> None:
        self._ws, self._stream, self._limits = ws, stream, limits
        self._silence_s, self._no_audio_s = silence_s, no_audio_s
        self._output = asyncio.Event()
        self._room = asyncio.Event()
        self._transport: asyncio.WriteTransport | None = None
        self._is_waiting_for_reader = False
        self._small = Bucket(per_s=SMALL_PER_S, at_once=SMALL_AT_ONCE)
        self._failure: Ending | None = None
        self._silence_timer: asyncio.TimerHandle | None = None
        self._last_sent_s = self._last_received_s = self._last_audio_s = 0.0
        self._ended_by: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        stream.on_news = self._on_news

    @abstractmethod
    async def _take(self, message: WSMessage) -> None:
        """Do what a text or binary frame asks for; raise `Ending` where it cannot be done."""

    @abstractmethod
    def _messages_of(self, event: EventT) -> Iterable[bytes]:
        """Return what an event is sent as; raise `Ending` where it is the last."""

    @abstractmethod
    def error_message(self, ending: Ending) -> bytes | str | None:
        """Return the message that tells the client why its conversation ends.

        None where there is nothing to tell.
        """

    def end(self, ending: Ending) -> None:
        """End the conversation for a reason from outside."""
        if not self._ended_by.done():
            self._ended_by.set_result(ending)

    async def converse(self, transport: asyncio.WriteTransport | None) -> Ending:
        """Serve the stream on the socket's transport until it ends, and return why."""
        self._transport = transport
        tasks = [asyncio.ensure_future(self._receive()), asyncio.ensure_future(self._send())]
        either: list[asyncio.Future[Any]] = [*tasks, self._ended_by]
        self._last_received_s = asyncio.get_running_loop().time()
        if self._silence_s is not None:
            self._watch_silence(self._silence_s, self._silence_s)
        try:
            done, _ = await asyncio.wait(
                either, timeout=self._limits.session_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            # What comes from here on is not sent.
            self._transport = None
            if self._silence_timer is not None:
                self._silence_timer.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # A timer and an exception refer back to this object; it must be free of cycles.
            self._silence_timer = self._failure = None
        if self._ended_by.done():
            return self._ended_by.result()
        if not done:
            return Ending(
                CloseCode.TIMED_OUT,
                f"the session's {self._limits.session_s:g} s are over",
                logged="reached timeout",
            )
        failures = [exc for future in done if (exc := future.exception()) is not None]
        return _as_ending(failures[0]) if failures else Ending(CloseCode.NORMAL)

    def _on_news(self) -> None:
        self._room.set()
        if self._is_waiting_for_reader or self._transport is None:
            self._output.set()
        else:
            self._send_ready()

    async def _receive(self) -> None:
        """Read until the client closes."""
        clock = asyncio.get_running_loop().time
        self._last_audio_s = clock()
        while True:
            message = await self._ws.receive()
            self._last_received_s = clock()
            if message.type is WSMsgType.CLOSE:
                return
            if message.type is WSMsgType.PING:
                await self._deliver(self._ws.pong(message.data))
            elif message.type is WSMsgType.ERROR:
                raise Ending(
                    CloseCode.TOO_BIG, logged=f"WebSocket protocol error: {message.data}", gone=True
                )
            elif message.type in (WSMsgType.CLOSED, WSMsgType.CLOSING):
                raise Ending(
                    CloseCode.NORMAL,
                    logged="WebSocket protocol error: Connection reset without closing handshake",
                    gone=True,
                )
            if message.type is WSMsgType.BINARY:
                self._last_audio_s = clock()
            elif self._no_audio_s is not None and clock() - self._last_audio_s > self._no_audio_s:
                raise Ending(
                    CloseCode.TIMED_OUT,
                    f"no audio came for {self._no_audio_s:g} s",
                    logged="recv loop long timeout",
                )
            if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                await self._take(message)
            size = len(message.data) if isinstance(message.data, bytes | str) else 0
            has_waited = size < _FREE_MESSAGE_BYTES and await self._small.take()
            if has_waited and message.type is WSMsgType.PING:
                raise Ending(
                    CloseCode.TIMED_OUT, "too many pings", logged="too many pings", gone=True
                )

    def _note_audio(self) -> None:
        """Note that audio was taken which did not come as a binary message."""
        self._last_audio_s = self._last_received_s = asyncio.get_running_loop().time()

    async def _wait_for_room(self) -> None:
        while self._stream.is_full:
            self._room.clear()
            if self._stream.is_full:
                await self._room.wait()

    def _watch_silence(self, left_s: float, silence_s: float) -> None:
        """Look in `left_s` seconds whether the client has sent nothing for `silence_s`.

        One timer looks now and then, since a timer for each message would cost more than the rest.
        """
        loop = asyncio.get_running_loop()
        self._silence_timer = loop.call_later(left_s, self._look_for_silence, silence_s)

    def _look_for_silence(self, silence_s: float) -> None:
        left_s = self._last_received_s + silence_s - asyncio.get_running_loop().time()
        if left_s > 0:
            self._watch_silence(left_s, silence_s)
            return
        self.end(
            Ending(
                CloseCode.TIMED_OUT,
                f"nothing came for {silence_s:g} s",
                logged="recv loop short timeout",
            )
        )

    def _send_ready(self) -> None:
        """Send what the stream has, in one write.

        The task `_send` ends the stream, or waits for the client, where that is needed.
        """
        messages: list[bytes] = []
        try:
            for event in self._stream.fetch():
                messages.extend(self._messages_of(event))
        except Ending as exc:
            self._failure = exc
        except Exception as exc:  # noqa: BLE001 the edge of one conversation
            self._failure = _as_ending(exc)
        if self._transport is not None and self._transport.is_closing():
            self._failure = self._failure or Ending(
                CloseCode.NORMAL,
                logged="Trying to work with closed connection",
                task="send_loop",
                gone=True,
            )
        else:
            self._write(messages)
        if self._failure is not None or self._is_backed_up:
            self._is_waiting_for_reader = True
            self._output.set()

    def _write(self, messages: Sequence[bytes]) -> None:
        if messages and self._transport is not None:
            self._transport.write(b"".join(_frame(self.opcode, data) for data in messages))
            if not self.pings_while_sending:
                self._last_sent_s = asyncio.get_running_loop().time()

    async def _answer(self, messages: Sequence[bytes]) -> None:
        """Send messages at once, then wait for a client that reads slowly."""
        self._write(messages)
        if self._is_backed_up:
            await self._deliver(self._until_read())

    @property
    def _is_backed_up(self) -> bool:
        """Whether the client reads more slowly than the stream gives."""
        return (
            self._transport is not None
            and self._transport.get_write_buffer_size() > _MOST_UNSENT_BYTES
        )

    async def _send(self) -> None:
        clock = asyncio.get_running_loop().time
        self._last_sent_s = clock()
        while True:
            self._output.clear()
            if self._is_backed_up:
                await self._deliver(self._until_read())
            if self._failure is not None:
                raise self._failure
            self._is_waiting_for_reader = False
            self._send_ready()
            self._room.set()
            if clock() - self._last_sent_s >= self._limits.ping_s:
                await self._deliver(self._ws.ping())
                self._last_sent_s = clock()
            if not self._is_waiting_for_reader:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._last_sent_s + self._limits.ping_s - clock()):
                        await self._output.wait()

    async def _until_read(self) -> None:
        while self._is_backed_up:
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _deliver(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._limits.stalled_s):
                await sending
        except TimeoutError:
            reason = f"the client read nothing for {self._limits.stalled_s:g} s"
            raise Ending(CloseCode.TIMED_OUT, logged=reason, task="send_loop", gone=True) from None


def _frame(opcode: int, data: bytes) -> bytes:
    """Return a WebSocket message as a server sends it: RFC 6455, section 5.2."""
    first, size = 0x80 | opcode, len(data)
    if size < 126:
        return bytes((first, size)) + data
    if size < 1 << 16:
        return struct.pack(">BBH", first, 126, size) + data
    return struct.pack(">BBQ", first, 127, size) + data


def _as_ending(exc: BaseException) -> Ending:
    """Return what an exception of a conversation means."""
    if isinstance(exc, Ending):
        return exc
    if isinstance(exc, ConnectionError):
        ending = Ending(
            CloseCode.NORMAL,
            logged="Trying to work with closed connection",
            task="send_loop",
            gone=True,
        )
    else:
        ending = Ending(
            CloseCode.FAILED, "the server failed; its log says why", logged="unforeseen"
        )
    ending.__cause__ = exc
    return ending


async def close_socket(
    ws: web.WebSocketResponse,
    transport: asyncio.Transport | None,
    ending: Ending,
    limits: Limits,
    error_message: bytes | str | None,
) -> None:
    """Close the socket for `ending`: its `error_message`, then the closing handshake."""
    if ending.gone:
        # The client no longer reads; a write would never end.
        if transport is not None:
            transport.abort()
        # Nothing is sent. aiohttp would do it after us, and keep the error that it gets.
        await ws.close()
        return
    try:
        async with asyncio.timeout(2 * limits.close_s):
            if isinstance(error_message, str):
                await ws.send_str(error_message)
            elif error_message is not None:
                await ws.send_bytes(error_message)
            await ws.close(
                code=ending.code,
                message=ending.reason.encode()[:_MOST_REASON_BYTES]
                .decode(errors="ignore")
                .encode(),
            )
    except (TimeoutError, ConnectionError):
        return


def forget_errors(ws: web.WebSocketResponse) -> None:
    """Break the cycles that aiohttp leaves when a client hangs up.

    A socket and its reader keep the error that ended them, and the error's traceback holds both, so
    that only a collection would free them.
    """
    reader = getattr(ws, "_reader", None)
    for kept in (ws.exception(), None if reader is None else reader.exception()):
        error = kept
        while error is not None:
            error.__traceback__ = None
            error = error.__context__


_MOST_REASON_BYTES = 123
"""A Close frame has room for 125 bytes, two of them for the code."""
