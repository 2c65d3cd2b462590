"""Reading: every format and rate, the same samples however they are cut, and a clear error for what
is not audio.
"""

import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dsmops.audio import SAMPLE_RATE_HZ, open_audio, read
from dsmops.errors import DiskFullError, FileAccessError, InputError, SourceError
from tests.support.sound import encoded, no_ffmpeg, piped_wav, sweep

RATES_HZ = [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000]


def error_of(data: bytes) -> InputError:
    with no_ffmpeg(), pytest.raises(InputError) as caught:
        read(io.BytesIO(data))
    return caught.value


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_every_rate_becomes_24_khz(rate_hz: int) -> None:
    """The tone survives the change of rate in pitch, level and length."""
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz)).astype(np.float32)
    got = read(io.BytesIO(encoded(tone, rate_hz)))
    assert got.dtype == np.float32
    assert len(got) == SAMPLE_RATE_HZ
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ)
    middle = slice(1000, -1000)
    assert np.abs(got[middle] - wanted[middle]).max() < 2e-3


@given(
    rate_hz=st.one_of(st.sampled_from(RATES_HZ), st.integers(1_000, 768_000)),
    count=st.integers(1, 4000),
    block_s=st.one_of(st.just(1e-6), st.floats(0.001, 0.3)),
    channels=st.integers(1, 6),
)
def test_samples_do_not_depend_on_the_blocks(
    rate_hz: int, count: int, block_s: float, channels: int
) -> None:
    """Any block length gives what one pass over the whole mix gives: as many samples, and the
    same.
    """
    samples = np.random.default_rng(count).uniform(-0.9, 0.9, (count, channels)).astype(np.float32)
    with open_audio(io.BytesIO(encoded(samples, rate_hz, "WAV", "FLOAT"))) as audio:
        blocks = list(audio.blocks(block_s))
    wanted = soxr.resample(
        samples.mean(axis=1, dtype=np.float32), rate_hz, SAMPLE_RATE_HZ, quality="HQ"
    )
    assert all(len(block) for block in blocks)
    got = np.concatenate([*blocks, np.zeros(0, np.float32)])
    assert len(got) == len(wanted)
    assert abs(len(got) - count * SAMPLE_RATE_HZ / rate_hz) <= 0.5
    assert np.allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("container", "encoding", "tolerance"),
    [
        ("WAV", "PCM_U8", 1 / 128),
        ("WAV", "PCM_16", 1 / 32768),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("WAV", "ULAW", 0.02),
        ("WAVEX", "PCM_16", 1 / 32768),
        ("RF64", "PCM_16", 1 / 32768),
        ("W64", "PCM_24", 1e-6),
        ("AIFF", "PCM_16", 1 / 32768),
        ("AU", "PCM_16", 1 / 32768),
        ("CAF", "PCM_16", 1 / 32768),
        ("FLAC", "PCM_16", 1 / 32768),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 0.1),
        ("OGG", "OPUS", 0.1),
    ],
)
def test_every_format_is_read_to_its_precision(
    container: str, encoding: str, tolerance: float
) -> None:
    """What the format can hold comes back: as many samples, each within a quantisation step."""
    samples = (0.5 * np.sin(np.arange(24_000) / 20)).astype(np.float32)
    with open_audio(io.BytesIO(encoded(samples, 24_000, container, encoding))) as audio:
        assert audio.format == f"{container} {encoding}"
        assert (audio.sample_rate_hz, audio.channels, audio.duration_s) == (24_000, 1, 1.0)
        got = np.concatenate(list(audio.blocks()))
    assert len(got) == len(samples)
    # Lossy codecs begin and end softly.
    middle = slice(500, -500) if container == "OGG" else slice(None)
    assert np.abs(got[middle] - samples[middle]).max() <= tolerance


def test_channels_are_averaged() -> None:
    """Stereo and 5.1 become the mean of their channels."""
    for channels in (2, 6):
        samples = np.stack(
            [np.full(100, 0.1 * (index + 1), np.float32) for index in range(channels)], axis=1
        )
        assert read(io.BytesIO(encoded(samples, 24_000, "WAV", "FLOAT"))) == pytest.approx(
            0.1 * (channels + 1) / 2
        )


def test_values_beyond_full_scale_are_kept() -> None:
    """Nothing is clipped on the way in."""
    assert read(
        io.BytesIO(encoded(np.array([3.0, -5.0], np.float32), 24_000, "WAV", "FLOAT"))
    ).tolist() == [3.0, -5.0]


def test_less_than_one_sample_is_read_as_none() -> None:
    """A sample or two of a high rate leave nothing at 24 kHz, and that is not a failure."""
    assert len(read(io.BytesIO(encoded(np.zeros(2, np.float32), 768_000)))) == 0


