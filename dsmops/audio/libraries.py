"""soundfile (libsndfile), soxr, sphn and sounddevice (PortAudio), which come with extras.

They are loaded on first use, and their errors are put into our words.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Drop what C libraries print on stderr, in any thread; what Python prints still comes.

    PortAudio, ALSA and JACK report underruns, missing cards and lost devices there.
    """
    try:
        saved = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    ours = sys.stderr
    try:
        is_descriptor = ours.fileno() == 2
    except (OSError, ValueError):
        is_descriptor = False
    with os.fdopen(saved, "w", encoding="utf-8", errors="backslashreplace", buffering=1) as kept:
        ours.flush()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        if is_descriptor:
            sys.stderr = kept
        try:
            yield
        finally:
            kept.flush()
            os.dup2(saved, 2)
            if sys.stderr is kept:
                sys.stderr = ours


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


def unreadable(name: str, reason: str, *, code: str = "audio.format") -> InputError:
    """Return the error for audio that cannot be read, with a command that makes it readable."""
    if code == "audio.damaged":
        hint = f"Fetch or record it again. To use what is left of it: {_conversion(name)}"
    elif (headerless := _HEADERLESS.get(Path(name).suffix.lower())) is not None:
        rate_hz = _TELEPHONE_HZ if headerless in ("mulaw", "alaw") else _WIDEBAND_HZ
        options = f"-f {headerless} -ar {rate_hz} -ac 1 "
        hint = (
            "Audio without a header needs its format, rate and channels; change them to what it "
            f"was recorded with: {_conversion(name, options)}"
        )
    elif shutil.which("ffmpeg") is None:
        hint = (
            f"Readable here: {', '.join(_readable())}. For other formats install ffmpeg "
            f"(`apt-get install ffmpeg`), which is then used; or convert the file elsewhere: "
            f"{_conversion(name)}"
        )
    else:
        hint = (
            f"Readable here: {', '.join(_readable())}, and what ffmpeg reads. Audio without a "
            "header needs its format, rate and channels, for example: "
            f"{_conversion(name, f'-f s16le -ar {_WIDEBAND_HZ} -ac 1 ')}"
        )
    return InputError(f"{name}: {reason}", hint=hint, code=code)


def _readable() -> list[str]:
    known = soundfile().available_formats()
    return [label for key, label in _FORMATS.items() if key in known]


def _conversion(name: str, options: str = "") -> str:
    """Return an ffmpeg command that never writes over its input."""
    path = Path(name)
    source = shlex.quote(name) if path.is_file() else "INPUT"
    target = shlex.quote(f"{path.stem}-24k.wav") if path.is_file() else "OUTPUT.wav"
    rate = "" if options else "-ac 1 -ar 24000 "
    return f"ffmpeg {options}-i {source} {rate}{target}"


_HEADERLESS = {
    **dict.fromkeys((".raw", ".pcm", ".sw", ".s16", ".sln"), "s16le"),
    **dict.fromkeys((".ul", ".ulaw", ".mulaw", ".pcmu", ".g711u"), "mulaw"),
    **dict.fromkeys((".al", ".alaw", ".pcma", ".g711a"), "alaw"),
    ".s24": "s24le",
    ".s32": "s32le",
    ".f32": "f32le",
}
"""Endings that people give to samples without a header, and what ffmpeg calls the formats."""

_TELEPHONE_HZ, _WIDEBAND_HZ = 8_000, 16_000

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
"""Formats by libsndfile's names, as people name them. An older libsndfile does not read MP3."""
