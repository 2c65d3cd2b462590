"""The block stream: what goes in comes out, hashed, by direct and by cached writes, and errors are
not lost in the threads.
"""

import errno
import hashlib
import os
import threading
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.checkpoint import blocks
from dsmops.checkpoint.blocks import BLOCK_BYTES, BLOCKS, DIRECT_ALIGNMENT, FILLERS, BlockWriter


def write_all(path: Path, pieces: list[bytes], *, digest: bool, direct: bool) -> str | None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        with BlockWriter(fd, digest=digest, direct=direct) as writer:
            for piece in pieces:
                put(writer, piece)
            return writer.finish()
    finally:
        os.close(fd)


def put(writer: BlockWriter, data: bytes) -> None:
    def fill(block: memoryview) -> None:
        block[:] = data

    writer.put(len(data), fill)


def blocks_of(data: bytes) -> list[bytes]:
    return [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        DIRECT_ALIGNMENT - 1,
        DIRECT_ALIGNMENT,
        BLOCK_BYTES,
        BLOCK_BYTES + 1,
        (BLOCKS + 2) * BLOCK_BYTES + 3 * DIRECT_ALIGNMENT + 7,
    ],
)
def test_bytes_arrive_whole_and_hashed(tmp_path: Path, size: int, direct: bool) -> None:
    """Any size, also none, one that fills blocks exactly, and one that goes round the ring of
    blocks.
    """
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    digest = write_all(tmp_path / "x", blocks_of(data), digest=True, direct=direct)
    assert (tmp_path / "x").read_bytes() == data
    assert digest == hashlib.sha256(data).hexdigest()


@given(st.lists(st.binary(max_size=300), max_size=20), st.booleans())
def test_pieces_join_seamlessly(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], direct: bool
) -> None:
    """How bytes are cut into pieces, empty ones included, leaves no trace."""
    path = tmp_path_factory.mktemp("pieces") / "x"
    assert write_all(path, pieces, digest=False, direct=direct) is None
    assert path.read_bytes() == b"".join(pieces)


def test_blocks_that_are_filled_out_of_order_keep_their_places(tmp_path: Path) -> None:
    """The first block is filled last, and the results are those of the filling functions."""
    later = threading.Event()
    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)

    def fill(block: memoryview, number: int) -> int:
        if number:
            later.set()
        elif FILLERS > 1:
            assert later.wait(30)
        block[:] = bytes([number]) * len(block)
        return number

    with BlockWriter(fd, digest=True, direct=False) as writer:
        filled = [writer.put(3, partial(fill, number=number)) for number in range(BLOCKS)]
        assert [one.result() for one in filled] == list(range(BLOCKS))
        digest = writer.finish()
    os.close(fd)
    wanted = b"".join(bytes([number]) * 3 for number in range(BLOCKS))
    assert (tmp_path / "x").read_bytes() == wanted
    assert digest == hashlib.sha256(wanted).hexdigest()


def test_what_a_filling_function_raises_comes_out(tmp_path: Path) -> None:
    """And nothing of that block is written; the threads end."""

    def fill(block: memoryview) -> None:
        raise ValueError("unreadable")

    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    with (
        pytest.raises(ValueError, match="unreadable"),
        BlockWriter(fd, digest=True, direct=False) as writer,
    ):
        writer.put(5, fill)
        writer.finish()
    os.close(fd)
    assert (tmp_path / "x").stat().st_size == 0


def test_a_file_system_without_direct_writes_gets_ordinary_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some accept the flag and then refuse every write with EINVAL."""
    real = os.pwrite

    def picky(fd: int, data: memoryview, offset: int) -> int:
        if blocks.is_direct(fd):
            raise OSError(errno.EINVAL, "unaligned")
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", picky)
    data = bytes(3 * BLOCK_BYTES)
    write_all(tmp_path / "x", blocks_of(data), digest=False, direct=True)
    assert (tmp_path / "x").read_bytes() == data


def test_a_failed_write_is_reported(tmp_path: Path) -> None:
    """The error of the writing thread comes out here, and the threads end."""
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with (
            pytest.raises(OSError, match="No space"),
            BlockWriter(fd, digest=True, direct=False) as writer,
        ):
            for _ in range(2 * BLOCKS):
                put(writer, bytes(BLOCK_BYTES))
    finally:
        os.close(fd)
