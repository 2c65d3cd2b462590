"""Logs brought back: all contents, safe names, right bytes."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dsmops.errors import InputError, IntegrityError, MissingObjectError
from dsmops.publish.manifest import Catalogue, Entry, union
from dsmops.publish.names import body_key
from dsmops.publish.pull import plan_pull, published_logs, pull
from dsmops.publish.store import ObjectStore
from dsmops.publish.stores import open_store


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def entry(name: str, content: str, named: int = 0, continues: str = "", mtime_ns: int = 0) -> Entry:
    sha256 = digest(content)
    return Entry(
        name, sha256, len(content), mtime_ns, named, 1, body_key("first", sha256, 1), continues
    )


def catalogue(*entries: Entry) -> Catalogue:
    return Catalogue(union(entries))


def restored(*entries: Entry, **options: Any) -> dict[str, str]:
    return {log.name: log.entry.sha256 for log in published_logs(catalogue(*entries), **options)}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(f"file:{tmp_path}/store")


def fetch(
    store: ObjectStore, output: Path, *entries: Entry, force: bool = False
) -> tuple[Any, list[Any], list[Any]]:
    plan = plan_pull(published_logs(catalogue(*entries)), catalogue(*entries), output, force=force)
    fetched, failed = pull(store, plan, workers=2)
    return plan, fetched, [*plan.failed, *failed]


def put(store: ObjectStore, content: str, one: Entry) -> None:
    store.put(content.encode(), one.key, sha256=digest(content), size_bytes=len(content))


def test_the_newest_content_keeps_the_name_and_none_is_lost() -> None:
    """After rotation each content has the name it has now; one that lost all its names comes back
    marked.
    """
    rotated = [entry("log.x", "old", 1), entry("log.x.1", "old", 1), entry("log.x", "new", 2)]
    assert restored(*rotated) == {"log.x": digest("new"), "log.x.1": digest("old")}
    fallen_off = [*rotated, entry("log.x.1", "new", 2), entry("log.x", "newest", 3)]
    assert restored(*fallen_off) == {
        "log.x": digest("newest"),
        "log.x.1": digest("new"),
        f"log.x.1.~{digest('old')[:8]}": digest("old"),
    }


def test_two_hosts_with_one_name_both_come_back() -> None:
    """Contents of two publishers under one name are both restored."""
    assert set(restored(entry("log.x", "host a", 1), entry("log.x", "host b", 2)).values()) == {
        digest("host a"),
        digest("host b"),
    }


def test_a_log_that_grew_comes_back_once() -> None:
    """Contents that lost their name and are the beginning of a longer one are left out, also along
    a chain and across a rotation.
    """
    grown = [
        entry("log.x", "a"),
        entry("log.x", "ab", 1, digest("a")),
        entry("log.x.1", "abc", 2, digest("ab")),
        entry("log.x", "new", 2),
    ]
    assert restored(*grown) == {"log.x": digest("new"), "log.x.1": digest("abc")}


def test_a_name_is_never_left_out() -> None:
    """A content that happens to be the beginning of another keeps the name it was published
    under.
    """
    assert restored(entry("log.1", "a"), entry("log.2", "ab", 0, digest("a"))) == {
        "log.1": digest("a"),
        "log.2": digest("ab"),
    }


def test_choosing_by_name_and_time() -> None:
    """`--name` sees the published name, `--since` the time the file was last written."""
    day_ns = 86_400 * 10**9
    entries = [entry("host/log.x", "1", mtime_ns=day_ns), entry("log.y", "2", mtime_ns=3 * day_ns)]
    assert restored(*entries, names=["log.x"]) == {"host/log.x": digest("1")}
    assert restored(*entries, since=datetime(1970, 1, 3, tzinfo=UTC)) == {"log.y": digest("2")}


def test_files_come_back_with_content_and_time(store: ObjectStore, tmp_path: Path) -> None:
    """Fetched files have the published bytes and mtime, in folders made as needed; a second run
    fetches nothing.
    """
    one = entry("host/log.x", "content", mtime_ns=1_234_567_890_123_456_789)
    put(store, "content", one)
    output = tmp_path / "out"
    plan, fetched, failed = fetch(store, output, one)
    assert (len(plan.fetch), len(fetched), failed) == (1, 1, [])
    assert (output / "host/log.x").read_text() == "content"
    assert (output / "host/log.x").stat().st_mtime_ns == 1_234_567_890_123_456_789
    plan, fetched, _ = fetch(store, output, one)
    assert (len(plan.same), fetched) == (1, [])


def test_wrong_bytes_never_become_a_file(store: ObjectStore, tmp_path: Path) -> None:
    """An object whose bytes are not the published ones is a failure, and the file that was there
    stays.
    """
    older, newer = entry("log.x", "older"), entry("log.x", "newer", 1, digest("older"))
    put(store, "older", older)
    put(store, "newer", newer)
    fetch(store, tmp_path / "out", older)
    (tmp_path / "store" / newer.key).write_text("neweR")
    _, fetched, (failure,) = fetch(store, tmp_path / "out", older, newer)
    assert fetched == []
    assert isinstance(failure.error, IntegrityError)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["log.x"]
    assert (tmp_path / "out/log.x").read_text() == "older"


def test_more_bytes_than_were_published_do_not_fill_the_disk(
    store: ObjectStore, tmp_path: Path
) -> None:
    """A body that goes on past its published size is given up there, and nothing of it is left."""
    one = entry("log.a", "x" * 1000)
    put(store, "x" * 5_000_000, one)
    _, fetched, (failure,) = fetch(store, tmp_path / "out", one)
    assert fetched == []
    assert "larger" in failure.error.message
    assert store.meter.received_bytes < 5_000_000
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_body_does_not_stop_the_rest(store: ObjectStore, tmp_path: Path) -> None:
    """One object that is gone is a failure; the others arrive."""
    here, gone = entry("log.a", "a"), entry("log.b", "b")
    put(store, "a", here)
    _, fetched, (failure,) = fetch(store, tmp_path / "out", here, gone)
    assert [log.name for log in fetched] == ["log.a"]
    assert (failure.name, type(failure.error)) == ("log.b", MissingObjectError)


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "a/../../evil", "log.\x1b[2J", "a\\..\\evil"]
)
def test_hostile_names_stay_outside(store: ObjectStore, tmp_path: Path, name: str) -> None:
    """A manifest that names a path outside the output folder gets a failure, and nothing is written
    anywhere.
    """
    hostile = entry(name, "evil")
    put(store, "evil", hostile)
    before = sorted(tmp_path.rglob("*"))
    _, fetched, (failure,) = fetch(store, tmp_path / "out", hostile)
    assert fetched == []
    assert isinstance(failure.error, InputError)
    assert sorted(tmp_path.rglob("*")) == before


def test_links_in_the_output_are_not_written_through(store: ObjectStore, tmp_path: Path) -> None:
    """A folder link that leads out is refused; a file link is kept, and with force replaced, never
    written through.
    """
    for one, content in ((entry("sub/log.x", "x"), "x"), (entry("log.y", "y"), "y")):
        put(store, content, one)
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "outside")
    (tmp_path / "out/log.y").symlink_to(tmp_path / "outside/log.y")
    _, fetched, failed = fetch(
        store, tmp_path / "out", entry("sub/log.x", "x"), entry("log.y", "y"), force=True
    )
    assert [failure.name for failure in failed] == ["sub/log.x"]
    assert [log.name for log in fetched] == ["log.y"]
    assert list((tmp_path / "outside").iterdir()) == []
    assert not (tmp_path / "out/log.y").is_symlink()


def test_local_work_is_kept(store: ObjectStore, tmp_path: Path) -> None:
    """A local file that was never published is kept unless forced; one that is an older published
    content is replaced.
    """
    old, new = entry("log.x", "old"), entry("log.x", "newer", 1)
    put(store, "old", old)
    put(store, "newer", new)
    output = tmp_path / "out"
    output.mkdir()
    (output / "log.x").write_text("my notes")
    plan, fetched, _ = fetch(store, output, new)
    assert ([log.name for log in plan.kept], fetched) == (["log.x"], [])
    assert (output / "log.x").read_text() == "my notes"
    fetch(store, output, new, force=True)
    assert (output / "log.x").read_text() == "newer"
    (output / "log.x").write_text("old")
    fetch(store, output, old, new)
    assert (output / "log.x").read_text() == "newer"


def test_an_output_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    """Naming a file as the folder is said so before anything is fetched."""
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="not a folder"):
        plan_pull([], catalogue(), tmp_path / "out")


@pytest.mark.parametrize("force", [False, True])
def test_a_pipe_in_place_of_a_local_file_is_an_error(
    store: ObjectStore, tmp_path: Path, force: bool
) -> None:
    """Neither reading it for comparison nor replacing it waits for anyone; the rest is fetched."""
    one, two = entry("log.a", "a"), entry("log.b", "b")
    put(store, "a", one)
    put(store, "b", two)
    output = tmp_path / "out"
    output.mkdir()
    os.mkfifo(output / "log.a")
    (output / "zero").symlink_to("/dev/zero")
    _, fetched, failed = fetch(store, output, one, two, force=force)
    assert [log.name for log in fetched] == ["log.b"]
    assert [(one.name, "a pipe or a device" in one.error.message) for one in failed] == [
        ("log.a", True)
    ]
    assert (output / "log.a").is_fifo()


def test_a_pipe_in_place_of_a_stored_body_is_an_error(store: ObjectStore, tmp_path: Path) -> None:
    """A folder that others can write to may hold anything; it does not hold up a pull."""
    one = entry("log.a", "a")
    put(store, "a", one)
    body = tmp_path / "store" / one.key
    body.unlink()
    os.mkfifo(body)
    _, fetched, failed = fetch(store, tmp_path / "out", one)
    assert (fetched, len(failed)) == ([], 1)
    assert "a pipe or a device" in failed[0].error.message


def test_an_entry_of_impossible_size_does_not_stop_the_rest(
    store: ObjectStore, tmp_path: Path
) -> None:
    """It fails alone, with both sizes and a hint, before anything is fetched for it."""
    one, two = entry("log.a", "a")._replace(size_bytes=2**63 - 1), entry("log.b", "b")
    put(store, "a", one._replace(size_bytes=1))
    put(store, "b", two)
    _, fetched, failed = fetch(store, tmp_path / "out", one, two)
    assert [log.name for log in fetched] == ["log.b"]
    assert [one.name for one in failed] == ["log.a"]
    assert "8388608 TiB" in failed[0].error.message
    assert "manifest" in failed[0].error.hint
