"""Which texts a run synthesizes: files, folders, lists with a text a line, manifests."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from dsmops.errors import InputError
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
    require_any_there,
    require_one_each,
    rows_of,
)
from dsmops.operations.speech.texts import is_text_file_name

TEXT_ENDINGS = frozenset([".txt", ".text"])
"""Endings of the files that are taken from a folder."""
SOUND_FORMATS = ("wav", "flac", "ogg", "opus", "mp3")
"""What a text's sound can be written as, which is also the ending of its file."""

_KEYS = ("id", "text", "path", "voice", "format", "seed")
_FORM = (
    'A line is like {"id": "a", "text": "Hello."}, or has a "path" instead of a text; "voice", '
    '"format" and "seed" are of this text alone.'
)
_MOST_SEED = 2**63 - 1


class ListedText(NamedTuple):
    """A text for a run to synthesize.

    `key` tells it from others, and from itself before it was changed. `file` is its path, its
    address, or the list and the line that it is in. `name` is that of its output, with the ending.
    `text` is None where it is in the file. `voices` are empty and `seed` is None where those of the
    run are used. `size` is its length, None for a file that is not there.
    """

    key: str
    file: str
    name: str
    text: str | None
    size: int | None
    voices: tuple[str, ...] = ()
    seed: int | None = None

    @property
    def weight(self) -> float:
        """Roughly its length, only to compare texts."""
        return self.size or 0


class _Found(NamedTuple):
    """A text as it was named. `name` is that of its output, empty for a file's own."""

    label: str
    text: str | None
    file: InputFile | None
    name: str
    format: str
    voices: tuple[str, ...] = ()
    seed: int | None = None


def list_texts(inputs: Sequence[str], form: str) -> list[ListedText]:
    """Return what `inputs` name, each once, in no special order; `form` of `SOUND_FORMATS`.

    An input is a file of text, a folder (its texts, those of its subfolders too), the same in a
    bucket as `s3://BUCKET/PREFIX`, `@` and a file with a text or the name of a text file a line,
    or a .jsonl manifest. Outputs are named by the path from the folder, else from the deepest
    folder that holds all files, by the `id` of a manifest, or by the list's name and the number of
    the line.

    Raises:
        SourceError, InputError, FileAccessError: an input is missing, cannot be read or holds no
            text, or two texts would have outputs of one name.
        CredentialsError, RemoteError: a bucket cannot be read.
    """
    here = os.getcwd()  # noqa: PTH109 as in `listing`
    found = [one for name in inputs for one in _found(name, form)]
    named = _named(found, here)
    listed = {
        text.key: text
        for one, name in zip(found, named, strict=True)
        for text in [_listed(one, f"{name}.{one.format}", here)]
    }
    texts = list(listed.values())
    require_one_each([one.name for one in texts], (one.file for one in texts))
    return texts


def require_any_text(texts: Sequence[ListedText]) -> None:
    """Check that at least one of the texts is there. Raises SourceError."""
    require_any_there(((one.file, one.size) for one in texts), "text")


def longest_texts_first(texts: Sequence[ListedText]) -> list[ListedText]:
    """Return them in the order in which the slots of an engine end at about the same time."""
    by_name = sorted(texts, key=attrgetter("name"))
    return sorted(by_name, key=attrgetter("weight"), reverse=True)


def _listed(one: _Found, name: str, here: str) -> ListedText:
    file = one.file
    if file is None:
        what: object = one.text
    else:
        what = f"{absolute(file.file, here)}|{file.size_bytes}|{file.version}"
    identity = f"{name}|{one.voices}|{one.seed}|{what}"
    key = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:32]
    size = file.size_bytes if file is not None else len(one.text or "")
    return ListedText(
        key, file.file if file else one.label, name, one.text, size, one.voices, one.seed
    )


def _named(found: Sequence[_Found], here: str) -> list[str]:
    """Return names of outputs without the format: without the text's ending where they differ."""
    loose = [one.file.file for one in found if not one.name and one.file and not one.file.relative]
    left = iter(loose_names(loose, here))
    whole = [one.name or (one.file and one.file.relative) or next(left) for one in found]
    short = [
        name if one.name else os.path.splitext(name)[0]  # noqa: PTH122
        for one, name in zip(found, whole, strict=True)
    ]
    counts = Counter(
        (name, one.format, one.file and one.file.file)
        for one, name in zip(found, short, strict=True)
    )
    files = Counter((name, form) for name, form, _ in counts)
    return [
        short_name if files[short_name, one.format] == 1 else name
        for one, name, short_name in zip(found, whole, short, strict=True)
    ]


