"""How long model steps take: from a log, from a histogram in /metrics, or from a client's view."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median, quantiles

from dsmops.client.stt import CLOSING_FRAMES, LEAD_IN_FRAMES
from dsmops.models import FRAME_MS

FRAME_S = FRAME_MS / 1000
_MAX_LATENCY_S = 2.0
"""The lead-in is sent at once. A server that keeps up needs at most 1.04 s to answer it."""
_GROWING_LATENCY_S = 0.5
_MAX_GROWTH = 0.1
"""Of latency per second of audio: steps of 88 ms."""
_MIN_FRAMES = 20
"""Fewer say nothing about how a latency grows."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Times of model steps, and where they were read.

    A quantile above `bound_ms`, the largest bucket of a histogram, is None; the mean is still
    known.
    """

    count: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    source: str
    mean_ms: float
    bound_ms: float | None = None

    def __str__(self) -> str:
        known = [
            f"{name} {value:.1f}"
            for name, value in (("p50", self.p50_ms), ("p95", self.p95_ms), ("p99", self.p99_ms))
            if value is not None
        ]
        if self.p99_ms is None:
            known.append(f"mean {self.mean_ms:.1f}")
        above = f", some above {self.bound_ms:g} ms" if self.p99_ms is None else ""
        return f"{', '.join(known)} ms of {self.count} steps{above} ({self.source})"

    def too_slow(self, *, patient: bool) -> str:
        """Return in words how steps are too slow, empty where they are not.

        With `patient`, half of the steps decide, else 19 in 20.
        """
        typical_ms = self.mean_ms if self.p50_ms is None else self.p50_ms
        if typical_ms >= FRAME_MS:
            return f"a step takes {typical_ms:.0f} ms of {FRAME_MS:g}"
        if patient:
            return ""
        if self.p95_ms is not None:
            slow = self.p95_ms >= FRAME_MS
            return f"one step in 20 takes {self.p95_ms:.0f} ms of {FRAME_MS:g}" if slow else ""
        if (self.bound_ms or 0) >= FRAME_MS:
            return f"one step in 20 takes more than {self.bound_ms:g} ms of {FRAME_MS:g}"
        return ""


def from_log(times_ms: Sequence[float]) -> StepTimes | None:
    """Return the figures of step times that a log shows, None for fewer than two."""
    return _from_times(times_ms, "from the server's log")


def _from_times(times_ms: Sequence[float], source: str) -> StepTimes | None:
    if len(times_ms) < 2:
        return None
    cuts = quantiles(times_ms, n=100, method="inclusive")
    return StepTimes(len(times_ms), cuts[49], cuts[94], cuts[98], source, fmean(times_ms))


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram in /metrics: how many values lie at or below each limit, and their sum."""

    counts: dict[float, float] = field(default_factory=dict)
    sum_s: float = 0.0

    @classmethod
    def parse(cls, text: str, name: str) -> Histogram:
        """Return the histogram of that name; an empty one where there is none yet."""
        buckets = re.findall(rf'^{name}_bucket{{le="([^"]+)"}} (\S+)$', text, re.MULTILINE)
        total = re.search(rf"^{name}_sum (\S+)$", text, re.MULTILINE)
        return cls(
            {float(limit): float(count) for limit, count in buckets},
            float(total[1]) if total else 0.0,
        )

    def since(self, before: Histogram) -> StepTimes | None:
        """Return the figures of what was added since `before`, None for nothing.

        Quantiles are the upper ends of their buckets.
        """
        counts = {
            limit: count - before.counts.get(limit, 0)
            for limit, count in sorted(self.counts.items())
        }
        total = counts.get(math.inf, 0)
        if total <= 0:
            return None

        def quantile_ms(share: float) -> float | None:
            limit = next(limit for limit, count in counts.items() if count >= share * total)
            return limit * 1000 if math.isfinite(limit) else None

        finite = [limit for limit in counts if math.isfinite(limit)]
        return StepTimes(
            count=int(total),
            p50_ms=quantile_ms(0.5),
            p95_ms=quantile_ms(0.95),
            p99_ms=quantile_ms(0.99),
            source="at most, from /metrics, with the steps of other clients",
            mean_ms=1000 * (self.sum_s - before.sum_s) / total,
            bound_ms=1000 * max(finite) if finite else None,
        )


@dataclass(slots=True)
class Pace:
    """When a client sent the frames of a recording, and when each was answered.

    `answered_s` holds the answers to the lead-in, too. Times are those of one clock.
    """

    begin_s: float = 0.0
    end_s: float | None = None
    sent_s: list[float] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)

    @property
    def latencies_s(self) -> list[float]:
        """Seconds from each frame to its answer."""
        answers = self.answered_s[LEAD_IN_FRAMES:]
        return [there - here for here, there in zip(self.sent_s, answers, strict=False)]

    @property
    def latency_s(self) -> float | None:
        """The latency that 19 in 20 frames stay below, None where no frame was answered.

        Of a model without pause detection only the end of the text is known, which a server that
        keeps up reaches by the time that the silence around the recording would take.
        """
        latencies = self.latencies_s
        if latencies:
            return (
                quantiles(latencies, n=20, method="inclusive")[18]
                if len(latencies) > 1
                else latencies[0]
            )
        if self.end_s is None or not self.sent_s:
            return None
        frames = len(self.sent_s) + LEAD_IN_FRAMES + 2 * CLOSING_FRAMES
        return max(0.0, self.end_s - self.begin_s - frames * FRAME_S)

    def too_slow(self, *, patient: bool) -> str:
        """Return in words how the server falls behind, empty where it keeps up.

        With `patient`, half of the frames decide, and a latency that grows is accepted.
        """
        latency_s = self.latency_s
        if latency_s is None:
            return ""
        if (median(self.latencies_s or [latency_s]) if patient else latency_s) > _MAX_LATENCY_S:
            return f"answers come {latency_s:.1f} s behind their frames (p95)"
        growth = self._growth()
        if not patient and growth > _MAX_GROWTH and latency_s > _GROWING_LATENCY_S:
            return f"answers come {latency_s:.1f} s behind their frames (p95), and ever later"
        return ""

    def _growth(self) -> float:
        """Return by how many seconds the latency grows per second of audio."""
        latencies = self.latencies_s
        quarter = len(latencies) // 4
        if len(latencies) < _MIN_FRAMES:
            return 0.0
        spread_s = 3 * quarter * FRAME_S
        return (fmean(latencies[-quarter:]) - fmean(latencies[:quarter])) / spread_s

    def step_times(self) -> StepTimes | None:
        """Return the times between answers, which are those of the steps of a server that is busy.

        None for a server that keeps up: it waits for frames.
        """
        if not self.too_slow(patient=False):
            return None
        gaps_ms = [1000 * (later - sooner) for sooner, later in pairwise(self.answered_s)]
        return _from_times(gaps_ms, "between answers to a client")
