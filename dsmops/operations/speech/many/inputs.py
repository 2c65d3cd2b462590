"""The files behind what a user names: files, folders, lists, manifests, prefixes of a bucket."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from dsmops.errors import InputError, SourceError
from dsmops.files import os_errors, require_file
from dsmops.publish.store import ObjectStore
from dsmops.publish.stores import open_store

BUCKET = "s3://"
"""How the address of an object or a prefix begins. No normal path does: it has no `//`."""
_LOOK_UPS = 8
"""Objects of a list that are looked up at a time."""


# Tuples and strings from here on: with data classes and Path a folder of 100,000 files takes many
# times as long.
class InputFile(NamedTuple):
    """A file of this machine or of a bucket.

    `file` is a normal path, or `s3://BUCKET/KEY`. `relative` is where it is below the folder that
    was named, None where the file itself was. `size_bytes` and `version`, which changes when the
    file does, are None for a file that is not there.
    """

    file: str
    relative: str | None
    size_bytes: int | None
    version: int | str | None


def absolute(file: str, here: str) -> str:
    """Return a path from the root on. The address of an object is one already."""
    return file if file.startswith(("/", BUCKET)) else f"{here}/{file}"


def ending(file: str) -> str:
    """Return the ending of a file's name, such as ".wav"; of one without, anything else."""
    return file[file.rfind(".") :].lower()


def file_at(name: str) -> InputFile:
    """Return the file of that name, without size and version where it is not there.

    Raises:
        CredentialsError, RemoteError, InputError: its bucket cannot be read.
    """
    if name.startswith(BUCKET):
        store, key = _place(name)
        # In key order, so an object of this very key comes first.
        one = next(iter(store.list(key)), None)
        if one is None or one.key != key:
            return InputFile(name, None, None, None)
        return InputFile(name, None, one.size_bytes, one.modified.isoformat())
    path = os.path.normpath(name)
    try:
        status = os.stat(path)  # noqa: PTH116 fast
    except (OSError, ValueError):
        return InputFile(path, None, None, None)
    return InputFile(path, None, status.st_size, status.st_mtime_ns)


def files_at(names: Sequence[str]) -> list[InputFile]:
    """Return the files of these names; objects are looked up side by side. Raises as `file_at`."""
    if not any(name.startswith(BUCKET) for name in names):
        return [file_at(name) for name in names]
    with ThreadPoolExecutor(_LOOK_UPS) as threads:
        return list(threads.map(file_at, names))


def files_in(folder: str, endings: Collection[str], what: str) -> list[InputFile]:
    """Return the files of a folder, or of a prefix of a bucket, that have one of these endings.

    Subfolders count too; what begins with a dot does not.

    Raises:
        InputError: the folder has none. The message calls the files `what`.
        FileAccessError, CredentialsError, RemoteError: it cannot be read.
    """
    files: list[InputFile] = []
    if folder.startswith(BUCKET):
        files += _below_prefix(folder, endings)
    else:
        _add_below(os.path.normpath(folder), "", endings, files)
    if not files:
        raise InputError(
            f"{folder} holds no {what}",
            hint=f"Files are taken by their endings: {' '.join(sorted(endings))}.",
            code=f"{what}s.none",
        )
    return files


def _add_below(
    folder: str, relative: str, endings: Collection[str], files: list[InputFile]
) -> None:
    with os_errors(folder), os.scandir(folder) as entries:
        within = list(entries)
    for entry in within:
        name = entry.name
        if name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            _add_below(entry.path, f"{relative}{name}/", endings, files)
        elif name[name.rfind(".") :].lower() in endings:
            try:
                status = entry.stat()
            except OSError:
                files.append(InputFile(entry.path, relative + name, None, None))
            else:
                size_bytes, version = status.st_size, status.st_mtime_ns
                files.append(InputFile(entry.path, relative + name, size_bytes, version))


def _below_prefix(address: str, endings: Collection[str]) -> Iterator[InputFile]:
    store, prefix = _place(address.rstrip("/"))
    prefix = prefix and f"{prefix}/"
    for one in store.list(prefix):
        parts = [part for part in one.key[len(prefix) :].split("/") if part]
        if parts and ending(one.key) in endings and not any(part[0] == "." for part in parts):
            yield InputFile(
                f"{store.url}/{one.key}", "/".join(parts), one.size_bytes, one.modified.isoformat()
            )


def _place(address: str) -> tuple[ObjectStore, str]:
    """Return the bucket of an address, and the key or prefix in it."""
    bucket, _, key = address.removeprefix(BUCKET).partition("/")
    return _bucket(bucket), key


@cache
def _bucket(name: str) -> ObjectStore:
    return open_store(f"{BUCKET}{name}")


