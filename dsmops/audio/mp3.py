"""The length of an MP3, which its header need not tell, so that libsndfile reads it to its end.

libsndfile stops at the length it believes in: that of the Xing header (the first one, where files
were joined), else a guess from the bit rate of the first frame. For a file of varying bit rate
without that header, as encoders write into a pipe, the guess can be a seventh of the truth, and the
rest is lost without a word. So the frames are counted here, and a file that would be cut is read
behind our own Xing header.

Sources: ISO/IEC 11172-3 §2.4.1 and 13818-3 (frame header), the LAME project's description of the
Xing header.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from dsmops.audio.segments import Content

_KBPS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Sample rates by version field: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5."""

_PADDING_SAMPLES = 4 * 1152
"""A correct Xing header counts so many samples less than the frames have: the encoder's delay and
padding, two frames or three."""

_MOST_GAPS = 10_000
"""False beginnings of a frame after which counting ends: a hostile file may have many."""

_HEAD_BYTES = 4 + 32 + 12
"""The beginning of a frame: its header, the longest side information, and Xing's tag and number."""

_SEARCH_BYTES = 4096
"""How far one look for the next header reaches."""


@dataclass(slots=True)
class Layer3Stream:
    """Layer III frames of one version and sample rate.

    The first header, the position of the frames, their number, and whether a Xing header leads.
    """

    first_header: bytes
    ranges: list[range]
    count: int = 0
    has_xing: bool = False
    skipped_bytes: int = 0
    """Bytes between the frames that are neither frames nor tags."""

    @property
    def samples(self) -> int:
        """Samples of one channel in all frames, without the silent frame of a Xing header."""
        return (self.count - self.has_xing) * (1152 if _version(self.first_header) == 3 else 576)

    def is_cut_at(self, declared_samples: int) -> bool:
        """Whether reading up to `declared_samples` would lose audio."""
        return declared_samples < self.samples - (_PADDING_SAMPLES if self.has_xing else 0)

    def add(self, start: int, length: int) -> None:
        if self.ranges and self.ranges[-1].stop == start:
            self.ranges[-1] = range(self.ranges[-1].start, start + length)
        else:
            self.ranges.append(range(start, start + length))
        self.count += 1


def is_beginning(data: bytes) -> bool:
    """Return whether a file that begins so is layer III, perhaps behind a tag."""
    return data[:3] == b"ID3" or _frame_bytes(data) > 0


def read_streams(content: Content) -> list[Layer3Stream] | None:
    """Return the layer III frames of a file that libsndfile takes for MPEG audio.

    The result is None where they could not be counted. Joined files give a stream for each change
    of the sample rate, for each Xing header, and for the frames that it does not count.
    """
    streams: list[Layer3Stream] = []
    size = content.size
    try:
        for frame in _frames(content):
            if frame.number > len(streams):
                streams.append(Layer3Stream(frame.header[:4], [], has_xing=_has_xing(frame.header)))
            streams[-1].add(frame.start, min(frame.length, size - frame.start))
            streams[-1].skipped_bytes += frame.skipped_bytes
    except _TooManyGapsError:
        return None
    return streams or None


