"""Streams of bytes cut into blocks of whole lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

BLOCK_BYTES = 1 << 22
"""Measured: the columns of `bulk` are long enough that starting each operation costs little."""

FIRST_BLOCK_BYTES = 1 << 15
"""What the first blocks of a log teach makes the later ones fast, so the first ones are small."""

MAX_LINE_BYTES = 1 << 20
"""A longer line is cut, so that a file without line ends needs no memory of its own size."""

_MOST_LINES = 1 << 18
"""Of one block, where each line costs memory: columns of numbers take 100 bytes a line."""

_ROUND_BYTES = 1 << 16

_REPEATING_BYTES = 1 << 16
_PROBE_BYTES = 512
"""Lines of a server bear times, so so much of a log never comes twice in one block."""

_SOFT_CUT_BYTES = 4096
"""So far before the limit a blank is looked for, so that no key is cut in two."""


def chunk_sizes() -> Iterator[int]:
    """Yield how many bytes to read at a time: few at first, then `BLOCK_BYTES`."""
    size = FIRST_BLOCK_BYTES
    while True:
        yield size
        size = min(2 * size, BLOCK_BYTES)


def read_chunks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield what `stream` holds, in pieces of at most `BLOCK_BYTES` bytes."""
    for size in chunk_sizes():
        if not (chunk := stream.read(size)):
            return
        yield chunk


def gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces of a stream put together to chunks of exactly the size of a read.

    So what repeats for gigabytes repeats in its blocks, too, however it was compressed.
    """
    sizes = chunk_sizes()
    waiting: list[bytes] = []
    have, want = 0, next(sizes)
    for piece in pieces:
        waiting.append(piece)
        have += len(piece)
        if have >= want:
            data, place = b"".join(waiting), 0
            while have >= want:
                yield data[place : place + want]
                place += want
                have -= want
                want = next(sizes)
            waiting = [data[place:]]
    if have:
        yield b"".join(waiting)


def cut_blocks(chunks: Iterable[bytes], *, max_line: int = MAX_LINE_BYTES) -> Iterator[bytes]:
    """Yield the same bytes as blocks of whole lines: each but the last ends with a line end.

    A line of more than `max_line` bytes is cut there, or at a blank shortly before, so a block may
    also end inside such a line. Where lines are cut does not depend on the chunks. An empty chunk
    means a pause of the source, and passes as an empty block.
    """
    carry = b""
    for chunk in chunks:
        if not chunk:
            yield b""
            continue
        data = carry + chunk if carry else chunk
        end = data.rfind(b"\n") + 1
        begin = place = 0
        # A line may be too long wherever the next `max_line` bytes hold no line end.
        while len(data) - place > max_line:
            line_end = data.rfind(b"\n", place, place + max_line + 1) + 1
            if line_end:
                place = line_end
                continue
            if place > begin:
                yield data[begin:place]
            blank = (
                data.rfind(b" ", place + max(0, max_line - _SOFT_CUT_BYTES), place + max_line) + 1
            )
            begin = blank if blank > place else place + max_line
            yield data[place:begin]
            place = begin
        if end > begin:
            yield data[begin:end]
        carry = data[max(begin, end) :]
    if carry:
        yield carry


def _count_lines(block: bytes) -> int:
    return block.count(b"\n")


def few_lines(block: bytes, count_lines: Callable[[bytes], int] = _count_lines) -> Iterator[bytes]:
    """Yield a block in parts of about 262,144 lines at most.

    Where lines repeat, as in a bomb, the parts are equal and about 64 KiB long, so that a
    caller that remembers parts looks at few. Else parts begin at round places. `count_lines` may be
    a faster way to count line ends.
    """
    begin = 0
    if period := _period(block):
        step = period * max(1, _REPEATING_BYTES // period)
    else:
        step = len(block) // (count_lines(block) // _MOST_LINES + 1)
        step = max(_ROUND_BYTES, step - step % _ROUND_BYTES)
    while len(block) - begin > step:
        end = block.find(b"\n", begin + step - 1) + 1
        if not end or end == len(block):
            break
        yield block[begin:end]
        begin = end
    if begin < len(block):
        yield block[begin:]


def _period(block: bytes) -> int:
    """Return after how many bytes the beginning of a block repeats, or 0 where it does not."""
    period = block.find(block[:_PROBE_BYTES], 1, _ROUND_BYTES)
    if period < 1 or not block.startswith(block[period : period + _REPEATING_BYTES]):
        return 0
    return period
