"""Frames and levels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, LevelMeter, frames
from dsmops.audio.pcm import require_audible_numbers
from dsmops.errors import InputError
from tests.support.sound import sweep

lengths = st.lists(
    st.one_of(
        st.integers(0, 50), st.integers(FRAME_SAMPLES - 3, FRAME_SAMPLES + 3), st.integers(0, 9000)
    ),
    max_size=8,
)


@given(lengths, st.one_of(st.just(0.0), st.floats(0, 0.5)))
def test_frames_hold_prefix_audio_and_padding_wherever_the_blocks_end(
    counts: list[int], prefix_s: float
) -> None:
    """Put together, the frames are the silent prefix, every sample once and in order, and less than
    one frame of zeros.
    """
    samples = np.arange(1, sum(counts) + 1, dtype=np.float32)
    blocks = np.split(samples, np.cumsum(counts))
    got = list(frames(blocks, prefix_s))
    assert all(frame.shape == (FRAME_SAMPLES,) and frame.dtype == np.float32 for frame in got)
    prefix = round(prefix_s * SAMPLE_RATE_HZ)
    assert len(got) == -(-(prefix + len(samples)) // FRAME_SAMPLES)
    whole = np.concatenate([*got, np.zeros(0, np.float32)])
    assert not whole[:prefix].any()
    assert np.array_equal(whole[prefix : prefix + len(samples)], samples)
    assert not whole[prefix + len(samples) :].any()


@given(lengths)
def test_a_frame_once_given_does_not_change(counts: list[int]) -> None:
    """What comes later never writes into an earlier frame."""
    blocks = np.split(np.ones(sum(counts), np.float32), np.cumsum(counts))
    got, copies = [], []
    for frame in frames(blocks):
        got.append(frame)
        copies.append(frame.copy())
    assert all(np.array_equal(frame, copy) for frame, copy in zip(got, copies, strict=True))


def test_frames_inside_a_block_are_not_copied() -> None:
    """A long block is cut into views."""
    block = np.ones(10 * FRAME_SAMPLES, np.float32)
    assert all(np.shares_memory(frame, block) for frame in frames([block]))


def test_no_audio_gives_no_frame() -> None:
    """Nothing is made up."""
    assert list(frames([])) == []
    assert list(frames([np.zeros(0, np.float32)])) == []


def test_levels_of_a_tone_are_its_amplitude_and_power() -> None:
    """A sine of amplitude a has peak a and RMS a/√2; half silence halves the power and is half
    silent.
    """
    meter = LevelMeter()
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ).astype(
        np.float32
    )
    for frame in frames([tone, np.zeros_like(tone)]):
        meter.add(frame)
    levels = meter.levels
    assert levels.duration_s == 2.0
    assert levels.peak == pytest.approx(0.5, abs=1e-4)
    assert levels.rms == pytest.approx(0.5 / 2, abs=1e-4)
    assert levels.silent_share == pytest.approx(0.5, abs=0.03)


def test_levels_count_faint_noise_as_silence_and_quiet_speech_not() -> None:
    """The bound lies at -60 dBFS."""
    for peak, share in ((1e-4, 1.0), (1e-2, 0.0)):
        meter = LevelMeter()
        meter.add(sweep(SAMPLE_RATE_HZ, 0.08, peak=peak))
        assert meter.levels.silent_share == share


def test_levels_of_nothing_are_silent() -> None:
    """No sample, no sound."""
    assert LevelMeter().levels.silent_share == 1.0
    assert LevelMeter().levels.rms == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_broken_numbers_are_named_with_their_place(value: float) -> None:
    """The message has sample and time, counted over all blocks."""
    block = np.zeros(100, np.float32)
    block[40] = value
    with pytest.raises(InputError, match=r"call\.wav: sample 8040 \(at 1\.005 s\)"):
        require_audible_numbers(block, name="call.wav", before=8000, rate_hz=8000)


def test_loud_numbers_pass() -> None:
    """Values beyond full scale are audio, as far as 32-bit integers go."""
    require_audible_numbers(
        np.array([2.0, -(2.0**31)], np.float32), name="x", before=0, rate_hz=8000
    )
