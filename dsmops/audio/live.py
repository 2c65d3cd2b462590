"""Streams that are decoded while they arrive.

They are FLAC, Ogg, MP3, and what ffmpeg reads in one pass. WAV and the like are elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from dsmops.audio import ffmpeg, flac, mp3, ogg
from dsmops.audio.decoding import DecodingError
from dsmops.audio.programs import ProgramDecoder
from dsmops.audio.segments import Content

_BLOCK_BYTES = 4096
_PROGRAM = Path(__file__).with_name("sndfile_program.py")


def streams(content: Content) -> Iterator[tuple[Callable[[], ProgramDecoder], int | None]]:
    """Yield each stream in the content, several where files were joined.

    A stream is a function that opens its decoder, and the samples that its header promises.

    The caller must finish a decoder before it asks for the next one.

    Raises:
        DecodingError: nothing here decodes the content while it arrives.
    """
    beginning = content.at(0, 4)
    if beginning == b"fLaC":
        for promised, stream in flac.live_streams(content):
            yield partial(_open, stream, "flac"), promised
    elif beginning == b"OggS":
        yield from ((partial(_open, stream), None) for stream in ogg.live_links(content))
    elif mp3.is_beginning(beginning):
        yield from ((partial(_open, stream), None) for stream in mp3.live_streams(content))
    elif ffmpeg.is_installed():
        yield partial(ffmpeg.open_pieces, _blocks(content)), None
    else:
        raise DecodingError("not readable in one pass", is_end=False)


def _open(stream: Iterator[bytes], *arguments: str) -> ProgramDecoder:
    # -P: the program's folder is not searched for modules, whose names may be those of others.
    command = [sys.executable, "-P", str(_PROGRAM), *arguments]
    return ProgramDecoder("libsndfile", command, stream)


def _blocks(content: Content) -> Iterator[bytes]:
    """Yield all bytes as they come."""
    position = 0
    while data := content.next_bytes(position, _BLOCK_BYTES):
        yield data
        position += len(data)