def _found(name: str, form: str) -> Iterator[_Found]:
    if name.startswith("@") and not Path(name).exists():
        yield from _of_list(Path(name[1:]).expanduser(), form)
    elif name.lower().endswith(".jsonl") and not name.startswith(BUCKET):
        yield from _of_manifest(Path(name).expanduser(), form)
    else:
        path = name if name.startswith(BUCKET) else os.path.expanduser(name)  # noqa: PTH111
        yield from _of_name(path, form)


def _of_name(path: str, form: str) -> Iterator[_Found]:
    is_object = path.startswith(BUCKET) and ending(path) in TEXT_ENDINGS
    if is_folder(path) or (path.startswith(BUCKET) and not is_object):
        for file in files_in(path, TEXT_ENDINGS, "text"):
            yield _Found(file.file, None, file, "", form)
        return
    if ending(path) in (".json", ".csv", ".tsv"):
        raise InputError(
            f"{path} is not a list that is read",
            hint="A manifest ends in .jsonl and has an object a line; a plain list of texts is "
            "named as @LIST.",
            code="recordings.kind",
        )
    if not is_object:
        with os_errors(path):
            os.stat(path)  # noqa: PTH116 as in `listing`
    yield _Found(path, None, file_at(path), "", form)


def _of_list(path: Path, form: str) -> Iterator[_Found]:
    lines = list(lines_of(path, "a text"))
    names = [line.strip() for _, line in lines if _is_file(line.strip())]
    files = iter(files_at([name if BUCKET in name else os.path.expanduser(name) for name in names]))  # noqa: PTH111
    for number, line in lines:
        label, name = f"{path}, line {number}", _numbered(path, number)
        if _is_file(line.strip()):
            file = next(files)
            yield _Found(file.file, None, file, name, form)
        else:
            yield _Found(label, line, None, name, form)


def _is_file(line: str) -> bool:
    return line.startswith(BUCKET) or is_text_file_name(line)


def _numbered(path: Path, number: int) -> str:
    return f"{path.stem}-{number:05d}"


def _of_manifest(path: Path, form: str) -> Iterator[_Found]:
    found, names = [], []
    for number, row in rows_of(path, _FORM):
        _require_known(row, path, number)
        text, file_name = row.get("text"), row.get("path")
        if (text is None) == (file_name is None):
            raise bad_row(path, number, "it needs one of text and path", _FORM)
        if not isinstance(text if file_name is None else file_name, str) or file_name == "":
            raise bad_row(path, number, "its text or path is not a string", _FORM)
        if file_name is not None:
            is_object = file_name.startswith(BUCKET)
            names.append(file_name if is_object else str(path.parent / file_name))
        one = _Found(
            f"{path}, line {number}",
            text,
            None,
            output_id(row, path, number, _FORM) or _numbered(path, number),
            _format(row, path, number, form),
            _voices(row, path, number),
            _seed(row, path, number),
        )
        found.append(one)
    files = iter(files_at(names))
    for one in found:
        yield one if one.text is not None else one._replace(file=next(files))


def _require_known(row: Mapping[str, Any], path: Path, number: int) -> None:
    """Refuse a key that is nearly one that is known. Others may be of other programs."""
    for key in row:
        if key not in _KEYS and (near := difflib.get_close_matches(key, _KEYS, 1, 0.7)):
            raise bad_row(path, number, f"{key!r} is not known; {near[0]!r} is", _FORM)


def _format(row: Mapping[str, Any], path: Path, number: int, form: str) -> str:
    chosen = row.get("format", form)
    if chosen not in SOUND_FORMATS:
        known = ", ".join(SOUND_FORMATS)
        raise bad_row(path, number, f"its format {chosen!r} is not one of {known}", _FORM)
    return str(chosen)


def _voices(row: Mapping[str, Any], path: Path, number: int) -> tuple[str, ...]:
    given = row.get("voice")
    voices = () if given is None else (given,) if isinstance(given, str) else given
    if (
        not isinstance(voices, (tuple, list))
        or len(voices) > 2
        or not all(isinstance(voice, str) and voice for voice in voices)
    ):
        raise bad_row(path, number, "its voice is not a name, nor the names of two", _FORM)
    return tuple(voices)


def _seed(row: Mapping[str, Any], path: Path, number: int) -> int | None:
    seed = row.get("seed")
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= _MOST_SEED:
        raise bad_row(path, number, f"its seed {seed!r} is not a whole number from 0 on", _FORM)
    return seed