def test_blocks_can_be_read_again() -> None:
    """Each call of `blocks` begins at the start, also beside another that is under way."""
    with open_audio(io.BytesIO(encoded(sweep(16_000, 0.5), 16_000, "FLAC"))) as audio:
        once = list(audio.blocks(0.1))
        for first, second, wanted in zip(audio.blocks(0.1), audio.blocks(0.1), once, strict=True):
            assert np.array_equal(first, wanted)
            assert np.array_equal(second, wanted)


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_of_unknown_length_is_read_to_its_end(claimed: int) -> None:
    """What ffmpeg, sox and arecord write into a pipe states a size that is not used."""
    with open_audio(io.BytesIO(piped_wav(sweep(24_000, 0.3), claimed_bytes=claimed))) as audio:
        assert audio.duration_s == pytest.approx(0.3)
        assert sum(map(len, audio.blocks())) == 7200


def test_a_flac_of_unknown_length_is_read_to_its_end() -> None:
    """An encoder that writes FLAC into a pipe leaves the number of samples at 0: 36 bits from byte
    21 of the file on, after four others.
    """
    data = bytearray(encoded(sweep(24_000, 0.3), 24_000, "FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    with open_audio(io.BytesIO(bytes(data))) as audio:
        assert audio.duration_s is None
        assert sum(map(len, audio.blocks())) == 7200


def test_standard_input_is_read_from_a_pipe_and_from_a_file(tmp_path: Path) -> None:
    """`-` works where nothing can seek, and where it can."""
    path = tmp_path / "piped.wav"
    path.write_bytes(piped_wav(sweep(16_000, 1.0), 16_000))
    program = [sys.executable, "-c", "from dsmops.audio import read; print(len(read('-')))"]
    assert (
        subprocess.run(program, input=path.read_bytes(), capture_output=True, check=True).stdout
        == b"24000\n"
    )
    with path.open("rb") as file:
        assert (
            subprocess.run(program, stdin=file, capture_output=True, check=True).stdout
            == b"24000\n"
        )


def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    """So does a path that cannot seek, such as the shell's `<(ffmpeg ...)`."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(
        target=path.write_bytes, args=(encoded(sweep(24_000, 0.5), 24_000, "FLAC"),)
    )
    writer.start()
    assert len(read(path)) == 12_000
    writer.join()


def test_a_stream_that_does_not_fit_the_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe is kept in a temporary file, and its disk can be full."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr("tempfile.NamedTemporaryFile", lambda: full)
        with pytest.raises(DiskFullError):
            read(Pipe(encoded(sweep(24_000, 0.5))))


@pytest.mark.slow
def test_ten_minutes_take_no_more_memory_than_one(tmp_path: Path) -> None:
    """Decoding, mixing and resampling hold a few blocks at a time."""
    path = tmp_path / "long.wav"
    data_bytes = 600 * 8000
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        data_bytes + 36,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        8000,
        8000,
        1,
        8,
        b"data",
        data_bytes,
    )
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + data_bytes)
    tracemalloc.start()
    with open_audio(path) as audio:
        count = sum(len(block) for block in audio.blocks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 600 * SAMPLE_RATE_HZ
    assert peak < 16 << 20


@pytest.mark.parametrize(("name", "seconds"), [("bria.mp3", 44.85), ("loona.mp3", 1.05)])
def test_real_speech_is_read(shared_data: Path, name: str, seconds: float) -> None:
    """Two published recordings, one with and one without a Xing header, come out whole and
    audible.
    """
    path = shared_data / "audio" / name
    if not path.is_file():
        pytest.skip(f"the recording {name} is not here")
    with open_audio(path) as audio:
        samples = np.concatenate(list(audio.blocks()))
        assert audio.duration_s == pytest.approx(seconds, abs=0.01)
    assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(seconds, abs=0.01)
    assert 0.05 < np.abs(samples).max() < 2


def test_a_missing_file_a_folder_and_an_empty_file_are_named(tmp_path: Path) -> None:
    """Each gets its own sentence with the path in it."""
    with pytest.raises(SourceError, match=r"nope\.wav"):
        read(tmp_path / "nope.wav")
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(InputError, match=r"empty\.wav is empty"):
        read(tmp_path / "empty.wav")


@pytest.mark.parametrize(
    "data", [b"hello world\n" * 100, bytes(5000), b"\x89PNG\r\n\x1a\n" + bytes(500), b"RIFF"]
)
def test_what_is_no_audio_gets_the_formats_and_a_command(tmp_path: Path, data: bytes) -> None:
    """The hint has what can be read, and an ffmpeg line that never writes over its input."""
    path = tmp_path / "my call.wav"
    path.write_bytes(data)
    with no_ffmpeg(), pytest.raises(InputError) as caught:
        read(path)
    assert str(path) in caught.value.message
    assert "WAV, FLAC, Ogg (Vorbis, Opus), MP3" in caught.value.hint
    assert f"ffmpeg -i '{path}' -ac 1 -ar 24000 'my call-24k.wav'" in caught.value.hint


def test_a_name_that_ends_in_raw_changes_nothing(tmp_path: Path) -> None:
    """Content decides, also where a stream carries such a name."""
    path = tmp_path / "call.raw"
    path.write_bytes(encoded(sweep(24_000, 0.1)))
    with path.open("rb") as file:
        assert len(read(file)) == len(read(path)) == 2400


@pytest.mark.parametrize(
    ("container", "encoding"),
    [
        ("WAV", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("W64", "PCM_16"),
        ("RF64", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
def test_a_file_that_is_cut_short_is_read_and_told(container: str, encoding: str) -> None:
    """What is there comes out, about half of it, and a warning says that it is not all."""
    whole = sweep(24_000, 6.0)
    data = encoded(whole, 24_000, container, encoding)
    with open_audio(io.BytesIO(data[: len(data) // 2])) as audio:
        got = np.concatenate(list(audio.blocks()))
        assert "cut short" in " ".join(audio.warnings)
    assert 1.9 < len(got) / 24_000 < 4.0
    if container not in ("OGG", "MP3"):
        assert np.abs(got - whole[: len(got)]).max() < 1e-4


def test_a_vorbis_file_cut_in_its_only_page_is_refused() -> None:
    """Nothing of it can be decoded."""
    data = encoded(sweep(24_000, 3.0), 24_000, "OGG", "VORBIS")
    assert error_of(data[: len(data) // 2]).code in {"audio.empty", "audio.format"}


def test_bytes_after_the_audio_do_no_harm() -> None:
    """Tags and junk behind the samples are left alone, and so is a header that counts itself."""
    data = encoded(sweep(24_000, 0.1))
    assert len(read(io.BytesIO(data + b"TAG" + bytes(125)))) == 2400
    counts_itself = data[:4] + struct.pack("<I", len(data)) + data[8:]
    assert len(read(io.BytesIO(counts_itself))) == 2400


def test_no_samples_is_an_error() -> None:
    """A header alone says so."""
    assert error_of(encoded(np.zeros(0, np.float32))).code == "audio.empty"


@pytest.mark.parametrize("rate_hz", [1, 999, 768_001, 0x7FFFFFFF])
def test_absurd_rates_are_refused(rate_hz: int) -> None:
    """A rate that no recorder uses is not resampled."""
    data = encoded(sweep(24_000, 0.1)).replace(
        struct.pack("<I", 24_000), struct.pack("<I", rate_hz), 1
    )
    assert error_of(data).code == "audio.rate"


def test_too_many_channels_are_refused() -> None:
    """64 are taken, 65 are not."""
    assert len(read(io.BytesIO(encoded(np.zeros((10, 64), np.float32))))) == 10
    assert error_of(encoded(np.zeros((10, 65), np.float32))).code == "audio.channels"


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_broken_numbers_in_a_float_file_are_refused(value: float) -> None:
    """They would spread through the resampler and the model; the message says where the first one
    is.
    """
    samples = np.zeros((4000, 2))
    samples[2000, 1] = value
    assert "sample 2000 (at 0.250 s)" in error_of(encoded(samples, 8000, "WAV", "DOUBLE")).message


def test_a_disk_that_fails_is_not_blamed_on_the_audio() -> None:
    """An error of the system passes through the decoder with its own reason."""

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 20_000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.raises(FileAccessError, match="Input/output error"):
        read(Failing(encoded(sweep(24_000, 2.0))))


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Return `data` cut, or with a few bytes changed."""
    body = bytearray(data[: rng.integers(0, len(data) + 1)] if rng.random() < 0.5 else data)
    for _ in range(rng.integers(0, 6)):
        if body:
            reach = len(body) if rng.random() < 0.5 else min(len(body), 128)
            body[rng.integers(0, reach)] = rng.integers(0, 256)
    return bytes(body)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("container", "encoding"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("FLAC", "PCM_16"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
@given(seed=st.integers(0, 2**32))
def test_damaged_bytes_give_audio_or_an_input_error(
    container: str, encoding: str, seed: int
) -> None:
    """Whatever happens to a file: finite samples of 24 kHz, or one clear error."""
    data = mutated(_WHOLE[container, encoding], np.random.default_rng(seed))
    try:
        with no_ffmpeg():
            got = read(io.BytesIO(data))
    except InputError:
        return
    assert got.dtype == np.float32
    assert np.isfinite(got).all()


def _make(container: str, encoding: str) -> bytes:
    samples: NDArray[Any] = sweep(16_000, 0.3)
    return encoded(samples, 16_000, container, encoding)


_WHOLE = {
    pair: _make(*pair)
    for pair in (
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("FLAC", "PCM_16"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    )
}
