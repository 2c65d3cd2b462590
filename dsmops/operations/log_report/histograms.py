"""Step times counted by bins, for many places at once: streams with data, stretches of time.

The bins are those of the sketches, so nothing is lost that a sketch would keep; and thousands of
steps are counted by a few operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from dsmops.models import FRAME_MS
from dsmops.operations.log_report.sketch import ACCURACY, Sketch

_FRAME_US = int(FRAME_MS * 1000)
_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_PER_LOG = 1 / math.log(_GAMMA)
_LOWEST = math.floor(math.log(1e-3) * _PER_LOG)
"""The bin of a microsecond; the highest is that of 1e9 ms, which no line exceeds."""
_BINS = math.ceil(math.log(1e9) * _PER_LOG) - _LOWEST + 1

Numbers = NDArray[np.int64]


def bins_of(took_us: Numbers) -> Numbers:
    """Return the bin of each step time. A bin holds times on one side of 80 ms only."""
    logs = np.ceil(np.log(np.maximum(took_us, 1) / 1000) * _PER_LOG).astype(np.int64)
    bins: Numbers = 2 * np.clip(logs - _LOWEST, 0, _BINS - 1) + (took_us > _FRAME_US)
    return bins


class Histograms:
    """Step times by places, which are whole numbers."""

    def __init__(self) -> None:
        self._row_of: dict[int, int] = {}
        self._counts = np.zeros((1, 2 * _BINS), np.int64)
        self._most_us = np.zeros(1, np.int64)

    def add(self, places: Numbers, bins: Numbers, took_us: Numbers) -> None:
        """Count step times, each at its place and in its bin."""
        here, which = np.unique(places, return_inverse=True)
        rows = np.array([self._row(place) for place in here.tolist()], np.int64)[which]
        flat, counts = np.unique(rows * (2 * _BINS) + bins, return_counts=True)
        self._counts.reshape(-1)[flat] += counts
        np.maximum.at(self._most_us, rows, took_us)

    def _row(self, place: int) -> int:
        row = self._row_of.setdefault(place, len(self._row_of))
        if row >= len(self._counts):
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._most_us = np.concatenate((self._most_us, np.zeros_like(self._most_us)))
        return row

    def moved(self, place_of: Callable[[int], int]) -> Histograms:
        """Return the same times at other places; those that meet are joined."""
        joined = Histograms()
        for place, row in self._row_of.items():
            target = joined._row(place_of(place))
            joined._counts[target] += self._counts[row]
            joined._most_us[target] = max(joined._most_us[target], self._most_us[row])
        return joined

    def sketches(self) -> Iterator[tuple[int, Sketch]]:
        """Yield the times of each place, in the order of the places."""
        for place, row in sorted(self._row_of.items()):
            sketch = Sketch()
            most_ms = int(self._most_us[row]) / 1000
            for position in np.flatnonzero(self._counts[row]).tolist():
                middle_ms = 2 * _GAMMA ** (position // 2 + _LOWEST) / (1 + _GAMMA)
                sketch.add(
                    min(middle_ms, most_ms),
                    int(self._counts[row, position]),
                    is_over=bool(position % 2),
                )
            sketch.max_ms = most_ms
            yield place, sketch
