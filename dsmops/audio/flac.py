"""The streams of a FLAC file: one, or several that were joined.

libsndfile stops at the number of samples in the first header, or loses its way at the second one.
So each stream is read on its own, with a header that leaves the number open: a number that is too
small then cuts nothing.

Source: RFC 9639 §8.2 (STREAMINFO).
"""

from __future__ import annotations

from dsmops.audio.segments import Content, Segment

_MARKS = (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22")
"""The mark of a stream and the head of STREAMINFO, which comes first and has 34 bytes."""
_HEADER_BYTES = 8 + 34


def segments(content: Content) -> list[Segment]:
    """Return the streams of a FLAC file; an empty list without its header."""
    begins = [begin for mark in _MARKS for begin in _positions(content, mark)]
    begins.sort()
    stops = [*begins[1:], content.size] if begins else []
    return [_segment(content, *ends) for ends in zip(begins, stops, strict=True)]


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
    header = bytearray(content.at(begin, _HEADER_BYTES))
    samples = int.from_bytes(header[21:26], "big") & (1 << 36) - 1
    # 36 bits, the upper four of which share a byte with the sample size.
    header[21] &= 0xF0
    header[22:26] = bytes(4)
    return Segment((bytes(header), range(begin + _HEADER_BYTES, stop)), samples=samples or None)
