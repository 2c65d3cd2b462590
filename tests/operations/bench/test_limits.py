"""Who is blamed for a limit that failed."""

from dataclasses import replace

import pytest

from dsmops.operations.bench.limits import Limits, judge
from dsmops.operations.bench.result import Level, SttFigures, TtsFigures, Verdict
from dsmops.operations.bench.statistics import Spread


def spread(p99: float, most: float | None = None) -> Spread:
    return Spread(1000, p99 / 4, p99 / 2, p99, p99 if most is None else most)


def stt(lag_ms: float, kept: float | None = 1.0) -> SttFigures:
    return SttFigures(spread(lag_ms), "step", 1000, 1000, kept, 0)


def tts(first_ms: float = 100, underruns: int = 0, gap_ms: float | None = None) -> TtsFigures:
    first = Spread(10, first_ms, first_ms, first_ms, first_ms)
    return TtsFigures(first, 10, 10, 5.0, None, None, underruns, min(underruns, 1), gap_ms)


def level(figures: SttFigures | TtsFigures, jitter_ms: float, **changed: object) -> Level:
    made = Level(8, 8, 20, Verdict.HELD, (), figures, {}, spread(jitter_ms), 0.1, None, ())
    return replace(made, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("figures", "jitter_ms", "verdict", "limits"),
    [
        (stt(35), 1, Verdict.HELD, []),
        (stt(160), 1, Verdict.HELD, []),
        (stt(35), 50, Verdict.HELD, []),  # it held although the client was late
        (stt(161), 1, Verdict.FAILED, ["max-lag"]),
        (stt(161), 10, Verdict.FAILED, ["max-lag"]),  # as late as it may be
        (stt(161), 11, Verdict.CLIENT_TOO_SLOW, ["max-lag"]),
        (stt(182), 11, Verdict.CLIENT_TOO_SLOW, ["max-lag"]),
        (stt(183), 11, Verdict.FAILED, ["max-lag"]),  # 161 remain without it
        (stt(35, 0.98), 11, Verdict.FAILED, ["min-kept"]),
        (stt(900, 0.98), 500.5, Verdict.CLIENT_TOO_SLOW, ["max-lag", "min-kept"]),
        (stt(35, None), 1, Verdict.HELD, []),
        (tts(), 1, Verdict.HELD, []),
        (tts(1001), 1, Verdict.FAILED, ["max-first-audio"]),
        (tts(1001), 11, Verdict.CLIENT_TOO_SLOW, ["max-first-audio"]),
        (tts(underruns=3, gap_ms=80), 1, Verdict.FAILED, ["max-underruns"]),
        (tts(underruns=3, gap_ms=80), 40, Verdict.CLIENT_TOO_SLOW, ["max-underruns"]),
        (tts(underruns=3, gap_ms=81), 40, Verdict.FAILED, ["max-underruns"]),
    ],
)
def test_a_verdict(
    figures: SttFigures | TtsFigures, jitter_ms: float, verdict: Verdict, limits: list[str]
) -> None:
    """The client is blamed for what its own jitter explains, when it was later than it may be."""
    found, failures = judge(level(figures, jitter_ms), Limits())
    assert found is verdict
    assert [failure.limit for failure in failures] == limits


def test_errors_are_never_the_clients_jitter() -> None:
    """A server that refuses is not excused by a slow client."""
    refused = level(stt(170), 50, errors={"refused with status 401": 3, "closed": 1})
    found, failures = judge(refused, Limits())
    assert found is Verdict.FAILED
    assert failures[0].text == "4 errors, most of them: refused with status 401"
    assert judge(refused, Limits(errors=4))[0] is Verdict.CLIENT_TOO_SLOW
