"""Shared-memory rings between TTS streams and a model loop in another process.

Each slot has two rings of bytes, one for each direction.

A ring has one writer and one reader. The writer counts up how much it wrote once a whole message is
there, the reader how much it read, so a process that dies in the middle leaves no half message. A
message is a header of three numbers (its size, the stream's number, its kind) and bytes. When a
slot has got another stream, the reader skips messages that were meant for the one before.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from dsmops.worker.runtime.shared import fence, shared_arrays

INPUT_BYTES = 512 << 10
"""Of a slot towards its loop: a voice has 256,000 bytes."""
OUTPUT_BYTES = 256 << 10
"""Of a slot towards its front: about 2.5 s of sound."""
STREAM_NUMBERS = 1 << 32
"""Numbers of streams begin again at 0 from here on."""
_HEADER = struct.Struct("<IIB")


class Rings:
    """One direction, for all slots."""

    def __init__(self, slots: int, size: int) -> None:
        arrays = shared_arrays(
            {
                "written": (np.int64, (slots,)),
                "read": (np.int64, (slots,)),
                "data": (np.uint8, (slots, size)),
            }
        )
        self.size = size
        self._written: NDArray[np.int64] = arrays["written"]
        self._read: NDArray[np.int64] = arrays["read"]
        self._data: NDArray[np.uint8] = arrays["data"]

    def put(self, slot: int, stream: int, kind: int, body: bytes) -> bool:
        """Write a message, and return False where there is no space for it now.

        Raises:
            ValueError: it is larger than the ring.
        """
        length = _HEADER.size + len(body)
        if length > self.size:
            raise ValueError(f"a message of {length:,} bytes does not fit in {self.size:,}")
        written = int(self._written[slot])
        if self.size - (written - int(self._read[slot])) < length:
            return False
        self._copy_in(slot, written, _HEADER.pack(len(body), stream, kind) + body)
        fence()
        self._written[slot] = written + length
        return True

    def take(self, slot: int, stream: int) -> tuple[int, bytes] | None:
        """Return kind and body of the next message of a stream, None where none waits.

        Messages of earlier streams are dropped. One of a later stream stays: the slot changed hands
        while its messages were read.
        """
        while (read := int(self._read[slot])) < int(self._written[slot]):
            fence()
            size, of_stream, kind = _HEADER.unpack(self._copy_out(slot, read, _HEADER.size))
            if 0 < (of_stream - stream) % STREAM_NUMBERS < STREAM_NUMBERS // 2:
                return None
            body = self._copy_out(slot, read + _HEADER.size, size) if of_stream == stream else b""
            fence()
            self._read[slot] = read + _HEADER.size + size
            if of_stream == stream:
                return kind, body
        return None

    def with_messages(self) -> NDArray[np.bool_]:
        """Return for each slot whether something waits."""
        waits: NDArray[np.bool_] = self._written > self._read
        return waits

    def _copy_in(self, slot: int, at: int, data: bytes) -> None:
        at %= self.size
        head = min(len(data), self.size - at)
        items = np.frombuffer(data, np.uint8)
        self._data[slot, at : at + head] = items[:head]
        self._data[slot, : len(data) - head] = items[head:]

    def _copy_out(self, slot: int, at: int, count: int) -> bytes:
        at %= self.size
        head = min(count, self.size - at)
        return (
            self._data[slot, at : at + head].tobytes() + self._data[slot, : count - head].tobytes()
        )


class TtsRings:
    """What the processes of one text-to-speech loop share.

    Arrays int64 [B slots]. Written by the front that holds the slot: `active`, 1 while a stream has
    it; `owner`, the front's number; `opened`, the number of its stream. Written by the loop's
    process: `waiting_words` of the stream; `blocked`, 1 while something for the front waits for
    space, so that the front rings once it has made some.
    """

    def __init__(self, slots: int) -> None:
        arrays = shared_arrays(
            dict.fromkeys(
                ("active", "owner", "opened", "waiting_words", "blocked"), (np.int64, (slots,))
            )
        )
        self.slots = slots
        self.active: NDArray[np.int64] = arrays["active"]
        self.owner: NDArray[np.int64] = arrays["owner"]
        self.opened: NDArray[np.int64] = arrays["opened"]
        self.waiting_words: NDArray[np.int64] = arrays["waiting_words"]
        self.blocked: NDArray[np.int64] = arrays["blocked"]
        self.input = Rings(slots, INPUT_BYTES)
        self.output = Rings(slots, OUTPUT_BYTES)

    def with_news(self, owner: int) -> list[int]:
        """Return the slots of a front for which something waits."""
        mine: list[int] = np.flatnonzero(
            (self.owner == owner) & (self.active > 0) & self.output.with_messages()
        ).tolist()
        return mine
