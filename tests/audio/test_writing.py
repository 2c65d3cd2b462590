"""Writing: whole files, streams as they come, and samples that do not fit."""

import io
import resource
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dsmops.audio import Samples, read, write
from dsmops.errors import DiskFullError, FileAccessError, InputError
from tests.support.sound import sweep


@pytest.mark.parametrize(
    ("suffix", "tolerance"),
    [(".wav", 1 / 32768), (".WAV", 1 / 32768), (".flac", 1 / 32768), (".ogg", 0.1), (".opus", 0.1)],
)
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str, tolerance: float) -> None:
    """In every format: as many samples, as close as the format can hold them."""
    samples = (0.5 * np.sin(np.arange(30_000) / 20)).astype(np.float32)
    written = write(tmp_path / f"speech{suffix}", np.array_split(samples, 7))
    assert (written.samples, written.clipped, written.duration_s) == (30_000, 0, 1.25)
    got = read(tmp_path / f"speech{suffix}")
    assert len(got) == len(samples)
    middle = slice(500, -500) if suffix in {".ogg", ".opus"} else slice(None)
    assert np.abs(got[middle] - samples[middle]).max() <= tolerance


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50), st.integers(0, 50))
def test_16_bit_samples_go_round_bit_for_bit(values: list[int], cut: int) -> None:
    """Reading divides by 32768, writing multiplies: nothing is lost between."""
    samples = np.array(values, np.float32) / 32768
    stream = io.BytesIO()
    assert write(stream, [samples[:cut], samples[cut:]]).clipped == 0
    assert read(io.BytesIO(stream.getvalue())).tolist() == samples.tolist()


def test_a_wav_is_one_that_others_read(tmp_path: Path) -> None:
    """Python's own reader sees the format and the length."""
    write(tmp_path / "speech.wav", [sweep(24_000, 0.5)])
    with wave.open(str(tmp_path / "speech.wav")) as file:
        assert (
            file.getnchannels(),
            file.getsampwidth(),
            file.getframerate(),
            file.getnframes(),
        ) == (1, 2, 24_000, 12_000)


def test_loud_samples_are_clipped_and_counted(tmp_path: Path) -> None:
    """They stop at full scale instead of wrapping round; full scale itself counts as fitting."""
    written = write(tmp_path / "loud.wav", [np.array([1.0, -1.0, 1.5, -2.0, 0.5], np.float32)])
    assert written.clipped == 2
    assert read(tmp_path / "loud.wav").tolist() == [32767 / 32768, -1.0, 32767 / 32768, -1.0, 0.5]


def test_minutes_in_one_block_are_written_as_vorbis(tmp_path: Path) -> None:
    """libsndfile's encoder would end the process on a block like this."""
    assert write(tmp_path / "long.ogg", [np.zeros(24_000 * 120, np.float32)]).duration_s == 120


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_failure_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    """Whole or not at all: broken numbers midway change nothing."""
    target = tmp_path / f"speech{suffix}"
    target.write_bytes(b"before")

    def blocks() -> Iterator[Samples]:
        yield sweep(24_000, 0.5)
        yield np.full(10, np.nan, np.float32)

    with pytest.raises(InputError, match=r"sample 12000 \(at 0\.500 s\) is nan"):
        write(target, blocks())
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_no_audio_writes_no_file(tmp_path: Path) -> None:
    """A file without a sample is of no use."""
    with pytest.raises(InputError, match="no audio"):
        write(tmp_path / "none.wav", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["speech", "speech.mp4", "speech.raw"])
def test_an_unknown_ending_names_the_known_ones(tmp_path: Path, name: str) -> None:
    """Before anything is made or opened."""
    with pytest.raises(InputError) as caught:
        write(tmp_path / name, [sweep(24_000, 0.1)])
    assert ".wav, .flac, .ogg" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    """The encoder hides the reason; it is found all the same."""
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, 240_000).astype(np.float32)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(DiskFullError):
            write(tmp_path / f"speech{suffix}", [noise])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


def test_a_stream_gets_each_block_at_once() -> None:
    """A player can begin while the rest is being made: header and block arrive before the next
    block is asked for.
    """
    stream = io.BytesIO()
    seen: list[int] = []

    def blocks() -> Iterator[NDArray[np.float32]]:
        for _ in range(3):
            seen.append(len(stream.getvalue()))
            yield np.zeros(1920, np.float32)

    write(stream, blocks())
    assert seen == [0, 44 + 3840, 44 + 2 * 3840]
    assert len(read(io.BytesIO(stream.getvalue()))) == 3 * 1920


def test_standard_output_is_a_wav() -> None:
    """`-` can be piped into whatever reads WAV."""
    program = (
        "import numpy as np; from dsmops.audio import write; write('-', [np.full(1000, 0.5,"
        " np.float32)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert read(io.BytesIO(done.stdout)).tolist() == [0.5] * 1000


def test_a_reader_that_went_away_is_no_error_of_the_disk() -> None:
    """The command that writes decides what a closed pipe means."""

    class Closed(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise BrokenPipeError

    class Failing(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(BrokenPipeError):
        write(Closed(), [sweep(24_000, 0.1)])
    with pytest.raises(FileAccessError):
        write(Failing(), [sweep(24_000, 0.1)])
