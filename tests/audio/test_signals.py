"""The built-in sound."""

import numpy as np
import pytest

from dsmops.audio import SAMPLE_RATE_HZ
from dsmops.audio.signals import silence, speech_like


@pytest.mark.parametrize("seconds", [0.0, 0.05, 1.0, 7.3])
def test_it_is_as_long_as_asked(seconds: float) -> None:
    """To the sample, float32, and no louder than it says."""
    samples = speech_like(seconds)
    assert samples.dtype == np.float32
    assert len(samples) == round(seconds * SAMPLE_RATE_HZ)
    assert np.abs(samples).max(initial=0) <= 0.4


def test_it_moves_like_speech() -> None:
    """It begins at once, has pauses, and most of its power lies where telephones carry speech."""
    samples = speech_like(5.0)
    loudness = np.sqrt((samples[: len(samples) // 1920 * 1920].reshape(-1, 1920) ** 2).mean(1))
    assert loudness[0] > 0.05
    assert 0.2 < (loudness < 0.001).mean() < 0.6
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
    assert power[(hz > 100) & (hz < 3400)].sum() > 0.9 * power.sum()


def test_it_is_the_same_each_time() -> None:
    """A longer one begins with the shorter one."""
    assert np.array_equal(speech_like(2.0), speech_like(3.0)[: 2 * SAMPLE_RATE_HZ])


def test_silence_is_silent() -> None:
    """And float32, as everything here."""
    assert not silence(5).any()
    assert silence(5).dtype == np.float32
