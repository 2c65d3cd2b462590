"""The door to soundfile (libsndfile), soxr, sphn and sounddevice (PortAudio), which come with extras: loaded on first use, their errors
put into words.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from dsmops.errors import ExtraMissingError, InputError


def soundfile() -> Any:
    """Return the module.

    Raises:
        ExtraMissingError: it is not installed, or lacks its C library.
    """
    try:
        import soundfile
    except (ImportError, OSError) as exc:
        raise ExtraMissingError("reading and writing audio files", "soundfile") from exc
    return soundfile


def soxr() -> Any:
    """Return the module.

    Raises:
        ExtraMissingError: it is not installed.
    """
    try:
        import soxr
    except ImportError as exc:
        raise ExtraMissingError("changing the sample rate of audio", "soxr") from exc
    return soxr


def sphn() -> Any:
    """Return the module.

    Raises:
        ExtraMissingError: it is not installed.
    """
    try:
        import sphn
    except ImportError as exc:
        raise ExtraMissingError("reading Ogg/Opus streams", "sphn") from exc
    return sphn


def sounddevice(purpose: str) -> Any:
    """Return the module.

    Raises:
        ExtraMissingError: it is not installed, or lacks PortAudio.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as exc:
        raise ExtraMissingError(purpose, "sounddevice", extra="mic") from exc
    return sounddevice


def unreadable(
    name: str, reason: str, *, code: str = "audio.format", flags: str = ""
) -> InputError:
    """Return the error for audio that libsndfile cannot use, with the formats that it can and a way to make one."""
    known = soundfile().available_formats()
    readable = [label for key, label in _FORMATS.items() if key in known]
    source = shlex.quote(name) if Path(name).is_file() else "INPUT"
    target = shlex.quote(f"{Path(name).stem}-24k.wav") if Path(name).is_file() else "OUTPUT.wav"
    remedy = f"Readable here: {', '.join(readable)}. To convert anything else:"
    if code == "audio.damaged":
        remedy = "Fetch or record it again. To use what is left of it:"
    return InputError(
        f"{name}: {reason}",
        hint=f"{remedy} ffmpeg {flags}-i {source} -ac 1 -ar 24000 {target}",
        code=code,
    )


_FORMATS = {
    "WAV": "WAV",
    "FLAC": "FLAC",
    "OGG": "Ogg (Vorbis, Opus)",
    "MP3": "MP3",
    "AIFF": "AIFF",
    "CAF": "CAF",
    "AU": "AU",
    "W64": "W64",
    "RF64": "RF64",
}
"""Formats by libsndfile's names that people meet, as people name them; older libsndfile reads no MP3."""
