"""24 kHz mono float32 as bytes of a file that is sent while it is made.

What comes later cannot change what was sent: WAV and FLAC leave their length open, and MP3 has no
summary at its start.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from enum import StrEnum
from typing import Any

from dsmops.audio.libraries import soundfile
from dsmops.audio.opus import OpusEncoder
from dsmops.audio.pcm import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples
from dsmops.audio.writing import pcm_16, stream_header


class StreamFormat(StrEnum):
    """What can be sent so. `pcm` is 16-bit samples without a header."""

    MP3 = "mp3"
    OPUS = "opus"
    FLAC = "flac"
    WAV = "wav"
    PCM = "pcm"

    @property
    def content_type(self) -> str:
        """The media type."""
        return {"mp3": "audio/mpeg", "opus": "audio/ogg"}.get(self, f"audio/{self}")


class StreamEncoder(ABC):
    """Encodes one stream of frames, float32 [1920]."""

    @abstractmethod
    def encode(self, frame: Samples) -> bytes:
        """Return what can be sent now; nothing where the encoder waits for more."""

    def finish(self) -> bytes:
        """Return the rest."""
        return b""


def open_encoder(form: StreamFormat) -> StreamEncoder:
    """Return an encoder.

    Raises:
        ExtraMissingError: the format needs soundfile or sphn, which is not installed.
    """
    match form:
        case StreamFormat.WAV | StreamFormat.PCM:
            return _Plain(stream_header() if form is StreamFormat.WAV else b"")
        case StreamFormat.OPUS:
            return _Opus()
        case StreamFormat.MP3:
            return _Library("MP3", "MPEG_LAYER_III")
        case StreamFormat.FLAC:
            return _Library("FLAC", "PCM_16")


class _Plain(StreamEncoder):
    def __init__(self, header: bytes) -> None:
        self._header = header

    def encode(self, frame: Samples) -> bytes:
        header, self._header = self._header, b""
        return header + pcm_16(frame).tobytes()


class _Opus(StreamEncoder):
    def __init__(self) -> None:
        self._encoder = OpusEncoder()
        self._header = self._encoder.headers

    def encode(self, frame: Samples) -> bytes:
        header, self._header = self._header, b""
        return header + self._encoder.encode(frame)


class _Library(StreamEncoder):
    """libsndfile's encoder, with a file that only grows."""

    def __init__(self, container: str, encoding: str) -> None:
        self._sink = _Sink()
        self._is_mp3 = container == "MP3"
        self._file: Any = soundfile().SoundFile(
            self._sink, "w", SAMPLE_RATE_HZ, 1, encoding, format=container
        )

    def encode(self, frame: Samples) -> bytes:
        for start in range(0, len(frame), FRAME_SAMPLES):
            self._file.write(pcm_16(frame[start : start + FRAME_SAMPLES]))
        return self._taken()

    def finish(self) -> bytes:
        self._file.close()
        return self._taken()

    def _taken(self) -> bytes:
        data = self._sink.take()
        if self._is_mp3 and data:
            self._is_mp3 = False
            data = _without_summary(data)
        return data


class _Sink(io.RawIOBase):
    """A file for libsndfile. What is written behind its start a second time, is dropped."""

    def __init__(self) -> None:
        self._position = self._size = 0
        self._data = bytearray()

    def take(self) -> bytes:
        """Return what was appended since the last call."""
        data = bytes(self._data)
        self._data.clear()
        return data

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._position == self._size:
            self._data += data
            self._size += len(data)
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position


_KBITS_PER_S = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
"""Of MPEG-2 layer III, by the index in a frame's head. Source: ISO/IEC 13818-3, 2.4.2.3."""


def _without_summary(data: bytes) -> bytes:
    """Return the start of an MP3 without the frame in which LAME states the file's length.

    LAME does not know the length yet, and players would stop there.
    """
    if not (data[:2] == b"\xff\xf3" and (b"Info" in data[:64] or b"Xing" in data[:64])):
        return data
    padding = data[2] >> 1 & 1
    return data[3 * _KBITS_PER_S[data[2] >> 4] + padding :]
