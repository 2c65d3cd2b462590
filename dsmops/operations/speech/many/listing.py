"""Which recordings a run transcribes: files, folders, lists of paths and manifests."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dsmops.errors import InputError, SourceError
from dsmops.files import os_errors
from dsmops.scoring import AUDIO_COLUMNS

_LOSSY = frozenset(
    [
        ".mp3",
        ".ogg",
        ".oga",
        ".opus",
        ".m4a",
        ".mp4",
        ".aac",
        ".amr",
        ".webm",
        ".mkv",
        ".mka",
        ".wma",
        ".3gp",
    ]
)
_LOSSLESS = frozenset(
    [".wav", ".flac", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64"]
)
RECORDING_ENDINGS = _LOSSY | _LOSSLESS
"""Endings of the files that are taken from a folder."""

_LOSSY_FACTOR = 8
"""How much more audio a byte of a lossy format holds, to begin with the longest recordings."""


# Tuples and strings from here on: with data classes and Path a folder of 100,000 recordings takes
# many times as long.
class ListedRecording(NamedTuple):
    """A recording, or `duration_s` of one from `offset_s` on, for a run to transcribe.

    `key` tells it from others, and from itself before it was changed. `name` is that of its
    outputs, relative and without their ending. `size_bytes` is None for a file that is not there.
    """

    key: str
    file: str
    name: str
    size_bytes: int | None
    offset_s: float = 0.0
    duration_s: float | None = None

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self.file)

    @property
    def weight(self) -> float:
        """How long it roughly is, in no unit."""
        if self.duration_s is not None:
            # As 16-bit audio at 16 kHz would weigh.
            return self.duration_s * 32_000
        is_lossy = _ending(self.file) in _LOSSY
        return (self.size_bytes or 0) * (_LOSSY_FACTOR if is_lossy else 1)


class _Found(NamedTuple):
    """A file, by a normal path. `relative`: from the folder that was named, None for a file."""

    file: str
    relative: str | None
    status: os.stat_result | None
    offset_s: float = 0.0
    duration_s: float | None = None

    @property
    def span(self) -> str:
        """What tells a part of a recording from others, empty for a whole one."""
        if self.duration_s is None:
            return f"-{self.offset_s:g}" if self.offset_s else ""
        return f"-{self.offset_s:g}-{self.offset_s + self.duration_s:g}"


def list_recordings(inputs: Sequence[str]) -> list[ListedRecording]:
    """Return what `inputs` name, the longest first, each once.

    An input is a recording, a folder (its recordings, those of its subfolders too), `@` and a file
    with a path a line, or a .jsonl manifest. Outputs are named by the path from the folder, else
    from the deepest folder that holds all files. Paths of a list count from the working folder,
    those of a manifest from its own.

    Raises:
        SourceError, InputError, FileAccessError: an input is missing, cannot be read or holds no
            recording, or two recordings would have outputs of one name.
    """
    here = os.getcwd()  # noqa: PTH109
    found = {_key(one, here): one for name in inputs for one in _found(name)}
    loose = [_absolute(one, here) for one in found.values() if one.relative is None]
    parent = os.path.commonpath([Path(file).parent for file in loose]) if loose else here
    names = _names(
        [
            (one.relative or os.path.relpath(_absolute(one, here), parent), one)
            for one in found.values()
        ]
    )
    listed = [
        ListedRecording(
            key,
            one.file,
            name,
            one.status.st_size if one.status else None,
            one.offset_s,
            one.duration_s,
        )
        for (key, one), name in zip(found.items(), names, strict=True)
    ]
    return sorted(listed, key=lambda one: (-one.weight, one.name))


def _ending(file: str) -> str:
    """Return the ending of a file's name, such as ".wav"; of one without, anything else."""
    return file[file.rfind(".") :].lower()


def _absolute(one: _Found, here: str) -> str:
    return one.file if one.file.startswith("/") else f"{here}/{one.file}"


