"""A container's word about its length against the bytes that are there: all of them are read,
whatever the header says.
"""

import io
import struct
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from dsmops.audio import Samples, open_audio
from tests.support.sound import encoded, sweep

RATE_HZ = 24_000
SECONDS = 3.0
WHOLE = sweep(RATE_HZ, SECONDS)
PLACEHOLDERS = [0, 0xFFFFFFFF, 0xFFFFFFF0, 0x7FFFFFFF, 0x80000000, 0x7FFFF000]
WRONG = [1, 1_000, 100_001, 143_999, 144_500, 1_000_000, 0x7FFFFFF]
"""Sizes that are meant, of 144,000 bytes: too small and too large."""


def read_all(data: bytes, block_s: float = 1.0) -> tuple[Samples, list[str]]:
    with open_audio(io.BytesIO(data)) as audio:
        return np.concatenate(list(audio.blocks(block_s))), audio.warnings


def with_size(data: bytes, offset: int, form: str, value: int) -> bytes:
    body = bytearray(data)
    struct.pack_into(form, body, offset, value)
    return bytes(body)


def _wav(value: int) -> bytes:
    data = encoded(WHOLE)
    return with_size(data, data.index(b"data") + 4, "<I", value)


def _rf64(value: int) -> bytes:
    data = encoded(WHOLE, container="RF64")
    data = with_size(data, data.index(b"data") + 4, "<I", 0xFFFFFFFF)
    return with_size(data, data.index(b"ds64") + 16, "<Q", value)


def _au(value: int) -> bytes:
    return with_size(encoded(WHOLE, container="AU"), 8, ">I", value)


def _caf(value: int) -> bytes:
    data = encoded(WHOLE, container="CAF")
    # The size counts four bytes before the samples. -1 is the placeholder of this format.
    size = -1 if value >= 0x7FFF0000 else value + 4
    return with_size(data, data.index(b"data") + 4, ">q", size)


def _aiff(value: int) -> bytes:
    data = encoded(WHOLE, container="AIFF")
    return with_size(data, data.index(b"SSND") + 4, ">I", min(value + 8, 0xFFFFFFFF))


def _w64(value: int) -> bytes:
    data = encoded(WHOLE, container="W64")
    return with_size(data, data.index(b"data") + 16, "<q", value + 24)


CONTAINERS = {"WAV": _wav, "RF64": _rf64, "AU": _au, "CAF": _caf, "AIFF": _aiff, "W64": _w64}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("value", PLACEHOLDERS)
def test_a_placeholder_is_no_length(container: str, value: int) -> None:
    """Recorders that were killed and encoders that write into pipes leave any of these.

    No warning.
    """
    got, warnings = read_all(CONTAINERS[container](value))
    assert len(got) == len(WHOLE)
    assert np.abs(got - WHOLE).max() < 1e-4
    assert warnings == []


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("value", WRONG)
def test_a_wrong_length_loses_nothing(container: str, value: int) -> None:
    """Too small or too large, every sample is read. A difference that matters is reported."""
    got, warnings = read_all(CONTAINERS[container](value))
    # A sample that the header cuts in two, at the very end, is lost.
    assert len(WHOLE) - 1 <= len(got) <= len(WHOLE)
    assert np.abs(got - WHOLE[: len(got)]).max() < 1e-4
    if value > 200_000:
        assert "cut short" in warnings[0]
    elif value in (1_000, 100_001):
        assert "all of it was read" in warnings[0]


@pytest.mark.parametrize("value", [0, 1_000_000, 0xFFFFFFFF])
def test_the_outer_size_of_a_wav_does_not_matter(value: int) -> None:
    """The size behind RIFF is as often wrong as that of the data."""
    assert len(read_all(with_size(encoded(WHOLE), 4, "<I", value))[0]) == len(WHOLE)


