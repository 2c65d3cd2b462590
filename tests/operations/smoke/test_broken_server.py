"""A broken part of a server is named: the real worker, patched, in a process of its own."""

import os
import time
from pathlib import Path

import pytest

from dsmops.operations.smoke import CheckStatus
from tests.support.smoke import blocked, broken_worker, evidence, simulate, waiting_for

pytestmark = pytest.mark.slow

AFTER_STEP = waiting_for("step")
CONVERSATION = {"ready", *waiting_for("ready")}


def named(*row: object) -> object:
    """Name a row of faults by its first value."""
    return pytest.param(*row, id=str(row[0]))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("fault", "failed", "words", "not_run"),
    [
        named(
            "dead-loop",
            {"ready", "known-failures"},
            "the model loop is dead, although the server listens",
            CONVERSATION - {"ready"},
        ),
        named("no-ready", {"ready"}, "no Ready in 2 s", CONVERSATION - {"ready"}),
        named("no-step", {"step"}, "was not answered in 2 s", AFTER_STEP),
        named("loop-dies-later", {"step"}, "was not answered in 2 s", AFTER_STEP),
        named(
            "no-marker",
            {"marker"},
            "the marker did not return in 3 s",
            waiting_for("marker"),
        ),
        named(
            "leaked-slot",
            {"slot-return", "slots-full"},
            "4 of 4 slots are taken although all clients have left",
            {"round-trip"},
        ),
        named(
            "lies-about-slots",
            {"slots-full", "slot-return"},
            "free slots got the error `no free channels`",
            {"round-trip"},
        ),
        named("slow", {"step-time"}, "ms of 80, and the server falls behind", set()),
        named("open-door", {"wrong-key"}, "a wrong key was accepted", set()),
        named("too-generous", {"slots-full"}, "one more client got", set()),
        named(
            "no-goodbye",
            {"closing", "speech", "slots-full", "shutdown"},
            "no answer within 2 s",
            {"memory", "round-trip"},
        ),
        named("ignores-sigterm", {"shutdown"}, "ignored SIGTERM for 8 s and was killed", set()),
        named("dies-of-sigterm", {"shutdown"}, "conversations were cut off", set()),
        named("leaves-a-child", {"orphans"}, "still running after the server's end", set()),
        named(
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
    """With evidence. Checks that need it say so; all others run."""
    report = simulate(tmp_path, broken_worker(fault))
    assert set(report.failed) == failed
    assert words in evidence(report, next(name for name in report.failed if name in failed))
    assert blocked(report, "asr") - {"wrong-key"} == not_run
    assert report.verdict.startswith(f"Failed at `{report.failed[0]}`")


@pytest.mark.parametrize(
    ("fault", "failed", "words"),
    [
        named("mute", {"sound"}, "it is silence"),
        named("shouting", {"sound"}, "it is distorted"),
        named(
            "swallows-words",
            {"said-words"},
            "13 of 14 words were reported; the first missing: 'The'",
        ),
        named("speaks-slowly", {"playback", "step-time"}, "playback has gaps"),
        named("never-ends", {"speech"}, "nothing came for 3 s, and the stream did not end"),
    ],
)
def test_a_broken_part_of_speech_is_named(
    tmp_path: Path, fault: str, failed: set[str], words: str
) -> None:
    """As one of speech to text is; the checks of the other module pass."""
    report = simulate(tmp_path, broken_worker(fault))
    assert set(report.failed) == failed
    assert words in evidence(report, report.failed[0])
    assert all(
        check.module != "asr" for check in report.checks if check.status is CheckStatus.FAILED
    )


def test_a_server_that_crashes_is_told_so(tmp_path: Path) -> None:
    """The checks that talk to it fail, and its exit code is shown."""
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
    """A server that never listens is reported and ended within the limit and the grace period."""
    begin_s = time.monotonic()
    report = simulate(tmp_path, broken_worker("never-listens"), timeout_s=20)
    assert time.monotonic() - begin_s < 35
    assert report.failed == ("listening",)
    assert "the server's last line: loading" in evidence(report, "listening")


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
