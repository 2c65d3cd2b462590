"""Files that are sent while they are made: every decoder gets all of the audio from them."""

import io
import shutil
import subprocess

import numpy as np
import pytest

from dsmops.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples, StreamFormat, open_encoder, read

FRAMES = 25
_SECONDS = np.arange(FRAMES * FRAME_SAMPLES) / SAMPLE_RATE_HZ
TONE: Samples = (0.3 * np.sin(2 * np.pi * 440 * _SECONDS)).astype(np.float32)


def encoded(form: StreamFormat) -> list[bytes]:
    """Return what is sent for each frame, and at the end."""
    encoder = open_encoder(form)
    return [*(encoder.encode(frame) for frame in TONE.reshape(FRAMES, -1)), encoder.finish()]


def assert_is_tone(samples: Samples, *, delay_s: float) -> None:
    """The whole tone is there, and nothing else, from `delay_s` on or earlier."""
    longest = len(TONE) + delay_s * SAMPLE_RATE_HZ
    assert len(TONE) <= len(samples) <= longest
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) * SAMPLE_RATE_HZ / len(samples) == pytest.approx(440, abs=1)
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("form", [StreamFormat.WAV, StreamFormat.FLAC])
def test_exact_formats_give_every_sample_back(form: StreamFormat) -> None:
    samples = read(io.BytesIO(b"".join(encoded(form))))
    np.testing.assert_array_equal(samples, np.rint(TONE * 32768).astype(np.float32) / 32768)


def test_pcm_is_samples_alone() -> None:
    samples = np.frombuffer(b"".join(encoded(StreamFormat.PCM)), "<i2")
    np.testing.assert_array_equal(samples, np.rint(TONE * 32768).astype(np.int16))


@pytest.mark.parametrize("form", [StreamFormat.MP3, StreamFormat.OPUS])
def test_lossy_formats_hold_the_whole_tone(form: StreamFormat) -> None:
    assert_is_tone(read(io.BytesIO(b"".join(encoded(form)))), delay_s=0.2)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("form", [StreamFormat.MP3, StreamFormat.OPUS, StreamFormat.FLAC])
def test_another_decoder_reads_the_same(form: StreamFormat) -> None:
    decoded = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", "-", "-f", "f32le", "-ar", "24000", "-"],
        input=b"".join(encoded(form)),
        capture_output=True,
        check=True,
    )
    assert decoded.stderr == b""
    assert_is_tone(np.frombuffer(decoded.stdout, np.float32), delay_s=0.2)


@pytest.mark.parametrize("form", list(StreamFormat))
def test_sound_goes_out_long_before_the_end(form: StreamFormat) -> None:
    """A client can begin to play: half a second of audio has left the encoder after a second."""
    pieces = encoded(form)
    sent = b"".join(pieces[:13])
    assert len(sent) >= sum(map(len, pieces)) / 4
