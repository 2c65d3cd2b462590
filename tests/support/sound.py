"""Sounds to test with: speech-like samples, and files of every kind made from them in memory."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import soundfile
from numpy.typing import NDArray


def sweep(rate_hz: int, seconds: float, *, peak: float = 0.5) -> NDArray[np.float32]:
    """Return a tone that rises from 100 Hz to a fifth of the sample rate."""
    count = round(rate_hz * seconds)
    cycles = 100 * np.arange(count) / rate_hz + (rate_hz / 5 - 100) * np.arange(count) ** 2 / (
        2 * rate_hz * max(count, 1)
    )
    return (peak * np.sin(2 * np.pi * cycles)).astype(np.float32)


def encoded(
    samples: NDArray[Any],
    rate_hz: int = 24_000,
    container: str = "WAV",
    encoding: str = "PCM_16",
    **options: str,
) -> bytes:
    """Return an audio file of `samples`, [n] or [n, channels]."""
    data = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(
        data, "w", rate_hz, channels, encoding, format=container, **options
    ) as file:
        for start in range(0, len(samples), 8192):
            file.write(samples[start : start + 8192])
    return data.getvalue()


@contextmanager
def no_ffmpeg() -> Iterator[None]:
    """Hide the program ffmpeg, where it is installed."""
    with patch.dict(os.environ, {"PATH": ""}):
        yield


def piped_wav(
    samples: NDArray[np.float32], rate_hz: int = 24_000, claimed_bytes: int = 0xFFFFFFFF
) -> bytes:
    """Return a 16-bit WAV with the header that ffmpeg writes into a pipe: no sizes, and a chunk
    with its own name first.
    """
    head = struct.pack(
        "<4sI4s4sIHHIIHH",
        b"RIFF",
        claimed_bytes,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        rate_hz,
        2 * rate_hz,
        2,
        16,
    )
    info = struct.pack("<4sI4s4sI14s", b"LIST", 26, b"INFO", b"ISFT", 14, b"Lavf61.7.100\0\0")
    return (
        head
        + info
        + struct.pack("<4sI", b"data", claimed_bytes)
        + (samples * 32767).astype("<i2").tobytes()
    )