def live_streams(content: Content) -> Iterator[Iterator[bytes]]:
    """Yield the streams of an MP3 that still runs, each as its frames, which come as they arrive.

    The frames of a stream that were not read are passed over when the next stream is asked for.
    """
    with suppress(_TooManyGapsError):
        for _, frames in groupby(_frames(content), key=attrgetter("number")):
            yield (content.at(frame.start, frame.length) for frame in frames)


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame of an MP3.

    It has the number of its stream from 1 on, its position, its beginning, and how many bytes
    before it belong to nothing.
    """

    number: int
    start: int
    length: int
    header: bytes
    skipped_bytes: int


class _TooManyGapsError(Exception):
    """The bytes look like frames that are not there."""


def _frames(content: Content) -> Iterator[_Frame]:
    """Yield all frames.

    A stream begins where another frame follows; after that, frames are those of its version and
    sample rate. It ends at the next Xing header, and where its own says: decoders stop there.
    """
    number = count = position = gaps = skipped = 0
    first = b""
    most: int | None = None
    while len(header := content.at(position, _HEAD_BYTES)) >= 4:
        length = _frame_bytes(header)
        is_alike = bool(first) and _same_kind(header, first) and not _has_xing(header)
        if length and (is_alike or _frame_bytes(content.at(position + length, 4))):
            # The frame of the header itself is not counted in it.
            if not is_alike or (most is not None and count > most):
                number, count, first, most = number + 1, 0, header, _xing_count(header)
            count += 1
            yield _Frame(number, position, length, header, skipped)
            skipped = 0
            position += length
        elif header[:3] == b"ID3" and len(header) >= 10:
            # Its size: four bytes of seven bits, without the ten of its header.
            a, b, c, d = header[6:10]
            position += 10 + ((a & 127) << 21 | (b & 127) << 14 | (c & 127) << 7 | d & 127)
        elif header[:3] == b"TAG":
            position += 128
        else:
            gaps += 1
            if gaps == _MOST_GAPS:
                raise _TooManyGapsError
            ahead = content.at(position + 1, _SEARCH_BYTES).find(b"\xff")
            step = 1 + ahead if ahead >= 0 else _SEARCH_BYTES
            skipped += step if first else 0
            position += step


def _has_xing(header: bytes) -> bool:
    """Return whether a frame is a Xing header: behind side information that is all zeros."""
    return _xing(header).startswith((b"Xing", b"Info"))


def _xing_count(header: bytes) -> int | None:
    """Return the number of frames in a Xing header; None if it has none."""
    tag = _xing(header)
    is_counted = _has_xing(header) and len(tag) >= 12 and tag[7] & 1
    return int.from_bytes(tag[8:12], "big") if is_counted else None


def _xing(header: bytes) -> bytes:
    """Return what follows the header, its checksum if any, and zeros."""
    return header[4 if header[1] & 1 else 6 :].lstrip(b"\0")


def xing_frame(stream: Layer3Stream) -> bytes:
    """Return a frame, to be read in front of the others, that says how many there are.

    A Xing header that came first until now is decoded as one frame of silence.
    """
    header = bytearray(stream.first_header)
    header[1] |= 1  # no checksum follows
    header[2] = (
        header[2] & 0x0C | 9 << 4
    )  # bit rate 9 of 14, 80 or 128 kbit/s, so that there is room for what follows
    frame = bytearray(_frame_bytes(header))
    frame[:4] = header
    mono = header[3] >> 6 == 3
    side_info = (17 if mono else 32) if _version(header) == 3 else (9 if mono else 17)
    # Flag 1: only the number of frames is given.
    tag = b"Xing" + (1).to_bytes(4, "big") + stream.count.to_bytes(4, "big")
    frame[4 + side_info : 4 + side_info + len(tag)] = tag
    return bytes(frame)


def _version(header: bytes | bytearray) -> int:
    return header[1] >> 3 & 3


def _same_kind(header: bytes, first: bytes) -> bool:
    """Whether a header has the version, layer and sample rate of the first one."""
    return (header[1] ^ first[1]) & 0x1E == 0 and (header[2] ^ first[2]) & 0x0C == 0


def _frame_bytes(header: bytes | bytearray) -> int:
    """Return the length of the layer III frame that begins so, 0 where none does."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, rate, kbps = _version(header), header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or rate == 3 or kbps in (0, 15):
        return 0
    bits_per_s = 1000 * (_KBPS_MPEG1 if version == 3 else _KBPS_MPEG2)[kbps]
    return (144 if version == 3 else 72) * bits_per_s // _RATES_HZ[version][rate] + (
        header[2] >> 1 & 1
    )
