"""Step times from every source, and what they say about real time."""

from __future__ import annotations

import pytest

from dsmops.client.stt import CLOSING_FRAMES, LEAD_IN_FRAMES
from dsmops.operations.smoke.step_times import FRAME_S, Histogram, Pace, from_log
from dsmops.report.document import to_json

EMPTY = Histogram()


def histogram(*times_s: float, name: str = "py_model_step_duration") -> Histogram:
    """What /metrics says after steps of these times."""
    lines = [
        f'{name}_bucket{{le="{limit}"}} {sum(time <= float(limit) for time in times_s)}'
        for limit in ("0.01", "0.03", "+Inf")
    ]
    text = "\n".join([*lines, f"{name}_sum {sum(times_s)}", f"{name}_count {len(times_s)}", ""])
    return Histogram.parse(text, name)


def test_quantiles_are_the_ends_of_their_buckets() -> None:
    """As far as the buckets reach, and of the steps since the first look."""
    before = histogram(0.5)
    times = histogram(0.5, *[0.005] * 19, 0.02).since(before)
    assert times is not None
    assert (times.count, times.p50_ms, times.p95_ms, times.p99_ms) == (20, 10, 10, 30)
    assert times.too_slow(patient=False) == ""


@pytest.mark.parametrize(("time_s", "slow"), [(0.045, ""), (0.52, "a step takes 520 ms of 80")])
def test_beyond_the_last_bucket_the_mean_decides(time_s: float, slow: str) -> None:
    """It is shown instead of infinity, and JSON says null."""
    times = histogram(*[time_s] * 40).since(EMPTY)
    assert times is not None
    assert str(times).startswith(f"mean {1000 * time_s:.1f} ms of 40 steps, some above 30 ms")
    assert "inf" not in str(times)
    assert to_json(times)["p50_ms"] is None
    assert times.too_slow(patient=False) == slow


def test_a_log_is_judged_by_its_slow_steps_unless_one_is_patient() -> None:
    """One step in ten of 100 ms is too slow on a machine that does nothing else."""
    times = from_log([20.0] * 90 + [100.0] * 10)
    assert times is not None
    assert times.too_slow(patient=False) == "one step in 20 takes 100 ms of 80"
    assert times.too_slow(patient=True) == ""
    assert from_log([20.0]) is None


def pace(step_s: float, frames: int) -> Pace:
    """A client at real time, and a server that needs `step_s` for a step."""
    seen, done_s = Pace(), 0.0
    for number in range(LEAD_IN_FRAMES + frames):
        sent_s = max(0, number - LEAD_IN_FRAMES) * FRAME_S
        done_s = max(done_s, sent_s) + step_s
        seen.answered_s.append(done_s)
        if number >= LEAD_IN_FRAMES:
            seen.sent_s.append(sent_s)
    return seen


@pytest.mark.parametrize(
    ("step_s", "frames", "is_slow"),
    [(0.02, 50, False), (0.075, 50, False), (0.09, 50, True), (0.43, 50, True), (0.43, 8, True)],
)
def test_a_client_sees_whether_a_server_keeps_up(step_s: float, frames: int, is_slow: bool) -> None:
    """Its silence ahead of the recording makes a server late that keeps up; only a little."""
    seen = pace(step_s, frames)
    assert bool(seen.too_slow(patient=False)) == is_slow
    times = seen.step_times()
    assert (times is not None) == is_slow
    if times is not None:
        assert times.p50_ms == pytest.approx(step_s * 1000)
        assert times.too_slow(patient=False)


def test_without_answers_to_frames_the_end_of_the_text_tells() -> None:
    """As of a model without pause detection: 50 frames and the silence around them."""
    sent_s = [number * FRAME_S for number in range(50)]
    in_time_s = (50 + LEAD_IN_FRAMES + 2 * CLOSING_FRAMES) * FRAME_S
    for end_s, is_slow in ((in_time_s, False), (in_time_s + 16, True), (None, False)):
        seen = Pace(end_s=end_s, sent_s=sent_s)
        assert bool(seen.too_slow(patient=False)) == is_slow
