"""Many channels to one, and stereo whose channels cancel each other."""

import io

import numpy as np
import pytest

from dsmops.audio import Samples, open_audio
from dsmops.audio.mixing import regrouped
from tests.support.sound import encoded, sweep

TONE = sweep(24_000, 3.0)


def read_all(channels: list[Samples], container: str = "WAV") -> tuple[Samples, list[str]]:
    encoding = "MPEG_LAYER_III" if container == "MP3" else "PCM_16"
    data = encoded(np.stack(channels, axis=1), 24_000, container, encoding)
    with open_audio(io.BytesIO(data)) as audio:
        return np.concatenate(list(audio.blocks())), audio.warnings


@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3"])
def test_opposite_phase_is_noticed(container: str) -> None:
    """The mean would be silence: one channel is used, and a warning says so."""
    got, warnings = read_all([TONE, -TONE], container)
    assert np.sqrt(np.mean(got**2)) == pytest.approx(np.sqrt(np.mean(TONE**2)), rel=0.1)
    assert "opposite phase) in 3.0 s of 3.0 s" in warnings[0]


def test_opposite_phase_in_a_part_is_noticed_there() -> None:
    """A call whose second half is wired the other way round."""
    flipped = TONE.copy()
    flipped[36_000:] *= -1
    got, warnings = read_all([TONE, flipped])
    assert np.abs(got - TONE).max() < 1e-3
    assert "in 1.5 s of 3.0 s" in warnings[0]


@pytest.mark.parametrize("number", [2, 6, 24])
def test_unrelated_channels_are_averaged(number: int) -> None:
    """One speaker a channel, or noise on each: no warning."""
    rng = np.random.default_rng(number)
    channels = [rng.uniform(-0.5, 0.5, 72_000).astype(np.float32) for _ in range(number)]
    got, warnings = read_all(channels)
    assert np.abs(got - np.mean(channels, axis=0)).max() < 1e-3
    assert warnings == []


def test_one_silent_channel_and_silence_are_averaged() -> None:
    """Half the level is as before; digital silence cancels nothing."""
    silent = np.zeros_like(TONE)
    got, warnings = read_all([TONE, silent])
    assert np.abs(got - TONE / 2).max() < 1e-3
    assert warnings == read_all([silent, silent])[1] == []


def test_regrouping_loses_nothing() -> None:
    """Blocks of the wanted length, the last one shorter."""
    blocks = [np.arange(start, start + 7, dtype=np.float32) for start in range(0, 70, 7)]
    got = list(regrouped(iter(blocks), 20))
    assert [len(block) for block in got] == [20, 20, 20, 10]
    assert np.array_equal(np.concatenate(got), np.arange(70))
    assert list(regrouped(iter([]), 20)) == []
