"""From the name of a voice to its file: this machine, a folder of voices, the hub.

A voice's name is its file's path in its folder, less the suffix that says which model it was made
for: `expresso/happy.wav` is `expresso/happy.wav.1e68beda@240.safetensors`. A name that is not there
is an error, never another voice.
"""

from __future__ import annotations

import difflib
import math
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Protocol

from dsmops.errors import DsmopsError, SourceError
from dsmops.hub import (
    HubFile,
    fetch,
    is_hub_source,
    list_files,
    parse_source,
    plan_download,
    read_settings,
)
from dsmops.progress import SILENT, Progress

PUBLISHED_VOICES = "hf-snapshot://kyutai/tts-voices"
DEFAULT_VOICE = "unmute-prod-website/default_voice.wav"
"""The voice of upstream's own config."""

_HUB_FOLDERS = ("hf-snapshot://", "hf://")
_TENSORS = ".safetensors"
_LISTED_S = 600.0
"""How long a list of the hub is used again: a server must not ask it for every unknown name."""
_NEAR = 5


class Voices(Protocol):
    """A folder of voices, of which those for one model count."""

    def names(self) -> list[str]:
        """Return the names of all voices, sorted.

        Raises:
            RemoteError, CredentialsError: the hub failed or refused.
        """

    def find(self, name: str) -> Path:
        """Return the file of a voice, with or without its suffix in `name`, downloaded if needed.

        Nothing outside the folder is ever found, so a stranger may choose the name. May be called
        from any thread.

        Raises:
            SourceError: the voice is unknown; the hint names the nearest, and how many there are.
            RemoteError, CredentialsError, ResourceError: the hub, the network or the disk failed or
                refused.
        """


def open_voices(where: str, suffix: str, *, progress: Progress = SILENT) -> Voices:
    """Return the voices in `where` whose files end in `suffix`.

    `where` is a local folder, `hf://org/repo[@revision]`, or, as in a moshi-server TOML,
    `hf-snapshot://org/repo[/pattern]`, of which the files count that match the pattern. No request
    is made yet. `progress` announces and shows the downloads of voices that are found there.

    Raises:
        SourceError: the folder does not exist, or the repository has no valid name.
    """
    for scheme in _HUB_FOLDERS:
        if where.startswith(scheme):
            rest = where.removeprefix(scheme)
            # What stands for a file is the pattern: all there is in a folder, or in the whole
            # repository.
            rest += "*" if rest.endswith("/") else "" if rest.count("/") > 1 else "/*"
            return _HubVoices(where, suffix, parse_source(f"hf://{rest}"), progress)
    path = Path(os.path.expanduser(where))  # noqa: PTH111 the method fails at an unknown ~name
    if not where or not path.is_dir():
        raise SourceError(
            f"{where or 'an empty name'} is not a folder of voices",
            hint=f"Name a folder, or a repository on the hub such as {PUBLISHED_VOICES}.",
            code="voice.folder",
        )
    return _LocalVoices(path, suffix)


def find_voice(
    name: str,
    voices: str = PUBLISHED_VOICES,
    *,
    suffix: str,
    progress: Progress = SILENT,
) -> Path:
    """Return the file of the voice that `name` names.

    It is a local file, `hf://org/repo[@revision]/path`, or a voice in the folder `voices`. The
    suffix may be omitted. Raises as `Voices.find` and `open_voices` do.
    """
    if is_hub_source(name):
        file = parse_source(name)
        return _HubVoices(f"hf://{file.repo}", suffix, file.sibling("*"), progress).find(
            file.filename
        )
    path = Path(os.path.expanduser(name))  # noqa: PTH111 see above
    for candidate in (path, path.with_name(f"{path.name}{suffix}")) if path.name else ():
        if candidate.name.endswith(_TENSORS) and _is_file(candidate):
            return candidate
    try:
        return open_voices(voices, suffix, progress=progress).find(name)
    except SourceError as exc:
        if exc.code == "voice.unknown" and _is_file(path):
            raise SourceError(
                f"{name} is not a voice file, and {voices} has no voice of that name",
                hint="A voice is a .safetensors file that Kyutai made from a recording; the "
                f"recording itself is not. Name one of {voices}, or a file from there.",
                code="voice.unknown",
            ) from exc
        raise