@contextmanager
def opened(file: str) -> Iterator[Path | BinaryIO]:
    """Give a file's path; or what an object holds, in a temporary file that has no name.

    Raises:
        SourceError, InputError, FileAccessError: the file is not there, or a pipe or a device.
        MissingObjectError, CredentialsError, TransferError: the object cannot be had.
        DiskFullError: no room for it.
    """
    if not file.startswith(BUCKET):
        # A pipe would hold up the run until someone writes into it.
        require_file(Path(file), "file")
        yield Path(file)
        return
    store, key = _place(file)
    with os_errors(tempfile.gettempdir()), tempfile.TemporaryFile() as content:
        store.get(key, content.write, sha256=None)
        content.seek(0)
        # What messages call it.
        content.raw.name = file  # type: ignore[attr-defined]
        yield cast("BinaryIO", content)


def is_folder(name: str) -> bool:
    """Whether a name other than an address is a folder's."""
    try:
        return stat.S_ISDIR(os.stat(name).st_mode)  # noqa: PTH116 fast
    except (OSError, ValueError):
        return False


def lines_of(path: Path, what: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a list that are not blank, with their numbers from 1 on.

    Raises:
        InputError: it is not text, or has no such line; `what` says what a line holds.
        SourceError, FileAccessError: it cannot be read.
    """
    with os_errors(path):
        text = path.read_bytes().decode(errors="surrogateescape").removeprefix("\ufeff")
    if "\0" in text:
        raise InputError(
            f"{path} is not a list: it is not text",
            hint=f"A list has {what} a line.",
            code="list.not_text",
        )
    if not text.strip():
        raise InputError(
            f"{path} is empty", hint=f"A list has {what} a line.", code="recordings.none"
        )
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def rows_of(path: Path, form: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the objects of a .jsonl manifest, with the numbers of their lines.

    Raises:
        InputError: a line is not a JSON object; `form` says what one is like.
        SourceError, FileAccessError: it cannot be read.
    """
    for number, line in lines_of(path, "a JSON object"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise bad_row(path, number, "it is not JSON", form) from exc
        if not isinstance(row, dict):
            raise bad_row(path, number, "it is not a JSON object", form)
        yield number, row


def bad_row(path: Path, number: int, reason: str, form: str) -> InputError:
    """Return the error of a line of a manifest."""
    return InputError(f"{path}, line {number}: {reason}", hint=form, code="manifest.bad_line")


def output_id(row: Mapping[str, Any], path: Path, number: int, form: str) -> str | None:
    """Return the `id` of a row, which names its outputs; None where it has none.

    Raises:
        InputError: it cannot be the name of a file below the output folder.
    """
    given = row.get("id")
    if given is None:
        return None
    name = str(given)
    parts = name.split("/")
    if (
        isinstance(given, (bool, float, list, dict))
        or not name.isprintable()
        or any(not part or part.startswith(".") for part in parts)
        or any(len(part.encode()) > _LONGEST_NAME_BYTES for part in parts)
    ):
        raise bad_row(path, number, f"its id {given!r} cannot be the name of a file", form)
    return name


_LONGEST_NAME_BYTES = 200
"""With its ending, and what a file that is being written is called, less than 255."""


def loose_names(files: Sequence[str], here: str) -> list[str]:
    """Return the paths of files from the deepest folder that holds all of them."""
    paths = [absolute(file, here).replace(BUCKET, "/", 1) for file in files]
    parent = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else here  # noqa: PTH120
    return [os.path.relpath(path, parent) for path in paths]


def require_one_each(names: Sequence[str], files: Iterable[str]) -> None:
    """Check that no two outputs have the same name. `files` are the inputs, in the same order.

    Raises:
        InputError: two have.
    """
    if len(set(names)) == len(names):
        return
    twice, _ = Counter(names).most_common(1)[0]
    paths = [file for name, file in zip(names, files, strict=True) if name == twice]
    raise InputError(
        f"{paths[0]} and {paths[1]} would both be written as {twice}",
        hint="Name the folder that holds both, or use two output folders.",
        code="recordings.same_name",
    )


def require_any_there(files: Iterable[tuple[str, int | None]], what: str) -> None:
    """Check that at least one file, given with its size, is there.

    Raises:
        SourceError: none is; the folder is wrong, say.
    """
    first = ""
    for file, size_bytes in files:
        if size_bytes is not None:
            return
        first = first or file
    raise SourceError(
        f"none of the {what}s is there, the first being {first}",
        hint="Paths of a list count from the working folder, those of a manifest from its own.",
        code="recordings.missing",
    )


def refuse_other_kinds(name: str, what: str) -> None:
    """Refuse names whose ending says that they are a list of a form that is not read.

    Raises:
        InputError: it is one; the hint says how to write it.
    """
    kind = ending(name)
    if kind in (".json", ".csv", ".tsv", ".m3u", ".m3u8", ".xlsx", ".parquet"):
        raise InputError(
            f"{name} is not a {what}; {kind} lists are not read",
            hint='A manifest ends in .jsonl and has an object a line, {"audio": "a.wav"}; a plain '
            "list is named as @LIST.",
            code="recordings.kind",
        )
    if kind in (".txt", ".list", ".lst"):
        raise InputError(
            f"{name} is a text, not a {what}",
            hint=f"Name a list, a path a line, as @{name}.",
            code="recordings.kind",
        )
