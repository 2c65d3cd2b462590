"""The folder of a run: what it was started with, what is done, and who works on what.

Any number of processes, also on several hosts, may work on one folder, be killed at any moment and
be started again. What a recording gave is written whole, then noted, then its lease is given back.
So a killed run does nothing twice but what it had in hand.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NotRequired, TypedDict

from dsmops.errors import DsmopsError, FileAccessError, InputError
from dsmops.files import open_regular, os_errors, replace_atomically, write_text_atomically

SCHEMA = "dsmops.transcription-run/1"
_STATE = Path(".dsmops-run")
NOTES = _STATE / "notes"
"""The folder of notes in a run folder, a file for each process."""
RUN_FILE = _STATE / "run.json"
"""What a run was started with."""
_INDEX = "index.json"
_INDEX_VERSION = 1
_WORTH_AN_INDEX = 1000
"""Notes that the index does not have yet, from which on it is written again: 4 ms to read them."""
_TAKEN = (errno.EACCES, errno.EAGAIN)


class Note(NamedTuple):
    """What is noted of a finished recording or text.

    `name` is that of its outputs, `audio` the recording or the text, `audio_s` its length. `error`
    says why it failed; None: it did not.
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
    bucket: NotRequired[str]
    """Where the results are, if not in the folder."""


