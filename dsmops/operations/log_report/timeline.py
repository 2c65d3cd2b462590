"""What happened over time, in a bounded number of stretches of equal length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from dsmops.operations.log_report.histograms import Histograms, distinct
from dsmops.operations.log_report.result import Moment, Times

_MOST_MOMENTS = 480
_NO_TIMES = Times(0, 0.0, 0.0, 0.0, 0.0, 0)

Numbers = NDArray[np.int64]


class Bucket:
    """What one module did in one stretch of time."""

    __slots__ = ("most_open", "most_streams", "open", "opened", "refused")

    def __init__(self) -> None:
        self.most_streams = self.opened = self.refused = 0
        self.open: int | None = None
        """How many streams were connected at the end, None where none came or went."""
        self.most_open = 0

    def take(self, later: Bucket) -> None:
        """Take what happened right after, or at the same time in another module."""
        self.most_streams = max(self.most_streams, later.most_streams)
        self.most_open = max(self.most_open, later.most_open)
        self.opened += later.opened
        self.refused += later.refused
        self.open = self.open if later.open is None else later.open


class Timeline:
    """The buckets of all modules. They become wider where there would be too many."""

    def __init__(self) -> None:
        self.width_s = 1
        self._buckets: dict[str, dict[int, Bucket]] = {}
        self._steps: dict[str, Histograms] = {}
        self._first_s: int | None = None
        self._last_s = 0

    def _reach(self, first_s: int, last_s: int) -> None:
        """Make room for what happened from one second, since the epoch, to another."""
        self._first_s = first_s if self._first_s is None else min(first_s, self._first_s)
        self._last_s = max(last_s, self._last_s)
        while self._last_s // self.width_s - self._first_s // self.width_s >= _MOST_MOMENTS:
            self._widen()

    def take_steps(
        self, module: str, seconds: Numbers, bins: Numbers, took_us: Numbers, streams: Numbers
    ) -> None:
        """Take steps of a module: when they ended, their bins and times, streams with data."""
        self._reach(int(seconds.min()), int(seconds.max()))
        places = seconds // self.width_s
        self._steps.setdefault(module, Histograms()).add(places, bins, took_us)
        here, which = distinct(places)
        most = np.zeros(len(here), np.int64)
        np.maximum.at(most, which, streams)
        for place, count in zip(here.tolist(), most.tolist(), strict=True):
            bucket = self._bucket(module, place)
            bucket.most_streams = max(bucket.most_streams, count)

    def at(self, module: str, at: datetime) -> Bucket:
        """Return the bucket of a module that holds a time."""
        second = int(at.timestamp())
        self._reach(second, second)
        return self._bucket(module, second // self.width_s)

    def _bucket(self, module: str, place: int) -> Bucket:
        """Return a bucket by its place: the second it begins with, divided by `width_s`."""
        buckets = self._buckets.setdefault(module, {})
        found = buckets.get(place)
        if found is None:
            found = buckets[place] = Bucket()
        return found

    def _widen(self) -> None:
        """Join each two neighbouring buckets."""
        self.width_s *= 2
        for module, buckets in self._buckets.items():
            wider: dict[int, Bucket] = {}
            for place, bucket in sorted(buckets.items()):
                if place // 2 in wider:
                    wider[place // 2].take(bucket)
                else:
                    wider[place // 2] = bucket
            self._buckets[module] = wider

        self._steps = {
            module: steps.moved(lambda place: place // 2) for module, steps in self._steps.items()
        }

    def moments(self, module: str) -> tuple[Moment, ...]:
        """Return what a module did over time; stretches without anything are omitted."""
        steps = self._steps.get(module, Histograms())
        return tuple(self._moments(self._buckets.get(module, {}), dict(steps.times())))

    def together(self, by_module: Sequence[tuple[Moment, ...]]) -> tuple[Moment, ...]:
        """Return what all modules did over time; `by_module` is what each did by itself."""
        if len(by_module) == 1:
            return by_module[0]
        joined: dict[int, Bucket] = {}
        for buckets in self._buckets.values():
            for place, bucket in buckets.items():
                joined.setdefault(place, Bucket()).take(bucket)
        steps = Histograms.joined(self._steps.values())
        opens = Counter[datetime]()
        for moments in by_module:
            opens.update({moment.time: moment.most_open for moment in moments})
        return tuple(
            replace(moment, most_open=opens[moment.time])
            for moment in self._moments(joined, dict(steps.times()))
        )

    def _moments(
        self, buckets: Mapping[int, Bucket], steps: Mapping[int, Times]
    ) -> Iterator[Moment]:
        still_open = 0
        for place, bucket in sorted(buckets.items()):
            times = steps.get(place, _NO_TIMES)
            yield Moment(
                datetime.fromtimestamp(place * self.width_s, UTC),
                self.width_s,
                times.count,
                times.p50_ms,
                times.max_ms,
                bucket.most_streams,
                times.p95_ms,
                times.p99_ms,
                times.over_80_ms,
                max(bucket.most_open, still_open),
                bucket.opened,
                bucket.refused,
            )
            still_open = still_open if bucket.open is None else bucket.open
