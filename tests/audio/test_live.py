"""Audio from a pipe: read while the writer still writes, and the same samples as from a file."""

import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from dsmops.audio import open_audio, read
from dsmops.audio.spool import Spool
from tests.support.sound import encoded, piped_wav, sweep

TONE = sweep(16_000, 3.0)


@pytest.mark.parametrize(
    "data",
    [piped_wav(TONE, 16_000), encoded(TONE, 16_000, "AU"), encoded(TONE, 16_000)],
    ids=["placeholder", "au", "wav"],
)
def test_samples_come_while_the_pipe_is_open(data: bytes) -> None:
    """The second half is written only when the first was received."""
    reading, writing = os.pipe()
    half = len(data) // 2
    os.set_blocking(writing, False)
    writer = open(writing, "wb", buffering=0)  # noqa: SIM115 closed below
    sender = threading.Thread(target=_write, args=(writing, data[:half]))
    sender.start()
    with open(reading, "rb") as pipe, open_audio(pipe) as audio:
        assert audio.is_live
        assert audio.duration_s is None
        blocks = audio.blocks(0.1)
        early = [next(blocks) for _ in range(10)]
        sender.join()
        rest = threading.Thread(target=_write, args=(writing, data[half:]))
        rest.start()
        rest.join(timeout=0)
        closer = threading.Thread(target=lambda: (rest.join(), writer.close()))
        closer.start()
        got = np.concatenate([*early, *blocks])
        closer.join()
    assert np.array_equal(got, _of_file(data))
    assert audio.warnings == []


def _write(descriptor: int, data: bytes) -> None:
    os.set_blocking(descriptor, True)
    while data:
        data = data[os.write(descriptor, data) :]


def _of_file(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    import io

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


@pytest.mark.parametrize(
    ("container", "encoding"), [("FLAC", "PCM_16"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
)
def test_other_formats_are_read_when_the_pipe_ends(container: str, encoding: str) -> None:
    """Their decoders need the whole."""
    data = encoded(sweep(24_000, 2.0), 24_000, container, encoding)
    assert through_pipe(data) == (len(_of_file(data)), [])


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
