"""Segments of uncompressed files: WAV, RF64, BW64, W64, AIFF, CAF and AU.

Sources: Microsoft "Multimedia Programming Interface" 1.0 (RIFF), EBU Tech 3306 (RF64), ITU-R
BS.2088 (BW64), Sony's description of Wave64, Apple's "AIFF-C" draft and "Core Audio Format"
specification, and the man page of Sun's AU format.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dsmops.audio.segments import Content, Segment

PLACEHOLDER_BYTES = 0x7FFF0000
"""Larger sizes in a shorter file are placeholders: ffmpeg writes 0xFFFFFFFF, sox and arecord a
little under 2 GiB."""

_SLACK_BYTES = 64
"""A header may count so many bytes more than the file has: some writers count the header itself.
Bytes behind the samples that are not more than this are not audio."""

_MOST_HEAD_BYTES = 16 << 20
"""How far into a file the samples may begin: cover art stands before them in some."""

_MOST_SEGMENT_BYTES = 0x7FFF_0000
"""Bytes of samples that a 32-bit size can hold, signed as libsndfile reads it in AU; longer audio
becomes several segments."""

_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN", b"3DI")
"""Beginnings of tags that other programs append to any file."""


@dataclass(frozen=True, slots=True)
class _Family:
    """How a container writes its chunks. `skip` bytes of the data chunk come before the samples."""

    magic: bytes
    kind: bytes
    """The bytes after the magic and the size, at `kind_at`."""
    kind_at: int
    header_bytes: int
    size: str
    data: bytes
    format: bytes
    id_bytes: int = 4
    alignment: int = 2
    counts_header: bool = False
    skip: int = 0


_W64 = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_FAMILIES = (
    _Family(b"RIFF", b"WAVE", 8, 12, "<I", b"data", b"fmt "),
    _Family(b"RIFX", b"WAVE", 8, 12, ">I", b"data", b"fmt "),
    _Family(b"RF64", b"WAVE", 8, 12, "<I", b"data", b"fmt "),
    _Family(b"BW64", b"WAVE", 8, 12, "<I", b"data", b"fmt "),
    _Family(b"FORM", b"AIF", 8, 12, ">I", b"SSND", b"COMM", skip=8),
    _Family(b"caff", b"", 0, 8, ">q", b"data", b"desc", alignment=1, skip=4),
    _Family(b"riff", b"wave" + _W64, 24, 40, "<q", b"data" + _W64, b"fmt " + _W64, 16, 8, True),
)
_MAGICS = {family.magic for family in _FAMILIES}
_AU = {b".snd": ">", b"dns.": "<"}
_AU_SAMPLE_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}
"""Bytes of a sample by AU's number of the encoding; packed codecs are left out."""


@dataclass(frozen=True, slots=True)
class _Size:
    """A size in a header: its position, its struct format and what it counts.

    It counts units of `unit_bytes` of samples, plus `extra`.
    """

    offset: int
    form: str
    unit_bytes: int = 1
    extra: int = 0


