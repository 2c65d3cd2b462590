"""Finished transcripts: plain text, SubRip, WebVTT, and the JSON of `transcribe`."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from dsmops.errors import InputError
from dsmops.files import os_errors
from dsmops.units import size

TRANSCRIPT_SUFFIXES = (".txt", ".srt", ".vtt", ".json")
_MOST_BYTES = 64 << 20
_TIMES = re.compile(r"^\s*(?:\d+:)?\d+:\d+[.,]\d+ --> ")
_MARKUP = re.compile(r"<[^<>]*>")


def is_transcript(path: Path) -> bool:
    """Return whether a file's name says that it holds text."""
    return path.suffix.lower() in TRANSCRIPT_SUFFIXES


def read_transcript(path: Path) -> str:
    """Return the text of a transcript or a reference.

    Raises:
        SourceError, FileAccessError: it cannot be read.
        InputError: it is longer than 64 MiB, or not UTF-8 (UTF-16 with a byte order mark is read),
            or JSON without a text.
    """
    with os_errors(path), path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InputError(
            f"{path} is longer than {size(_MOST_BYTES)}: not a transcript",
            hint="Name a text file.",
            code="transcript.unreadable",
        )
    is_utf_16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InputError(
            f"{path} is not UTF-8 text (byte {exc.start})",
            hint=f"Convert it: iconv -f LATIN1 -t UTF-8 {path} -o {path.stem}-utf8{path.suffix}",
            code="transcript.unreadable",
        ) from exc
    match path.suffix.lower():
        case ".json":
            return _text_of_json(path, text)
        case ".srt" | ".vtt":
            return _text_of_captions(text)
    return text


def _text_of_json(path: Path, content: str) -> str:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise InputError(
            f"{path} is not JSON: {exc}",
            hint="Write one with `dsmops transcribe --json AUDIO`.",
            code="transcript.unreadable",
        ) from exc
    text = document.get("text") if isinstance(document, dict) else None
    if not isinstance(text, str):
        raise InputError(
            f"{path} has no text under the key text",
            hint="Write one with `dsmops transcribe --json AUDIO`.",
            code="transcript.unreadable",
        )
    return text


def _text_of_captions(content: str) -> str:
    """Return the lines between the times: a cue's number or name stands right before its times."""
    kept: list[str] = []
    blocks = re.split(r"\n[ \t]*\n", content.replace("\r\n", "\n"))
    for block in blocks:
        lines = block.split("\n")
        at = next((index for index, line in enumerate(lines) if _TIMES.match(line)), None)
        if at is not None:
            kept += [html.unescape(_MARKUP.sub("", line)) for line in lines[at + 1 :]]
    return " ".join(kept)
