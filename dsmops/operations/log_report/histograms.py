"""Step times counted by bins, for many places at once: streams with data, stretches of time.

The bins are those of the sketches, so nothing is lost that a sketch would keep; and thousands of
steps are counted by a few operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from dsmops.models import FRAME_MS
from dsmops.operations.log_report.result import Times
from dsmops.operations.log_report.sketch import ACCURACY, Sketch

_FRAME_US = int(FRAME_MS * 1000)
_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_PER_LOG = 1 / math.log(_GAMMA)
_LOWEST = math.floor(math.log(1e-3) * _PER_LOG)
"""The bin of a microsecond; the highest is that of 1e9 ms, which no line exceeds."""
_BINS = math.ceil(math.log(1e9) * _PER_LOG) - _LOWEST + 1

_NEAR = 4096
"""Different values at most for which a table is made."""
_SHARES = np.array([0.5, 0.95, 0.99])

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
        here, which = distinct(places)
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
        moved = Histograms()
        moved._take(self, place_of)
        return moved

    @staticmethod
    def joined(parts: Iterable[Histograms]) -> Histograms:
        """Return the times of all parts together."""
        whole = Histograms()
        for part in parts:
            whole._take(part, lambda place: place)
        return whole

    def _take(self, other: Histograms, place_of: Callable[[int], int]) -> None:
        for place, row in other._row_of.items():
            target = self._row(place_of(place))
            self._counts[target] += other._counts[row]
            self._most_us[target] = max(self._most_us[target], other._most_us[row])

    def times(self) -> Iterator[tuple[int, Times]]:
        """Yield the spread of the times of each place, as its sketch would give it."""
        for place, row in self._row_of.items():
            by_side = self._counts[row].reshape(-1, 2)
            below = np.cumsum(by_side.sum(axis=1))
            count, most_ms = int(below[-1]), int(self._most_us[row]) / 1000
            # The first bin with more times below its end than the rank.
            bins = np.searchsorted(below, _SHARES * (count - 1), side="right")
            p50_ms, p95_ms, p99_ms = (
                round(min(_middle_ms(position), most_ms), 2) for position in bins.tolist()
            )
            yield place, Times(count, p50_ms, p95_ms, p99_ms, most_ms, int(by_side[:, 1].sum()))

    def sketches(self) -> Iterator[tuple[int, Sketch]]:
        """Yield the times of each place, in the order of the places."""
        for place, row in sorted(self._row_of.items()):
            sketch = Sketch()
            most_ms = int(self._most_us[row]) / 1000
            for position in np.flatnonzero(self._counts[row]).tolist():
                sketch.add(
                    min(_middle_ms(position // 2), most_ms),
                    int(self._counts[row, position]),
                    is_over=bool(position % 2),
                )
            sketch.max_ms = most_ms
            yield place, sketch


def _middle_ms(position: int) -> float:
    """Return the time in the middle of a bin."""
    return float(2 * _GAMMA ** (position + _LOWEST) / (1 + _GAMMA))


def distinct(places: Numbers) -> tuple[Numbers, Numbers]:
    """Return the different values of an array, in order, and for each of its items which it is.

    Values near each other are found without sorting them.
    """
    low = int(places.min())
    width = int(places.max()) - low + 1
    if width > max(_NEAR, len(places)):
        here, which = np.unique(places, return_inverse=True)
        return here, which
    seen = np.zeros(width, np.bool_)
    seen[places - low] = True
    here = np.flatnonzero(seen)
    return here + low, (np.cumsum(seen) - 1)[places - low]
