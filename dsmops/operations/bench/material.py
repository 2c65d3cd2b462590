"""What a load test sends: recordings as samples, or texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsmops.audio import SAMPLE_RATE_HZ, Samples, open_audio
from dsmops.errors import InputError
from dsmops.operations.speech.texts import read_text
from dsmops.protocol.text import clean_text, with_server_breaks
from dsmops.shipped import shipped_folder

MOST_S = 300.0
"""Streams repeat five minutes of audio at most: 36 MB in each client process."""
_SHIPPED = Path("tiny") / "example.flac"

# Forty words each, as in the published measurements of moshi-server.
DEFAULT_TEXTS = (
    "Good morning, and welcome to the station. The first train of the day leaves for the coast in"
    " ten minutes from platform four. Please keep your ticket ready, mind the gap, and have a"
    " pleasant journey with all of us.",
    "The weather will stay dry until the late afternoon, when clouds arrive from the west. In the"
    " mountains it may rain during the night, so please take a coat if you plan to walk there"
    " on Saturday or on Sunday.",
    "Thank you for calling. All of our lines are busy at the moment, but your call is important to"
    " us. If you stay on the line, one of my colleagues will be with you in three minutes or"
    " even sooner.",
    "My grandmother kept a small shop near the harbour. Every evening the sailors came in, bought"
    " bread and tobacco, and told her about the places they had seen. She kept it all in a"
    " book that I have at home.",
)


@dataclass(frozen=True, slots=True)
class Recordings:
    """Recordings one after another, as blocks of 24 kHz mono samples."""

    names: tuple[str, ...]
    blocks: tuple[Samples, ...]


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts that streams say in turn."""

    names: tuple[str, ...]
    texts: tuple[str, ...]


def read_recordings(paths: Sequence[Path]) -> Recordings:
    """Return the recordings at `paths`, by default the one that ships with the package.

    Raises:
        InputError, SourceError: one of them cannot be read, or holds no sound.
    """
    paths = paths or [shipped_folder("models") / _SHIPPED]
    blocks: list[Samples] = []
    left = int(MOST_S * SAMPLE_RATE_HZ)
    for path in paths:
        with open_audio(path) as audio:
            for block in audio.blocks():
                blocks.append(block[:left])
                left -= len(blocks[-1])
                if left <= 0:
                    break
    if not any(len(block) for block in blocks):
        raise InputError(
            f"{', '.join(map(str, paths))} holds no sound",
            hint="Give a recording with speech: --audio FILE.",
            code="audio.empty",
        )
    return Recordings(tuple(path.name for path in paths), tuple(blocks))


def read_texts(arguments: Sequence[str]) -> Texts:
    """Return the texts of files, each line one text, or the arguments themselves.

    By default four short texts of 40 words.

    Raises:
        InputError, SourceError: a file cannot be read, or is empty.
    """
    if not arguments:
        return Texts(("four texts of 40 words",), DEFAULT_TEXTS)
    lines = [line.strip() for argument in arguments for line in read_text(argument).splitlines()]
    texts = tuple(with_server_breaks(clean_text(line)) for line in lines if line)
    names = tuple(name if len(name) <= 60 else f"{name[:57]}..." for name in arguments)
    return Texts(names, texts)
