"""What users name becomes a list of texts, each once, with a name for its sound."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dsmops.errors import InputError
from dsmops.operations.speech.many.text_listing import (
    ListedText,
    list_texts,
    longest_texts_first,
)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)


def listed(*inputs: str, form: str = "wav") -> dict[str, ListedText]:
    return {one.name: one for one in list_texts(inputs, form)}


def test_folders_and_files_are_named_as_recordings_are() -> None:
    make("in/a.txt", "in/deep/b.TXT", "in/c.wav", "in/.d.txt", "e.md")
    assert set(listed("in", "e.md", form="flac")) == {"a.flac", "deep/b.flac", "e.flac"}
    make("in/a.text")
    assert set(listed("in")) == {"a.txt.wav", "a.text.wav", "deep/b.wav"}


def test_a_line_is_a_text_or_the_name_of_a_text_file() -> None:
    """Named by the list and the line's number; blank lines count, as an editor counts them."""
    make("in/a.txt")
    Path("say.txt").write_text("\ufeffHello there.\n\nin/a.txt\r\nRead in/a.txt aloud\nno.txt\n")
    lines = listed("@say.txt")
    assert lines["say-00001.wav"].text == "Hello there."
    assert (lines["say-00003.wav"].text, lines["say-00003.wav"].file) == (None, "in/a.txt")
    assert lines["say-00004.wav"].text == "Read in/a.txt aloud"
    assert lines["say-00005.wav"].size is None


def test_a_manifest_says_voice_format_and_seed_of_each() -> None:
    make("in/a.txt")
    rows = [
        {"id": "x/1", "text": "One.", "voice": "v", "format": "mp3", "seed": 3, "speaker": 9},
        {"path": "a.txt", "voice": ["v", "w"]},
    ]
    Path("in/m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    texts = listed("in/m.jsonl")
    one, two = texts["x/1.mp3"], texts["m-00002.wav"]
    assert (one.text, one.voices, one.seed) == ("One.", ("v",), 3)
    assert (two.file, two.voices, two.seed) == ("in/a.txt", ("v", "w"), None)


def test_what_changes_a_sound_makes_it_another_text() -> None:
    """Its words, voice, seed and format, and the file that they are in."""

    def key(**row: object) -> str:
        Path("m.jsonl").write_text(json.dumps({"id": "a", "text": "One.", **row}))
        return list_texts(["m.jsonl"], "wav")[0].key

    keys = [key(), key(text="Two."), key(voice="v"), key(seed=1), key(format="mp3"), key(id="b")]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
    make("b.txt")
    (before,) = list_texts(["b.txt"], "wav")
    os.utime("b.txt", ns=(1, 1))
    assert list_texts(["b.txt"], "wav")[0].key != before.key


def test_the_longest_texts_come_first() -> None:
    Path("a.txt").write_text("one two")
    Path("list").write_text("one\none two three\n")
    names = [one.name for one in longest_texts_first(list_texts(["a.txt", "@list"], "wav"))]
    assert names == ["list-00002.wav", "a.wav", "list-00001.wav"]


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        (["gone.txt"], "gone.txt"),
        (["empty"], "empty holds no text"),
        (["@blank"], "blank is empty"),
        (["@sound"], "sound is not a list: it is not text"),
        (["rows.csv"], "rows.csv is not a list that is read"),
        (["both.jsonl"], "both.jsonl, line 1: it needs one of text and path"),
        (["typo.jsonl"], "typo.jsonl, line 1: 'vioce' is not known; 'voice' is"),
        (["voice.jsonl"], "voice.jsonl, line 1: its voice is not a name"),
        (["seed.jsonl"], "seed.jsonl, line 1: its seed -1 is not a whole number"),
        (["format.jsonl"], "format.jsonl, line 1: its format 'raw' is not one of wav, flac"),
        (["id.jsonl"], "id.jsonl, line 1: its id '.x' cannot be the name of a file"),
        (["twice.jsonl"], "would both be written as a.wav"),
    ],
)
def test_what_cannot_be_listed_is_named(inputs: list[str], what: str) -> None:
    Path("empty").mkdir()
    Path("blank").write_text("\n \n")
    Path("sound").write_bytes(bytes(9))
    make("rows.csv")
    for name, rows in {
        "both": [{"text": "a", "path": "b"}],
        "typo": [{"text": "a", "vioce": "b"}],
        "voice": [{"text": "a", "voice": ["a", "b", "c"]}],
        "seed": [{"text": "a", "seed": -1}],
        "format": [{"text": "a", "format": "raw"}],
        "id": [{"text": "a", "id": ".x"}],
        "twice": [{"text": "a", "id": "a"}, {"text": "b", "id": "a"}],
    }.items():
        Path(f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(InputError) as caught:
        list_texts(inputs, "wav")
    assert what in caught.value.message
    assert caught.value.hint
