"""Audio that libsndfile does not read (MP4, AAC, AMR, WebM, ...), through the program ffmpeg.

A file of a stranger may be a playlist that names other files or addresses, so ffmpeg may use local
containers only, and no protocol but the file or the pipe.

Source: ffmpeg 7 manual, "Format Options" (format_whitelist, probesize, analyzeduration) and
"Protocol Options".
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from dsmops.audio.programs import ProgramDecoder

_CONTAINERS = (
    "aac,ac3,aiff,alac,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,gsm,latm,loas,matroska,"
    "webm,mkv,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,mpc,mpc8,nut,ogg,rm,tta,voc,w64,wav,wv"
)
_LIVE = ("-probesize", "32768", "-analyzeduration", "500000")
"""How little of a pipe ffmpeg looks at before it begins: 32 KiB, half a second. Its own limits of 5
MB and 5 s would hold back the words of a live stream for so long."""


def is_installed() -> bool:
    """Return whether the program is found on PATH."""
    return shutil.which("ffmpeg") is not None


def open_file(path: Path) -> ProgramDecoder:
    """Return a decoder of the first audio track of a file.

    Raises:
        DecodingError: ffmpeg finds no audio.
    """
    source = f"file:{path.absolute()}"
    return ProgramDecoder("ffmpeg", _command("file", source), source=source)


def open_pieces(pieces: Iterator[bytes]) -> ProgramDecoder:
    """Return a decoder of the first audio track of a stream that may still run.

    Raises:
        DecodingError: ffmpeg finds no audio, or cannot read it in one pass.
    """
    return ProgramDecoder("ffmpeg", _command("pipe", "pipe:0", *_LIVE), pieces)


def _command(protocol: str, source: str, *options: str) -> list[str]:
    return [
        *("ffmpeg", "-nostdin", "-hide_banner", "-v", "error", *options),
        *("-protocol_whitelist", protocol, "-format_whitelist", _CONTAINERS),
        *("-i", source, "-map", "0:a:0", "-f", "au", "-c:a", "pcm_f32be"),
        *("-flush_packets", "1", "pipe:1"),
    ]
