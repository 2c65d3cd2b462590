"""The worker's figures for Prometheus, under moshi-server's names.

A family appears with its first use, counters do not end in `_total`, and nothing is said about the
process, all as there. What moshi-server does not have is exported from the start: Prometheus sees
no increase in a counter that begins with 1. Each process of the worker counts in a row of its own,
in memory that all share; whichever process is asked adds the rows up. So a process that ends takes
no counts along.

Source: moshi-server `metrics.rs`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmops.worker.runtime.shared import shared_arrays

CONTENT_TYPE = "text/plain; version=0.0.4"
_STEP_BUCKETS_S = (0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08)
_STEPS_BUCKETS = (2, 25, 125, 250, 500, 750, 1125, 1500, 2250, 3000, 4500)
_PY_STEP_BUCKETS_S = (0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.08)
_PY_STEPS_BUCKETS = (2, 25, 62.5, 125, 250, 500, 750)
_LABELS = '{handler="all"}'


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `buckets` are a histogram's upper bounds; it has no labels, the others one.

    With `is_ours` moshi-server does not have it.
    """

    name: str
    kind: str
    says: str
    buckets: tuple[float, ...] = ()
    is_ours: bool = False

    @property
    def width(self) -> int:
        """Numbers that it takes: a histogram's buckets, the last without a bound, and its sum."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1

    def lines(self, values: Sequence[float]) -> list[str]:
        """Return its part of the exposition."""
        head = [f"# HELP {self.name} {self.says}", f"# TYPE {self.name} {self.kind}"]
        if self.kind != "histogram":
            return [*head, f"{self.name}{_LABELS} {values[0]}"]
        bounds = [*map(str, map(float, self.buckets)), "+Inf"]
        counts = np.cumsum(values[:-1]).tolist()
        return [
            *head,
            *(
                f'{self.name}_bucket{{le="{bound}"}} {count}'
                for bound, count in zip(bounds, counts, strict=True)
            ),
            f"{self.name}_count {counts[-1]}",
            f"{self.name}_sum {values[-1]}",
        ]


FAMILIES = (
    Family("asr_connect", "counter", "Number of connections to the asr."),
    Family(
        "asr_connection_num_steps",
        "histogram",
        "ASR model, distribution of steps by connection.",
        _STEPS_BUCKETS,
    ),
    Family("asr_model_step_duration", "histogram", "ASR model step duration.", _STEP_BUCKETS_S),
    Family("asr_open_channels", "gauge", "Number of open channels."),
    Family(
        "http_throttled",
        "counter",
        "Number of requests that had to wait: too many came.",
        is_ours=True,
    ),
    Family("http_unauthorized", "counter", "Number of requests without a known key.", is_ours=True),
    Family("py_active_steps", "counter", "Number of steps in which a stream went on."),
    Family("py_connect", "counter", "Number of connections to the py module."),
    Family(
        "py_could_have_run_steps",
        "counter",
        "Number of times that a stream had its words in a step.",
    ),
    Family(
        "py_missing_words_steps",
        "counter",
        "Number of times that a stream waited for words in a step.",
    ),
    Family(
        "py_model_connection_num_steps",
        "histogram",
        "Py model, distribution of steps by connection.",
        _PY_STEPS_BUCKETS,
    ),
    Family("py_model_step_duration", "histogram", "Py model step duration.", _PY_STEP_BUCKETS_S),
    Family("py_open_channels", "gauge", "Number of open channels."),
    Family(
        "py_total_steps",
        "counter",
        "Number of steps, those without any stream that could go on included.",
    ),
    Family(
        "worker_devices_lost",
        "gauge",
        "Number of devices whose model process has died.",
        is_ours=True,
    ),
    Family(
        "worker_front_restarts",
        "counter",
        "Number of front processes that were replaced.",
        is_ours=True,
    ),
)
_PLACES = {
    family.name: sum(before.width for before in FAMILIES[:number])
    for number, family in enumerate(FAMILIES)
}
_FAMILY = {family.name: family for family in FAMILIES}


class MetricsBoard:
    """The rows of all processes of one worker."""

    def __init__(self, rows: int = 1) -> None:
        width = sum(family.width for family in FAMILIES)
        arrays = shared_arrays(
            {"values": (np.float64, (rows, width)), "used": (np.bool_, (rows, len(FAMILIES)))}
        )
        self.values: NDArray[Any] = arrays["values"]
        self.used: NDArray[Any] = arrays["used"]

    def exposition(self) -> str:
        """Return all that was used so far, in the text format 0.0.4."""
        used: Any = self.used.any(axis=0).tolist()
        values: Any = self.values.sum(axis=0).tolist()
        lines = [
            line
            for family, is_used in zip(FAMILIES, used, strict=True)
            if is_used or family.is_ours
            for line in family.lines(
                values[_PLACES[family.name] : _PLACES[family.name] + family.width]
            )
        ]
        return "".join(f"{line}\n" for line in lines)


class Metrics:
    """What one process counts. Any thread may use it."""

    def __init__(self, board: MetricsBoard | None = None, row: int = 0) -> None:
        self._board = board or MetricsBoard()
        self._values, self._used = self._board.values[row], self._board.used[row]
        self._lock = threading.Lock()
        self.asr = AsrMetrics(self)
        self.py = PyMetrics(self)

    def unauthorized(self) -> None:
        """Count a request that got 401. moshi-server has no such counter."""
        self.add("http_unauthorized")

    def throttled(self) -> None:
        """Count a request that had to wait."""
        self.add("http_throttled")

    def exposition(self) -> str:
        """Return what all processes counted, in the text format 0.0.4."""
        return self._board.exposition()

    def add(self, name: str, by: float = 1) -> None:
        """Count a counter or a gauge up, or a gauge down."""
        with self._lock:
            self._use(name)
            self._values[_PLACES[name]] += by

    def observe(self, name: str, value: float) -> None:
        """Add a value to a histogram."""
        family, place = _FAMILY[name], _PLACES[name]
        with self._lock:
            self._use(name)
            self._values[place + bisect_left(family.buckets, value)] += 1
            self._values[place + family.width - 1] += value

    def drop_gauges(self) -> None:
        """Set the gauges of this row to 0: their process has ended."""
        for family in FAMILIES:
            if family.kind == "gauge":
                self._values[_PLACES[family.name]] = 0

    def _use(self, name: str) -> None:
        self._used[FAMILIES.index(_FAMILY[name])] = True


class AsrMetrics:
    """Counters of all `BatchedAsr` modules together."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def connected(self) -> None:
        """A WebSocket asked for a slot."""
        self._metrics.add("asr_connect")

    def slot_taken(self) -> None:
        self._metrics.add("asr_open_channels")

    def slot_released(self, steps: int) -> None:
        """`steps` is what the stream had."""
        self._metrics.add("asr_open_channels", -1)
        self._metrics.observe("asr_connection_num_steps", steps)

    def stepped(self, seconds: float) -> None:
        self._metrics.observe("asr_model_step_duration", seconds)


class PyMetrics:
    """Counters of all `Py` modules together, which are text-to-speech."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def connected(self) -> None:
        """A WebSocket or a post asked for a slot."""
        self._metrics.add("py_connect")

    def slot_taken(self) -> None:
        self._metrics.add("py_open_channels")

    def slot_released(self, steps: int) -> None:
        """`steps` is what the stream had."""
        self._metrics.add("py_open_channels", -1)
        self._metrics.observe("py_model_connection_num_steps", steps)

    def stepped(self, seconds: float, *, missing_words: int, could_run: int) -> None:
        """`missing_words` streams waited for text meanwhile, `could_run` had theirs."""
        self._metrics.observe("py_model_step_duration", seconds)
        self._metrics.add("py_total_steps")
        self._metrics.add("py_active_steps")
        for name, count in (
            ("py_missing_words_steps", missing_words),
            ("py_could_have_run_steps", could_run),
        ):
            if count:
                self._metrics.add(name, count)