def test_chunks_and_tags_behind_the_samples_are_no_audio() -> None:
    """Also with an odd number of bytes before them, padded or not, and with a tag behind them."""
    note = struct.pack("<4sI10s", b"LIST", 10, b"INFOabcdef")
    odd = encoded(WHOLE[:-1], encoding="PCM_U8")
    for data in (encoded(WHOLE) + note, encoded(WHOLE) + note + b"TAG" + bytes(125)):
        assert len(read_all(data)[0]) == len(WHOLE)
    for padding in (b"", b"\0"):
        trimmed = odd[: odd.index(b"data") + 8 + len(WHOLE) - 1]
        assert len(read_all(trimmed + padding + note)[0]) == len(WHOLE) - 1


def test_two_data_chunks_are_both_read() -> None:
    """Some editors write them. The second is not taken for noise of its header's bytes."""
    samples = encoded(WHOLE)[44:]
    data = encoded(WHOLE) + struct.pack("<4sI", b"data", len(samples)) + samples
    got, _ = read_all(data)
    assert len(got) == 2 * len(WHOLE)


JOINED: dict[str, Callable[[NDArray[np.float32]], bytes]] = {
    **{
        container: lambda samples, container=container: encoded(samples, container=container)
        for container in ("WAV", "RF64", "AU", "CAF", "AIFF", "W64", "FLAC")
    },
    "VORBIS": lambda samples: encoded(samples, container="OGG", encoding="VORBIS"),
    "OPUS": lambda samples: encoded(samples, container="OGG", encoding="OPUS"),
}


@pytest.mark.parametrize("container", JOINED)
def test_joined_files_are_read_whole(container: str) -> None:
    """`cat a b c` and a radio stream's links: each is read, in order."""
    pieces = [WHOLE[:24_000], WHOLE[24_000:60_000], WHOLE[60_000:]]
    got, warnings = read_all(b"".join(JOINED[container](piece) for piece in pieces))
    assert len(got) == pytest.approx(len(WHOLE), abs=100)
    assert warnings == []
    # Lossy codecs begin and end softly: the middles are compared.
    for start, stop in pairwise((0, 24_000, 60_000, 72_000)):
        middle = slice(start + 4000, stop - 4000)
        assert np.corrcoef(got[middle], WHOLE[middle])[0, 1] > 0.5


def test_joined_files_may_differ_in_rate_and_channels() -> None:
    """Each has its own header."""
    stereo = np.stack([sweep(44_100, 2.0)] * 2, axis=1)
    for container in ("WAV", "FLAC", "AU"):
        data = encoded(WHOLE, container=container) + encoded(stereo, 44_100, container)
        assert len(read_all(data)[0]) == pytest.approx(5 * RATE_HZ, abs=2)


def test_a_joined_file_behind_a_placeholder_is_found() -> None:
    """Two recordings of a program that writes into a pipe."""
    assert len(read_all(_wav(0xFFFFFFFF) + encoded(WHOLE))[0]) == 2 * len(WHOLE)
    assert len(read_all(_au(0xFFFFFFFF) + encoded(WHOLE, container="AU"))[0]) == 2 * len(WHOLE)


def test_a_flac_header_that_promises_too_little_cuts_nothing() -> None:
    """36 bits from byte 21 on say how many samples there are."""
    data = bytearray(encoded(WHOLE, container="FLAC"))
    data[22:26] = (1000).to_bytes(4, "big")
    assert len(read_all(bytes(data))[0]) == len(WHOLE)


BLOCKS_S = (1e-4, 0.013, 0.08, 0.3, 1.0, 60.0)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(WHOLE, container="FLAC")[:30_000], id="cut-flac"),
        pytest.param(encoded(WHOLE, container="OGG", encoding="OPUS")[:9_000], id="cut-opus"),
        pytest.param(_wav(1_000), id="short-wav"),
        pytest.param(JOINED["VORBIS"](WHOLE) + JOINED["VORBIS"](WHOLE[:30_000]), id="chained"),
        pytest.param(encoded(WHOLE, container="MP3", encoding="MPEG_LAYER_III") * 2, id="mp3"),
    ],
)
def test_the_block_size_changes_nothing(data: bytes) -> None:
    """Neither the samples nor the warnings."""
    wanted, warnings = read_all(data)
    for block_s in BLOCKS_S:
        got, others = read_all(data, block_s)
        assert np.array_equal(got, wanted)
        assert others == warnings
