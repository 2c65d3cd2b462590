"""Logs that several processes read in sections give the report that one process gives."""

from __future__ import annotations

import errno
import gzip
import json
import os
import random
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dsmops.logs import blocks, sections, wrappers
from dsmops.logs.sections import Section, plan_block_sections
from dsmops.operations.log_report import LogReport, parallel, read_logs
from dsmops.operations.log_report.events import Batch
from dsmops.progress import SILENT, Progress, SilentProgress
from tests.logs.server_logs import server_log
from tests.operations.log_report.test_reading import line, made_up
from tests.support.processes import open_pipes

Read = Callable[[Path], tuple[LogReport, list[int]]]
SIZES = [(500, 4000), (777, 30_000)]
"""Of the first and of later blocks, in bytes: sections of one block each, edges anywhere."""


@pytest.fixture(params=SIZES, ids=str)
def _small_sections(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small logs too, for three processes."""
    first, later = request.param
    monkeypatch.setattr(blocks, "FIRST_BLOCK_BYTES", first)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", later)
    monkeypatch.setattr(sections, "SECTION_BYTES", 1)
    # Not even a short first section may turn out to be wrapped.
    monkeypatch.setattr(wrappers, "_LINES_TO_DETECT", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))


@pytest.fixture
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut beside threads of other tests, which hold no lock that the children need."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)


@pytest.fixture
def read(_small_sections: None, _alone: None, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Read a log in as many sections as it has; return the report, and of how many it was made."""
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


@pytest.mark.parametrize("kind", ["containers later", "wrapped", "gzip"])
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
    path = tmp_path / "log.a"
    path.write_bytes(gzip.compress(data) if kind == "gzip" else data)
    report, made_of = read(path)
    assert report == by_one_process(path, monkeypatch)
    assert made_of == []
    assert report.steps is not None


def test_sections_of_lines_that_end_with_crlf(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.a"
    path.write_bytes(made_up(300).encode().replace(b"\n", b"\r\n"))
    report, made_of = read(path)
    assert report == by_one_process(path, monkeypatch)
    assert len(made_of) == 1
    assert report.steps is not None


@pytest.mark.usefixtures("_small_sections")
def test_nothing_is_cut_beside_other_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To fork beside them could lock a child forever."""
    path = tmp_path / "log.a"
    path.write_text(made_up(300))
    with monkeypatch.context() as patch:
        patch.setattr(threading, "active_count", lambda: 1)
        assert len(plan_block_sections(str(path))) > 1
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert plan_block_sections(str(path)) == []
    finally:
        done.set()
        thread.join()


def test_named_pipes_are_opened_once(tmp_path: Path) -> None:
    """To open and close one while planning would end the process that writes to it."""
    path = tmp_path / "log.a"
    path.write_text(made_up(300))
    pipes = [tmp_path / "log.1", tmp_path / "log.2"]
    for pipe in pipes:
        os.mkfifo(pipe)
    command = ("sh", "-c", 'exec cat "$0" > "$1"', str(path))
    writers = [subprocess.Popen([*command, str(pipe)]) for pipe in pipes]
    try:
        report = read_logs(pipes)
        assert [writer.wait(10) for writer in writers] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    alone = read_logs([path]).steps
    assert alone is not None
    assert report.steps is not None
    assert report.steps.count == 2 * alone.count


@pytest.fixture
def killed(read: Read, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Kill the process of the last section in the middle of it, after two batches were taken.

    Return the ids of the processes killed.
    """
    chunks, batches = Section.chunks, parallel.SectionReaders.batches
    ended: list[int] = []

    def stuck(
        section: Section, progress: Progress = SILENT, *, sizes: Iterable[int] | None = None
    ) -> Iterator[bytes]:
        for chunk in chunks(section, progress, sizes=sizes):
            yield chunk
            if section.end is None:
                signal.pause()

    def cut_short(readers: parallel.SectionReaders, parts: Sequence[Section]) -> Iterator[Batch]:
        processes = readers._processes
        for number, batch in enumerate(batches(readers, parts), start=1):
            yield batch
            if number == 2:
                ended.append(processes[(len(parts) - 1) % len(processes)].pid)
                os.kill(ended[-1], signal.SIGKILL)

    monkeypatch.setattr(Section, "chunks", stuck)
    monkeypatch.setattr(parallel.SectionReaders, "batches", cut_short)
    return ended


def test_a_log_is_read_again_when_a_process_fails(
    read: Read, killed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process is killed in the middle: the log is read once more, and counts once."""
    path = tmp_path / "log.a"
    path.write_text(made_up(400))
    report, made_of = read(path)
    assert len(killed) == 1
    assert made_of == []
    assert report == by_one_process(path, monkeypatch)


class Bar(SilentProgress):
    """Adds up what it gets."""

    total: int | None = None
    moved = 0

    def start(self, label: str, total: int | None, unit: str = "bytes") -> None:
        self.total = total

    def advance(self, amount: int) -> None:
        self.moved += amount


def test_progress_counts_a_log_once_when_a_process_fails(killed: list[int], tmp_path: Path) -> None:
    path = tmp_path / "log.a"
    path.write_text(made_up(400))
    bar = Bar()
    read_logs([path], progress=bar)
    assert len(killed) == 1
    assert bar.moved == bar.total == path.stat().st_size


@pytest.mark.parametrize("call", ["fork", "pipe"])
def test_a_log_is_read_when_the_system_refuses_a_process(
    call: str, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one: one process reads the log, and no pipe is left open."""
    path = tmp_path / "log.a"
    path.write_text(made_up(400))
    real, calls = getattr(os, call), []

    def refused() -> object:
        calls.append(call)
        if len(calls) == 2:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real()

    before = open_pipes()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refused)
        report, made_of = read(path)
    assert len(calls) == 2
    assert made_of == []
    assert open_pipes() <= before
    assert report == by_one_process(path, monkeypatch)


def test_a_log_is_read_where_ended_processes_are_not_kept(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `trap '' CHLD` in the shell."""
    path = tmp_path / "log.a"
    path.write_text(made_up(400))
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        report, made_of = read(path)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert len(made_of) == 1
    assert report == by_one_process(path, monkeypatch)


@pytest.mark.usefixtures("_small_sections", "_alone")
def test_a_child_never_runs_the_code_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at its very begin ends it, and the parent reads the log alone."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parallel, "_work", interrupted)
    path, mark, parent = tmp_path / "log.a", tmp_path / "mark", os.getpid()
    path.write_text(made_up(300))
    planned = plan_block_sections(str(path))
    try:
        with (
            parallel.SectionReaders(planned, None, None) as readers,
            pytest.raises(parallel.NotInSectionsError),
        ):
            list(readers.batches(planned))
    finally:
        if os.getpid() != parent:
            mark.touch()
            os._exit(1)
    assert not mark.exists()


@pytest.mark.usefixtures("_small_sections", "_alone")
def test_signals_end_no_child_before_its_parent_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler would run the parent's code in the child. The parent's own mask is as before."""
    monkeypatch.setattr(parallel, "_work", lambda *_: signal.pause())
    path = tmp_path / "log.a"
    path.write_text(made_up(300))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with parallel.SectionReaders(plan_block_sections(str(path)), None, None) as readers:
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid, _ in readers._processes]
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert len(statuses) == 3
    wanted = sum(1 << number - 1 for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    for status in statuses:
        [blocked] = re.findall(r"SigBlk:\s*(\w+)", status)
        assert int(blocked, 16) & wanted == wanted
