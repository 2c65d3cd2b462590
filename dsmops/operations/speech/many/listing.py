"""Which recordings a run transcribes: files, folders, lists of paths and manifests."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

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


@dataclass(frozen=True, slots=True)
class ListedRecording:
    """A recording, or `duration_s` of one from `offset_s` on, for a run to transcribe.

    `name` is that of its outputs, relative and without their ending. `size_bytes` and `mtime_ns`
    are None for a file that is not there.
    """

    path: Path
    name: str
    size_bytes: int | None
    mtime_ns: int | None
    offset_s: float = 0.0
    duration_s: float | None = None

    @property
    def key(self) -> str:
        """What tells this recording from others, and from itself before it was changed."""
        identity = (
            str(self.path.absolute()),
            self.size_bytes,
            self.mtime_ns,
            self.offset_s,
            self.duration_s,
        )
        return hashlib.sha256(repr(identity).encode(errors="surrogateescape")).hexdigest()[:32]

    @property
    def weight(self) -> float:
        """How long it roughly is, in no unit."""
        if self.duration_s is not None:
            # As 16-bit audio at 16 kHz would weigh.
            return self.duration_s * 32_000
        factor = _LOSSY_FACTOR if self.path.suffix.lower() in _LOSSY else 1
        return (self.size_bytes or 0) * factor


@dataclass(frozen=True, slots=True)
class _Found:
    path: Path
    relative: PurePath | None
    status: os.stat_result | None
    offset_s: float = 0.0
    duration_s: float | None = None


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
    found = [one for name in inputs for one in _found(name)]
    loose = [one.path.absolute() for one in found if one.relative is None]
    parent = Path(os.path.commonpath([path.parent for path in loose])) if loose else Path()
    listed: dict[str, ListedRecording] = {}
    for one in found:
        relative = one.relative or PurePath(one.path.absolute()).relative_to(parent)
        recording = ListedRecording(
            one.path,
            str(relative),
            one.status.st_size if one.status else None,
            one.status.st_mtime_ns if one.status else None,
            one.offset_s,
            one.duration_s,
        )
        listed.setdefault(recording.key, recording)
    return sorted(_named(listed.values()), key=lambda one: (-one.weight, one.name))


def _named(recordings: Iterable[ListedRecording]) -> list[ListedRecording]:
    """Take endings off the names where that leaves them different."""
    recordings = list(recordings)
    short = [_without_ending(one) for one in recordings]
    counts = Counter(short)
    named = [
        replace(one, name=name if counts[name] == 1 else one.name + _span(one))
        for one, name in zip(recordings, short, strict=True)
    ]
    for name, count in Counter(one.name for one in named).items():
        if count > 1:
            paths = [str(one.path) for one in named if one.name == name]
            raise InputError(
                f"{paths[0]} and {paths[1]} would both be written as {name}",
                hint="Name the folder that holds both, or transcribe them into two folders.",
                code="recordings.same_name",
            )
    return named


def _without_ending(recording: ListedRecording) -> str:
    return str(PurePath(recording.name).with_suffix("")) + _span(recording)


def _span(recording: ListedRecording) -> str:
    if recording.duration_s is None and not recording.offset_s:
        return ""
    end = "" if recording.duration_s is None else recording.offset_s + recording.duration_s
    return f"-{recording.offset_s:g}-{end:g}" if end != "" else f"-{recording.offset_s:g}"


def _found(name: str) -> Iterator[_Found]:
    if name.startswith("@") and not Path(name).exists():
        yield from _of_list(Path(name[1:]).expanduser())
        return
    path = Path(name).expanduser()
    if path.is_dir():
        recordings = list(_of_folder(path, PurePath()))
        if not recordings:
            raise InputError(
                f"{path} holds no recording",
                hint=f"Files are taken by their endings: {' '.join(sorted(RECORDING_ENDINGS))}.",
                code="recordings.none",
            )
        yield from recordings
    elif path.suffix.lower() == ".jsonl":
        yield from _of_manifest(path)
    else:
        with os_errors(path):
            yield _Found(path, None, path.stat())


def _of_folder(folder: Path, relative: PurePath) -> Iterator[_Found]:
    with os_errors(folder), os.scandir(folder) as entries:
        sorted_entries = sorted(entries, key=lambda entry: entry.name)
    for entry in sorted_entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _of_folder(Path(entry.path), relative / entry.name)
        elif os.path.splitext(entry.name)[1].lower() in RECORDING_ENDINGS:  # noqa: PTH122 fast
            yield _Found(Path(entry.path), relative / entry.name, _status(Path(entry.path)))


def _of_list(path: Path) -> Iterator[_Found]:
    lines = [line for _, line in _lines(path)]
    if not lines:
        raise InputError(
            f"{path} is empty", hint="A list has one path a line.", code="recordings.none"
        )
    for line in lines:
        listed = Path(line).expanduser()
        yield _Found(listed, None, _status(listed))


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
        yield _Found(recording, None, _status(recording), offset_s, cut_s)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with os_errors(path):
        text = path.read_bytes().decode(errors="surrogateescape").removeprefix("\ufeff")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _status(path: Path) -> os.stat_result | None:
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
