"""Load tests of servers that work, and of servers and clients that do not.

The clients are real processes on loopback. The machine of the tests may be busy, so no speed is
asserted: limits are wide, or what breaks is far beyond them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the worker extra is not installed")

from dsmops.client.load import pool
from dsmops.errors import CredentialsError, TransferError
from dsmops.operations.bench.levels import parse_levels
from dsmops.operations.bench.limits import Limits
from dsmops.operations.bench.material import read_recordings, read_texts
from dsmops.operations.bench.result import LoadTest, SttFigures, TtsFigures, Verdict
from dsmops.operations.bench.running import LoadRequest, run_load_test
from tests.support import workers
from tests.support.engines import EchoEngine
from tests.support.original_server import KEY, OriginalServer

pytestmark = pytest.mark.slow

WIDE = Limits(lag_p99_ms=5_000, kept_share=0.5, first_audio_p95_ms=20_000, underruns=10**6)
"""Limits that a busy machine holds."""
EXACT = replace(WIDE, jitter_p99_ms=3_600_000)
"""The client's jitter is never the reason."""


def request(url: str, streams: str, **changed: Any) -> LoadRequest:
    asked = LoadRequest(
        url, parse_levels(streams), read_recordings(()), WIDE, KEY, seconds=2, warm_up_s=0.2
    )
    return replace(asked, **changed)


def run(url: str, streams: str, **changed: Any) -> LoadTest:
    return run_load_test(request(url, streams, **changed))[0]


def lag(test: LoadTest, number: int = -1) -> SttFigures:
    figures = test.levels[number].figures
    assert isinstance(figures, SttFigures)
    return figures


def speech(test: LoadTest, number: int = -1) -> TtsFigures:
    figures = test.levels[number].figures
    assert isinstance(figures, TtsFigures)
    return figures


def test_a_server_that_keeps_up() -> None:
    """Every frame that was due is answered; frames are exactly streams × seconds × 12.5."""
    with OriginalServer(slots=3) as server:
        test = run(server.url, "1,3")
    assert [level.verdict for level in test.levels] == [Verdict.HELD] * 2
    assert (test.knee, test.knee_is_bounded) == (3, False)
    assert [level.figures.frames_due for level in test.levels] == [25, 75]  # type: ignore[union-attr]
    assert lag(test).kept_share == 1.0
    assert lag(test).lag_of == "step"
    assert test.server.slots == 3
    assert test.client.is_same_host
    assert sum(second.second for second in test.levels[-1].series) == 1
    assert server.seen.dropped == []


def test_lag_is_the_servers_step() -> None:
    """A step of 0.3 s answers no frame sooner, and falls behind: the server is blamed."""
    with OriginalServer(slots=2, step_s=0.3) as server:
        test = run(server.url, "2", seconds=4, limits=replace(EXACT, kept_share=0.9))
    assert lag(test).lag_ms is not None
    assert lag(test).lag_ms.p50 >= 300  # type: ignore[union-attr]
    assert lag(test).kept_share is not None
    # At most a quarter of the frames fit into the time, and those of the grace.
    assert lag(test).kept_share < 0.6  # type: ignore[operator]
    assert test.levels[-1].verdict is Verdict.FAILED
    assert test.levels[-1].server_step_ms == pytest.approx(300, rel=0.1)
    assert test.knee is None


def test_a_full_server_refuses_and_the_search_finds_its_slots() -> None:
    """Refusals are errors, with the server's words; the knee is the number of slots."""
    with OriginalServer(slots=3) as server:
        test = run(server.url, "1..8", seconds=1)
    assert [level.streams for level in test.levels] == [1, 2, 4, 3]
    refused = test.levels[2]
    assert refused.errors == {"Error: no free channels": 1}
    assert (refused.opened, refused.verdict) == (3, Verdict.FAILED)
    assert (test.knee, test.knee_is_bounded) == (3, True)
    assert "3 slots" in test.notes[0]


def test_steps_that_are_lost_are_missed() -> None:
    """Every fourth `Step` is never sent: a quarter of the frames count as unanswered."""
    with OriginalServer(slots=2, lose_every=4) as server:
        test = run(server.url, "2", seconds=4, limits=replace(EXACT, kept_share=0.9))
    assert lag(test).frames_due == 100
    assert lag(test).frames_answered < 90
    assert test.levels[-1].failures[-1].limit == "min-kept"


def test_a_server_that_drops_its_streams() -> None:
    """Frames that were due after the end count as unanswered, and the reason is kept."""
    with OriginalServer(slots=2, drop_at=20) as server:
        test = run(server.url, "2", seconds=3)
    assert test.levels[-1].errors == {"dropped without a Close frame": 2}
    assert test.levels[-1].verdict is Verdict.FAILED
    assert test.incomplete is None  # the server itself lives


def test_a_key_that_is_refused_ends_the_command() -> None:
    """Before any load; the same error as of the other clients."""
    with OriginalServer() as server, pytest.raises(CredentialsError):
        run(server.url, "1", api_key="wrong")


def test_nothing_listens() -> None:
    """The same error as of the other clients."""
    with pytest.raises(TransferError, match="cannot be reached"):
        run("ws://127.0.0.1:9", "1")


def test_refusals_under_load_are_counted() -> None:
    """The first connection checks the key; all others are refused."""
    with OriginalServer(only_connections=1) as server:
        test = run(server.url, "2", seconds=1)
    assert test.levels[-1].errors == {"refused with status 401": 2}
    assert test.levels[-1].opened == 0
    assert lag(test).lag_ms is None


