"""The links of an Ogg file: streams that were joined one behind the other ("chained").

libsndfile reads the first one and drops the rest without a word. It does not say either that the
last page is incomplete. A missing end-of-stream mark proves nothing, since a recorded live stream
has none; a page that goes on behind the end of the file does.

Source: RFC 3533 §4 (chaining) and §6 (the page header).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

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
    is_cut = False
    for number, page in _numbered_pages(content):
        if number > len(begins):
            begins.append(page.start)
        is_cut = page.stop > content.size
    stops = [*begins[1:], content.size] if begins else []
    links = [Segment((range(*ends),)) for ends in zip(begins, stops, strict=True)]
    return links, is_cut


def live_links(content: Content) -> Iterator[Iterator[bytes]]:
    """Yield the links of a stream that still runs, each as its pages, which come as they arrive.

    The pages of a link that were not read are passed over when the next link is asked for.
    """
    for _, pages in groupby(_numbered_pages(content), key=lambda numbered: numbered[0]):
        yield (content.at(page.start, page.stop - page.start) for _, page in pages)


def _numbered_pages(content: Content) -> Iterator[tuple[int, _Page]]:
    """Yield all pages with the number of their link, 0 before the first one begins."""
    number = 0
    was_begin = False
    for page in _pages(content):
        number += page.begins_stream and not was_begin
        was_begin = page.begins_stream
        yield number, page


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