def _key(one: _Found, here: str) -> str:
    status = one.status
    size, changed = (status.st_size, status.st_mtime_ns) if status else (None, None)
    identity = f"{_absolute(one, here)}|{size}|{changed}|{one.offset_s}|{one.duration_s}"
    return hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:32]


def _names(recordings: Sequence[tuple[str, _Found]]) -> list[str]:
    """Return names of outputs: without endings where that leaves them different."""
    short = [os.path.splitext(name)[0] + one.span for name, one in recordings]  # noqa: PTH122
    counts = Counter(short)
    names = [
        without if counts[without] == 1 else name + one.span
        for without, (name, one) in zip(short, recordings, strict=True)
    ]
    if len(set(names)) < len(names):
        name, _ = Counter(names).most_common(1)[0]
        pairs = zip(names, recordings, strict=True)
        paths = [one.file for other, (_, one) in pairs if other == name]
        raise InputError(
            f"{paths[0]} and {paths[1]} would both be written as {name}",
            hint="Name the folder that holds both, or transcribe them into two folders.",
            code="recordings.same_name",
        )
    return names


def _found(name: str) -> Iterator[_Found]:
    if name.startswith("@") and not Path(name).exists():
        yield from _of_list(Path(name[1:]).expanduser())
        return
    path = Path(name).expanduser()
    if path.is_dir():
        empty = True
        for one in _of_folder(os.path.normpath(path), ""):
            empty = False
            yield one
        if empty:
            raise InputError(
                f"{path} holds no recording",
                hint=f"Files are taken by their endings: {' '.join(sorted(RECORDING_ENDINGS))}.",
                code="recordings.none",
            )
    elif path.suffix.lower() == ".jsonl":
        yield from _of_manifest(path)
    else:
        with os_errors(path):
            yield _Found(os.path.normpath(path), None, path.stat())


def _of_folder(folder: str, relative: str) -> Iterator[_Found]:
    with os_errors(folder), os.scandir(folder) as entries:
        within = list(entries)
    for entry in within:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _of_folder(entry.path, f"{relative}{entry.name}/")
        elif _ending(entry.name) in RECORDING_ENDINGS:
            yield _Found(entry.path, relative + entry.name, _status(entry))


def _of_list(path: Path) -> Iterator[_Found]:
    lines = [line for _, line in _lines(path)]
    if not lines:
        raise InputError(
            f"{path} is empty", hint="A list has one path a line.", code="recordings.none"
        )
    for line in lines:
        listed = Path(line).expanduser()
        yield _Found(os.path.normpath(listed), None, _status(listed))


def _of_manifest(path: Path) -> Iterator[_Found]:
    for number, line in _lines(path):
        try:
            row = json.loads(line)
            name = next(row[column] for column in AUDIO_COLUMNS if column in row)
            recording = path.parent / name
            offset_s, duration_s = float(row.get("offset") or 0.0), row.get("duration")
            # A duration alone says how long the file is, nothing is cut then.
            cut_s = float(duration_s) if duration_s is not None and "offset" in row else None
        except (ValueError, TypeError, AttributeError, StopIteration, RecursionError) as exc:
            raise InputError(
                f"{path}, line {number}: no path of a recording in it",
                hint='A line is like {"audio": "a.wav"}, with "offset" and "duration" in seconds '
                "for a part.",
                code="manifest.bad_line",
            ) from exc
        yield _Found(os.path.normpath(recording), None, _status(recording), offset_s, cut_s)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with os_errors(path):
        text = path.read_bytes().decode(errors="surrogateescape").removeprefix("\ufeff")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _status(path: Path | os.DirEntry[str]) -> os.stat_result | None:
    """Return what is there, None for nothing: the run then lists it as failed."""
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def require_any(recordings: Sequence[ListedRecording]) -> None:
    """Check that at least one of the recordings is there.

    Raises:
        SourceError: none is; the folder is wrong, say.
    """
    if all(one.size_bytes is None for one in recordings):
        raise SourceError(
            f"none of the recordings is there, the first being {recordings[0].path}",
            hint="Paths of a list count from the working folder, those of a manifest from its own.",
            code="recordings.missing",
        )
