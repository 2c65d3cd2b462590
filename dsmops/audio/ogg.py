"""Whether an Ogg file is cut short, which libsndfile does not say: it reads up to the last whole page.

A missing end-of-stream mark proves nothing, since a recorded live stream has none; a page that goes
on behind the end of the file does.
Source: RFC 3533 §6 (the page header).
"""

from __future__ import annotations

import io
from typing import BinaryIO

_HEADER_BYTES = 27
_MAX_PAGE_BYTES = _HEADER_BYTES + 255 + 255 * 255


def ends_inside_a_page(file: BinaryIO) -> bool:
    """Whether the last page of a seekable file is incomplete. The file's position is moved."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _MAX_PAGE_BYTES))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS\0")) :]
    if len(page) < _HEADER_BYTES:
        return True
    segments = page[_HEADER_BYTES : _HEADER_BYTES + page[26]]
    return len(page) < _HEADER_BYTES + page[26] + sum(segments)
