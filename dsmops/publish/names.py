"""Names and keys: which files are logs, how a name becomes part of a key, what may be restored.

The key of a body is `bodies/<scan>/<sha256>/<name>`. The digest makes it an address. `<scan>` says
which redaction rules the content passed (`rules-3`) or that it passed none (`unredacted`), so that
a bucket policy can tell the two apart. The name it was first stored under lets a listing alone
rebuild a lost manifest. Names are percent-encoded, so that every key is plain ASCII. A part of a
name that is then too long for a file name continues after a `/`, with a bare `%` before it: stores
on a disk keep keys as paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from urllib.parse import quote_from_bytes, unquote_to_bytes

from dsmops.errors import InputError

BODIES = "bodies/"

NOT_VOUCHED = 0
"""In place of a rule-set version: redaction rules found something, or were not asked."""

MAX_NUMBER = 2**63 - 1
"""The largest number of an entry, signed 64-bit. As nanoseconds that is the year 2262."""

LOG_BEGINNINGS = ("log.", "friendly-")
"""How moshi-server and `format-log` name files. Other logs end in `.log`, before rotation."""

CAPTURES = {".safetensors", ".json", ".npy", ".npz", ".pt", ".bin"}
"""Endings of what the server captures besides logs: decodable voice, queries with their keys."""

REPORT_NAME = "dsmops log-report"
"""What a page of `log-report` names as its generator."""

REPORT_BEGINNINGS = (
    re.compile(
        rb"<!DOCTYPE html>.{0,500}<meta name=\"generator\" content=\"" + REPORT_NAME.encode(),
        re.DOTALL,
    ),
    re.compile(rb"\{\s{0,20}\"schema\": \"dsmops\.log-report/"),
    re.compile(rb"module,time,seconds,steps,"),
)
"""How the page, the document and the series of `log-report` begin, whatever their names are."""

REPORT_ENDINGS = (".html", ".json", ".csv")

AUDIO = {
    ".wav",
    ".mp3",
    ".mp4",
    ".ogg",
    ".opus",
    ".flac",
    ".m4a",
    ".aac",
    ".aif",
    ".aiff",
    ".webm",
    ".pcm",
    ".raw",
}

MAX_PART_BYTES = 255 - len("..dsmops-partial")
"""Of a name, between slashes: what file systems allow, less the suffix of a partial file."""

_COMPRESSION = re.compile(r"\.(gz|zst)$")
_ROTATION = re.compile(r"[.-]\d[\d-]*$")
_SEGMENT = r"(?!\.{0,2}(?:/|$))[^/]+"
_KEY = re.compile(
    rf"{BODIES}(?:rules-(?P<rules>[1-9]\d{{0,8}})|unredacted)/(?P<sha256>[0-9a-f]{{64}})/(?P<name>{_SEGMENT}(?:/{_SEGMENT})*)",
    re.DOTALL,
)
# Control characters, backslashes, what stands for no byte, and parts that are empty, relative or
# hidden.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udc7f\udd00-\udfff]|(?:^|/)(?:[./]|$)")
_KEY_SAFE = "/ !$&'()*+,;=:@"
_CONTINUES = "%/"
_ENCODED = re.compile(r"%[0-9A-F]{2}|.")


def family(name: str) -> str:
    """Return a file's name without what rotation adds: all ages of one log share it.

    Rotation adds `.1`, `.2025-11-15`, `-20251115`, `.gz` and their combinations.
    """
    name = _COMPRESSION.sub("", name)
    while (shorter := _ROTATION.sub("", name)) != name and shorter:
        name = shorter
    return name


def is_log(name: str) -> bool:
    """Tell whether a file of this base name is a log that may be published without asking.

    A name with an ending of captures or audio anywhere in it is not a log: `log.x.json.bak` is a
    copy of a capture.
    """
    if name.startswith("."):
        return False
    endings = {f".{part}" for part in re.split(r"[.~]", name.lower())[1:]}
    return (
        name.startswith(LOG_BEGINNINGS) or family(name).lower().endswith(".log")
    ) and not endings & (CAPTURES | AUDIO)


def matches_any(name: str, patterns: Sequence[str]) -> bool:
    """Tell whether one of the shell patterns fits the whole name or its last part."""
    return any(
        fnmatchcase(candidate, pattern)
        for candidate in (name, name.rpartition("/")[2])
        for pattern in patterns
    )


def with_mark(name: str, sha256: str, taken: Container[str]) -> str:
    """Return a free name for a content that lost its own to a newer one: `log.x.~1f2e3d4c.gz`."""
    compression = match[0] if (match := _COMPRESSION.search(name)) else ""
    stem = name.removesuffix(compression)
    candidates = [f"{stem}.~{sha256[:length]}{compression}" for length in (8, 16, 64)]
    return next((candidate for candidate in candidates if candidate not in taken), candidates[-1])


def body_key(name: str, sha256: str, rules: int) -> str:
    """Return the key for content that was found at `name` and passed the rule set `rules`."""
    scan = "unredacted" if rules == NOT_VOUCHED else f"rules-{rules}"
    encoded = quote_from_bytes(os.fsencode(name), safe=_KEY_SAFE)
    if any(len(part) > MAX_PART_BYTES for part in encoded.split("/")):
        encoded = "/".join(_split(part) for part in encoded.split("/"))
    return f"{BODIES}{scan}/{sha256}/{encoded}"


def _split(part: str) -> str:
    """Return a part of a key in pieces that fit. No `%XX` is cut in two."""
    pieces, piece = [], ""
    for unit in _ENCODED.findall(part):
        if len(piece) + len(unit) >= MAX_PART_BYTES:
            pieces.append(piece)
            piece = ""
        piece += unit
    return _CONTINUES.join([*pieces, piece])


def key_digest(key: str) -> str:
    """Return the digest that a body's key claims; empty when it is not the key of a body."""
    match = _KEY.fullmatch(key)
    return match["sha256"] if match else ""


def parse_body_key(key: str) -> tuple[str, str, int] | None:
    """Return name, digest and rule-set version of a body's key; None when this is not one."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    name = os.fsdecode(unquote_to_bytes(match["name"].replace(_CONTINUES, "")))
    return name, match["sha256"], int(match["rules"] or NOT_VOUCHED)


def require_safe(name: str) -> PurePosixPath:
    """Return `name` as a path that stays below the folder it is restored into.

    Anyone who can write to the store chooses names. A file of an unsafe name is not published
    either.

    Raises:
        InputError: it is absolute, climbs out, is hidden, too long, or has characters that no log's
            name has.
    """
    if _UNSAFE.search(name) or any(
        len(os.fsencode(part)) > MAX_PART_BYTES for part in name.split("/")
    ):
        raise InputError(
            f"the name {name!r} is not safe to restore",
            hint=(
                "Rename the file: no control characters, no backslash, no dot in front, and at "
                f"most {MAX_PART_BYTES} bytes between slashes."
            ),
            code="publish.name",
        )
    return PurePosixPath(name)
