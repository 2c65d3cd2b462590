"""`smoke-test --url` against a server that closes and times out as the original does."""

from __future__ import annotations

import pytest

from dsmops.operations.smoke import SmokeReport, SmokeRequest, smoke_test
from dsmops.operations.smoke.checks import Limits
from tests.support.original_server import KEY, OriginalServer
from tests.support.smoke import HASTY, evidence

PATIENT = Limits(ready_s=0.3, step_s=5, marker_s=3, close_s=2, return_s=1)


def judge(
    server: OriginalServer, *, limits: Limits = HASTY, recording_s: float = 0.4
) -> SmokeReport:
    request = SmokeRequest(
        url=server.url, api_key=KEY, intrusive=True, limits=limits, recording_s=recording_s
    )
    return smoke_test(request)


def skipped(report: SmokeReport) -> set[str]:
    return {check.name for check in report.checks if check.status.value == "skipped"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "heads", "not_offered"),
    [
        # It serves no model whose words are known.
        ("BatchedAsr", 4, {"words"}),
        ("BatchedAsr", 0, {"step", "finite-numbers", "words"}),
        ("Asr", 4, {"ready", "step-time", "slots-full", "slot-return", "words"}),
        ("Py", 0, set()),
    ],
)
def test_the_original_passes(module: str, heads: int, not_offered: set[str]) -> None:
    """No Close frame is answered, streams end with a reset, and words end behind their sound."""
    with OriginalServer(module, heads=heads, step_s=0.002) as server:
        report = judge(server, limits=HASTY if module != "Asr" else PATIENT)
    assert report.passed, report.verdict
    assert skipped(report) == not_offered


@pytest.mark.slow
@pytest.mark.parametrize("module", [pytest.param("BatchedAsr", marks=pytest.mark.slow), "Asr"])
def test_a_server_slower_than_real_time_fails_by_its_step_time(module: str) -> None:
    """Whether it shows step times or not; the verdict names them, and not the end of a stream."""
    limits = Limits(ready_s=0.3, step_s=5, marker_s=15, close_s=2, return_s=1)
    with OriginalServer(module, step_s=0.1, slots=1) as server:
        report = judge(server, limits=limits, recording_s=1.6)
    assert {"clip", "step-time"} <= set(report.failed)
    assert "behind their frames" in evidence(report, "clip")
    assert report.verdict.startswith("Failed at `step-time`: ")
    assert "of 80" in report.verdict


@pytest.mark.slow
def test_a_stream_that_the_server_drops_is_told_by_its_step_time() -> None:
    """The stream breaks off; the steps until then are judged all the same."""
    limits = Limits(ready_s=0.3, step_s=5, marker_s=3, close_s=2, return_s=1)
    # The first conversation has 41 frames, and the second loses its connection at its 50th.
    with OriginalServer(step_s=0.09, drop_at=50, slots=1) as server:
        report = judge(server, limits=limits, recording_s=2.4)
    assert {"clip", "step-time"} <= set(report.failed)
    assert "dropped without a Close frame" in evidence(report, "clip")
    assert report.verdict.startswith("Failed at `step-time`: a step takes 90 ms of 80")
