"""A stand-in for moshi-server 0.6.4: it closes connections and times out as the original does.

It has no model: a speech-to-text stream gets a word every ten frames, a text-to-speech stream three
frames of sound per word. What it shares with the original, and what our worker does more kindly:

- a client that leaves, that sends nonsense, or that is silent for too long loses its TCP connection
  without a Close frame; nothing says why;
- a text ends with a Close frame without a code, and then with a TCP reset at once, so that the
  client's answer to that frame cannot be sent;
- a stream without any frame for 20 s (Python modules: 30 s) is dropped, and one without a binary
  frame for 120 s;
- pings go out only after 10 s without an answer, so a busy stream gets none;
- each step takes one message of a stream; all others wait in a queue that has no limit.

Sources: `moshi-server` 0.6.4, `batched_asr.rs`, `asr.rs` and `py_module.rs`.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import json
import socket
import struct
import termios
import threading
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs

import msgpack
import numpy as np

FRAME = 1920
FRAME_S = 0.08
STT_PATH = "/api/asr-streaming"
TTS_PATH = "/api/tts_streaming"
KEY = "public_token"
WORD_FRAMES = 10
"""Of a speech-to-text stream."""
SOUND_FRAMES = 3
"""Of each word of a text-to-speech stream."""
TTS_DELAY = 16
"""Steps from a word to its sound: 1.28 s."""
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

_DROPPED = str.maketrans({":": " ", "(": None, ")": None, "–": None})
"""What the original does to a text before it splits it into words."""

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Timing:
    """The original's limits in seconds."""

    silence_s: float = 20.0
    tts_silence_s: float = 30.0
    no_audio_s: float = 120.0
    ping_s: float = 10.0

    def times(self, factor: float) -> Timing:
        """Return all limits multiplied by `factor`."""
        return Timing(*(factor * limit for limit in (
            self.silence_s, self.tts_silence_s, self.no_audio_s, self.ping_s
        )))  # fmt: skip


@dataclass(slots=True)
class Seen:
    """Why the server dropped clients, the most audio that waited for a stream, and what it got."""

    dropped: list[str] = field(default_factory=list)
    most_waiting_s: float = 0.0
    client_pings: int = 0
    empty_audio: int = 0
    markers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    connections: int = 0


