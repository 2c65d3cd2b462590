"""New files are searched by several processes, to what one process finds."""

import logging
import os
import select
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from dsmops.operations import searching
from dsmops.operations.publishing import PublishRequest, publish_logs
from dsmops.operations.searching import Note, Searchers
from dsmops.publish.plan import Findings
from dsmops.publish.source import Snapshot

BATCHES = [[Snapshot(f"log.{number}", "", 0, 0, "")] for number in range(5)]
PARENT = os.getpid()
IS_ALONE = searching._is_alone


@pytest.fixture(autouse=True)
def _processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, whatever the machine has and whichever threads other tests left."""
    monkeypatch.setattr(searching, "processors", lambda: 2)
    monkeypatch.setattr(searching, "_is_alone", lambda: True)


def search(batch: Sequence[Snapshot], note: Note) -> Findings:
    """Find the number of this process in every name."""
    note(f"searching {batch[0].name}")
    return Findings(name_hits={snapshot.name: {"process": os.getpid()} for snapshot in batch})


def searched(work: searching.Search) -> tuple[list[str], list[int], list[str]]:
    """Return the names in the order of their batches, who searched each, and the notes."""
    notes: list[str] = []
    names, processes = [], []
    with Searchers(BATCHES, work, notes.append) as searchers:
        for batch, findings in searchers.found():
            names.append(batch[0].name)
            processes.append(findings.name_hits[batch[0].name]["process"])
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # none is left
    return names, processes, notes


def test_other_processes_search_in_order() -> None:
    """Findings and notes come in the order of the batches, from two other processes."""
    names, processes, notes = searched(search)
    assert names == [batch[0].name for batch in BATCHES]
    assert notes == [f"searching {name}" for name in names]
    assert len(set(processes)) == 2
    assert PARENT not in processes


def test_what_a_dead_process_did_not_search_is_searched_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A searcher that dies in its second batch loses nothing, and its notes come once."""

    def dies(batch: Sequence[Snapshot], note: Note) -> Findings:
        findings = search(batch, note)
        if batch is BATCHES[2] and os.getpid() != PARENT:
            os._exit(9)
        return findings

    with caplog.at_level(logging.DEBUG, searching.__name__):
        names, processes, notes = searched(dies)
    assert "exit code 9" in caplog.text
    assert notes == [f"searching {name}" for name in names]
    assert names == [batch[0].name for batch in BATCHES]
    assert [process == PARENT for process in processes] == [False, False, True, False, True]


def test_without_processes_this_one_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no process, or other threads run, nothing is missing."""

    def refused() -> int:
        raise BlockingIOError("no process")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refused)
        assert searched(search)[1] == [PARENT] * 5
    monkeypatch.setattr(searching, "_is_alone", lambda: False)
    assert searched(search)[1] == [PARENT] * 5


def test_processes_that_started_search_where_one_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system gives the first process only: this one has the share of the second."""
    fork, forks = os.fork, []

    def refused() -> int:
        forks.append(1)
        if len(forks) > 1:
            raise BlockingIOError("no process")
        return fork()

    monkeypatch.setattr(os, "fork", refused)
    assert [process == PARENT for process in searched(search)[1]] == [False, True] * 2 + [False]


def test_only_beside_no_other_thread_processes_are_forked() -> None:
    """A cancelled timer ends in time; a thread that waits does not, and is waited for once."""
    others = set(threading.enumerate()) - {threading.current_thread()}
    if others:
        pytest.skip(f"other tests left threads: {others}")
    timer = threading.Timer(60, print)
    timer.start()
    assert not IS_ALONE()
    timer.cancel()
    assert IS_ALONE()


def test_processes_search_where_ended_processes_are_not_kept() -> None:
    """As with `trap '' CHLD` in the shell."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert PARENT not in searched(search)[1]
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.slow
def test_a_killed_parent_leaves_no_process() -> None:
    """A process that searches for long ends when its parent was killed."""
    ours, theirs = os.pipe()

    def waits(_: Sequence[Snapshot], __: Note) -> Findings:
        os.write(theirs, b".")
        threading.Event().wait(60)
        return Findings()

    if (parent := os.fork()) == 0:
        with Searchers(BATCHES, waits, print) as searchers:
            next(searchers.found())
        os._exit(1)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        assert pipe.read(2) == b".."
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert select.select([pipe], [], [], 10)[0]
        assert pipe.read() == b""  # no process holds its other end


def test_an_interrupted_search_leaves_no_process() -> None:
    """Ctrl-C while files are searched ends the processes."""
    with (
        pytest.raises(KeyboardInterrupt),
        Searchers(BATCHES, search, lambda _: None) as searchers,
    ):
        next(searchers.found())
        raise KeyboardInterrupt
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.slow
def test_processes_publish_what_one_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 files, some equal, some with secrets in content or name: same report, same bodies."""
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in range(200):
        secret = "api_key=hf_" + "aB3" * 12 if number % 7 == 0 else "nothing"
        name = f"log.bob@example.org.{number}" if number % 31 == 0 else f"log.{number}"
        (logs / name).write_text(f"{number % 90} {secret}\n")

    def published(store: str) -> tuple[object, ...]:
        report = publish_logs(PublishRequest(f"file:{tmp_path}/{store}", logs))
        bodies = sorted(
            path.relative_to(tmp_path / store).as_posix()
            for path in (tmp_path / store / "bodies").rglob("*")
            if path.is_file()
        )
        return report.counts, report.files, report.body_bytes, bodies

    received: list[bool] = []
    original = Searchers._received

    def counted(searchers: Searchers, share: int) -> Findings | None:
        findings = original(searchers, share)
        received.append(findings is not None)
        return findings

    monkeypatch.setattr(Searchers, "_received", counted)
    several = published("several")
    assert received
    assert all(received)
    monkeypatch.setattr(searching, "_is_alone", lambda: False)
    assert several == published("one")
    counts = several[0]
    assert isinstance(counts, dict)
    assert min(counts["sent"], counts["refused"]) > 30
