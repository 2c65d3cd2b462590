"""Logs that several processes read in sections give the report that one process gives."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dsmops.logs import blocks, sections, wrappers
from dsmops.logs.sections import Section
from dsmops.operations.log_report import LogReport, parallel, read_logs
from dsmops.operations.log_report.events import Batch
from tests.logs.server_logs import server_log
from tests.operations.log_report.test_reading import line, made_up

Read = Callable[[Path], tuple[LogReport, list[int]]]
SIZES = [(500, 4000), (777, 30_000)]
"""Of the first and of later blocks, in bytes: sections of one block each, edges anywhere."""


@pytest.fixture(params=SIZES, ids=str)
def read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Read a log in as many sections as it has; return the report, and of how many it was made."""
    first, later = request.param
    monkeypatch.setattr(blocks, "FIRST_BLOCK_BYTES", first)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", later)
    monkeypatch.setattr(sections, "SECTION_BYTES", 1)
    # Not even a short first section may turn out to be wrapped.
    monkeypatch.setattr(wrappers, "_LINES_TO_DETECT", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))
    # Threads of other tests hold no lock that the children need.
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    made_of: list[int] = []
    batches = parallel.SectionReaders.batches

    def counted(readers: parallel.SectionReaders, parts: Sequence[Section]) -> Iterator[Batch]:
        yield from batches(readers, parts)
        made_of.append(len(parts))

    monkeypatch.setattr(parallel.SectionReaders, "batches", counted)

    def read_it(path: Path) -> tuple[LogReport, list[int]]:
        made_of.clear()
        return without_evidence(read_logs([path])), [*made_of]

    return read_it


def by_one_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> LogReport:
    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: range(1))
        return without_evidence(read_logs([path]))


def without_evidence(report: LogReport) -> LogReport:
    """Return a report without quoted lines, which bear pseudonyms of a key that is not kept."""
    failures = tuple(replace(each, evidence="") for each in report.failures)
    return replace(report, failures=failures)


STARTS = ("starting worker num_workers=1", "starting asr loop 8")


def busy_log(seed: int) -> str:
    """Streams that come and go, starts, deaths, causes, tracebacks, stretches behind, broken lines,
    and no containers.
    """
    dice = random.Random(seed)
    lines = [*server_log(dice, 500, steps=0.6, dialects=iter(["ansi"] * 10_000))]
    extra = [
        *("thread 'main' panicked at src/main.rs:1:", "no free channels", "Error: AddrInUse", ""),
        *("Traceback (most recent call last):", "ValueError: CUDA out of memory", "  a cause"),
        *("\x00\xff\ufffd broken", "2026-02-30T03:00:00.000000Z  INFO moshi_server: no such day"),
        "x" * 3000,
    ]
    for number in range(300):
        said = dice.choice(
            [
                "handling batched asr-streaming query",
                "batched-asr ws query query=AsrStreamingQuery { auth_id: None }",
                f"batched-asr channel batch_idx={dice.randrange(8)}",
                'task completed successfully name="recv_loop"',
                f"recv loop short timeout bidx={dice.randrange(8)}",
                *(STARTS if number % 30 == 0 else ()),
                f"{dice.choice([20, 60, 95, 300])}.00ms step_idx={number} with_data=3",
            ]
        )  # fmt: skip
        new = [line(3 + number * 0.1, said)[:-1], *dice.sample(extra, dice.randrange(2))]
        place = number * len(lines) // 300
        lines[place:place] = new
    return "\n".join(lines) + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_sections_of_made_up_logs(
    seed: int, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever crosses an edge: open streams, runs, causes, tracebacks, stretches behind."""
    path = tmp_path / "log.a"
    path.write_text(busy_log(seed), "utf-8", "surrogatepass")
    report, made_of = read(path)
    assert made_of
    assert made_of[0] > 4
    assert report == by_one_process(path, monkeypatch)
    assert report.streams.lengths_ms is not None
    assert report.behind
    assert len(report.runs) > 2


@pytest.mark.slow
def test_sections_of_real_logs(
    read: Read, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of moshi-server 0.6.3, 0.6.4 and of the fork, which never read as more than one."""
    paths = [
        *(shared_data / "real-server/logs").glob("*.log"),
        *(shared_data / "logs").glob("log.*"),
    ]
    if not paths:
        pytest.skip("the logs of a real moshi-server are not here")
    most = 0
    for path in paths:
        report, made_of = read(path)
        assert report == by_one_process(path, monkeypatch), path.name
        most = max(most, *made_of, 0)
    assert most > 1


@pytest.mark.parametrize("kind", ["containers later", "wrapped", "gzip", "crlf"])
def test_logs_that_one_process_must_read(
    kind: str, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where lines depend on earlier sections, or nothing can be cut, one process reads the log."""
    text = made_up(300)
    if kind == "containers later":
        text += "".join(f"stt-1  | {each}" for each in text.splitlines(keepends=True)) + text
    elif kind == "wrapped":
        text = "".join(
            json.dumps({"log": each, "stream": "stderr", "time": "2026-01-02T03:00:00Z"}) + "\n"
            for each in text.splitlines(keepends=True)
        )
    data = text.encode()
    if kind == "crlf":
        data = data.replace(b"\n", b"\r\n")
    path = tmp_path / "log.a"
    path.write_bytes(gzip.compress(data) if kind == "gzip" else data)
    report, made_of = read(path)
    assert report == by_one_process(path, monkeypatch)
    assert bool(made_of) == (kind == "crlf")
    assert report.steps is not None


def test_a_process_that_fails_is_made_good(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process is killed in the middle: the log is read once more, and counts once."""
    path = tmp_path / "log.a"
    path.write_text(made_up(400))
    start = parallel.SectionReaders._start

    def started(readers: parallel.SectionReaders, parts: Sequence[Section]) -> None:
        start(readers, parts)
        if len(readers._processes) == 2:
            os.kill(readers._processes[1][0], signal.SIGKILL)

    monkeypatch.setattr(parallel.SectionReaders, "_start", started)
    report, made_of = read(path)
    assert made_of == []
    assert report == by_one_process(path, monkeypatch)
