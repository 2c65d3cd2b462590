"""From a text to its sound: what is said, what cannot be, and where it goes, with the tiny
model.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from dsmops.audio import Samples, write
from dsmops.errors import FileAccessError, InputError, SourceError
from dsmops.operations.speech.synthesis import (
    SynthesisSettings,
    synthesize,
)
from dsmops.operations.speech.synthesis_result import Synthesis
from dsmops.operations.speech.texts import MOST_TEXT_BYTES, read_text
from dsmops.worker.tiny.tts import TinyTts, write_tiny_tts

CONFIG = "config-tts-tiny.toml"
ONCE = SynthesisSettings(seed=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyTts:
    return write_tiny_tts(tmp_path_factory.mktemp("made"))


@pytest.fixture
def tiny(made: TinyTts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model of its own, in which the test runs."""
    folder = tmp_path / "model"
    shutil.copytree(made.model_config.parent, folder)
    monkeypatch.chdir(folder)
    return folder


class Heard:
    """A sink that remembers, and may leave off."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.blocks: list[Samples] = []
        self._most = most

    def __call__(self, blocks: Iterator[Samples]) -> None:
        for block in blocks:
            self.blocks.append(block)
            if len(self.blocks) == self._most:
                return

    @property
    def sound(self) -> Samples:
        return np.concatenate(self.blocks)


def said(
    text: str, settings: SynthesisSettings = ONCE, sink: Heard | None = None
) -> tuple[Synthesis, Samples]:
    heard = sink or Heard()
    return synthesize(text, heard, CONFIG, settings, cpu=True), heard.sound


@pytest.mark.slow
def test_sound_comes_in_frames_as_it_is_made(tiny: Path) -> None:
    """Block by block, finite and within what can be played; a caller that takes no more gets no
    more.
    """
    synthesis, sound = said("The winter was long and the summer was short.")
    assert len(sound) == round(synthesis.audio_s * 24_000)
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() <= np.float32(0.99)
    early = Heard(most=3)
    part, _ = said("The winter was long and the summer was short.", sink=early)
    assert [len(block) for block in early.blocks] == [1920] * 3
    assert np.array_equal(early.sound, sound[: 3 * 1920])
    assert part.audio_s == pytest.approx(0.24)


@pytest.mark.slow
def test_a_pause_comes_between_words(tiny: Path) -> None:
    """The word behind it is later by it."""
    synthesis, _ = said('one <break time="2s"/> two')
    one, two = synthesis.words
    assert (one.text, two.text) == ("one", "two")
    assert two.start_s - one.start_s >= 2


@pytest.mark.slow
def test_what_a_config_says_counts_unless_it_is_asked_otherwise(tiny: Path) -> None:
    """Guidance, temperature and codebooks; a temperature of 0 makes seeds idle."""
    (tiny / CONFIG).write_text(
        (tiny / CONFIG).read_text().replace("cfg_coef = 2.0", "cfg_coef = 3.0\ntemp = 0.4")
    )
    configured, sound = said("one two three")
    assert (configured.cfg, configured.temperature, configured.voices) == (
        3.0,
        0.4,
        ("tiny/first.wav",),
    )
    asked, same = said("one two three", SynthesisSettings(seed=1, cfg=3.0, temperature=0.4))
    assert (asked.cfg, asked.temperature) == (3.0, 0.4)
    assert np.array_equal(sound, same)
    assert np.array_equal(
        *(
            said("one two three", SynthesisSettings(seed=seed, temperature=0.0))[1]
            for seed in (1, 2)
        )
    )
    assert not np.array_equal(sound, said("one two three", SynthesisSettings(seed=1, n_q=2))[1])


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ('<break time="1s"/>', SynthesisSettings(), "there is no word in the text"),
        ('<break time="900s"/> x', SynthesisSettings(), "too long"),
        ("hello <break", SynthesisSettings(), "begins no pause"),
        ("你好", SynthesisSettings(), "does not know '你' '好'"),
        ("hello 你好", SynthesisSettings(strict=True), "does not know '你' '好'"),
        ("hello", SynthesisSettings(("tiny/frist.wav",)), "tiny/frist.wav"),
        ("hello", SynthesisSettings(("config.json",)), "config.json is not a voice file"),
        ("hello", SynthesisSettings(voice_folder="nowhere"), "nowhere is not a folder of voices"),
        ("hello", SynthesisSettings(cfg=2.2), "2.2"),
        ("hello", SynthesisSettings(n_q=9), "1 to 8 codebooks"),
    ],
)
def test_what_cannot_be_said_is_told_and_leaves_nothing(
    tiny: Path, text: str, settings: SynthesisSettings, message: str
) -> None:
    """One error with a hint; the target is not there."""
    with pytest.raises(InputError) as caught:
        synthesize(
            text,
            partial(write, Path("out.wav")),
            CONFIG,
            settings,
            cpu=True,
            target=Path("out.wav"),
        )
    assert message in caught.value.message
    assert caught.value.hint
    assert not [path for path in tiny.iterdir() if "out.wav" in path.name]


@pytest.mark.parametrize("name", ["out.mp4", "out", "voices", "config.json/out.wav"])
def test_a_target_that_cannot_be_is_known_before_the_model_is_looked_for(
    tiny: Path, name: str
) -> None:
    """Here there is none at all."""
    with pytest.raises(InputError) as caught:
        synthesize("hello", partial(write, Path(name)), "no such model", target=Path(name))
    assert "no such model" not in caught.value.message


@pytest.mark.parametrize(
    "own", ["dsm_tts_tiny@1.safetensors", "voices/tiny/first.wav.7e57da7a@1.safetensors"]
)
def test_the_models_own_files_are_never_the_target(tiny: Path, own: str) -> None:
    """Under any of their names."""
    os.link(tiny / own, tiny / "out.wav")
    before = (tiny / own).read_bytes()
    with pytest.raises(InputError, match="is a file of the model itself"):
        synthesize(
            "hello", partial(write, Path("out.wav")), CONFIG, cpu=True, target=Path("out.wav")
        )
    assert (tiny / own).read_bytes() == before


@pytest.mark.slow
def test_unknown_characters_are_skipped_and_reported(tiny: Path) -> None:
    """What is known of the text is synthesized, as without them."""
    synthesis, sound = said("one 你two🙂 three")
    assert synthesis.skipped == "你🙂"
    assert np.array_equal(sound, said("one two three")[1])


def test_a_text_is_a_file_or_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where there is one of that name, also with a byte order mark; standard input for `-`;
    else the words.
    """
    (tmp_path / "a b.txt").write_bytes(b"\xef\xbb\xbfhello\r\nyou\n")
    assert read_text(str(tmp_path / "a b.txt")) == "hello\r\nyou\n"
    assert read_text("say a b.txt") == "say a b.txt"
    assert read_text("and/or") == "and/or"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("où".encode())))
    assert read_text("-") == "où"
    assert read_text("x" * 5000) == "x" * 5000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"caf\xe9", r"is not UTF-8 \(byte 3\)"),
        ("héllo".encode("utf-16-le"), r"is not UTF-8 \(byte 1\)"),
        ("ab".encode("utf-16") + b"x", r"is not UTF-16"),
        (b"%PDF-1.7", "is a PDF document"),
        (b"a " * MOST_TEXT_BYTES, "is longer than 1 MiB"),
    ],
    ids=["empty", "blank", "latin-1", "utf-16", "odd", "pdf", "long"],
)
def test_what_is_no_text_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    """From a file, standard input, or the command line."""
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_text(str(path))
    assert caught.value.hint
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    with pytest.raises(InputError, match=message):
        read_text("-")
    if b"\0" not in content:
        with pytest.raises(InputError, match=message):
            read_text(os.fsdecode(content))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(tmp_path: Path, encoding: str) -> None:
    """As Windows' editors write it."""
    path = tmp_path / "text.txt"
    path.write_bytes("où est-il ?".encode(encoding))
    assert read_text(str(path)) == "où est-il ?"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16-be"])
