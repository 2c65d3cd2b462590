"""Bytes of any kind: they give audio or one error in our words, never another exception."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmops.audio import open_audio
from dsmops.errors import InputError
from tests.support.cli import dsmops
from tests.support.sound import encoded, no_ffmpeg, sweep

TONE = sweep(16_000, 0.3)
FILES = {
    f"{container}-{encoding}": encoded(TONE, 16_000, container, encoding)
    for container, encoding in [
        ("WAV", "PCM_16"),
        ("WAV", "IMA_ADPCM"),
        ("RF64", "PCM_16"),
        ("W64", "FLOAT"),
        ("AU", "PCM_16"),
        ("AIFF", "PCM_24"),
        ("CAF", "ALAW"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ]
}


class Pipe(io.BytesIO):
    """Bytes that cannot seek."""

    def seekable(self) -> bool:
        return False


def samples_or_error(source: io.BytesIO) -> int | None:
    """Return how many samples there are, None for bad input. Anything else is raised."""
    try:
        with open_audio(source) as audio:
            blocks = list(audio.blocks())
            assert all(np.isfinite(block).all() for block in blocks)
            return sum(map(len, blocks))
    except InputError:
        return None


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=25)
def test_cut_and_changed_files(name: str, data: st.DataObject) -> None:
    """Cut anywhere, with bytes changed anywhere, with others behind."""
    whole = FILES[name]
    places = st.integers(0, len(whole) - 1)
    changes = data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4))
    cut = data.draw(st.integers(0, len(whole)))
    changed = bytearray(whole)
    for place, value in changes:
        changed[place] = value
    with no_ffmpeg():
        samples_or_error(io.BytesIO(bytes(changed[:cut]) + data.draw(st.binary(max_size=40))))


@given(data=st.binary(max_size=400), magic=st.sampled_from([b"", *FILES.values()]))
def test_random_bytes_behind_every_beginning(data: bytes, magic: bytes) -> None:
    """A beginning that a decoder knows, then anything."""
    with no_ffmpeg():
        samples_or_error(io.BytesIO(magic[:60] + data))


@pytest.mark.parametrize("name", FILES)
def test_cut_and_changed_pipes(name: str) -> None:
    """A damaged middle and a missing end give audio or an error, as from a file."""
    whole = FILES[name]
    middle = len(whole) // 2
    data = whole[:middle] + b"\xff" * 64 + whole[middle + 64 : -50]
    with no_ffmpeg():
        of_file = samples_or_error(io.BytesIO(data))
        assert (samples_or_error(Pipe(data)) is None) == (of_file is None)


@pytest.mark.parametrize("size", [0, 1, 3, 100, 5_000])
def test_the_command_has_one_error_and_exit_code_3(size: int, tmp_path: Path) -> None:
    """Random bytes, before any model is loaded."""
    path = tmp_path / "noise.bin"
    path.write_bytes(np.random.default_rng(size).bytes(size))
    ran = dsmops("transcribe", "--model", "tiny", str(path))
    assert (ran.code, ran.stdout) == (3, "")
    error, hint = ran.stderr.splitlines()
    assert error.startswith(f"error: {path}")
    assert hint.startswith("hint: ")
