"""A speech-to-text client of moshi-server that shares no code with dsmops.

It uses websockets and msgpack.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray
from websockets.sync.client import connect

FRAME = 1920
Message = dict[str, Any]


class SttClient:
    """One conversation. `ready` is False for servers that say nothing first."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        path: str = "/api/asr-streaming",
        ready: bool = True,
        receive_buffer_bytes: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        sock = None
        if receive_buffer_bytes is not None:
            host, _, port = url.removeprefix("http://").rpartition(":")
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            sock.connect((host, int(port)))
        # websockets wants to be entered from 17.1 on; before, that changes nothing.
        self.ws = connect(
            url.replace("http", "ws", 1) + path,
            sock=sock,
            additional_headers={
                **({"kyutai-api-key": key} if key is not None else {}),
                **(headers or {}),
            },
            compression=None,
            max_size=None,
            open_timeout=20,
        ).__enter__()
        self.hello = self.receive() if ready else None

    def __enter__(self) -> SttClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ws.close()

    def send(self, message: Message | bytes) -> None:
        """Send a message, or bytes that are meant to be one."""
        self.ws.send(
            message if isinstance(message, bytes) else msgpack.packb(message, use_single_float=True)
        )

    def audio(self, pcm: NDArray[np.float32], samples: int = FRAME) -> None:
        """Send audio in messages of so many samples."""
        for start in range(0, len(pcm), samples):
            self.send({"type": "Audio", "pcm": pcm[start : start + samples].tolist()})

    def receive(self, timeout_s: float = 20) -> Message:
        """Return the next message; websockets' `ConnectionClosed` after the last."""
        message: Message = msgpack.unpackb(self.ws.recv(timeout=timeout_s))
        return message

    def until(self, kind: str, timeout_s: float = 20) -> list[Message]:
        """Return all messages up to the first of this type, which is the last returned."""
        messages = [self.receive(timeout_s)]
        while messages[-1]["type"] != kind:
            messages.append(self.receive(timeout_s))
        return messages

    def rest(self) -> Iterator[Message]:
        """Yield what comes until the server closes."""
        for data in self.ws:
            yield msgpack.unpackb(data)

    def transcribe(
        self, pcm: NDArray[np.float32], *, delay_frames: int = 6, marker: int = 1
    ) -> list[Message]:
        """Send whole frames, a marker and as much silence as returns it; return all messages."""
        self.audio(np.concatenate([pcm, np.zeros(-len(pcm) % FRAME, np.float32)]))
        self.send({"type": "Marker", "id": marker})
        self.audio(np.zeros(delay_frames * FRAME, np.float32), samples=FRAME * 100)
        return self.until("Marker")

    def vanish(self, *, reset: bool = True) -> None:
        """Drop the connection: with a reset, or as a killed process does."""
        with contextlib.suppress(OSError):
            if reset:
                self.ws.socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
        self.ws.close_socket()


def words(messages: list[Message]) -> list[tuple[str, float]]:
    """Return text and start of each word."""
    return [
        (message["text"], message["start_time"])
        for message in messages
        if message["type"] == "Word"
    ]
