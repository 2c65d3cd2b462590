"""Run folders: leases of processes, notes that survive them, settings that must stay."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from dsmops.errors import InputError
from dsmops.operations.speech.many import run_folder
from dsmops.operations.speech.many.outputs import FolderOutputs
from dsmops.operations.speech.many.run_folder import Note, RunFolder, RunSettings

SETTINGS = RunSettings(
    model="tiny", formats="txt", dtype="best", weights="as stored", kv="as stored", timing="server"
)
KEY = "0123456789abcdef" * 2


def note(key: str, *, error: str | None = None) -> Note:
    return Note(key, f"name-{key}", "a.wav", 1.0, 2, error)


def in_another_process(work: Callable[[], bool]) -> bool:
    """Return what `work` returns in a fork."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 1)
    return code == 0


def test_a_lease_keeps_others_out_until_it_is_given_back(tmp_path: Path) -> None:
    def taken_by_another() -> bool:
        with RunFolder(tmp_path, SETTINGS) as other:
            return other.take(KEY)

    with RunFolder(tmp_path, SETTINGS) as run:
        assert run.take(KEY)
        assert not in_another_process(taken_by_another)
        run.give_back(KEY)
        assert in_another_process(taken_by_another)


def test_a_lease_ends_with_its_process(tmp_path: Path) -> None:
    """Killed, without any chance to clean up."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            RunFolder(tmp_path, SETTINGS).take(KEY)
            os.write(writing, b"x")
            signal.pause()
        finally:
            os._exit(1)  # never a second run of the tests after this one
    assert os.read(reading, 1) == b"x"
    with RunFolder(tmp_path, SETTINGS) as run:
        assert not run.take(KEY)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert run.take(KEY)
    os.close(reading)
    os.close(writing)


def test_notes_of_all_processes_are_seen_as_they_come(tmp_path: Path) -> None:
    with RunFolder(tmp_path, SETTINGS) as run, RunFolder(tmp_path, SETTINGS) as other:
        run.note(note("a"))
        other.note(note("b"))
        other.note(note("c", error="unreadable"))
        assert set(run.done()) == {"a", "b"}
        other.note(note("c"))
        assert set(run.done()) == {"a", "b", "c"}
    with RunFolder(tmp_path, SETTINGS) as later:
        assert later.done() == {key: f"name-{key}" for key in "abc"}


def test_any_name_of_a_recording_can_be_noted(tmp_path: Path) -> None:
    """Also bytes that are not UTF-8, and what JSON can name and no file system can."""
    name = "a|b\n\udcff\ud800.wav"
    key = f"/calls/{name}|17|1700000000000000000|0.0|None"
    with RunFolder(tmp_path, SETTINGS) as run:
        assert run.take(key)
        run.note(Note(key, name, name, 1.0, 2))
        run.give_back(key)
    with RunFolder(tmp_path, SETTINGS) as later:
        assert later.done() == {key: name}


def test_a_note_that_was_cut_off_is_none(tmp_path: Path) -> None:
    """Neither it nor the next ones are lost or misread."""
    with RunFolder(tmp_path, SETTINGS) as run:
        run.note(note("a"))
    (file,) = (tmp_path / ".dsmops-run" / "notes").iterdir()
    whole = file.read_bytes()
    for cut in range(len(whole)):
        file.write_bytes(whole + whole[:cut].replace(b'"a"', b'"b"'))
        with RunFolder(tmp_path, SETTINGS) as run:
            assert set(run.done()) == {"a"}


def test_other_settings_and_other_folders_are_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", SETTINGS):
        pass
    with pytest.raises(InputError, match="was begun with formats txt, not srt"):
        RunFolder(tmp_path / "run", {**SETTINGS, "formats": "srt"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(InputError, match="holds files that are not of such a run"):
        RunFolder(tmp_path / "mine", SETTINGS)
    (tmp_path / "run" / ".dsmops-run" / "run.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        RunFolder(tmp_path / "run", SETTINGS)


def test_outputs_that_are_gone_are_told(tmp_path: Path) -> None:
    outputs = FolderOutputs(tmp_path)
    with RunFolder(tmp_path, SETTINGS) as run:

        def missing(*endings: str) -> set[str]:
            return run.missing_outputs(endings, outputs.names(run.folders()))

        for key in ("a", "b"):
            run.note(Note(key, f"deep/{key}", key, 1.0, 1))
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "a.txt").touch()
        (tmp_path / "deep" / "b.txt").touch()
        assert missing(".txt") == set()
        (tmp_path / "deep" / "b.txt").unlink()
        assert missing(".txt") == {"b"}
        assert missing(".txt", ".srt") == {"a", "b"}


def test_the_index_says_what_the_notes_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with notes that came after it, without it, and where the notes are others."""
    monkeypatch.setattr(run_folder, "_WORTH_AN_INDEX", 3)
    with RunFolder(tmp_path, SETTINGS) as run:
        for key in "abc":
            run.note(note(key))
        run.note(note("d", error="unreadable"))
    index = tmp_path / ".dsmops-run" / "index.json"
    assert index.exists()
    (first,) = (tmp_path / ".dsmops-run" / "notes").iterdir()
    # Of the same length, so that only a reader of the notes sees it.
    first.write_bytes(first.read_bytes().replace(b'"key": "a"', b'"key": "z"'))
    with RunFolder(tmp_path, SETTINGS) as run:
        assert set(run.done()) == set("abc")
        run.note(note("e"))
    with RunFolder(tmp_path, SETTINGS) as run:
        assert run.done() == {key: f"name-{key}" for key in "abce"}
    whole = index.read_bytes()
    other_version = whole.replace(b'"version": 1', b'"version": 0')
    for damaged in (b"", b"[]", b"{}", whole[:-9], other_version):
        index.write_bytes(damaged)
        with RunFolder(tmp_path, SETTINGS) as run:
            assert set(run.done()) == set("zbce")
    index.write_bytes(whole)
    first.unlink()
    with RunFolder(tmp_path, SETTINGS) as run:
        assert set(run.done()) == {"e"}
