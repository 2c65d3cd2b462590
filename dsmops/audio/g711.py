"""Telephone sound: a byte a sample at 8 kHz, in the two laws of ITU-T G.711."""

from __future__ import annotations

import numpy as np

from dsmops.audio.pcm import Samples

RATE_HZ = 8000


def _mu_law() -> Samples:
    """Return the value of each byte, in [-1, 1]."""
    byte = ~np.arange(256) & 0xFF
    exponent, mantissa = (byte >> 4) & 7, byte & 15
    size = (((mantissa << 3) + 0x84) << exponent) - 0x84
    return np.asarray(np.where(byte & 0x80, -size, size) / 32_768, np.float32)


def _a_law() -> Samples:
    """Return the value of each byte, in [-1, 1]."""
    byte = np.arange(256) ^ 0x55
    exponent, mantissa = (byte >> 4) & 7, byte & 15
    steps = (mantissa << 4) + np.where(exponent > 0, 0x108, 8)
    size = steps << np.maximum(exponent - 1, 0)
    return np.asarray(np.where(byte & 0x80, size, -size) / 32_768, np.float32)


MU_LAW, A_LAW = _mu_law(), _a_law()
"""float32 [256]: `MU_LAW[np.frombuffer(data, np.uint8)]` are samples."""
