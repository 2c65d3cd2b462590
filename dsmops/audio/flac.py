"""The streams of a FLAC file: one, or several that were joined.

libsndfile stops at the number of samples in the first header, or loses its way at the second one.
So each stream is read on its own, with a header that leaves the number open: a number that is too
small then cuts nothing.

Source: RFC 9639 §8.2 (STREAMINFO).
"""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.audio.segments import Content, Segment

_MARKS = (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22")
"""The mark of a stream and the head of STREAMINFO, which comes first and has 34 bytes."""
_HEADER_BYTES = 8 + 34
_BLOCK_BYTES = 4096


def segments(content: Content) -> list[Segment]:
    """Return the streams of a FLAC file; an empty list without its header."""
    begins = [begin for mark in _MARKS for begin in _positions(content, mark)]
    begins.sort()
    stops = [*begins[1:], content.size] if begins else []
    return [_segment(content, *ends) for ends in zip(begins, stops, strict=True)]


def live_streams(content: Content) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    """Yield the streams of a FLAC that still arrives.

    Each is the number of samples that the header promises, None for unknown, and its bytes as they
    arrive.
    """
    begins = [0]
    while begins:
        promised = _samples(content.at(begins[0], _HEADER_BYTES))
        yield promised, _live_stream(content, begins)


def _live_stream(content: Content, begins: list[int]) -> Iterator[bytes]:
    """Yield the stream at the position in `begins`, and put that of the next one there, if any."""
    position = begins.pop()
    header = content.at(position, _HEADER_BYTES)
    if len(header) < _HEADER_BYTES:
        return
    yield _open_header(header)
    position += _HEADER_BYTES
    held = b""
    while data := content.next_bytes(position, _BLOCK_BYTES):
        position += len(data)
        held += data
        for mark in _MARKS:
            found = held.find(mark)
            if found >= 0 and _is_stream_info(
                content.at(position - len(held) + found, _HEADER_BYTES)[8:]
            ):
                begins.append(position - len(held) + found)
                yield held[:found]
                return
        # A mark may lie on both sides of the end.
        kept = max(0, len(held) - len(_MARKS[0]) + 1)
        yield held[:kept]
        held = held[kept:]
    yield held


def _positions(content: Content, mark: bytes) -> list[int]:
    found = []
    position = 0
    while (position := content.find(mark, position, content.size)) >= 0:
        if _is_stream_info(content.at(position, _HEADER_BYTES)[8:]):
            found.append(position)
        position += len(mark)
    return found


def _is_stream_info(body: bytes) -> bool:
    if len(body) < 34:
        return False
    least, most = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
    return 16 <= least <= most and int.from_bytes(body[10:13], "big") >> 4 > 0


def _segment(content: Content, begin: int, stop: int) -> Segment:
    header = content.at(begin, _HEADER_BYTES)
    pieces = (_open_header(header), range(begin + _HEADER_BYTES, stop))
    return Segment(pieces, samples=_samples(header))


def _samples(header: bytes) -> int | None:
    """Return the number of samples in a header, None for unknown."""
    return int.from_bytes(header[21:26], "big") & (1 << 36) - 1 or None


def _open_header(header: bytes) -> bytes:
    """Return a header without its number of samples."""
    # 36 bits, the upper four of which share a byte with the sample size.
    return b"".join((header[:21], bytes([header[21] & 0xF0]), bytes(4), header[26:]))
