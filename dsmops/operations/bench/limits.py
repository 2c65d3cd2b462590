"""What a level must hold, and whether a server or the client itself failed it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dsmops.operations.bench.result import Failure, Level, SttFigures, TtsFigures, Verdict
from dsmops.units import counted

GRACE_S = 1.0
"""How long after the last frame its answer still counts."""


class LimitName(StrEnum):
    """The limits, as their options are called."""

    LAG = "max-lag"
    KEPT = "min-kept"
    FIRST_AUDIO = "max-first-audio"
    UNDERRUNS = "max-underruns"
    ERRORS = "max-errors"


@dataclass(frozen=True, slots=True)
class Limits:
    """What each level must hold. `jitter_ms` is what the client itself may be late.

    A step that ends within its 80 ms answers a frame within two of them: a frame waits for the step
    that runs, and then takes one.
    """

    lag_p99_ms: float = 160.0
    kept_share: float = 0.99
    first_audio_p95_ms: float = 1000.0
    underruns: int = 0
    errors: int = 0
    jitter_p99_ms: float = 10.0


def judge(level: Level, limits: Limits) -> tuple[Verdict, tuple[Failure, ...]]:
    """Return whether a level held its limits, and those that it did not.

    A limit that the server would hold if the client's own jitter were subtracted, once for sending
    and once for receiving, says nothing about the server. That matters only where the client was
    later than it may be.
    """
    jitter = level.jitter_ms
    is_late = jitter is not None and jitter.p99 > limits.jitter_p99_ms
    late_p99_ms = 2 * jitter.p99 if jitter is not None and is_late else 0.0
    late_max_ms = 2 * jitter.max if jitter is not None and is_late else 0.0
    failures: list[Failure] = []

    def add(name: LimitName, text: str, *, by_client: bool = False) -> None:
        failures.append(Failure(name.value, text, by_client))

    errors = sum(level.errors.values())
    if errors > limits.errors:
        most = max(level.errors, key=lambda reason: level.errors[reason])
        add(LimitName.ERRORS, f"{counted(errors, 'error')}, most of them: {most}")
    match level.figures:
        case SttFigures(lag_ms=lag):
            kept = level.figures.kept_share
            if lag is not None and lag.p99 > limits.lag_p99_ms:
                by_client = lag.p99 - late_p99_ms <= limits.lag_p99_ms
                text = f"p99 lag {lag.p99:.0f} ms, limit {limits.lag_p99_ms:g}"
                add(LimitName.LAG, text, by_client=by_client)
            if kept is not None and kept < limits.kept_share:
                text = f"{kept:.1%} of the frames answered, limit {limits.kept_share:.1%}"
                add(LimitName.KEPT, text, by_client=late_max_ms > GRACE_S * 1000)
        case TtsFigures(first_audio_ms=first):
            if first is not None and first.p95 > limits.first_audio_p95_ms:
                by_client = first.p95 - late_p99_ms <= limits.first_audio_p95_ms
                text = f"p95 first audio {first.p95:.0f} ms, limit {limits.first_audio_p95_ms:g}"
                add(LimitName.FIRST_AUDIO, text, by_client=by_client)
            gaps = level.figures.underruns
            if gaps > limits.underruns:
                by_client = (level.figures.longest_gap_ms or 0.0) <= late_max_ms
                text = f"{counted(gaps, 'underrun')}, limit {limits.underruns}"
                add(LimitName.UNDERRUNS, text, by_client=by_client)
    if not failures:
        return Verdict.HELD, ()
    all_by_client = all(failure.by_client for failure in failures)
    return Verdict.CLIENT_TOO_SLOW if all_by_client else Verdict.FAILED, tuple(failures)