@dataclass(frozen=True, slots=True)
class _LocalVoices:
    folder: Path
    suffix: str

    def names(self) -> list[str]:
        files = (path for path in self.folder.rglob(f"*{self.suffix}") if path.is_file())
        return sorted(
            path.relative_to(self.folder).as_posix().removesuffix(self.suffix) for path in files
        )

    def find(self, name: str) -> Path:
        path = self.folder / _file_name(name, self.suffix)
        if not _stays_below(name) or not _is_file(path):
            raise _missing(name, str(self.folder), self.names(), self.suffix)
        return path


@dataclass(slots=True)
class _HubVoices:
    where: str
    suffix: str
    pattern: HubFile
    """Its file name is the pattern; `*` matches slashes too, as in huggingface_hub."""
    progress: Progress
    _asking: threading.RLock = field(default_factory=threading.RLock, init=False)
    """One asks at a time: two that fetch the same file are in each other's way."""
    _files: list[str] = field(default_factory=list, init=False)
    _listed_s: float = field(default=-math.inf, init=False)

    def names(self) -> list[str]:
        with self._asking:
            if not self._is_listed:
                self._files, self._listed_s = list_files(self.pattern), time.monotonic()
            files = [
                file for file in self._files if file.endswith(self.suffix) and self._matches(file)
            ]
        return [file.removesuffix(self.suffix) for file in files]

    def find(self, name: str) -> Path:
        file = self.pattern.sibling(_file_name(name, self.suffix))
        with self._asking:
            if (
                not _stays_below(name)
                or not self._matches(file.filename)
                or (self._is_listed and file.filename not in self._files)
            ):
                raise _missing(name, self.where, self.names(), self.suffix)
            try:
                plan = plan_download([file])
            except SourceError as exc:
                if exc.code not in ("hub.file_missing", "hub.offline"):
                    raise
                offline = exc.hint if exc.code == "hub.offline" else ""
                raise _missing(name, self.where, self.names(), self.suffix, offline) from exc
            if plan.fetch_bytes:
                self.progress.announce(plan.lines())
            return fetch(plan, progress=self.progress)[file]

    @property
    def _is_listed(self) -> bool:
        """Whether `_files` is a recent list of the hub. Offline the cache is read each time."""
        return time.monotonic() - self._listed_s < _LISTED_S and not read_settings().offline

    def _matches(self, file: str) -> bool:
        return fnmatchcase(file, self.pattern.filename)


def _file_name(name: str, suffix: str) -> str:
    """Return the file that a name means. Another model's suffix stays: the reader says so."""
    return name if name.endswith(_TENSORS) else f"{name}{suffix}"


def _is_file(path: Path) -> bool:
    """Return whether a file is there; a name that no file can have is one that is not."""
    with suppress(OSError):
        return path.is_file()
    return False


def _stays_below(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return (
        name.isprintable()
        and "\\" not in name
        and bool(parts)
        and parts[0] != "/"
        and ".." not in parts
        and name == "/".join(parts)
    )


def _missing(
    name: str, where: str, names: list[str], suffix: str, offline: str = ""
) -> DsmopsError:
    near = _near(name.removesuffix(suffix), names)
    shown = (
        f"{'Near names' if near else 'Some of them'}: {', '.join(near or names[:_NEAR])}. "
        if names
        else ""
    )
    kept = "in the cache, for this model" if offline else "for this model"
    return SourceError(
        f"{where} has no voice {name!r}",
        hint=f"{shown}It has {len(names):,} voices {kept}, whose files end in {suffix}."
        f"{f' {offline}' if offline else ''}",
        code="voice.unknown",
    )


def _near(name: str, names: list[str]) -> list[str]:
    """Return the few likeliest names.

    First those that contain the name, then those with a similar spelling, whole or in the last
    part.
    """
    wanted = name.casefold()
    holding = [each for each in names if wanted and wanted in each.casefold()]
    by_last = {PurePosixPath(each).name: each for each in names}
    alike = difflib.get_close_matches(name, names, n=_NEAR)
    alike += [
        by_last[last]
        for last in difflib.get_close_matches(PurePosixPath(name).name, by_last, n=_NEAR)
    ]
    return list(dict.fromkeys(holding + alike))[:_NEAR]
