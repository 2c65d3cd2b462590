"""The links of an Ogg file: streams that were joined one behind the other ("chained").

libsndfile reads the first one and drops the rest without a word. It does not say either that the
last page is incomplete. A missing end-of-stream mark proves nothing, since a recorded live stream
has none; a page that goes on behind the end of the file does.

Source: RFC 3533 §4 (chaining) and §6 (the page header).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dsmops.audio.segments import Content, Segment

_HEADER_BYTES = 27
_BEGINS_STREAM = 2
_CAPTURE = b"OggS\0"


@dataclass(frozen=True, slots=True)
class _Page:
    start: int
    stop: int
    begins_stream: bool


def segments(content: Content) -> tuple[list[Segment], bool]:
    """Return the links of an Ogg file, and whether its last page is incomplete."""
    begins: list[int] = []
    was_begin = False
    is_cut = False
    for page in _pages(content):
        if page.begins_stream and not was_begin:
            begins.append(page.start)
        was_begin = page.begins_stream
        is_cut = page.stop > content.size
    stops = [*begins[1:], content.size] if begins else []
    links = [Segment((range(*ends),)) for ends in zip(begins, stops, strict=True)]
    return links, is_cut


def _pages(content: Content) -> Iterator[_Page]:
    """Yield all pages, also behind other bytes."""
    size = content.size
    position = 0
    while position < size:
        header = content.at(position, _HEADER_BYTES + 255)
        if not header.startswith(_CAPTURE):
            position = content.find(_CAPTURE, position + 1, size)
            if position < 0:
                return
            continue
        if len(header) < _HEADER_BYTES:
            yield _Page(position, size + 1, begins_stream=False)
            return
        lengths = header[_HEADER_BYTES : _HEADER_BYTES + header[26]]
        stop = position + _HEADER_BYTES + header[26] + sum(lengths)
        yield _Page(position, stop, bool(header[5] & _BEGINS_STREAM))
        position = stop
