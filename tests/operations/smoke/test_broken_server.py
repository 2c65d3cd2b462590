"""A server of which one part is broken is told by the name of that part: the real worker, patched, in a process of its own."""

import os
import time
from pathlib import Path

import pytest

from dsmops.operations.smoke import Status
from tests.support.smoke import blocked, broken_worker, evidence, simulate

AFTER_STEP = {
    "marker",
    "closing",
    "clip",
    "step-time",
    "slots-full",
    "slot-return",
    "round-trip",
    "memory",
}
CONVERSATION = {
    "round-trip",
    "ready",
    "step",
    "marker",
    "closing",
    "clip",
    "step-time",
    "finite-numbers",
    "slots-full",
    "slot-return",
    "memory",
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("fault", "failed", "words", "not_run"),
    [
        (
            "dead-loop",
            {"ready", "known-failures"},
            "the model loop is dead, and the server listens all the same",
            CONVERSATION - {"ready"},
        ),
        ("no-ready", {"ready"}, "no Ready in 2 s", CONVERSATION - {"ready"}),
        ("no-step", {"step"}, "no Step came out", AFTER_STEP),
        ("loop-dies-later", {"step"}, "no Step came out", AFTER_STEP),
        (
            "no-marker",
            {"marker"},
            "the marker did not come back in 3 s",
            {"closing", "clip", "step-time", "round-trip"},
        ),
        (
            "leaked-slot",
            {"slot-return"},
            "4 of 4 slots are taken, and nobody is connected any more",
            {"round-trip"},
        ),
        (
            "lies-about-slots",
            {"slots-full", "slot-return"},
            "for as many free slots got the error `no free channels`",
            {"round-trip"},
        ),
        ("slow", {"step-time"}, "longer than the 80 ms of a frame", set()),
        ("open-door", {"wrong-key"}, "a wrong key was let in", set()),
        ("too-generous", {"slots-full"}, "one more client got", set()),
        (
            "no-goodbye",
            {"closing", "speech", "slots-full", "shutdown"},
            "nothing came within 2 s",
            {"memory", "round-trip"},
        ),
        ("ignores-sigterm", {"shutdown"}, "ignored SIGTERM for 3 s and was killed", set()),
        ("dies-of-sigterm", {"shutdown"}, "it let no conversation end", set()),
        ("leaves-a-child", {"orphans"}, "still running after the server's end", set()),
        (
            "ends-at-once",
            {"process-alive", "known-failures"},
            "exit code 1 before it listened: Error: ",
            {"listening", "shutdown", *CONVERSATION},
        ),
    ],
)
def test_the_broken_part_is_named(
    tmp_path: Path, fault: str, failed: set[str], words: str, not_run: set[str]
) -> None:
    """With what was seen; what it takes down could not run, and says so; everything else is still looked at."""
    report = simulate(tmp_path, broken_worker(fault))
    assert set(report.failed) == failed
    assert words in evidence(report, next(name for name in report.failed if name in failed))
    assert blocked(report, "asr") - {"wrong-key"} == not_run
    assert report.verdict.startswith(f"Failed at `{report.failed[0]}`")


@pytest.mark.parametrize(
    ("fault", "failed", "words"),
    [
        ("mute", {"sound", "round-trip"}, "it is silence"),
        ("shouting", {"sound"}, "it is distorted"),
        (
            "swallows-words",
            {"said-words"},
            "13 of 14 words were said; the first that was not: 'The'",
        ),
        ("speaks-slowly", {"playback", "step-time"}, "whoever listens hears gaps"),
        ("never-ends", {"speech"}, "nothing came for 3 s, and the stream did not end"),
    ],
)
def test_a_broken_part_of_speech_is_named(
    tmp_path: Path, fault: str, failed: set[str], words: str
) -> None:
    """As one of hearing is; the module that hears is untouched."""
    report = simulate(tmp_path, broken_worker(fault))
    assert set(report.failed) == failed
    assert words in evidence(report, report.failed[0])
    assert all(check.module != "asr" for check in report.checks if check.status is Status.FAILED)


def test_a_server_that_crashes_is_told_so(tmp_path: Path) -> None:
    """What was asked of it fails, and its end is told with its exit code."""
    report = simulate(tmp_path, broken_worker("crashes-at-marker"))
    assert report.failed == (
        "marker",
        "wrong-key",
        "slots-full",
        "slot-return",
        "ready",
        "shutdown",
    )
    assert "had ended by itself, with exit code 7" in evidence(report, "shutdown")


def test_the_time_limit_holds(tmp_path: Path) -> None:
    """A server that never listens is given up, ended and told so, within the limit and the grace."""
    begin_s = time.monotonic()
    report = simulate(tmp_path, broken_worker("never-listens"), timeout_s=8)
    assert time.monotonic() - begin_s < 15
    assert report.failed == ("listening",)
    assert "the server said last: loading" in evidence(report, "listening")


def test_a_child_that_outlives_the_server_is_killed(tmp_path: Path) -> None:
    """It is named with its process id, and gone."""
    report = simulate(tmp_path, broken_worker("leaves-a-child"))
    pid = int(evidence(report, "orphans").split(": ")[1].split(" ")[0])
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                raise ProcessLookupError
            time.sleep(0.01)