class OriginalServer:
    """Runs in a thread of this process, on a port that the system chooses.

    `module` is `BatchedAsr`, `Asr` or `Py`. A step takes `step_s`. With `heads` 0 no `Step` is
    sent. `drop_at` cuts every connection without a Close frame after so many frames of a stream.
    Without `close_frame` the reset at the end of a text is all that comes. After `only_connections`
    the key is refused. Every `lose_every`-th `Step` of a stream is never sent.
    """

    def __init__(
        self,
        module: str = "BatchedAsr",
        *,
        slots: int = 2,
        step_s: float = 0.0,
        heads: int = 4,
        delay: int = 6,
        timing: Timing = Timing(),
        drop_at: int | None = None,
        close_frame: bool = True,
        only_connections: int | None = None,
        lose_every: int | None = None,
    ) -> None:
        self.module, self.slots, self.step_s, self.heads = module, slots, step_s, heads
        self.delay, self.timing, self.drop_at = delay, timing, drop_at
        self.close_frame, self.only_connections = close_frame, only_connections
        self.lose_every = lose_every
        self.seen = Seen()
        self.streams: list[_Stream] = []
        self.steps = 2  # the warm-up's
        self.durations_s: list[float] = []
        self.path = TTS_PATH if module == "Py" else STT_PATH

    def __enter__(self) -> OriginalServer:
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), daemon=True
        )
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        """The WebSocket address of its module."""
        return f"ws://127.0.0.1:{self.port}{self.path}"

    @property
    def used(self) -> int:
        return sum(stream.has_slot for stream in self.streams)

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.work = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        stepping = asyncio.create_task(self._step_for_ever())
        started.set()
        await self._stop.wait()
        stepping.cancel()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # for the transports to close

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve_connection(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        target = head.split(" ")[1]
        path, _, query = target.partition("?")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
        }
        if "sec-websocket-key" not in headers:
            _answer(writer, *self._document(path, query))
            await writer.drain()
        elif path != self.path:
            _answer(writer, 404, "")
        elif (
            headers.get("kyutai-api-key", *parse_qs(query).get("auth_id", [""])) != KEY
            or self.seen.connections == self.only_connections
        ):
            _answer(writer, 401, "")
        else:
            self.seen.connections += 1
            accept = base64.b64encode(
                hashlib.sha1(
                    f"{headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()
                ).digest()
            ).decode()
            writer.write(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade"
                f"\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
            )
            await _Stream(self, reader, writer).run()

    def _document(self, path: str, query: str) -> tuple[int, str]:
        """Return status and body of what is at an HTTP path."""
        known = {"/api/build_info", "/api/modules_info", "/metrics"}
        if path not in known:
            return 404, ""
        if query:
            return 400, "Failed to deserialize query string"
        if path == "/api/build_info":
            return 200, json.dumps({"git_describe": "VERGEN_IDEMPOTENT_OUTPUT"})
        if path == "/metrics":
            return 200, self._metrics()
        kinds = {"BatchedAsr": "batched_asr", "Py": "py"}
        listed = {
            "type": kinds.get(self.module),
            "path": self.path,
            "used_slots": str(self.used),
            "total_slots": str(self.slots),
        }
        return 200, json.dumps([listed] if self.module in kinds else [])

    def _metrics(self) -> str:
        """Return the histogram of step times, which exists from the first step on."""
        if self.module == "Asr" or not self.durations_s:
            return ""
        name, limits = (
            ("py_model_step_duration", (0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.08))
            if self.module == "Py"
            else ("asr_model_step_duration", (0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08))
        )
        times = self.durations_s
        lines = [
            f'{name}_bucket{{le="{limit}"}} {sum(time <= limit for time in times)}'
            for limit in limits
        ]
        return "\n".join(
            [
                *lines,
                f'{name}_bucket{{le="+Inf"}} {len(times)}',
                f"{name}_sum {sum(times)}",
                f"{name}_count {len(times)}\n",
            ]
        )

    async def _step_for_ever(self) -> None:
        while True:
            self.work.clear()
            took = [stream.take() for stream in self.streams]
            stepping = [stream for stream in self.streams if stream.has_frame]
            if stepping:
                self.steps += 1
                self.durations_s.append(max(self.step_s, 0.001))
            if stepping or self.step_s == 0:
                await asyncio.sleep(self.step_s if stepping else 0)
            for stream in stepping:
                stream.step()
            for stream in self.streams:
                stream.release_markers()
            self.streams = [stream for stream in self.streams if not stream.is_over]
            if not (stepping or any(took)):
                await self.work.wait()


