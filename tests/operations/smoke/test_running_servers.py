"""`smoke-test --url` against servers of every kind that clients meet, on stub engines."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dsmops.operations.smoke import SmokeReport, SmokeRequest, smoke_test
from tests.support.engines import EchoEngine
from tests.support.smoke import HASTY, evidence
from tests.support.workers import KEY, PATH, ThreadedServer


def judge(
    server: ThreadedServer, *, intrusive: bool = False, audio: Path | None = None
) -> SmokeReport:
    url = server.url.replace("http", "ws") + PATH
    return smoke_test(
        SmokeRequest(
            url=url, api_key=KEY, intrusive=intrusive, recording_s=0.4, audio=audio, limits=HASTY
        )
    )


def skipped(report: SmokeReport) -> set[str]:
    return {check.name for check in report.checks if check.status.value == "skipped"}


@pytest.mark.slow
def test_a_model_without_pause_detection_passes() -> None:
    """It sends no Step, as the 2.6B model; its marker returns, and /metrics has step times."""
    with ThreadedServer(lambda: EchoEngine(heads=0)) as server:
        report = judge(server, intrusive=True)
    assert report.passed, report.verdict
    assert skipped(report) == {"step", "finite-numbers", "words"}
    assert "from /metrics" in evidence(report, "step-time")


@pytest.mark.slow
def test_a_module_that_is_not_batched_is_told_apart() -> None:
    """`Asr` sends no Ready, is not listed and has no slots; all other checks run."""
    with ThreadedServer(EchoEngine, kind="Asr") as server:
        report = judge(server, intrusive=True)
    assert report.passed, report.verdict
    assert {"ready", "slots-full", "slot-return"} <= skipped(report)


@pytest.mark.slow
def test_a_slow_server_is_told_by_its_histogram() -> None:
    """One whose steps take longer than frames."""

    def slow(_: int) -> None:
        time.sleep(0.085)

    class Slow(EchoEngine):
        def step(self, *args, **more):  # type: ignore[no-untyped-def]
            from dataclasses import replace

            return replace(super().step(*args, **more), step_ms=90.0)

    with ThreadedServer(lambda: Slow(before_step=slow)) as server:
        report = judge(server)
    assert report.failed == ("step-time",)


@pytest.mark.slow
def test_numbers_that_are_no_probabilities_are_found() -> None:
    """A server that goes on with NaN in its pauses, as moshi-server does."""
    import numpy as np

    class Broken(EchoEngine):
        def step(self, *args, **more):  # type: ignore[no-untyped-def]
            from dataclasses import replace

            output = super().step(*args, **more)
            return replace(
                output,
                pause_probabilities=np.full_like(output.pause_probabilities, np.nan),
            )

    with ThreadedServer(Broken) as server:
        report = judge(server)
    assert report.failed == ("finite-numbers",)
    assert "are outside of 0 to 1" in evidence(report, "finite-numbers")


def fails_at(step: int) -> Callable[[int], None]:
    def before(number: int) -> None:
        if number == step:
            raise RuntimeError("the card is gone")

    return before


@pytest.mark.slow
@pytest.mark.parametrize(("step", "failed"), [(2, "step"), (3, "marker"), (60, "clip")])
def test_a_loop_that_dies_is_told_by_what_it_did_not_do(step: int, failed: str) -> None:
    """At whichever point."""
    server = ThreadedServer(lambda: EchoEngine(before_step=fails_at(step)))
    with server:
        report = judge(server)
    assert report.failed[0] == failed
    assert server.failure is not None


@pytest.mark.slow
def test_words_are_wanted_from_a_recording(tmp_path: Path) -> None:
    """A server that finds no words fails with a recording, and passes with the built-in one."""
    from dsmops.audio import write
    from dsmops.audio.signals import speech_like

    write(tmp_path / "speech.wav", [speech_like(0.5)])
    with ThreadedServer(EchoEngine) as server:
        assert judge(server).passed
        report = judge(server, audio=tmp_path / "speech.wav")
    assert report.failed == ("clip",)
    assert "brought no word" in evidence(report, "clip")
