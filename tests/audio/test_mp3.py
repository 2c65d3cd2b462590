"""The length of MP3 files: all of the audio is read, whatever the header says or leaves out."""

import io
import os

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dsmops.audio import open_audio, read
from dsmops.audio.mp3 import read_streams
from dsmops.audio.segments import Content
from tests.support.sound import encoded, sweep

ID3 = b"ID3\x04\0\0\0\0\x02\x05" + bytes(2 * 128 + 5)


def varying(rate_hz: int, channels: int = 1) -> NDArray[np.float32]:
    """Return half a second of noise, five of silence and one of tone: a first frame that says
    nothing about the rest.
    """
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, rate_hz // 2).astype(np.float32)
    mono = np.concatenate([noise, np.zeros(5 * rate_hz, np.float32), sweep(rate_hz, 1.0)])
    return mono if channels == 1 else np.stack([mono] * channels, axis=1)


def variable_mp3(samples: NDArray[np.float32], rate_hz: int) -> bytes:
    return encoded(samples, rate_hz, "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE")


def without_xing(data: bytes) -> bytes:
    """Return the file without its first frame, the Xing header, as an encoder leaves it that writes
    into a pipe.
    """
    return data[data.index(data[:2], 4) :]


def seconds_of(data: bytes) -> float:
    return len(read(io.BytesIO(data))) / 24_000


@pytest.mark.slow
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_varying_bit_rate_without_a_xing_header_is_read_whole(
    rate_hz: int, channels: int
) -> None:
    """libsndfile alone stops at a guess, at a seventh of this file; we read it to its last
    frame.
    """
    samples = varying(rate_hz, channels)
    data = without_xing(variable_mp3(samples, rate_hz))
    assert soundfile.info(io.BytesIO(data)).frames < len(samples) / 2
    # At most the encoder's delay and padding too much, three frames of 576 or 1152.
    assert seconds_of(data) == pytest.approx(len(samples) / rate_hz, abs=3 * 1152 / rate_hz)
    with open_audio(io.BytesIO(data)) as audio:
        assert audio.duration_s == pytest.approx(6.5, abs=3 * 1152 / rate_hz)


def test_joined_files_are_read_whole() -> None:
    """The first file's Xing header does not hide the second, nor does the tag between them."""
    data = variable_mp3(varying(24_000), 24_000)
    assert seconds_of(ID3 + data + ID3 + data) == pytest.approx(13, abs=0.3)


def test_an_honest_xing_header_is_believed() -> None:
    """Then the encoder's delay and padding are cut off: as many samples come out as went in."""
    samples = varying(24_000)
    assert len(read(io.BytesIO(ID3 + variable_mp3(samples, 24_000)))) == len(samples)


def test_joined_files_are_read_as_each_alone() -> None:
    """Each keeps its own Xing header, which says what encoder's delay to drop."""
    data = variable_mp3(varying(24_000), 24_000)
    plain = read(io.BytesIO(data))
    assert np.array_equal(read(io.BytesIO(data + data)), np.concatenate([plain, plain]))


def test_blocks_do_not_disturb_the_decoder() -> None:
    """An MP3 frame leans on bits of earlier ones: reading in blocks gives what one read gives,
    without noise at the seams.
    """
    samples = varying(24_000)
    data = variable_mp3(samples, 24_000)
    whole, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    for block_s in (0.05, 1.0, 60.0):
        with open_audio(io.BytesIO(data)) as audio:
            assert np.allclose(np.concatenate(list(audio.blocks(block_s))), whole, atol=1e-6)


def test_a_file_cut_short_is_known_by_its_xing_header() -> None:
    """The header promises more than is there."""
    data = variable_mp3(varying(24_000), 24_000)
    with open_audio(io.BytesIO(data[: len(data) // 2])) as audio:
        list(audio.blocks())
        assert "its header promises 6.50 s" in " ".join(audio.warnings)


def test_files_of_different_rates_that_were_joined_are_read_whole() -> None:
    """libsndfile alone stops where the sample rate changes."""
    first = encoded(sweep(24_000, 2.0), 24_000, "MP3", "MPEG_LAYER_III")
    second = encoded(sweep(44_100, 3.0), 44_100, "MP3", "MPEG_LAYER_III")
    assert seconds_of(first + ID3 + second) == pytest.approx(5.0, abs=0.1)


def test_bytes_between_frames_are_left_out_and_told() -> None:
    """libmpg123 alone gives up after 1024 of them."""
    data = encoded(sweep(24_000, 3.0), 24_000, "MP3", "MPEG_LAYER_III")
    with open_audio(io.BytesIO(data[:3000] + bytes(range(256)) * 64 + data[3000:])) as audio:
        assert sum(map(len, audio.blocks())) / 24_000 == pytest.approx(3.0, abs=0.1)
        assert "between its MP3 frames that are not audio" in " ".join(audio.warnings)


def test_the_decoder_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """libmpg123 writes notes on stderr by itself. What others write meanwhile is kept."""
    data = encoded(sweep(24_000, 3.0), 24_000, "MP3", "MPEG_LAYER_III")
    damaged = bytearray(data + data)
    damaged[2000::97] = bytes(len(damaged[2000::97]))
    with open_audio(io.BytesIO(bytes(damaged))) as audio:
        for number, _ in enumerate(audio.blocks(0.1)):
            os.write(2, b"ours\n" if not number else b"")
    assert capfd.readouterr().err == "ours\n"


@given(st.binary(max_size=2000), st.integers(0, 3))
def test_counting_never_fails(data: bytes, copies: int) -> None:
    """Any bytes, between frames or alone, give a count or none."""
    frame = variable_mp3(sweep(24_000, 0.1), 24_000)
    streams = read_streams(Content(io.BytesIO(data + (frame + data) * copies)))
    assert streams is None or all(stream.count > 0 for stream in streams)


def test_bytes_that_all_look_like_headers_are_given_up() -> None:
    """A hostile file costs a bounded number of looks."""
    assert read_streams(Content(io.BytesIO(b"\xff" * 1_000_000))) is None
