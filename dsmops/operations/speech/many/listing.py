"""Which recordings a run transcribes: files, folders, lists of paths and manifests."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from dsmops.files import os_errors
from dsmops.operations.speech.many.inputs import (
    BUCKET,
    InputFile,
    absolute,
    bad_row,
    ending,
    file_at,
    files_at,
    files_in,
    is_folder,
    lines_of,
    loose_names,
    output_id,
    refuse_other_kinds,
    require_any_there,
    require_one_each,
    rows_of,
)
from dsmops.operations.speech.many.run_folder import without_collector
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


_FORM = (
    'A line is like {"audio": "a.wav"}; "offset" and "duration" in seconds are for a part, "id" '
    "names the outputs."
)


class ListedRecording(NamedTuple):
    """A recording, or `duration_s` of one from `offset_s` on, for a run to transcribe.

    `key` tells it from others, and from itself before it was changed: where it is, its size, when
    it changed and which part it is. `file` is a path or the address of an object. `name` is that of
    its outputs, relative and without their ending. `size_bytes` is None for a file that is not
    there.
    """

    key: str
    file: str
    name: str
    size_bytes: int | None
    offset_s: float = 0.0
    duration_s: float | None = None

    @property
    def path(self) -> Path:
        """Where it is, on this machine."""
        return Path(self.file)

    @property
    def weight(self) -> float:
        """Roughly its length, only to compare recordings."""
        if self.duration_s is not None:
            # As 16-bit audio at 16 kHz would weigh.
            return self.duration_s * 32_000
        is_lossy = ending(self.file) in _LOSSY
        return (self.size_bytes or 0) * (_LOSSY_FACTOR if is_lossy else 1)


class _Found(NamedTuple):
    """A recording as it was named. `id` is the name that a manifest gives its outputs."""

    file: InputFile
    offset_s: float = 0.0
    duration_s: float | None = None
    id: str | None = None

    @property
    def span(self) -> str:
        """What tells a part of a recording from others, empty for a whole one."""
        if self.duration_s is None:
            return f"-{self.offset_s:g}" if self.offset_s else ""
        return f"-{self.offset_s:g}-{self.offset_s + self.duration_s:g}"

    @property
    def part(self) -> str:
        """What of the file it is, for its key."""
        name = "" if self.id is None else f"|{self.id}"
        return f"{self.offset_s}|{self.duration_s}{name}"


_WHOLE = "0.0|None"
"""The `part` of a whole recording without an id."""


def list_recordings(inputs: Sequence[str]) -> list[ListedRecording]:
    """Return what `inputs` name, each once, in no special order.

    An input is a recording, a folder (its recordings, those of its subfolders too), the same in a
    bucket as `s3://BUCKET/PREFIX`, `@` and a file with one of these a line, or a .jsonl manifest.
    Outputs are named by the path from the folder, else from the deepest folder that holds all
    files, or by the `id` of a manifest. Paths of a list count from the working folder, those of a
    manifest from its own.

    Raises:
        SourceError, InputError, FileAccessError: an input is missing, cannot be read or holds no
            recording, or two recordings would have outputs of one name.
        CredentialsError, RemoteError: a bucket cannot be read.
    """
    here = os.getcwd()  # noqa: PTH109 fast
    listed: dict[str, ListedRecording] = {}
    loose: list[tuple[str, _Found]] = []
    with without_collector():
        for name in inputs:
            folder = _many_at(name)
            if folder is not None:
                _add_whole(listed, files_in(folder, RECORDING_ENDINGS, "recording"), here)
                continue
            for one in _found(name):
                file, offset_s, duration_s, name_given = one
                path, relative, size_bytes, version = file
                key = f"{absolute(path, here)}|{size_bytes}|{version}|{one.part}"
                if key in listed:
                    continue
                if name_given is not None:
                    output = name_given
                elif relative is not None:
                    output = _without_ending(relative)
                else:
                    output = ""
                    loose.append((key, one))
                listed[key] = ListedRecording(key, path, output, size_bytes, offset_s, duration_s)
        _name_loose(loose, listed, here)
        recordings = list(listed.values())
        return recordings if _differ(recordings) else _with_endings(recordings)


def _add_whole(listed: dict[str, ListedRecording], files: Sequence[InputFile], here: str) -> None:
    """Add the files of a folder, each a whole recording, without a `_Found` for each."""
    # All begin as the first does: this is the work for 100,000 files that are done.
    before = absolute(files[0].file, here).removesuffix(files[0].file)
    for path, relative, size_bytes, version in files:
        key = f"{before}{path}|{size_bytes}|{version}|{_WHOLE}"
        if key not in listed:
            name = relative or ""
            listed[key] = ListedRecording(key, path, name[: name.rfind(".")], size_bytes)


def _without_ending(name: str) -> str:
    return name[: name.rfind(".")]


def longest_first(recordings: Sequence[ListedRecording]) -> list[ListedRecording]:
    """Return them in the order in which the slots of an engine end at about the same time."""
    by_name = sorted(recordings, key=attrgetter("name"))
    return sorted(by_name, key=attrgetter("weight"), reverse=True)


def require_any(recordings: Sequence[ListedRecording]) -> None:
    """Check that at least one of the recordings is there. Raises SourceError."""
    require_any_there(((one.file, one.size_bytes) for one in recordings), "recording")


def _name_loose(
    loose: Sequence[tuple[str, _Found]], listed: dict[str, ListedRecording], here: str
) -> None:
    """Name recordings by their paths from the deepest folder that holds all of them."""
    paths = loose_names([one.file.file for _, one in loose], here)
    for (key, one), path in zip(loose, paths, strict=True):
        name = os.path.splitext(path)[0] + one.span  # noqa: PTH122
        listed[key] = listed[key]._replace(name=name)


def _differ(recordings: Sequence[ListedRecording]) -> bool:
    return len({one.name for one in recordings}) == len(recordings)


def _with_endings(recordings: Sequence[ListedRecording]) -> list[ListedRecording]:
    """Return the recordings, named by their files' endings too where names are the same.

    Raises:
        InputError: they are the same nevertheless.
    """
    counts = Counter(one.name for one in recordings)
    named = [
        one
        if counts[one.name] == 1
        else one._replace(name=one.name + os.path.splitext(one.file)[1])  # noqa: PTH122
        for one in recordings
    ]
    require_one_each([one.name for one in named], (one.file for one in named))
    return named


def _found(name: str) -> Iterator[_Found]:
    if _is_list(name):
        yield from _of_list(Path(name[1:]).expanduser())
    elif _is_manifest(name):
        yield from _of_manifest(Path(name).expanduser())
    else:
        yield from _of_name(name)


def _is_list(name: str) -> bool:
    return name.startswith("@") and not Path(name).exists()


def _is_manifest(name: str) -> bool:
    return name.lower().endswith(".jsonl") and not name.startswith(BUCKET)


def _many_at(name: str) -> str | None:
    """Return the path of a folder, or the address of a prefix; None where it is something else."""
    if _is_list(name) or _is_manifest(name):
        return None
    path = name if name.startswith(BUCKET) else os.path.expanduser(name)  # noqa: PTH111
    return path if _holds_many(path) else None


def _of_name(name: str) -> Iterator[_Found]:
    """Yield the recordings of a file, a folder or a prefix."""
    path = name if name.startswith(BUCKET) else os.path.expanduser(name)  # noqa: PTH111
    if _holds_many(path):
        for file in files_in(path, RECORDING_ENDINGS, "recording"):
            yield _Found(file)
        return
    refuse_other_kinds(path, "recording")
    if not path.startswith(BUCKET):
        with os_errors(path):
            os.stat(path)  # noqa: PTH116 fast
    yield _Found(file_at(path))


def _holds_many(path: str) -> bool:
    if path.startswith(BUCKET):
        return ending(path) not in RECORDING_ENDINGS
    return is_folder(path)


def _of_list(path: Path) -> Iterator[_Found]:
    names = [
        line if line.startswith(BUCKET) else os.path.expanduser(line)  # noqa: PTH111
        for _, line in lines_of(path, "the path of a recording")
    ]
    for name, known in zip(names, files_at(names), strict=True):
        if _holds_many(name):
            yield from _of_name(name)
        else:
            yield _Found(known)


def _of_manifest(path: Path) -> Iterator[_Found]:
    parts, names = [], []
    for number, row in rows_of(path, _FORM):
        name = next((row[column] for column in AUDIO_COLUMNS if column in row), None)
        if not isinstance(name, str) or not name or "\0" in name:
            raise bad_row(path, number, "no path of a recording in it", _FORM)
        names.append(name if name.startswith(BUCKET) else str(path.parent / name))
        parts.append((*_part(row, path, number), output_id(row, path, number, _FORM)))
    for known, (offset_s, duration_s, name) in zip(files_at(names), parts, strict=True):
        yield _Found(known, offset_s, duration_s, name)


def _part(row: Mapping[str, Any], path: Path, number: int) -> tuple[float, float | None]:
    try:
        offset_s, duration_s = float(row.get("offset") or 0.0), row.get("duration")
        # A duration alone says how long the file is, nothing is cut then.
        cut_s = float(duration_s) if duration_s is not None and "offset" in row else None
    except (ValueError, TypeError) as exc:
        raise bad_row(path, number, "its offset and duration are not seconds", _FORM) from exc
    if not 0 <= offset_s < float("inf") or not (cut_s is None or 0 < cut_s < float("inf")):
        raise bad_row(path, number, "its offset and duration are not seconds", _FORM)
    return offset_s, cut_s
