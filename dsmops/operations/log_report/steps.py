"""Step times of one module: spread, over time, and how far they left the service behind.

A step serves 80 ms of audio. One that takes longer leaves its streams behind by the rest, and
shorter ones catch up. What is behind at a time is so a queue: 0 where the server waits for audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from dsmops.logs.step_rows import StepRows
from dsmops.models import FRAME_MS
from dsmops.operations.log_report.histograms import Histograms, bins_of
from dsmops.operations.log_report.result import Behind, StepsAt
from dsmops.operations.log_report.sketch import Sketch
from dsmops.operations.log_report.timeline import Timeline

_FRAME_US = int(FRAME_MS * 1000)
_MOST_STRETCHES = 20
_MOST_STREAMS = 1000
"""Larger numbers of streams count with this one."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Numbers = NDArray[np.int64]


@dataclass(slots=True)
class _Stretch:
    since_us: int
    until_us: int
    steps: int
    most_us: int
    most_streams: int


class StepTally:
    """Takes the steps of a module in their order, any number in constant memory."""

    def __init__(self, module: str, timeline: Timeline) -> None:
        self.most_streams = 0
        self._module, self._timeline = module, timeline
        self._by_streams = Histograms()
        self._behind_us = 0
        self._last_us: int | None = None
        self._open: _Stretch | None = None
        self._stretches: list[_Stretch] = []

    def take(self, rows: StepRows) -> None:
        """Take the steps of a block."""
        if not len(rows.lines):
            return
        at_us, took_us = rows.at_us, rows.took_us
        streams = np.minimum(rows.streams, _MOST_STREAMS)
        self.most_streams = max(self.most_streams, int(rows.streams.max()))
        bins = bins_of(took_us)
        self._by_streams.add(streams, bins, took_us)
        self._timeline.take_steps(self._module, at_us // 1_000_000, bins, took_us, rows.streams)
        self._queue(at_us, took_us, rows.streams)

    def _queue(self, at_us: Numbers, took_us: Numbers, streams: Numbers) -> None:
        """Follow how far the service is behind: b = max(0, b + step - 80 ms), 0 after a pause."""
        begun_us = at_us - took_us
        before_us = np.empty_like(at_us)
        before_us[0] = at_us[0] if self._last_us is None else self._last_us
        before_us[1:] = at_us[:-1]
        # A server that waited for a whole frame had nothing left to do.
        waited = begun_us - before_us >= _FRAME_US
        walk = took_us - _FRAME_US
        walk[0] += 0 if waited[0] else self._behind_us
        # After a pause the walk begins again: by a drop that nothing before it can reach.
        total = np.cumsum(walk - np.where(waited, int(np.abs(walk).sum()) + 1, 0))
        # It stands on the lowest point so far, which is where nothing was left to do.
        ground = np.minimum(total, np.where(waited, total - walk, total))
        behind = total - np.minimum(np.minimum.accumulate(ground), 0)
        self._behind_us, self._last_us = int(behind[-1]), int(at_us[-1])
        # A stretch begins with the step that falls behind, and ends with the one that catches up.
        caught_up = np.flatnonzero(behind == 0)
        bounds = np.union1d(caught_up + 1, np.flatnonzero(waited))
        bounds = np.union1d(bounds, [0])
        bounds = bounds[bounds < len(at_us)]
        most = np.maximum.reduceat(behind, bounds)
        ends = np.append(bounds[1:], len(at_us))
        interesting = most >= _FRAME_US
        interesting[[0, -1]] = True
        for place in np.flatnonzero(interesting).tolist():
            begin, end = int(bounds[place]), int(ends[place])
            if begin > 0 or waited[0]:
                self._close()
            if int(most[place]) == 0 and self._open is None:
                continue
            found = _Stretch(
                int(begun_us[begin]),
                int(at_us[end - 1]),
                end - begin,
                int(most[place]),
                int(streams[begin:end].max()),
            )
            self._join(found)
            if behind[end - 1] == 0:
                self._close()

    def _join(self, found: _Stretch) -> None:
        before = self._open
        if before is None:
            self._open = found
            return
        before.until_us = found.until_us
        before.steps += found.steps
        before.most_us = max(before.most_us, found.most_us)
        before.most_streams = max(before.most_streams, found.most_streams)

    def _close(self) -> None:
        if self._open is not None and self._open.most_us >= _FRAME_US:
            self._stretches.append(self._open)
            self._stretches.sort(key=lambda stretch: -stretch.most_us)
            del self._stretches[_MOST_STRETCHES:]
        self._open = None

    def by_streams(self) -> dict[int, Sketch]:
        """Return step times by streams with data; -1 where the log does not say how many."""
        return dict(self._by_streams.sketches())

    def behind(self) -> tuple[Behind, ...]:
        """Return the stretches in which the service was behind, the worst first."""
        found = [*self._stretches]
        if self._open is not None and self._open.most_us >= _FRAME_US:
            found.append(self._open)
        found.sort(key=lambda stretch: -stretch.most_us)
        return tuple(
            Behind(
                _time(stretch.since_us),
                _time(stretch.until_us),
                stretch.steps,
                round(stretch.most_us / 1e6, 2),
                max(0, stretch.most_streams),
                self._module,
            )
            for stretch in found[:_MOST_STRETCHES]
        )


def steps_at(by_streams: dict[int, Sketch]) -> tuple[StepsAt, ...]:
    """Return the step times by streams with data."""
    return tuple(
        StepsAt(streams, times)
        for streams, sketch in sorted(by_streams.items())
        if streams >= 0 and (times := sketch.times()) is not None
    )


def _time(at_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_us)
