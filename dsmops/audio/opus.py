"""Ogg/Opus as it arrives: bytes to samples, frames to whole pages. One coder per stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dsmops.audio.libraries import sphn
from dsmops.audio.pcm import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples
from dsmops.errors import InputError

_PIECE_BYTES = 512
"""Handed to the decoder at once. A packet of two bytes can mean 120 ms of silence, so a piece may
become 30 s of audio."""


class OpusDecoder:
    """A stream's decoder. What breaks it, breaks it alone."""

    def __init__(self) -> None:
        """Raises ExtraMissingError where sphn is not installed."""
        self._reader: Any = sphn().OpusStreamReader(SAMPLE_RATE_HZ)

    def decode(self, data: bytes) -> Iterator[Samples]:
        """Yield the 24 kHz mono audio of all packets that `data` completes, no block of it empty.

        Raises:
            InputError: these bytes do not continue an Ogg/Opus stream; the decoder is useless now.
        """
        for start in range(0, len(data), _PIECE_BYTES):
            try:
                pcm = self._reader.append_bytes(data[start : start + _PIECE_BYTES])
            except ValueError as exc:
                raise InputError(
                    f"not readable as Ogg/Opus: {exc}",
                    hint="Send the pages of one stream, in order, headers first.",
                    code="audio.opus",
                ) from exc
            if len(pcm):
                yield np.ascontiguousarray(pcm, np.float32)


class OpusEncoder:
    """A stream's encoder. A frame's pages are complete with it: nothing waits for the next one.

    A frame costs about a millisecond, in which no other Python runs. The codec's own delay is 6.5
    ms.
    """

    def __init__(self) -> None:
        """Raises ExtraMissingError where sphn is not installed."""
        self._writer: Any = sphn().OpusStreamWriter(SAMPLE_RATE_HZ)
        self.headers = self.encode(np.zeros(FRAME_SAMPLES, np.float32))
        """The beginning of the stream: header pages that let players skip 80 ms, and 80 ms of
        silence.

        Without them players would skip speech. Those that do not read the header (Kyutai's clients)
        play the silence.
        """

    def encode(self, frame: Samples) -> bytes:
        """Return the pages of one frame, float32 [1920] at 24 kHz."""
        pages: bytes = self._writer.append_pcm(frame)
        return pages