class RunFolder:
    """An open run folder. A rerun must have the same `settings`, and be of the same kind, `schema`.

    The notes are what counts. The index repeats in one small file which names are done, because it
    is read in a tenth of the time; where it does not fit the notes it is not used.

    Raises:
        InputError: the folder holds other files, or a run with other settings.
        FileAccessError, DiskFullError: it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        schema: str = SCHEMA,
        *,
        shown: str | None = None,
    ) -> None:
        """`shown` is what messages call the run, by default its folder."""
        self.path = path
        self._shown = shown or str(path)
        self._schema = schema
        self._notes = path / NOTES
        self._index = path / _STATE / _INDEX
        self._done: dict[str, str] = {}
        self._read: dict[str, int] | None = None
        """Bytes of each file of notes that were read. None: not even the index was."""
        self._not_in_index = 0
        with os_errors(path):
            self._require_same_settings(settings)
            self._notes.mkdir(parents=True, exist_ok=True)
            self._leases = os.open(path / _STATE / "leases", os.O_RDWR | os.O_CREAT, 0o666)
            own = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
            self._own_path = self._notes / own
        self._own: int | None = None
        self.noted = 0
        """Notes read and made so far, failed ones too."""
        self.noted_audio_s = 0.0
        """Seconds of audio in the notes that were read and made since the first call of `done`."""

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._leases)  # ends all leases
        # Without it the next run takes longer, and that is all.
        with suppress(DsmopsError, OSError):
            if self._not_in_index >= _WORTH_AN_INDEX:
                self._write_index()
        if self._own is not None:
            os.close(self._own)

    def _write_index(self) -> None:
        read = dict(self._read or {})
        if self._own is not None:
            read[self._own_path.name] = os.fstat(self._own).st_size
        index = {
            "version": _INDEX_VERSION,
            "read": read,
            "keys": list(self._done),
            "names": list(self._done.values()),
        }
        with replace_atomically(self._index, durable=False) as file:
            file.write(json.dumps(index).encode())

    def _read_index(self) -> dict[str, int]:
        """Take what the index says, and return how far it had read each file of notes."""
        try:
            index = json.loads(self._index.read_bytes())
            read: dict[str, int] = index["read"]
            is_of_these = index["version"] == _INDEX_VERSION and all(
                (self._notes / name).stat().st_size >= size for name, size in read.items()
            )
            done = dict(zip(index["keys"], index["names"], strict=True))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        if not is_of_these:
            return {}
        self._done = done | self._done
        self.noted += len(done)
        return read

    def _require_same_settings(self, settings: Mapping[str, Any]) -> None:
        file = self.path / RUN_FILE
        if not file.exists():
            # A run that was killed before it had written this file leaves an empty folder of state.
            if self.path.is_dir() and any(one.name != _STATE.name for one in self.path.iterdir()):
                raise InputError(
                    f"{self.path} holds files that are not of such a run",
                    hint="Name a new or an empty folder.",
                    code="run.foreign_folder",
                )
            text = json.dumps({"schema": self._schema, **settings}, indent=2)
            write_text_atomically(file, f"{text}\n")
            return
        try:
            before = {"schema": SCHEMA, **json.loads(file.read_bytes())}
            if before["schema"] != self._schema:
                raise InputError(
                    f"{self._shown} is the folder of another kind of run ({before['schema']})",
                    hint="Name a new or an empty folder.",
                    code="run.foreign_folder",
                )
            changed = [(name, value) for name, value in settings.items() if before[name] != value]
        except (ValueError, KeyError, TypeError) as exc:
            raise InputError(
                f"{file} is damaged or of another version",
                hint="Name a new folder.",
                code="run.damaged",
            ) from exc
        if changed:
            name, value = changed[0]
            raise InputError(
                f"{self._shown} was begun with {name} {before[name]}, not {value}",
                hint="Use the same options to continue it, or name a new folder.",
                code="run.other_settings",
            )

    def done(self) -> Mapping[str, str]:
        """Return by key the name of what any process has done by now; what failed is not done."""
        with os_errors(self._notes), without_collector():
            is_first = self._read is None
            if self._read is None:
                self._read = self._read_index()
            for entry in os.scandir(self._notes):
                name = entry.name
                if name != self._own_path.name and entry.stat().st_size > self._read.get(name, 0):
                    self._read[name] = self._read_notes(entry.path, self._read.get(name, 0))
            if is_first:
                self.noted_audio_s = 0.0
        return self._done

    def _read_notes(self, path: str, begin: int) -> int:
        """Take the notes of a file from a byte on, and return where the last whole one ends."""
        with open_regular(path) as file:
            file.seek(begin)
            data = file.read()
        # A line that is not complete was being written when its process was killed, or still is.
        whole = data[: data.rfind(b"\n") + 1]
        for note in _notes_of(whole):
            self._take_note(note)
        return begin + len(whole)

    def _take_note(self, note: Note) -> None:
        self.noted += 1
        self._not_in_index += 1
        self.noted_audio_s += note.audio_s
        if note.error is None:
            self._done[note.key] = note.name

    def take(self, key: str) -> bool:
        """Take the lease of a recording; return False where another process works on it.

        A lease ends with its process. It is a lock of one byte of a file, whose place follows from
        the key.

        Raises:
            FileAccessError: the file system has no locks.
        """
        try:
            fcntl.lockf(self._leases, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number_of(key))
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
        fcntl.lockf(self._leases, fcntl.LOCK_UN, 1, number_of(key))

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
        self._take_note(note)

    def folders(self) -> set[str]:
        """Return the folders that have outputs of what is done."""
        return {name.rpartition("/")[0] for name in self._done.values()}

    def missing_outputs(self, endings: Sequence[str], there: Set[str]) -> set[str]:
        """Return the keys of what is done and has lost an output.

        An output is a name and an ending of `endings`, such as ".txt". `there` are those that are
        not lost.
        """
        return {
            key
            for ending in endings
            for key, name in self._done.items()
            if name + ending not in there
        }


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep Python's collector from looking through 100,000 new objects again and again."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def is_begun(path: Path) -> bool:
    """Return whether a run has been started in this folder."""
    return (path / RUN_FILE).exists()


def _notes_of(lines: bytes) -> list[Note]:
    """Return the notes of all complete lines. A line that a kill cut off is left out."""
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


def number_of(key: str) -> int:
    """Return a number of 60 bits that follows from a key, on every machine."""
    return int(hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:15], 16)
