"""The files of a model on every node: those that are there already, else one copy for each node."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dsmops.errors import IntegrityError
from dsmops.files import os_errors, replace_atomically, require_free_space, sha256

if TYPE_CHECKING:
    from dsmops.operations.models.stt import SttSource

_PIECE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file as it is where the run was started."""

    path: Path
    size_bytes: int
    changed_ns: int


class FileServer:
    """Gives the files of a model to nodes that do not have them. It runs where the files are.

    `paths` are absolute.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = frozenset(paths)

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file of the model. Raises KeyError for another file."""
        return sha256(self._own(path))

    def piece(self, path: Path, offset_bytes: int) -> bytes:
        """Return a piece of a file of the model, empty at its end. Raises KeyError for another."""
        with self._own(path).open("rb") as file:
            file.seek(offset_bytes)
            return file.read(_PIECE_BYTES)

    def _own(self, path: Path) -> Path:
        if path not in self._paths:
            raise KeyError(path)
        return path


Ask = Callable[..., object]
"""Calls a method of the `FileServer`: its name and arguments."""


def describe(source: SttSource) -> list[ModelFile]:
    """Return the files of a model that is on this machine."""
    found = []
    for path in astuple(source.files):
        with os_errors(path):
            status = path.stat()
        found.append(ModelFile(path, status.st_size, status.st_mtime_ns))
    return found


def staged(source: SttSource, files: Sequence[ModelFile], ask: Ask) -> SttSource:
    """Return `source` with files of this node, copied from the `FileServer` where they differ.

    A file with the same path, size and time is taken as the same, one with another time only if it
    has the same SHA-256. A copy stays for later runs; of several processes of a node one copies.

    Raises:
        DiskFullError, FileAccessError: there is no room for a copy.
        IntegrityError: a file changed while it was copied.
    """
    names = [field.name for field in fields(source.files)]
    here = (_staged(file, ask) for file in files)
    return replace(source, files=replace(source.files, **dict(zip(names, here, strict=True))))


def _staged(file: ModelFile, ask: Ask) -> Path:
    try:
        status = file.path.stat()
    except OSError:
        status = None
    has_size = status is not None and status.st_size == file.size_bytes
    if has_size and status is not None and status.st_mtime_ns == file.changed_ns:
        return file.path
    source = file.path.absolute()
    digest = str(ask("digest", source))
    if has_size and sha256(file.path) == digest:
        return file.path
    return _copy(source, file.size_bytes, digest, ask)


def _copy(source: Path, size_bytes: int, digest: str, ask: Ask) -> Path:
    folder = _cache_folder() / digest
    target = folder / source.name
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # Another process of this node may be copying.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        require_free_space(folder, size_bytes)
        hasher, offset = hashlib.sha256(), 0
        with replace_atomically(target, durable=False) as partial:
            while piece := ask("piece", source, offset):
                assert isinstance(piece, bytes)  # noqa: S101 what `FileServer.piece` returns
                hasher.update(piece)
                partial.write(piece)
                offset += len(piece)
            if hasher.hexdigest() != digest:
                raise IntegrityError(
                    f"{source} changed while it was copied to another node",
                    hint="Run the command again once nothing writes that file.",
                )
    finally:
        os.close(lock)
    return target


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "dsmops" / "models"
