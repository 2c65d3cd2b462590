"""The worker's figures for Prometheus, under moshi-server's names.

A family appears with its first use, counters do not end in `_total`, and nothing is said about the
process, all as there. The exposition is written here because prometheus-client's own would add that
ending.

Source: moshi-server `metrics.rs`.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.utils import floatToGoString

CONTENT_TYPE = "text/plain; version=0.0.4"
_STEP_BUCKETS_S = (0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08)
_STEPS_BUCKETS = (2, 25, 125, 250, 500, 750, 1125, 1500, 2250, 3000, 4500)
_PY_STEP_BUCKETS_S = (0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.08)
_PY_STEPS_BUCKETS = (2, 25, 62.5, 125, 250, 500, 750)
_LABELS = {"handler": "all"}


_Family = Counter | Gauge | Histogram


class Metrics:
    """What one server counts. May be used from any thread."""

    def __init__(self) -> None:
        self._used: set[_Family] = set()
        self.asr = AsrMetrics(self._used.add)
        self.py = PyMetrics(self._used.add)
        self._unauthorized = _counter(
            "http_unauthorized", "Number of requests without a known key."
        )

    def unauthorized(self) -> None:
        """Count a request that got 401. moshi-server has no such counter."""
        self._used.add(self._unauthorized)
        self._unauthorized.labels(**_LABELS).inc()

    def exposition(self) -> str:
        """Return all that was used so far, in the text format 0.0.4."""
        families = [family for metric in self._used.copy() for family in metric.collect()]
        return "".join(
            _lines(family) for family in sorted(families, key=lambda family: family.name)
        )


class AsrMetrics:
    """Counters of all `BatchedAsr` modules together."""

    def __init__(self, use: Callable[[_Family], None]) -> None:
        self._use = use
        self._connect = _counter("asr_connect", "Number of connections to the asr.")
        self._open_channels = _gauge("asr_open_channels", "Number of open channels.")
        self._step_duration = _histogram(
            "asr_model_step_duration", "ASR model step duration.", _STEP_BUCKETS_S
        )
        self._connection_num_steps = _histogram(
            "asr_connection_num_steps",
            "ASR model, distribution of steps by connection.",
            _STEPS_BUCKETS,
        )

    def connected(self) -> None:
        """A WebSocket asked for a slot."""
        self._use(self._connect)
        self._connect.labels(**_LABELS).inc()

    def slot_taken(self) -> None:
        self._use(self._open_channels)
        self._open_channels.labels(**_LABELS).inc()

    def slot_released(self, steps: int) -> None:
        """`steps` is what the stream had."""
        self._use(self._connection_num_steps)
        self._open_channels.labels(**_LABELS).dec()
        self._connection_num_steps.observe(steps)

    def stepped(self, seconds: float) -> None:
        self._use(self._step_duration)
        self._step_duration.observe(seconds)


class PyMetrics:
    """Counters of all `Py` modules together, which are text-to-speech."""

    def __init__(self, use: Callable[[_Family], None]) -> None:
        self._use = use
        self._connect = _counter("py_connect", "Number of connections to the py module.")
        self._open_channels = _gauge("py_open_channels", "Number of open channels.")
        self._step_duration = _histogram(
            "py_model_step_duration", "Py model step duration.", _PY_STEP_BUCKETS_S
        )
        self._connection_num_steps = _histogram(
            "py_model_connection_num_steps",
            "Py model, distribution of steps by connection.",
            _PY_STEPS_BUCKETS,
        )
        self._total_steps = _counter(
            "py_total_steps", "Number of steps, those without any stream that could go on included."
        )
        self._active_steps = _counter(
            "py_active_steps", "Number of steps in which a stream went on."
        )
        self._missing_words_steps = _counter(
            "py_missing_words_steps", "Number of times that a stream waited for words in a step."
        )
        self._could_have_run_steps = _counter(
            "py_could_have_run_steps", "Number of times that a stream had its words in a step."
        )

    def connected(self) -> None:
        """A WebSocket or a post asked for a slot."""
        self._count(self._connect, 1)

    def slot_taken(self) -> None:
        self._use(self._open_channels)
        self._open_channels.labels(**_LABELS).inc()

    def slot_released(self, steps: int) -> None:
        """`steps` is what the stream had."""
        self._use(self._connection_num_steps)
        self._open_channels.labels(**_LABELS).dec()
        self._connection_num_steps.observe(steps)

    def stepped(self, seconds: float, *, missing_words: int, could_run: int) -> None:
        """`missing_words` streams waited for text meanwhile, `could_run` had theirs."""
        self._use(self._step_duration)
        self._step_duration.observe(seconds)
        self._count(self._total_steps, 1)
        self._count(self._active_steps, 1)
        self._count(self._missing_words_steps, missing_words)
        self._count(self._could_have_run_steps, could_run)

    def _count(self, counter: Counter, by: int) -> None:
        if by:
            self._use(counter)
            counter.labels(**_LABELS).inc(by)


def _counter(name: str, says: str) -> Counter:
    return Counter(name, says, tuple(_LABELS), registry=None)


def _gauge(name: str, says: str) -> Gauge:
    return Gauge(name, says, tuple(_LABELS), registry=None)


def _histogram(name: str, says: str, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(name, says, buckets=buckets, registry=None)


def _lines(family: Metric) -> str:
    lines = [f"# HELP {family.name} {family.documentation}", f"# TYPE {family.name} {family.type}"]
    for sample in family.samples:
        if not sample.name.endswith("_created"):
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            shown = f"{{{labels}}}" if labels else ""
            lines.append(
                f"{sample.name.removesuffix('_total')}{shown} {floatToGoString(sample.value)}"
            )
    return "\n".join(lines) + "\n"
