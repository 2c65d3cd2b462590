"""Files as they were at one moment, and only the ones that may leave."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.errors import FileAccessError, InputError, SourceError
from dsmops.publish.names import MAX_NUMBER
from dsmops.publish.source import Candidate, Snapshot, SnapshotReader, find_logs, take_snapshots


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names(source: Path, **options: object) -> list[str]:
    return [file.name for file in find_logs(source, **options).files]  # type: ignore[arg-type]


def test_only_logs_are_found_and_the_rest_is_counted(tmp_path: Path) -> None:
    """Logs at any depth, in order of name; captures, audio, hidden and raw files are passed over,
    by reason.
    """
    make(
        tmp_path,
        "log.b",
        "log.a",
        "host/log.a.1",
        "stt-asr-1-2.json",
        "v.wav",
        ".log.x",
        ".git/log.x",
        "raw/log.a",
        "host/raw/log.b",
    )
    selection = find_logs(tmp_path)
    assert [file.name for file in selection.files] == ["host/log.a.1", "log.a", "log.b"]
    assert selection.skipped == {"hidden": 2, "not a log by its name": 2, "raw": 2}


def test_raw_needs_to_be_asked_for(tmp_path: Path) -> None:
    """`include_raw` adds what lies in raw folders; a file named raw is one too, but no log."""
    make(tmp_path, "log.a", "raw/log.a", "x/RAW/log.b")
    assert names(tmp_path) == ["log.a"]
    assert names(tmp_path, include_raw=True) == ["log.a", "raw/log.a", "x/RAW/log.b"]


@pytest.mark.parametrize("inside", ["raw", "raw/host-1", "Raw"])
def test_a_source_that_is_raw_is_refused(
    tmp_path: Path, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naming the raw folder, one inside it, or standing in it, does not go round the rule."""
    make(tmp_path / inside, "log.a")
    with pytest.raises(InputError, match="raw logs"):
        find_logs(tmp_path / inside)
    monkeypatch.chdir(tmp_path / inside)
    with pytest.raises(InputError, match="raw logs"):
        find_logs(Path())
    assert names(Path(), include_raw=True) == ["log.a"]


