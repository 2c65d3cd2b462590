"""What users name becomes a list of recordings, each once, with a name for its outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dsmops.errors import InputError, SourceError
from dsmops.operations.speech.many.listing import list_recordings, longest_first, require_any


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(name.encode())


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names(*inputs: str) -> set[str]:
    return {one.name for one in list_recordings(inputs)}


def test_a_folder_gives_its_recordings() -> None:
    """Also of subfolders, by their endings in any case; hidden and other files are left out."""
    make("in/a.WAV", "in/deep/er/b.flac", "in/notes.txt", "in/.hidden.wav", "in/.trash/c.wav")
    assert names("in") == {"a", "deep/er/b"}


def test_files_are_named_from_their_common_folder() -> None:
    make("x/1/a.wav", "x/2/a.wav", "any ending.data")
    assert names("x/1/a.wav", "x/2/a.wav") == {"1/a", "2/a"}
    assert names("x/1/a.wav") == {"a"}
    assert names("any ending.data") == {"any ending"}


def test_endings_stay_where_names_would_be_the_same() -> None:
    make("in/a.wav", "in/a.mp3", "in/b.wav")
    assert names("in") == {"a.wav", "a.mp3", "b"}


def test_each_is_listed_once() -> None:
    make("in/a.wav", "in/b.wav")
    Path("list").write_text("in/a.wav\n\nin/b.wav\r\nin/a.wav\n")
    assert len(list_recordings(["@list"])) == 2


def test_lists_count_from_here_and_manifests_from_their_folder() -> None:
    """A path that leads nowhere stays in the list, to be named as failed."""
    make("in/a.wav")
    Path("in/list").write_text("in/a.wav\nin/gone.wav\n")
    assert names("@in/list") == {"a", "gone"}
    rows = [
        {"audio_filepath": "a.wav", "offset": 1.5, "duration": 2},
        {"audio": "a.wav", "duration": 4.0},
    ]
    Path("in/m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    listed = {one.name: one for one in list_recordings(["in/m.jsonl"])}
    assert set(listed) == {"a-1.5-3.5", "a"}
    assert (listed["a-1.5-3.5"].offset_s, listed["a-1.5-3.5"].duration_s) == (1.5, 2.0)
    # A duration without an offset is what the file has.
    assert listed["a"].duration_s is None


def test_a_manifest_names_the_outputs_by_its_ids() -> None:
    """The same recording under two ids is two outputs."""
    make("in/a.wav")
    rows = [{"id": "calls/7", "audio": "a.wav"}, {"id": 8, "audio": "a.wav"}, {"audio": "a.wav"}]
    Path("in/m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert names("in/m.jsonl") == {"calls/7", "8", "a"}


def test_a_list_may_name_folders() -> None:
    make("in/a.wav", "b.wav")
    Path("list").write_text("in\nb.wav\n")
    assert names("@list") == {"a", "b"}


def test_the_longest_come_first() -> None:
    """A byte of MP3 holds more audio than one of WAV."""
    Path("a.wav").write_bytes(bytes(3000))
    Path("b.wav").write_bytes(bytes(2000))
    Path("c.mp3").write_bytes(bytes(1000))
    listed = longest_first(list_recordings(["a.wav", "b.wav", "c.mp3"]))
    assert [one.name for one in listed] == ["c", "a", "b"]


def test_a_changed_recording_is_another_one() -> None:
    make("a.wav")
    (before,) = list_recordings(["a.wav"])
    assert list_recordings(["a.wav"])[0].key == before.key
    os.utime("a.wav", ns=(1, 1))
    assert list_recordings(["a.wav"])[0].key != before.key


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        (["gone.wav"], "gone.wav"),
        (["@gone"], "gone"),
        (["empty"], "empty holds no recording"),
        (["@blank"], "blank is empty"),
        (["bad.jsonl"], "bad.jsonl, line 2"),
        (["list.jsonl"], "list.jsonl, line 1: it is not a JSON object"),
        (["part.jsonl"], "part.jsonl, line 1: its offset and duration are not seconds"),
        (["up.jsonl"], "up.jsonl, line 1: its id '../a' cannot be the name of a file"),
        (["@a.wav"], "a.wav is not a list: it is not text"),
        (["names.txt"], "names.txt is a text, not a recording"),
        (["rows.csv"], "rows.csv is not a recording; .csv lists are not read"),
        (["s3://x/calls"], "'x' cannot be the name of a bucket"),
        (["one", "two"], "would both be written as a"),
    ],
)
def test_what_cannot_be_listed_is_named(inputs: list[str], what: str) -> None:
    Path("empty").mkdir()
    Path("blank").write_text("\n \n")
    make("a.wav", "one/a.wav", "two/a.wav")
    Path("bad.jsonl").write_text('{"audio": "a.wav"}\n{"text": "no path"}\n')
    Path("list.jsonl").write_text("[1]\n")
    Path("part.jsonl").write_text('{"audio": "a.wav", "offset": -1}\n')
    Path("up.jsonl").write_text('{"audio": "a.wav", "id": "../a"}\n')
    Path("a.wav").write_bytes(bytes(9))
    make("names.txt", "rows.csv")
    with pytest.raises(InputError) as caught:
        list_recordings(inputs)
    assert what in caught.value.message
    assert caught.value.hint


def test_a_list_of_nothing_that_is_there_is_an_error() -> None:
    Path("list").write_text("x/a.wav\nx/b.wav\n")
    with pytest.raises(SourceError) as caught:
        require_any(list_recordings(["@list"]))
    assert "a.wav" in caught.value.message