def test_the_hint_for_another_encoding_works_as_typed(tmp_path: Path, encoding: str) -> None:
    """The command makes a file that is read."""
    if shutil.which("iconv") is None:
        pytest.skip("iconv is not installed")
    text = "où est “l’été” ?" if encoding == "cp1252" else "où est-il ? l'été"
    path = tmp_path / "mon texte.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(InputError) as caught:
        read_text(str(path))
    command = caught.value.hint[caught.value.hint.index("iconv") :]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert read_text(str(tmp_path / "mon texte-utf8.txt")) == text


@pytest.mark.parametrize("name", ["hello.txt", "texts/hello.md", "~/a.TXT", "chapter.docx"])
def test_the_name_of_a_file_that_is_not_there_is_not_synthesized(name: str) -> None:
    """A mistyped name; the hint says how to have these words."""
    with pytest.raises(SourceError, match="the file does not exist") as caught:
        read_text(name)
    assert "| dsmops synthesize - OUT" in caught.value.hint


def test_closed_standard_input_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may have none."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SourceError, match="standard input is closed"):
        read_text("-")


def test_the_name_of_a_file_in_a_closed_folder_is_not_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is there is not for us to see; that these are its words is not to be thought."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FileAccessError, match="Permission denied"):
        read_text(str(tmp_path / "text"))


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    """Nor is it said."""
    with pytest.raises(InputError, match="is a folder"):
        read_text(str(tmp_path))