def test_other_files_only_by_pattern(tmp_path: Path) -> None:
    """Captures and audio are taken when a pattern asks for them, and only then."""
    make(tmp_path, "log.a", "v.wav", "q.json")
    assert names(tmp_path, also=["*.wav"]) == ["log.a", "v.wav"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link to a raw log, out of the source, or to a folder is passed over; a source that is a
    link is not.
    """
    make(tmp_path, "logs/log.a", "logs/raw/log.secret", "elsewhere/log.b")
    (tmp_path / "logs/log.link").symlink_to(tmp_path / "logs/raw/log.secret")
    (tmp_path / "logs/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "current").symlink_to(tmp_path / "logs")
    assert find_logs(tmp_path / "current").skipped == {"raw": 1, "symbolic link": 2}
    assert names(tmp_path / "current") == ["log.a"]


def test_a_link_to_a_raw_folder_is_a_raw_source(tmp_path: Path) -> None:
    """The rule looks at where a link leads."""
    make(tmp_path, "raw/log.a")
    (tmp_path / "friendly").symlink_to(tmp_path / "raw")
    with pytest.raises(InputError, match="raw logs"):
        find_logs(tmp_path / "friendly")


def test_special_files_are_not_opened(tmp_path: Path) -> None:
    """A pipe named like a log is passed over instead of waited for."""
    os.mkfifo(tmp_path / "log.pipe")
    assert find_logs(tmp_path).skipped == {"pipe or device": 1}
    snapshots, failures = take_snapshots([Candidate("log.pipe", str(tmp_path / "log.pipe"), 0)])
    assert (len(snapshots), len(failures)) == (1, 0)


def test_a_missing_source_or_a_file_is_an_error(tmp_path: Path) -> None:
    """Both say which it is."""
    make(tmp_path, "log.a")
    with pytest.raises(SourceError, match="does not exist"):
        find_logs(tmp_path / "gone")
    with pytest.raises(SourceError, match="is not a folder"):
        find_logs(tmp_path / "log.a")


def test_a_folder_that_cannot_be_read_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `lost+found` of root's is passed over and counted; a source that cannot be read is an
    error.
    """
    make(tmp_path, "log.a", "lost+found/log.b")
    original = os.scandir

    def refusing(path: Path | str) -> Any:
        if Path(path).name == refused:
            raise PermissionError(errno.EACCES, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", refusing)
    refused = "lost+found"
    found = find_logs(tmp_path)
    assert ([file.name for file in found.files], found.skipped) == (
        ["log.a"],
        {"folder that cannot be read": 1},
    )
    refused = tmp_path.name
    with pytest.raises(FileAccessError):
        find_logs(tmp_path)


def test_snapshots_have_size_time_and_digest(tmp_path: Path) -> None:
    """A snapshot is what was read; what cannot be read is a failure beside it."""
    make(tmp_path, "log.a")
    os.utime(tmp_path / "log.a", ns=(5, 7))
    files = [*find_logs(tmp_path).files, Candidate("log.gone", str(tmp_path / "log.gone"), 1)]
    (snapshot,), (failure,) = take_snapshots(files)
    assert snapshot == Snapshot(
        "log.a", str(tmp_path / "log.a"), 5, 7, hashlib.sha256(b"log.a").hexdigest()
    )
    assert failure.name == "log.gone"
    assert isinstance(failure.error, SourceError)


def test_names_that_could_not_be_restored_are_failures(tmp_path: Path) -> None:
    """What `pull-logs` would refuse is not published first."""
    make(tmp_path, "log.a", "log.new\nline", "log.back\\slash")
    snapshots, failures = take_snapshots(find_logs(tmp_path).files)
    assert [snapshot.name for snapshot in snapshots] == ["log.a"]
    assert {failure.name for failure in failures} == {"log.new\nline", "log.back\\slash"}


def test_times_that_no_manifest_can_say_are_brought_into_range(tmp_path: Path) -> None:
    """A file from before 1970, or after 2262 where the file system can say that, makes no manifest
    that cannot be read.
    """
    make(tmp_path, "log.early", "log.late")
    os.utime(tmp_path / "log.early", (-5, -5))
    os.utime(tmp_path / "log.late", (2**34, 2**34))
    snapshots, _ = take_snapshots(find_logs(tmp_path).files)
    assert all(0 <= snapshot.mtime_ns <= MAX_NUMBER for snapshot in snapshots)


def snapshot_of(path: Path) -> Snapshot:
    (snapshot,), _ = take_snapshots([Candidate(path.name, str(path), 0)])
    return snapshot


def test_a_file_that_grows_is_read_up_to_its_snapshot(tmp_path: Path) -> None:
    """What is appended after the snapshot is not seen by a later reader."""
    path = tmp_path / "log.a"
    path.write_bytes(b"one\n")
    snapshot = snapshot_of(path)
    path.write_bytes(b"one\ntwo\n")
    with SnapshotReader(snapshot) as reader:
        assert reader.read() == b"one\n"
        reader.finish()


@pytest.mark.parametrize("now", [b"ONE\n", b"on", b""])
def test_a_file_that_was_rewritten_is_noticed(tmp_path: Path, now: bytes) -> None:
    """Other bytes of the same length, truncation and copytruncate rotation end in an InputError."""
    path = tmp_path / "log.a"
    path.write_bytes(b"one\n")
    snapshot = snapshot_of(path)
    path.write_bytes(now)
    with SnapshotReader(snapshot) as reader, pytest.raises(InputError, match="rewritten"):
        reader.finish()


@given(st.binary(max_size=40), st.data())
def test_earlier_contents_are_recognised_however_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, draw: st.DataObject
) -> None:
    """The longest earlier content that is a beginning is found, others of the same length are not,
    in pieces of any size.
    """
    path = tmp_path_factory.mktemp("grow") / "log.a"
    path.write_bytes(data)
    lengths = draw.draw(st.sets(st.integers(0, max(0, len(data) - 1))))
    beginnings = {
        length: {hashlib.sha256(data[:length]).hexdigest(), "0" * 64}
        for length in lengths
        if length < len(data)
    }
    beginnings[len(data)] = {
        hashlib.sha256(data).hexdigest()
    }  # the content is not a beginning of itself
    with SnapshotReader(snapshot_of(path), beginnings) as reader:
        while reader.read(draw.draw(st.integers(1, 9))):
            pass
        reader.finish()
        longest = max(beginnings.keys() - {len(data)}, default=None)
        assert reader.continues == (
            "" if longest is None else hashlib.sha256(data[:longest]).hexdigest()
        )
