"""New files are searched by several processes, to what one process finds."""

import os
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


def test_what_a_dead_process_did_not_search_is_searched_here() -> None:
    """A searcher that dies in its second batch loses nothing."""

    def dies(batch: Sequence[Snapshot], note: Note) -> Findings:
        if batch is BATCHES[2] and os.getpid() != PARENT:
            os._exit(9)
        return search(batch, note)

    names, processes, _ = searched(dies)
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

    several = published("several")
    monkeypatch.setattr(searching, "_is_alone", lambda: False)
    assert several == published("one")
    counts = several[0]
    assert isinstance(counts, dict)
    assert min(counts["sent"], counts["refused"]) > 30
