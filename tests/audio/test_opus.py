"""Ogg/Opus as it arrives, whole and damaged, and as it is made."""

import io
from itertools import pairwise

import numpy as np
import pytest
import sphn
from hypothesis import given
from hypothesis import strategies as st

from dsmops.audio import OpusDecoder, OpusEncoder, read
from dsmops.errors import InputError
from tests.support.sound import sweep

FRAME = 1920


def pages(seconds: float) -> bytes:
    """Return a stream of 80 ms packets."""
    pcm = sweep(24_000, seconds)
    writer = sphn.OpusStreamWriter(24_000)
    return b"".join(
        writer.append_pcm(pcm[start : start + FRAME])
        for start in range(0, len(pcm) - FRAME + 1, FRAME)
    )


WHOLE = pages(2)


@given(st.lists(st.integers(0, len(WHOLE)), max_size=20))
def test_samples_do_not_depend_on_where_the_bytes_are_cut(cuts: list[int]) -> None:
    """All packets come out, in order, as float32 at 24 kHz."""
    expected = np.concatenate([*OpusDecoder().decode(WHOLE)])
    assert (len(expected), expected.dtype) == (25 * FRAME, np.float32)
    decoder = OpusDecoder()
    places = [0, *sorted(cuts), len(WHOLE)]
    heard = [pcm for start, end in pairwise(places) for pcm in decoder.decode(WHOLE[start:end])]
    assert all(len(pcm) for pcm in heard)
    np.testing.assert_array_equal(np.concatenate(heard), expected)


def test_what_is_no_ogg_is_an_error() -> None:
    """With a hint on what to send."""
    with pytest.raises(InputError, match="not readable as Ogg/Opus") as refused:
        list(OpusDecoder().decode(b"RIFF" + bytes(200)))
    assert refused.value.code == "audio.opus"


@given(
    st.lists(
        st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=12
    )
)
def test_damage_gives_audio_or_an_error(changes: list[tuple[int, int]]) -> None:
    """Nothing else ever comes out, and other decoders do not notice."""
    damaged = bytearray(WHOLE)
    for place, value in changes:
        damaged[place] = value
    other = OpusDecoder()
    half = len(WHOLE) // 2
    first = [*other.decode(WHOLE[:half])]
    try:
        for pcm in OpusDecoder().decode(bytes(damaged)):
            assert pcm.ndim == 1
    except InputError:
        pass
    assert sum(map(len, [*first, *other.decode(WHOLE[half:])])) == 25 * FRAME


def test_frames_become_pages_that_hold_all_so_far() -> None:
    """Whatever reads the stream has each frame when its pages are there; the headers come with a
    frame of silence.
    """
    rng = np.random.default_rng(2)
    encoder, decoder = OpusEncoder(), OpusDecoder()
    assert encoder.headers.startswith(b"OggS")
    assert b"OpusHead" in encoder.headers
    assert sum(map(len, decoder.decode(encoder.headers))) == FRAME
    for _ in range(20):
        pages = encoder.encode((0.1 * rng.standard_normal(FRAME)).astype(np.float32))
        assert pages.startswith(b"OggS")
        assert sum(map(len, decoder.decode(pages))) == FRAME


def test_players_that_read_the_header_hear_all_and_only_the_sound() -> None:
    """What the header tells them to skip is the silence, and no speech."""
    pcm = sweep(24_000, 20 * FRAME / 24_000)
    encoder = OpusEncoder()
    heard = read(
        io.BytesIO(
            b"".join(
                [encoder.headers, *(encoder.encode(frame) for frame in pcm.reshape(-1, FRAME))]
            )
        )
    )
    assert len(heard) == len(pcm)
    lag = int(np.correlate(heard[:12_000], pcm[:10_000], "valid").argmax())
    assert lag < 240, "the codec's own delay is 6.5 ms"
