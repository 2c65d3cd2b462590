"""The worker's figures for Prometheus, under moshi-server's names.

A family appears with its first use, counters do not end in `_total`, and nothing is said about the process, all as there. The exposition
is written here because prometheus-client's own would add that ending.

Source: moshi-server `metrics.rs`.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.utils import floatToGoString

CONTENT_TYPE = "text/plain; version=0.0.4"
_STEP_BUCKETS_S = (0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08)
_STEPS_BUCKETS = (2, 25, 125, 250, 500, 750, 1125, 1500, 2250, 3000, 4500)
_LABELS = {"handler": "all"}


class AsrMetrics:
    """What BatchedAsr modules count, all of them together. May be used from any thread."""

    def __init__(self) -> None:
        labels = tuple(_LABELS)
        self._connect = Counter("asr_connect", "Number of connections to the asr.", labels, registry=None)
        self._open_channels = Gauge("asr_open_channels", "Number of open channels.", labels, registry=None)
        self._step_duration = Histogram("asr_model_step_duration", "ASR model step duration.", buckets=_STEP_BUCKETS_S, registry=None)
        self._connection_num_steps = Histogram(
            "asr_connection_num_steps", "ASR model, distribution of steps by connection.", buckets=_STEPS_BUCKETS, registry=None
        )
        self._used: set[Counter | Gauge | Histogram] = set()

    def connected(self) -> None:
        """A WebSocket asked for a slot."""
        self._used.add(self._connect)
        self._connect.labels(**_LABELS).inc()

    def slot_taken(self) -> None:
        self._used.add(self._open_channels)
        self._open_channels.labels(**_LABELS).inc()

    def slot_released(self, steps: int) -> None:
        """`steps` is what the stream had."""
        self._used.add(self._connection_num_steps)
        self._open_channels.labels(**_LABELS).dec()
        self._connection_num_steps.observe(steps)

    def stepped(self, seconds: float) -> None:
        self._used.add(self._step_duration)
        self._step_duration.observe(seconds)

    def exposition(self) -> str:
        """Return all that was used so far, in the text format 0.0.4."""
        families = [family for metric in self._used.copy() for family in metric.collect()]
        return "".join(_lines(family) for family in sorted(families, key=lambda family: family.name))


def _lines(family: Metric) -> str:
    lines = [f"# HELP {family.name} {family.documentation}", f"# TYPE {family.name} {family.type}"]
    for sample in family.samples:
        if not sample.name.endswith("_created"):
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            shown = f"{{{labels}}}" if labels else ""
            lines.append(f"{sample.name.removesuffix('_total')}{shown} {floatToGoString(sample.value)}")
    return "\n".join(lines) + "\n"
