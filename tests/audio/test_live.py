"""Audio from a pipe: read while the writer still writes, and the same samples as from a file."""

import io
import os
import shutil
import struct
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from dsmops.audio import open_audio, read
from dsmops.audio.spool import Spool
from tests.support.sound import encoded, no_ffmpeg, piped_wav, sweep

TONE = np.random.default_rng(0).uniform(-0.5, 0.5, 6 * 16_000).astype(np.float32)
"""Noise, which no codec makes small: half of each file is more than its first second."""
FFMPEG = shutil.which("ffmpeg")
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")


def converted(options: str) -> bytes:
    """Return the tone as ffmpeg writes it into a pipe."""
    command = [str(FFMPEG), "-v", "error", "-i", "-", *options.split(), "-"]
    return subprocess.run(
        command, input=encoded(TONE, 16_000), check=True, capture_output=True
    ).stdout


NATIVE = {
    "placeholder": lambda: piped_wav(TONE, 16_000),
    "au": lambda: encoded(TONE, 16_000, "AU"),
    "au-placeholder": lambda: _au(0xFFFFFFFF),
    "wav": lambda: encoded(TONE, 16_000),
    "flac": lambda: encoded(TONE, 16_000, "FLAC"),
    "vorbis": lambda: encoded(TONE, 16_000, "OGG", "VORBIS"),
    "opus": lambda: encoded(TONE, 16_000, "OGG", "OPUS"),
    "mp3": lambda: encoded(TONE, 16_000, "MP3", "MPEG_LAYER_III"),
    "joined-flac": lambda: 2 * encoded(TONE, 16_000, "FLAC"),
    "joined-mp3": lambda: 2 * encoded(TONE, 16_000, "MP3", "MPEG_LAYER_III"),
    "chained-ogg": lambda: (
        encoded(TONE, 16_000, "OGG", "VORBIS") + encoded(TONE, 24_000, "OGG", "OPUS")
    ),
}


def _au(claimed_bytes: int) -> bytes:
    """Return the tone as AU with that size in its header."""
    data = encoded(TONE, 16_000, "AU")
    return data[:8] + claimed_bytes.to_bytes(4, "big") + data[12:]


THROUGH_FFMPEG = {
    "flac-of-unknown-length": "-f flac",
    "mp3-without-header": "-f mp3 -write_xing 0",
    "aac": "-f adts",
    "webm": "-f webm",
    "matroska": "-f matroska",
    "mpeg-ts": "-f mpegts",
    "au": "-f au",
    "caf": "-f caf",
    "fragmented-mp4": "-f mp4 -movflags frag_keyframe+empty_moov",
}


@pytest.mark.parametrize("name", NATIVE)
def test_samples_come_while_the_pipe_is_open(name: str) -> None:
    """The second half is written only when samples of the first were received."""
    with no_ffmpeg():
        check_live(NATIVE[name]())


@needs_ffmpeg
@pytest.mark.parametrize("name", THROUGH_FFMPEG)
def test_what_programs_write_into_a_pipe_comes_as_well(name: str) -> None:
    """libsndfile does not read most of them at all."""
    check_live(converted(THROUGH_FFMPEG[name]))


def check_live(data: bytes) -> None:
    """Check that samples of the first half come before the second, and all are those of a file."""
    reading, writing = os.pipe()
    half = len(data) // 2
    received = threading.Event()

    def send() -> None:
        _write(writing, data[:half])
        received.wait()
        _write(writing, data[half:])
        os.close(writing)

    sender = threading.Thread(target=send)
    sender.start()
    with open(reading, "rb") as pipe, open_audio(pipe) as audio:
        assert audio.is_live
        assert audio.duration_s is None
        blocks = audio.blocks(0.1)
        early = [next(blocks) for _ in range(5)]
        received.set()
        got = np.concatenate([*early, *blocks])
    sender.join()
    assert np.array_equal(got, _of_file(data))
    assert audio.warnings == []


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _of_file(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.float32]]:

    return read(io.BytesIO(data))


def through_pipe(data: bytes) -> tuple[int, list[str]]:
    reading, writing = os.pipe()

    def send() -> None:
        _write(writing, data)
        os.close(writing)

    sender = threading.Thread(target=send)
    sender.start()
    with open(reading, "rb") as pipe, open_audio(pipe) as audio:
        count = sum(map(len, audio.blocks()))
    sender.join()
    return count, audio.warnings


def test_what_follows_the_samples_is_treated_as_in_a_file() -> None:
    """Tags are not audio. Samples that the header does not count are, and so is a joined file."""
    tone = sweep(24_000, 2.0)
    note = struct.pack("<4sI10s", b"LIST", 10, b"INFOabcdef")
    assert through_pipe(encoded(tone) + note) == (48_000, [])
    assert through_pipe(encoded(tone) + encoded(tone)) == (96_000, [])
    count, warnings = through_pipe(encoded(tone)[:-40_000])
    assert count == 28_000
    assert "cut short" in warnings[0]
    data = bytearray(encoded(tone))
    struct.pack_into("<I", data, 40, 10_000)
    count, warnings = through_pipe(bytes(data))
    assert count == 48_000
    assert "all of it was read" in warnings[0]


@needs_ffmpeg
def test_what_needs_the_whole_file_is_read_when_the_pipe_ends(tmp_path: Path) -> None:
    """An MP4 whose index comes last cannot be decoded before."""
    (tmp_path / "in.wav").write_bytes(encoded(TONE, 16_000))
    path = tmp_path / "a.mp4"
    subprocess.run([str(FFMPEG), "-v", "error", "-i", tmp_path / "in.wav", path], check=True)
    assert through_pipe(path.read_bytes()) == (len(read(path)), [])


@pytest.mark.parametrize("name", ["flac", "vorbis", "opus", "mp3", "wav"])
def test_a_pipe_that_ends_early_is_as_a_file_that_does(name: str) -> None:
    """All but the last block of its codec comes, and what is missing is a warning."""
    data = NATIVE[name]()
    data = data[: 2 * len(data) // 3]
    count, warnings = through_pipe(data)
    assert count == pytest.approx(len(_of_file(data)), abs=2_000)
    assert name == "mp3" or "cut short" in warnings[0]


def test_a_pipe_that_gives_nothing_can_be_left() -> None:
    """What reads it ends with the block, though the writer is silent."""
    reading, writing = os.pipe()
    data = NATIVE["mp3"]()
    _write(writing, data[: len(data) // 2])
    with open(reading, "rb") as pipe, open_audio(pipe) as audio:
        next(audio.blocks(0.1))
    os.close(writing)


def test_a_spool_can_seek(tmp_path: Path) -> None:
    """It reads no further than asked, and knows its size at the end."""
    (tmp_path / "data").write_bytes(bytes(range(200)))
    with (tmp_path / "data").open("rb") as file, Spool(file) as spool:
        assert spool.read(10) == bytes(range(10))
        assert file.tell() == 10
        assert spool.seek(5) == 5
        assert spool.read(10) == bytes(range(5, 15))
        assert spool.seek(-5, os.SEEK_END) == 195
        assert spool.read() == bytes(range(195, 200))
        assert spool.size == 200
