"""Channels to one: their mean, or one channel where the mean would cancel them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dsmops.audio.pcm import Samples

WINDOW_S = 0.25
"""Length over which channels are compared."""
_SHORTEST_S = 0.05
"""A rest at the end that is shorter is not compared."""
_CANCELLED_SHARE = 0.1
"""The mean of n unrelated channels has a share of 1/n of their mean energy. Below this share of
that, they cancel: a correlation under -0.9 of two channels."""
_AUDIBLE_RMS = 3e-4
_TOLERATED_S = 0.5
"""Cancelled audio that is worth no warning."""


class Mixer:
    """Mixes a recording. `cancelled` counts the samples in which the channels cancel each other."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self.cancelled = 0

    @property
    def cancelled_s(self) -> float:
        """Seconds in which one channel was used, 0 where that is too little to speak of."""
        seconds = self.cancelled / self._rate_hz
        return seconds if seconds >= _TOLERATED_S else 0.0

    def mix(self, window: Samples) -> Samples:
        """Return one channel of a window, float32 [n, channels] of `WINDOW_S`."""
        if window.shape[1] == 1:
            return window[:, 0]
        mean: Samples = window.mean(axis=1, dtype=np.float32)
        if len(window) < _SHORTEST_S * self._rate_hz or not np.isfinite(mean).all():
            return mean
        energy = np.square(window, dtype=np.float64).mean(axis=0)
        mixed = float(np.square(mean, dtype=np.float64).mean())
        limit = _CANCELLED_SHARE / window.shape[1] * float(energy.mean())
        if mixed >= limit or float(energy.max()) < _AUDIBLE_RMS**2:
            return mean
        self.cancelled += len(window)
        # The first channel that is about as loud as the loudest, so that the choice does not jump.
        return window[:, int(np.argmax(energy >= energy.max() / 2))]


def regrouped(blocks: Iterator[Samples], count: int) -> Iterator[Samples]:
    """Yield the samples of `blocks` in blocks of `count`, the last one shorter."""
    held: list[Samples] = []
    samples = 0
    for block in blocks:
        held.append(block)
        samples += len(block)
        if samples < count:
            continue
        joined = held[0] if len(held) == 1 else np.concatenate(held)
        whole = samples // count * count
        for start in range(0, whole, count):
            yield joined[start : start + count]
        held, samples = [joined[whole:]], samples - whole
    if samples:
        yield np.concatenate(held)