@dataclass(frozen=True, slots=True)
class _Samples:
    """What the header that begins at `begin` says.

    The samples begin at `start` and have `declared` bytes, in blocks of `block_bytes`. `sizes` are
    what to correct in `head`, the bytes before them.
    """

    begin: int
    start: int
    declared: int
    block_bytes: int
    head: bytes
    sizes: tuple[_Size, ...]

    def with_size(self, count: int) -> bytes:
        """Return the header for `count` bytes of samples."""
        head = bytearray(self.head)
        for size in self.sizes:
            struct.pack_into(size.form, head, size.offset, count // size.unit_bytes + size.extra)
        return bytes(head)


def segments(content: Content) -> Iterator[Segment] | None:
    """Return the segments of a file.

    The result is None for another container, and where only a decoder knows how long the samples
    are.
    """
    samples = _samples(content, 0)
    return None if samples is None else _segments(content, samples)


def _segments(content: Content, samples: _Samples | None) -> Iterator[Segment]:
    """Yield the samples that each header announces, and those behind them that none announces."""
    while samples is not None:
        start, declared = samples.start, samples.declared
        end = start + declared
        following: _Samples | None = None
        is_open = declared >= PLACEHOLDER_BYTES and (content.is_live or content.size < end)
        if is_open or (content.is_live and not declared):
            rest, promised = start, None
        elif content.size < end:
            yield from _runs(content, samples, start, content.size, declared)
            return
        else:
            whole = declared - declared % samples.block_bytes
            yield from _runs(content, samples, start, start + whole, declared)
            if content.size < end:  # a live stream that ended early
                return
            following, rest = _behind(content, samples, end)
            promised = declared or None
        if rest < content.size:
            # Samples that no header announces. A further file may follow.
            stop = _next_file(content, samples, rest)
            yield from _runs(content, samples, rest, stop, promised)
            following = None if stop >= content.size else _samples(content, stop)
        samples = following


def _runs(
    content: Content, samples: _Samples, start: int, stop: int, promised: int | None
) -> Iterator[Segment]:
    """Yield the bytes between as segments that a 32-bit size can hold.

    The first one compares all bytes from the beginning of the samples to `stop` with the header.
    """
    most = _MOST_SEGMENT_BYTES // samples.block_bytes * samples.block_bytes
    held = stop - samples.start
    while start < min(stop, content.size):
        count = min(stop - start, most)
        yield Segment((samples.with_size(count), range(start, start + count)), promised, held)
        promised = None
        start += count


def _behind(content: Content, samples: _Samples, end: int) -> tuple[_Samples | None, int]:
    """Return the file that begins behind the samples, and where uncounted samples go on.

    The file is None where none begins. Uncounted samples are those that the header does not count;
    where there are none, the position is the end of the content.
    """
    family = _family(content, samples.begin)
    starts = [end]
    if family is not None:
        # Some writers forget the padding of a chunk.
        starts.insert(0, end + (samples.begin - end) % family.alignment)
    for start in dict.fromkeys(starts):
        position = start
        for name, body, position in _chunks(content, family, start):
            if family is not None and name == family.data:
                begin = body + family.skip
                return replace(samples, start=begin, declared=position - begin), content.size
        following = _samples(content, position)
        if following is not None:
            return following, content.size
        if (
            position > start
            or content.size - position <= _SLACK_BYTES
            or content.at(position, 16).startswith(_TAGS)
        ):
            return None, content.size
    return None, end - samples.declared % samples.block_bytes


def _chunks(
    content: Content, family: _Family | None, position: int
) -> Iterator[tuple[bytes, int, int]]:
    """Yield the chunks from `position` on, as far as they are chunks that fit into the file."""
    while family is not None and position < content.size:
        chunk = _chunk(content, family, position)
        if chunk is None or chunk[2] > content.size + _SLACK_BYTES:
            return
        yield chunk
        position = chunk[2]


def _chunk(content: Content, family: _Family, position: int) -> tuple[bytes, int, int] | None:
    """Return a chunk's name, where its body begins and where the next chunk does."""
    size_bytes = struct.calcsize(family.size)
    header = content.at(position, family.id_bytes + size_bytes)
    name = header[: family.id_bytes]
    if len(header) < family.id_bytes + size_bytes or not re.fullmatch(
        rb"[A-Za-z0-9 _.\-]{3}[A-Za-z0-9 _.\-\0]", name[:4]
    ):
        return None
    if name[:4] in _MAGICS:
        return None
    (size,) = struct.unpack(family.size, header[family.id_bytes :])
    body = position + len(header)
    size -= len(header) if family.counts_header else 0
    if size < 0:
        return None
    end = body + size
    return name, body, end + (-(end - position)) % family.alignment


def _family(content: Content, begin: int) -> _Family | None:
    header = content.at(begin, 40)
    for family in _FAMILIES:
        kind = header[family.kind_at : family.kind_at + len(family.kind)]
        if header.startswith(family.magic) and (not family.kind or kind == family.kind):
            return family
    return None


def _samples(content: Content, begin: int) -> _Samples | None:
    """Return what the file that begins at `begin` says about its samples.

    The result is None if only a decoder can find them.
    """
    family = _family(content, begin)
    if family is None:
        return _au_samples(content, begin)
    bodies: dict[bytes, int] = {}
    position = begin + family.header_bytes
    size_bytes = struct.calcsize(family.size)
    while position - begin < _MOST_HEAD_BYTES:
        header = content.at(position, family.id_bytes + size_bytes)
        name = header[: family.id_bytes]
        if name == family.data and len(header) == family.id_bytes + size_bytes:
            return _announced(content, family, begin, position, bodies)
        chunk = _chunk(content, family, position)
        if chunk is None:
            return None
        bodies[chunk[0]] = chunk[1]
        position = chunk[2]
    return None


def _announced(
    content: Content, family: _Family, begin: int, position: int, bodies: dict[bytes, int]
) -> _Samples | None:
    """Return the samples of the data chunk at `position`, behind the chunks in `bodies`."""
    body = position + family.id_bytes + struct.calcsize(family.size)
    start = body + family.skip
    if family.data == b"SSND":
        start += int.from_bytes(content.at(body, 4), "big")
    head = content.at(begin, start - begin)
    if len(head) < start - begin or family.format not in bodies:
        return None
    block_bytes = _block_bytes(family, head[bodies[family.format] - begin :])
    if not block_bytes:
        return None
    at = position - begin + family.id_bytes
    (size,) = struct.unpack_from(family.size, head, at)
    unsigned = size & (2 ** (8 * struct.calcsize(family.size)) - 1)
    inside = start - body
    sizes = [_Size(at, family.size, extra=inside + (24 if family.counts_header else 0))]
    whole = start - begin
    if family.magic in (b"RF64", b"BW64"):
        if b"ds64" not in bodies:
            return None
        ds64 = bodies[b"ds64"] - begin
        if unsigned == 0xFFFFFFFF:
            (unsigned,) = struct.unpack_from("<Q", head, ds64 + 8)
        head = b"RF64" + head[4:at] + b"\xff\xff\xff\xff" + head[at + 4 :]
        sizes = [
            _Size(ds64, "<Q", extra=whole - 8),
            _Size(ds64 + 8, "<Q"),
            _Size(ds64 + 16, "<Q", block_bytes),
        ]
    elif family.magic == b"riff":
        sizes.append(_Size(16, "<q", extra=whole))
        unsigned = max(0, unsigned - 24) if unsigned < 1 << 62 else unsigned
    elif family.magic == b"FORM":
        sizes.append(_Size(4, ">I", extra=whole - 8))
        sizes.append(_Size(bodies[b"COMM"] - begin + 2, ">I", block_bytes))
    elif family.magic != b"caff":
        sizes.append(_Size(4, family.size, extra=whole - 8))
    declared = max(0, unsigned - inside) if unsigned < 1 << 62 else unsigned
    return _Samples(begin, start, declared, block_bytes, head, tuple(sizes))


def _block_bytes(family: _Family, body: bytes) -> int:
    """Return the bytes of one sample of all channels, 0 where that is not fixed.

    For WAV's packed codecs it is the size of a block.
    """
    if family.format == b"COMM":
        if len(body) < 18:
            return 0
        channels, bits = struct.unpack_from(">h4xh", body)
        packed = family.kind == b"AIF" and body[18:22] in (b"ima4", b"MAC3", b"MAC6", b"GSM ")
        return 0 if packed else max(0, channels * ((bits + 7) // 8))
    if family.format == b"desc":
        return (
            int.from_bytes(body[16:20], "big") if body[8:12] in (b"lpcm", b"alaw", b"ulaw") else 0
        )
    return int.from_bytes(body[12:14], "big" if family.magic == b"RIFX" else "little")


def _au_samples(content: Content, begin: int) -> _Samples | None:
    header = content.at(begin, 24)
    order = _AU.get(header[:4])
    if order is None or len(header) < 24:
        return None
    offset, declared, encoding, _, channels = struct.unpack(f"{order}5I", header[4:])
    sample_bytes = _AU_SAMPLE_BYTES.get(encoding, 0)
    if not (24 <= offset <= _MOST_HEAD_BYTES and sample_bytes and 0 < channels <= 1024):
        return None
    head = content.at(begin, offset)
    if len(head) < offset:
        return None
    size = _Size(8, f"{order}I")
    return _Samples(begin, begin + offset, declared, sample_bytes * channels, head, (size,))


def _next_file(content: Content, samples: _Samples, start: int) -> int:
    """Return where the next file of this format begins in samples of unknown length.

    That is the end of the file if there is none. A live stream is not searched.
    """
    if content.is_live:
        return content.size
    family = _family(content, samples.begin)
    pattern = content.at(samples.begin, 4)
    if family is not None and family.format == b"fmt ":
        pattern, back = b"WAVEfmt ", 8
    elif family is not None and family.magic == b"caff":
        pattern, back = b"caff\0\1\0\0desc", 0
    else:
        back = 0
    position = start
    while (position := content.find(pattern, position, content.size)) >= 0:
        if _samples(content, position - back) is not None:
            return position - back
        position += len(pattern)
    return content.size