def test_a_server_that_dies_leaves_what_was_measured() -> None:
    """The result says why it is incomplete; the levels before are in it."""
    server = OriginalServer(slots=4)
    server.__enter__()
    death = threading.Timer(3.0, lambda: server.__exit__(None, None, None))

    def on_level(_: object) -> None:
        if death.ident is None:
            death.start()

    test, code = run_load_test(request(server.url, "1,4", seconds=6), on_level=on_level)
    death.join()
    assert [level.streams for level in test.levels] == [1, 4]
    assert test.levels[0].verdict is Verdict.HELD
    assert test.incomplete is not None
    assert test.incomplete.code == "server.ended"
    assert code is None


@contextmanager
def recorded_children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Yield the process ids of the client processes as they start."""
    pids: list[int] = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            pids.append(self.pid)

    monkeypatch.setattr(pool.subprocess, "Popen", Recorded)
    yield pids


def test_a_slow_client_blames_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's process is stopped again and again: the server, which keeps up, is not blamed.

    What it measures looks like a server far behind; its own jitter says why. The stops are so long
    that a machine which is busy itself does not matter.
    """
    over = threading.Event()

    def hold_up() -> None:
        while not over.wait(0.15):
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(1.5)
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    with recorded_children(monkeypatch) as pids, OriginalServer(slots=2) as server:
        holding = threading.Thread(target=hold_up)

        def measure(self: pool.Pool, *args: Any, **more: Any) -> pool.Report:
            holding.start()
            try:
                return whole(self, *args, **more)
            finally:
                over.set()
                holding.join()

        whole = pool.Pool.measure
        monkeypatch.setattr(pool.Pool, "measure", measure)
        limits = Limits(lag_p99_ms=160, kept_share=0.2, jitter_p99_ms=300)
        test = run(server.url, "2", seconds=5, limits=limits)
    level = test.levels[-1]
    assert level.jitter_ms is not None
    assert level.jitter_ms.p99 > 300
    assert lag(test).lag_ms is not None
    assert lag(test).lag_ms.p99 > 160  # type: ignore[union-attr]
    assert level.verdict is Verdict.CLIENT_TOO_SLOW
    assert all(failure.by_client for failure in level.failures)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_was_measured(number: int, code: int, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM in the middle of a level: the file has that level, cut short."""
    import json
    import sys

    target = tmp_path / "out.json"
    with OriginalServer(slots=2) as server:
        command = [sys.executable, "-m", "dsmops", "bench", server.url, "--api-key", KEY]
        command += ["--streams", "1,2", "--seconds", "2", "--warm-up", "0", "-o", str(target)]
        with subprocess.Popen(
            [*command, "--max-lag", "60000"], stderr=subprocess.PIPE, text=True, bufsize=1
        ) as process:
            assert process.stderr is not None
            line = process.stderr.readline()  # the first level is over
            assert line.startswith("1 stream: "), line
            deadline_s = time.monotonic() + 20
            while server.used != 2 and time.monotonic() < deadline_s:
                time.sleep(0.02)
            time.sleep(0.7)
            process.send_signal(number)
            assert process.wait(30) == code
    document = json.loads(target.read_text())
    assert document["interrupted"] is True
    assert [level["verdict"] for level in document["levels"]] == ["held", "cut short"]
    assert document["levels"][1]["seconds"] < 2


def test_a_model_without_steps_is_measured_by_its_words() -> None:
    """The 2.6B sends no `Step`: lag is that of words above the least; what was kept is unknown."""
    with OriginalServer(slots=2, heads=0) as server:
        test = run(server.url, "2", seconds=4)
    assert lag(test).lag_of == "word"
    assert lag(test).kept_share is None
    assert lag(test).lag_ms is not None
    assert lag(test).lag_ms.count >= 2  # type: ignore[union-attr]
    assert "no Step" in test.notes[0]


def test_texts_are_spoken_and_counted() -> None:
    """As many texts as began and ended; sound in all is what the words of the server make."""
    texts = read_texts(["one two three four five six"])
    with OriginalServer("Py", slots=2) as server:
        test = run(server.url, "2", material=texts, seconds=0)
        assert server.seen.texts.count("one two three four five six") == 2
    assert (speech(test).texts_begun, speech(test).texts_whole) == (2, 2)
    assert speech(test).first_audio_ms is not None
    assert test.levels[-1].errors == {}
    assert test.levels[-1].verdict is Verdict.HELD


def test_speech_goes_on_until_the_time_is_over() -> None:
    """One text after another, each on its own connection; a cut text is not an error."""
    with OriginalServer("Py", slots=2, step_s=0.005) as server:
        test = run(server.url, "2", material=read_texts(["a b c d"]), seconds=2)
    assert speech(test).texts_begun > 2
    assert test.levels[-1].errors == {}


def test_slow_speech_has_underruns() -> None:
    """A step of 0.2 s makes a gap after nearly every frame, and less than real time in all."""
    with OriginalServer("Py", slots=1, step_s=0.2) as server:
        limits = replace(EXACT, underruns=0)
        test = run(server.url, "1", material=read_texts(["a b c"]), seconds=0, limits=limits)
    assert speech(test).underruns >= 4
    assert speech(test).longest_gap_ms is not None
    assert speech(test).speedup < 1
    assert test.levels[-1].failures[-1].limit == "max-underruns"


def test_our_worker_is_measured_as_well() -> None:
    """The same figures of `dsmops worker`: every frame is answered."""
    with workers.ThreadedServer(lambda: EchoEngine(4), slots=4) as server:
        test = run(server.url, "1,4", api_key=workers.KEY)
    assert [level.verdict for level in test.levels] == [Verdict.HELD] * 2
    assert lag(test).frames_due == 100
    assert lag(test).kept_share == 1.0
    assert test.server.module_type == "batched_asr"
