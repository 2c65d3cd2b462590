"""The Hugging Face cache on disk.

It is read and written in its documented layout, without huggingface_hub and without the network.

    models--org--repo/
        blobs/<etag>                         the contents, named by the SHA-256 of large files
        snapshots/<commit>/<path/in/repo>    a relative link to a blob
        refs/<revision>                      the commit that a branch or tag stood at when it was
        last asked for

Source: "Understand caching" in the documentation of huggingface_hub. Tests let huggingface_hub read
what is written here.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

from dsmops.errors import TargetBusyError, TransferError
from dsmops.files import os_errors, write_text_atomically
from dsmops.hub.source import FileVersion, HubFile

# Commits and ETags become file names, and come from a server.
_BUSY_S, _BUSY_POLL_S = 5.0, 0.02
"""Of another process that records a commit, which takes milliseconds."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)


def repo_folder(cache: Path, repo: str) -> Path:
    """Return the folder of a model repository, which need not exist."""
    return cache / f"models--{repo.replace('/', '--')}"


def find(cache: Path, file: HubFile) -> Path | None:
    """Return the cached copy of `file`, or None.

    A branch or tag means the commit it stood at when it was last downloaded. Costs a few system
    calls.
    """
    path = repo_folder(cache, file.repo) / "snapshots" / _commit_of(cache, file) / file.filename
    return path if path.is_file() else None


def list_files(cache: Path, file: HubFile) -> list[str]:
    """Return the names of the files that the cache has of the repository and revision of `file`."""
    snapshot = repo_folder(cache, file.repo) / "snapshots" / _commit_of(cache, file)
    return [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]


def blob_path(cache: Path, file: HubFile, etag: str) -> Path:
    """Return where the contents of `file` are kept, whether or not they are there yet.

    Raises:
        TransferError: the ETag that the server gave cannot be a file name.
    """
    return repo_folder(cache, file.repo) / "blobs" / _safe(etag, "an ETag")


def read_version(cache: Path, file: HubFile, path: Path) -> FileVersion:
    """Return which version of `file` the cached copy at `path` is, as `find` gave it."""
    with os_errors(path):
        size_bytes = path.stat().st_size
    commit = path.relative_to(repo_folder(cache, file.repo) / "snapshots").parts[0]
    return FileVersion(commit, _linked_blob(path), size_bytes)


def snapshot_path(cache: Path, file: HubFile, commit: str) -> Path:
    """Return where `file` at `commit` is, or will be once it was fetched.

    Raises:
        TransferError: the commit that the server gave cannot be a folder name.
    """
    return repo_folder(cache, file.repo) / "snapshots" / _safe(commit, "a commit") / file.filename


def is_there(cache: Path, file: HubFile, version: FileVersion) -> bool:
    """Whether the content of `version` is here, as a blob or, without links, under its name.

    Raises as `blob_path` and `snapshot_path`.
    """
    return (
        blob_path(cache, file, version.etag).exists()
        or snapshot_path(cache, file, version.commit).is_file()
    )


def link(cache: Path, file: HubFile, version: FileVersion) -> Path:
    """Make the blob of `version` visible under the name of `file`, and return that path.

    At any moment the path is absent or whole, however many processes link it. Where the file system
    has no links, the blob itself is moved there, as huggingface_hub does.
    """
    blob = blob_path(cache, file, version.etag)
    path = snapshot_path(cache, file, version.commit)
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{secrets.token_hex(8)}.dsmops-partial")
        try:
            new.symlink_to(os.path.relpath(blob, path.parent))
        except PermissionError:  # EPERM is how Linux says that a file system has no symbolic links
            try:
                blob.replace(path)
            except FileNotFoundError:
                if not path.is_file():  # else another process has just moved it
                    raise
        else:
            new.replace(path)
    return path


def remember_commit(cache: Path, file: HubFile, commit: str) -> None:
    """Record that the revision of `file` stands at `commit`, unless it is the commit itself.

    Raises:
        TargetBusyError: another process writes this record and does not end.
    """
    if file.revision == commit:
        return
    give_up_s = time.monotonic() + _BUSY_S
    while _commit_of(cache, file) != commit:
        try:
            write_text_atomically(repo_folder(cache, file.repo) / "refs" / file.revision, commit)
        except TargetBusyError:
            # It may record another commit, or die before it has.
            if time.monotonic() > give_up_s:
                raise
            time.sleep(_BUSY_POLL_S)
        else:
            return


def _linked_blob(path: Path) -> str:
    # One step only: a blob may itself be a link into a store that names its files by another hash.
    with suppress(OSError):
        return path.readlink().name
    return ""


def _commit_of(cache: Path, file: HubFile) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return (repo_folder(cache, file.repo) / "refs" / file.revision).read_text().strip()
    return file.revision


def _safe(name: str, what: str) -> str:
    if _SAFE_NAME.fullmatch(name) is None:
        raise TransferError(
            f"the hub answered {name!r} as {what}",
            hint="Check HF_ENDPOINT: this is not a hub.",
            code="hub.answer",
        )
    return name