class _Stream:
    """One connection with its slot."""

    def __init__(
        self, server: OriginalServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server, self._reader, self._writer = server, reader, writer
        self._queue: deque[Message] = deque()
        self._out: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._samples = 0
        self._own_steps = 0
        self._markers: list[tuple[int, int]] = []
        self._words: list[str] = []
        self._is_eos = self._is_gone = self._has_crashed = False
        self.has_slot = False

    @property
    def is_tts(self) -> bool:
        return self._server.module == "Py"

    @property
    def is_over(self) -> bool:
        """Whether the slot is free: all that was queued is worked off; what is buffered is lost."""
        return self._is_gone and not self._queue

    async def run(self) -> None:
        """Serve the connection to its end."""
        server = self._server
        if server.module != "Asr" and server.used >= server.slots:
            self._send({"type": "Error", "message": "no free channels"})
            await self._end()
            return
        self.has_slot = True
        server.streams.append(self)
        if server.module != "Asr":
            self._send({"type": "Ready"})
        tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._send_all())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._is_gone = True
            server.work.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self) -> None:
        """Read frames until the client leaves or loses the server's patience."""
        seen, timing, loop = self._server.seen, self._server.timing, asyncio.get_running_loop()
        is_patient = self._server.module == "Asr"
        silence_s = timing.tts_silence_s if self.is_tts else timing.silence_s
        binary_s = loop.time()
        while True:
            try:
                async with asyncio.timeout(None if is_patient else silence_s):
                    opcode, data = await _read_frame(self._reader)
            except TimeoutError:
                seen.dropped.append("recv loop short timeout")
                return
            except (ConnectionError, asyncio.IncompleteReadError):
                seen.dropped.append("connection reset without closing handshake")
                return
            if opcode == CLOSE:
                return  # never answered
            if opcode == BINARY:
                binary_s = loop.time()
            elif not (is_patient or self.is_tts) and loop.time() > binary_s + timing.no_audio_s:
                seen.dropped.append("recv loop long timeout")
                return
            if opcode == PING:
                seen.client_pings += 1
                self._out.put_nowait(_frame(PONG, data))
            elif opcode == BINARY or (opcode == TEXT and self.is_tts):
                try:
                    self._put(_message(opcode, data))
                except (ValueError, LookupError, TypeError, msgpack.UnpackException):
                    seen.dropped.append("recv_loop: message that cannot be decoded")
                    return

    def _put(self, message: Message) -> None:
        self._queue.append(message)
        waiting = self._samples + sum(len(each.get("pcm", ())) for each in self._queue)
        seen = self._server.seen
        seen.most_waiting_s = max(seen.most_waiting_s, waiting / 24_000)
        seen.empty_audio += message["type"] == "Audio" and not len(message["pcm"])
        self._server.work.set()

    async def _send_all(self) -> None:
        """Send all messages; ping after a while without one; end after None."""
        while True:
            try:
                async with asyncio.timeout(self._server.timing.ping_s):
                    data = await self._out.get()
            except TimeoutError:
                data = _frame(PING, b"")
            if data is None:
                await self._end()
                return
            self._writer.write(data)
            await self._writer.drain()

    async def _end(self) -> None:
        """Send what is left and a Close frame without a code, and reset the connection at once."""
        while not self._out.empty():
            self._writer.write(self._out.get_nowait() or b"")
        if self._server.close_frame and not self._has_crashed:
            self._writer.write(_frame(CLOSE, b""))
        self._writer.transport.set_write_buffer_limits(0)
        await self._writer.drain()
        link = self._writer.get_extra_info("socket")
        # All that was sent has reached the client's machine; the reset takes away the way back.
        while struct.unpack("i", fcntl.ioctl(link.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]:
            await asyncio.sleep(0.001)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def _send(self, message: Message) -> None:
        self._out.put_nowait(_frame(BINARY, msgpack.packb(message)))

    def take(self) -> bool:
        """Take one message, and return whether there was one."""
        if not self._queue:
            return False
        message = self._queue.popleft()
        match message["type"]:
            case "Audio":
                self._samples += len(message["pcm"])
            case "Marker":
                self._server.seen.markers.append(message["id"])
                due = self._now + self._server.delay + self._samples // FRAME
                self._markers.append((due, message["id"]))
            case "Init":
                self._send({"type": "Ready"})
            case "Text":
                self._server.seen.texts.append(message["text"])
                self._words += message["text"].translate(_DROPPED).split()
            case "Eos":
                self._is_eos = True
        return True

    @property
    def _now(self) -> int:
        """The step that markers are counted by: all streams' for a batched module, else its own."""
        return self._own_steps if self._server.module == "Asr" else self._server.steps

    @property
    def has_frame(self) -> bool:
        if self._is_gone:
            return False
        if not self.is_tts:
            return self._samples >= FRAME
        # Text that is not ended may lack words to look ahead to.
        return self._is_eos or self._own_steps < SOUND_FRAMES * len(self._words)

    def step(self) -> None:
        """Work on one frame."""
        self._own_steps += 1
        if self._server.drop_at is not None and self._own_steps > self._server.drop_at:
            self._server.seen.dropped.append("crash")
            self._has_crashed = self._is_gone = True
            self._out.put_nowait(None)
            return
        if self.is_tts:
            self._step_tts()
            return
        self._samples -= FRAME
        lose_every = self._server.lose_every
        if self._server.heads and not (lose_every and self._own_steps % lose_every == 0):
            is_batched = self._server.module == "BatchedAsr"
            self._send(
                {
                    "type": "Step",
                    "step_idx": self._now,
                    "prs": [0.1] * self._server.heads,
                    "buffered_pcm": self._samples if is_batched else 0,
                }
            )
        heard = self._own_steps - self._server.delay
        if heard >= 0 and heard % WORD_FRAMES == 0:
            self._send(
                {
                    "type": "Word",
                    "text": f"w{heard // WORD_FRAMES}",
                    "start_time": heard * FRAME_S,
                }
            )
            self._send({"type": "EndWord", "stop_time": heard * FRAME_S + 0.4})

    def _step_tts(self) -> None:
        """Make a frame of sound. A word is sent when the next begins, the last one at the end."""
        text_steps = SOUND_FRAMES * len(self._words)
        if self._own_steps > TTS_DELAY:
            pcm = np.sin(np.arange(FRAME) / 20).astype(np.float32) * 0.3
            self._send({"type": "Audio", "pcm": pcm.tolist()})
        number, rest = divmod(self._own_steps, SOUND_FRAMES)
        if rest == 0 and 0 < number < len(self._words):
            self._tell(number - 1, self._own_steps)
        if self._is_eos and self._own_steps >= text_steps + TTS_DELAY:
            if self._words:
                self._tell(len(self._words) - 1, self._own_steps)
            self._out.put_nowait(None)
            self._is_gone = True

    def _tell(self, number: int, until_step: int) -> None:
        """Send a word. Its times count steps of the text, which run ahead of the sound."""
        start_s, stop_s = number * SOUND_FRAMES * FRAME_S, until_step * FRAME_S
        self._send(
            {"type": "Text", "text": self._words[number], "start_s": start_s, "stop_s": stop_s}
        )

    def release_markers(self) -> None:
        """Send the markers that are due."""
        for due in [each for each in self._markers if each[0] <= self._now]:
            self._markers.remove(due)
            self._send({"type": "Marker", "id": due[1]})


def _message(opcode: int, data: bytes) -> Message:
    if opcode == TEXT:
        return {"type": "Text", "text": data.decode()}
    if data == b"\0":
        return {"type": "Eos"}
    message: Message = msgpack.unpackb(data)
    if message["type"] not in ("Audio", "Marker", "Init", "Text", "Eos"):
        raise ValueError(message["type"])
    if message["type"] == "Audio" and not isinstance(message["pcm"], list):
        raise TypeError("invalid type: byte array, expected a sequence")
    return message


def _answer(writer: asyncio.StreamWriter, status: int, body: str) -> None:
    kind = "application/json" if body[:1] in ("[", "{") else "text/plain; version=0.0.4"
    head = (
        f"HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    writer.write((head + body).encode())


def _frame(opcode: int, data: bytes) -> bytes:
    size = len(data)
    head = bytes([0x80 | opcode]) + (
        bytes([size])
        if size < 126
        else struct.pack(">BH", 126, size)
        if size < 1 << 16
        else struct.pack(">BQ", 127, size)
    )
    return head + data


async def _read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return opcode and content of a client's next frame."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack(">H", await reader.readexactly(2))
    elif size == 127:
        (size,) = struct.unpack(">Q", await reader.readexactly(8))
    mask = await reader.readexactly(4)
    data = np.frombuffer(await reader.readexactly(size), np.uint8)
    key = np.resize(np.frombuffer(mask, np.uint8), size)
    return first & 0x0F, (data ^ key).tobytes()
