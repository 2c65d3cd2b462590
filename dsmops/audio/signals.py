"""A test signal in the rhythm and the band of speech: the same on every machine, and free to ship.

It is not speech: the text that a trained model gives for it means nothing. It moves like speech:
voiced syllables of changing pitch and vowel colour, a few to a group, with pauses between the
groups.
"""

from __future__ import annotations

import numpy as np

from dsmops.audio.pcm import SAMPLE_RATE_HZ, Samples

_SYLLABLE_S = 0.19
_PAUSE_S = 0.33
_GROUPS = (3, 2, 4, 1, 3)
"""Syllables between pauses."""
_VOWELS_HZ = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
)
"""First three formants of five English vowels, after Peterson and Barney 1952."""
_BAND_HZ = 160.0
_PEAK = 0.4


def speech_like(seconds: float) -> Samples:
    """Return `seconds` of it, float32 mono at 24 kHz, peak 0.4, beginning with a syllable."""
    total = round(seconds * SAMPLE_RATE_HZ)
    samples = np.zeros(total, np.float32)
    start = syllable = 0
    while start < total:
        for _ in range(_GROUPS[syllable % len(_GROUPS)]):
            piece = _syllable(syllable)[: total - start]
            samples[start : start + len(piece)] = piece
            start += len(piece)
            syllable += 1
        start += round(_PAUSE_S * SAMPLE_RATE_HZ)
    return samples


def silence(samples: int) -> Samples:
    """Return so many samples of silence, float32."""
    return np.zeros(samples, np.float32)


def _syllable(number: int) -> Samples:
    time_s = np.arange(round(_SYLLABLE_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    # The voice falls within a syllable and wanders from one to the next.
    pitch_hz = (118 + 17 * np.sin(2.4 * number)) * (1 - 0.4 * time_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    formants_hz = np.array(_VOWELS_HZ[(3 * number) % len(_VOWELS_HZ)])
    sound = np.zeros_like(time_s)
    for harmonic in range(1, 30):
        distance = (harmonic * pitch_hz.mean() - formants_hz) / _BAND_HZ
        sound += (1 / (1 + distance**2)).sum() / harmonic**0.5 * np.sin(harmonic * phase)
    sound *= np.sin(np.pi * time_s / _SYLLABLE_S) ** 0.5
    syllable: Samples = (_PEAK * sound / np.abs(sound).max()).astype(np.float32)
    return syllable
