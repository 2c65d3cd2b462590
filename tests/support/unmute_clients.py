"""Clients that behave as those of Kyutai's Unmute do, written from how those behave.

What matters to a server: the first message must be `Ready`, or an `Error` that means "full"; any
message of another type or shape is a failure; pauses come from `prs[2]` of each `Step`, and time
from counting them; a pause is followed by silence as long as the model's delay and one frame more;
text comes word by word with its spaces; the end must be a proper closing handshake.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import msgpack
import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

Message = dict[str, Any]
FRAME = 1920
FRAME_S = 0.08
STT_DELAY_S = 0.5
IGNORED_STEPS = 12
START_S = 20.0
"""Unmute allows 0.5 s; a busy test machine gets more."""
_FIELDS: dict[str, dict[str, type]] = {
    "Ready": {},
    "Error": {"message": str},
    "Word": {"text": str, "start_time": float},
    "EndWord": {"stop_time": float},
    "Step": {"step_idx": int, "prs": list},
    "Marker": {"id": int},
    "Text": {"text": str, "start_s": float, "stop_s": float},
    "Audio": {"pcm": list},
}
STT_TYPES = ("Ready", "Error", "Word", "EndWord", "Step", "Marker")
TTS_TYPES = ("Ready", "Error", "Text", "Audio")


class AtCapacityError(Exception):
    """The server's first message was an `Error`."""


def checked(data: str | bytes, types: tuple[str, ...]) -> Message:
    """Return a message; any other than those that the client knows is an AssertionError."""
    assert isinstance(data, bytes)
    message: Message = msgpack.unpackb(data)
    kind = message["type"]
    assert kind in types, message
    for name, wanted in _FIELDS[kind].items():
        value = message[name]
        assert isinstance(value, (int, float) if wanted is float else wanted), message
    return message


class UnmuteStt:
    """Speech to text: audio in pieces, words, pauses and a flush."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url.replace("http", "ws", 1), key
        self._ws: ClientConnection | None = None
        self.current_s = -STT_DELAY_S
        self.sent_samples = self.steps = 0
        self.pauses = [1.0]
        """What the client takes for the probability of a pause, step by step."""
        self.words: list[str] = []
        self.markers: list[int] = []
        self._over = asyncio.Event()

    async def start(self) -> None:
        """Connect and wait for `Ready`.

        Raises:
            AtCapacityError: the server says that it is full.
        """
        headers = {"kyutai-api-key": self._key}
        async with asyncio.timeout(START_S):
            self._ws = await connect(f"{self._url}/api/asr-streaming", additional_headers=headers)
            first = checked(await self._ws.recv(), STT_TYPES)
        if first["type"] != "Ready":
            await self._ws.close()
            assert first["type"] == "Error"
            raise AtCapacityError(first["message"])

    async def send(self, pcm: NDArray[np.float32]) -> None:
        """Send samples, in a message of any size."""
        self.sent_samples += len(pcm)
        await self._send({"type": "Audio", "pcm": pcm.tolist()})

    async def mark(self, marker_id: int) -> None:
        """Ask for a marker."""
        await self._send({"type": "Marker", "id": marker_id})

    async def flush(self) -> float:
        """Send the silence of a flush, and return the time of its end."""
        until_s = self.current_s + STT_DELAY_S
        for _ in range(math.ceil(STT_DELAY_S / FRAME_S) + 1):
            await self.send(np.zeros(FRAME, np.float32))
        return until_s

    async def listen(self) -> None:
        """Take messages until the connection is closed as it should be."""
        assert self._ws is not None
        ignored = IGNORED_STEPS
        try:
            async for data in self._ws:
                message = checked(data, STT_TYPES)
                match message["type"]:
                    case "Word":
                        self.words.append(message["text"])
                    case "Marker":
                        self.markers.append(message["id"])
                    case "Step":
                        self.current_s += FRAME_S
                        self.steps += 1
                        ignored -= 1
                        if ignored < 0:
                            # Nearly the value itself: it moves half the way in 10 ms.
                            step = (1 - 2**-8) * (message["prs"][2] - self.pauses[-1])
                            self.pauses.append(self.pauses[-1] + step)
                    case "Error":
                        raise AssertionError(message)
        except ConnectionClosedOK:
            pass
        finally:
            self._over.set()

    async def shut_down(self) -> None:
        """Close, and wait until `listen` has ended."""
        assert self._ws is not None
        await self._ws.close()
        await self._over.wait()

    async def _send(self, message: Message) -> None:
        assert self._ws is not None
        await self._ws.send(msgpack.packb(message, use_bin_type=True, use_single_float=True))


class UnmuteTts:
    """Text to speech: one answer of the assistant."""

    def __init__(self, url: str, key: str, voice: str | None = None) -> None:
        self._url, self._key, self._voice = url.replace("http", "ws", 1), key, voice
        self._ws: ClientConnection | None = None
        self._is_shut_down = False

    async def start(self, custom_voice: bytes | None = None) -> None:
        """Connect, send a voice of one's own if any, and wait for `Ready`.

        Raises:
            AtCapacityError: the first message was an `Error`.
        """
        query = "format=PcmMessagePack"
        if self._voice is not None:
            query += f"&voice={quote(self._voice, safe='')}"
        url = f"{self._url}/api/tts_streaming?{query}&cfg_alpha=1.5"
        headers = {"kyutai-api-key": self._key}
        async with asyncio.timeout(START_S):
            self._ws = await connect(url, additional_headers=headers)
            if custom_voice is not None:
                await self._ws.send(custom_voice)
            first = checked(await self._ws.recv(decode=False), TTS_TYPES)
        if first["type"] != "Ready":
            await self._ws.close()
            assert first["type"] == "Error"
            raise AtCapacityError(first["message"])

    async def say(self, text: str) -> None:
        """Send a piece of the text, as a language model gives it."""
        text = text.strip()
        for sign in "*_`":
            text = text.replace(sign, "")
        if text:
            await self._send({"type": "Text", "text": text})

    async def end(self) -> None:
        """Say that no more text comes."""
        await self._send({"type": "Eos"})

    async def messages(self) -> AsyncIterator[Message]:
        """Yield texts and sound until the server closes as it should."""
        assert self._ws is not None
        try:
            async for data in self._ws:
                message = checked(data, TTS_TYPES)
                assert message["type"] != "Error", message
                if message["type"] != "Text" or message["text"]:
                    yield message
        except ConnectionClosedError:
            if not self._is_shut_down:
                raise

    async def shut_down(self) -> None:
        """Close, as when the user interrupts the assistant."""
        self._is_shut_down = True
        assert self._ws is not None
        await self._ws.close()

    async def _send(self, message: Message) -> None:
        assert self._ws is not None
        await self._ws.send(msgpack.packb(message))
