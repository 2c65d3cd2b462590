"""A text-to-speech client of moshi-server that shares no code with dsmops.

It works like Kyutai's own script.
"""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import msgpack
import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

TTS_PATH = "/api/tts_streaming"
Message = dict[str, Any]


class TtsClient:
    """One conversation; `query` is what follows the path."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        path: str = TTS_PATH,
        form: str | None = "PcmMessagePack",
        **query: str,
    ) -> None:
        asked = {**({"format": form} if form else {}), **query}
        # websockets wants to be entered from 17.1 on; before, that changes nothing.
        self.ws = connect(
            f"{url.replace('http', 'ws', 1)}{path}?{urlencode(asked)}",
            additional_headers={"kyutai-api-key": key} if key is not None else {},
            compression=None,
            max_size=None,
            open_timeout=20,
        ).__enter__()

    def __enter__(self) -> TtsClient:
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

    def say(self, *texts: str) -> None:
        """Send text in these pieces, and its end. When the server refuses, `receive` says so."""
        with suppress(ConnectionClosed):
            for text in texts:
                self.send({"type": "Text", "text": text})
            self.send({"type": "Eos"})

    def receive(self, timeout_s: float = 20) -> Message:
        """Return the next message; websockets' `ConnectionClosed` after the last."""
        message: Message = msgpack.unpackb(self.ws.recv(timeout=timeout_s))
        return message

    def raw_rest(self) -> list[bytes]:
        """Return what comes until the server closes, as it comes."""
        frames: list[bytes] = []
        try:
            while True:
                frame = self.ws.recv(timeout=20)
                assert isinstance(frame, bytes)
                frames.append(frame)
        except ConnectionClosed:
            return frames

    def rest(self) -> list[Message]:
        """Return the messages that come until the server closes."""
        return [msgpack.unpackb(frame) for frame in self.raw_rest()]

    @property
    def close_code(self) -> int | None:
        return self.ws.close_code


def audio(messages: list[Message]) -> NDArray[np.float32]:
    """Return the samples of all messages."""
    return np.array(
        [sample for message in messages if message["type"] == "Audio" for sample in message["pcm"]],
        np.float32,
    )


def words(messages: list[Message]) -> list[tuple[str, float, float]]:
    """Return text, start and stop of each word."""
    return [
        (message["text"], message["start_s"], message["stop_s"])
        for message in messages
        if message["type"] == "Text"
    ]
