"""The folder of a run: what it was started with, what is done, and who works on what.

Any number of processes, also on several hosts, may work on one folder, be killed at any moment and
be started again. What a recording gave is written whole, then noted, then its lease is given back.
So a killed run does nothing twice but what it had in hand.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypedDict

from dsmops.errors import FileAccessError, InputError
from dsmops.files import open_regular, os_errors, write_text_atomically

SCHEMA = "dsmops.transcription-run/1"
_STATE = ".dsmops-run"
_TAKEN = (errno.EACCES, errno.EAGAIN)


class Note(NamedTuple):
    """What is noted of a finished recording.

    `name` is that of its outputs, `audio_s` its length. `error` says why it failed; None: it did
    not.
    """

    key: str
    name: str
    audio: str
    audio_s: float
    words: int
    error: str | None = None


class RunSettings(TypedDict):
    """What the results in a run folder depend on."""

    model: str
    formats: str
    dtype: str
    weights: str
    kv: str
    timing: str


class RunFolder:
    """An open run folder. A rerun must have the same `settings`.

    Raises:
        InputError: the folder holds other files, or a run with other settings.
        FileAccessError, DiskFullError: it cannot be written.
    """

    def __init__(self, path: Path, settings: RunSettings) -> None:
        self.path = path
        self._notes = path / _STATE / "notes"
        self._done: dict[str, Note] = {}
        self._read: dict[Path, int] = {}
        with os_errors(path):
            self._require_same_settings(settings)
            self._notes.mkdir(parents=True, exist_ok=True)
            self._leases = os.open(path / _STATE / "leases", os.O_RDWR | os.O_CREAT, 0o666)
            own = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
            self._own_path = self._notes / own
        self._own: int | None = None
        self.noted = 0
        """Notes read and made so far, failed ones too."""

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._leases)  # ends all leases
        if self._own is not None:
            os.close(self._own)

    def _require_same_settings(self, settings: RunSettings) -> None:
        file = self.path / _STATE / "run.json"
        if not file.exists():
            if self.path.is_dir() and any(self.path.iterdir()):
                raise InputError(
                    f"{self.path} holds files that are not of such a run",
                    hint="Name a new or an empty folder.",
                    code="run.foreign_folder",
                )
            text = json.dumps({"schema": SCHEMA, **settings}, indent=2)
            write_text_atomically(file, f"{text}\n")
            return
        try:
            before = json.loads(file.read_bytes())
            changed = [(name, value) for name, value in settings.items() if before[name] != value]
        except (ValueError, KeyError, TypeError) as exc:
            raise InputError(
                f"{file} is damaged or of another version",
                hint="Transcribe into a new folder.",
                code="run.damaged",
            ) from exc
        if changed:
            name, value = changed[0]
            raise InputError(
                f"{self.path} was begun with {name} {before[name]}, not {value}",
                hint="Use the same options to continue it, or transcribe into a new folder.",
                code="run.other_settings",
            )

    def done(self) -> Mapping[str, Note]:
        """Return by key what is done by now, by any process; what failed is not done."""
        with os_errors(self._notes):
            for entry in os.scandir(self._notes):
                path = Path(entry.path)
                if path != self._own_path and entry.stat().st_size > self._read.get(path, 0):
                    self._read_notes(path)
        return self._done

    def _read_notes(self, path: Path) -> None:
        with open_regular(path) as file:
            file.seek(self._read.get(path, 0))
            data = file.read()
        # A line that is not complete was being written when its process was killed, or still is.
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path] = self._read.get(path, 0) + len(whole)
        for note in _notes_of(whole):
            self.noted += 1
            if note.error is None:
                self._done[note.key] = note

    def take(self, key: str) -> bool:
        """Take the lease of a recording; return False where another process works on it.

        A lease ends with its process. It is a lock of one byte of a file, whose place follows from
        the key.

        Raises:
            FileAccessError: the file system has no locks.
        """
        try:
            fcntl.lockf(self._leases, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(key))
        except OSError as exc:
            if exc.errno in _TAKEN:
                return False
            raise FileAccessError(
                f"{self.path} is on a file system without locks: {exc.strerror}",
                hint="Write to another disk; several hosts then share the work by --shard.",
                code="run.no_locks",
            ) from exc
        return True

    def give_back(self, key: str) -> None:
        """End the lease of a recording."""
        fcntl.lockf(self._leases, fcntl.LOCK_UN, 1, _place(key))

    def note(self, note: Note) -> None:
        """Note a finished recording; its outputs are there.

        Raises:
            DiskFullError, FileAccessError: the note cannot be written.
        """
        with os_errors(self._own_path):
            if self._own is None:
                self._own = os.open(
                    self._own_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666
                )
            line = f"{json.dumps(note._asdict(), ensure_ascii=True)}\n".encode()
            if os.write(self._own, line) != len(line):
                # The disk is full. A part of a line is not a note, and the next write says why.
                os.write(self._own, b"\n")
        self.noted += 1
        if note.error is None:
            self._done[note.key] = note

    def missing_outputs(self, endings: tuple[str, ...]) -> Iterator[str]:
        """Yield the keys of done recordings of which an output is no longer there."""
        there: dict[str, set[str]] = {}
        for note in self._done.values():
            folder, _, name = note.name.rpartition("/")
            if folder not in there:
                try:
                    there[folder] = set(os.listdir(self.path / folder))  # noqa: PTH208 fast
                except OSError:
                    there[folder] = set()
            if not all(f"{name}.{ending}" in there[folder] for ending in endings):
                yield note.key


def _notes_of(lines: bytes) -> list[Note]:
    """Return the notes in whole lines; those that were cut off by a kill are left out."""
    try:
        # All at once takes a third of the time.
        return [Note(**row) for row in json.loads(b"[%s]" % b",".join(lines.splitlines()))]
    except (ValueError, TypeError):
        pass
    notes = []
    for line in lines.splitlines():
        try:
            notes.append(Note(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return notes


def _place(key: str) -> int:
    return int(key[:15], 16)
