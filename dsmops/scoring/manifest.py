"""Lists of recordings and references, as people keep them.

JSON Lines, CSV and TSV with column names, or a path, a tab and the text: the first line shows
which. A bad line is one error with its number; nothing is skipped.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsmops.errors import InputError, SourceError
from dsmops.files import os_errors
from dsmops.scoring.corpus import BAD_ROW, TEXT_COLUMNS, Corpus, Utterance, reference_of
from dsmops.units import size

AUDIO_COLUMNS = ("audio", "audio_filepath", "path", "file_name")
"""Columns of a recording's path: ours, NeMo's, Common Voice's and Hugging Face AudioFolder's."""

_NEMO_COLUMN = "audio_filepath"

_MAX_BYTES = 256 << 20
"""Longest list taken: a million utterances. What is longer is something else."""

_FORMS = (
    'A manifest has a JSON object a line, {"audio": "a.wav", "text": "..."}; or columns with '
    "names, in a .csv or with tabs; or a path, a tab, the text."
)

_Row = tuple[int, Mapping[str, Any]]


def read_manifest(path: Path) -> Corpus:
    """Read a list of recordings. Relative paths count from the list's folder.

    Some of the recordings may be missing, not all.

    Raises:
        SourceError, InputError, FileAccessError: it cannot be read, is not such a list, a line in
            it has no path or no reference, or none of its recordings is there.
    """
    with os_errors(path), path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise InputError(
            f"{path} is longer than {size(_MAX_BYTES)}, so it is not a list of recordings",
            hint=_FORMS,
            code="manifest.unreadable",
        )
    lines = list(_lines(path, data))
    number, first = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    if not first:
        raise InputError(f"{path} has no lines", hint=_FORMS, code="manifest.empty")
    if first.lstrip().startswith("{"):
        rows = _json_rows(path, lines)
    elif path.suffix.lower() == ".csv":
        rows = _csv_rows(path, lines)
    elif "\t" in first:
        rows = _tab_rows(path, lines)
    else:
        raise _bad_line(path, number, "neither a JSON object nor columns with tabs between them")
    utterances = [_utterance(path, number, row) for number, row in rows]
    if not utterances:
        raise InputError(
            f"{path} has column names and no lines below them", hint=_FORMS, code="manifest.empty"
        )
    # A wrong folder is a mistake to tell at once. os.path takes a name that is too long for one
    # that is not there.
    if not any(os.path.exists(path.parent / utterance.name) for utterance in utterances):  # noqa: PTH110
        raise SourceError(
            f"{path}: none of its recordings is there, the first being "
            f"{path.parent / utterances[0].name}",
            hint="Relative paths count from the folder of the manifest.",
            code="manifest.no_audio",
        )
    return Corpus(str(path), len(utterances), utterances)


def _lines(path: Path, data: bytes) -> Iterator[tuple[int, str]]:
    """Yield numbered lines without their ends. Only a newline ends one: JSON may hold U+2028."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            text = line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as exc:
            raise _bad_line(path, number, f"not UTF-8 at byte {exc.start + 1}") from exc
        if "\0" in text:
            raise _bad_line(path, number, "a NUL character, as in files that are not text")
        yield number, text


def _json_rows(path: Path, lines: Sequence[tuple[int, str]]) -> Iterator[_Row]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise _bad_line(path, number, f"no JSON: {exc}") from exc
        if not isinstance(row, dict):
            raise _bad_line(path, number, "no JSON object")
        yield number, row


def _csv_rows(path: Path, lines: Sequence[tuple[int, str]]) -> Iterator[_Row]:
    reader = csv.reader((f"{line}\n" for _, line in lines), strict=True)
    columns: Sequence[str] = ()
    begin = 1
    try:
        for cells in reader:
            if cells and columns:
                yield begin, _row(path, begin, columns, cells)
            elif cells:
                columns = _columns(path, begin, cells)
            begin = reader.line_num + 1
    except csv.Error as exc:
        raise _bad_line(path, begin, f"no CSV: {exc}") from exc


def _tab_rows(path: Path, lines: Sequence[tuple[int, str]]) -> Iterator[_Row]:
    """Yield rows under the first one's names if we know them, else under `audio` and `text`.

    A quote is a character like others.
    """
    columns: Sequence[str] = ()
    for number, line in lines:
        if not line.strip():
            continue
        cells = line.split("\t")
        if columns:
            yield number, _row(path, number, columns, cells)
        elif {cell.strip() for cell in cells}.intersection(AUDIO_COLUMNS):
            columns = _columns(path, number, cells)
        else:
            columns = (AUDIO_COLUMNS[0], TEXT_COLUMNS[0])
            yield number, _row(path, number, columns, cells)


def _columns(path: Path, number: int, cells: Sequence[str]) -> Sequence[str]:
    """Return the names in a line of names, among which there must be ones that we know."""
    columns = [cell.strip() for cell in cells]
    for known in (AUDIO_COLUMNS, TEXT_COLUMNS):
        if not set(known).intersection(columns):
            raise _bad_line(path, number, f"none of its columns is called {' or '.join(known)}")
    return columns


def _row(
    path: Path, number: int, columns: Sequence[str], cells: Sequence[str]
) -> Mapping[str, str]:
    if len(cells) != len(columns):
        raise _bad_line(path, number, f"{len(cells)} columns where there are {len(columns)}")
    return dict(zip(columns, cells, strict=True))


def _utterance(path: Path, number: int, row: Mapping[str, Any]) -> Utterance:
    column = next((column for column in AUDIO_COLUMNS if column in row), None)
    if column is None:
        raise _bad_line(path, number, f"no path under any of {', '.join(AUDIO_COLUMNS)}")
    name = row[column]
    if not _is_path(name):
        raise _bad_line(path, number, f"its {column} is {name!r}, and a path was expected")
    reference = reference_of(row, where=_where(path, number))
    offset_s, duration_s = 0.0, None
    # NeMo's manifests cut one file into many utterances. Elsewhere `duration` may mean anything:
    # Common Voice has it in milliseconds.
    if column == _NEMO_COLUMN or row.get("offset") not in (None, ""):
        offset_s = _seconds(path, number, row, "offset") or 0.0
        duration_s = _seconds(path, number, row, "duration") or None
    return Utterance(name, path.parent / name, reference, offset_s, duration_s)


def _seconds(path: Path, number: int, row: Mapping[str, Any], column: str) -> float | None:
    """Return a time of a row, None where it has none."""
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if isinstance(value, bool) or not 0 <= seconds < math.inf:
        raise _bad_line(path, number, f"its {column} is {value!r}, and seconds were expected")
    return seconds


def _is_path(name: Any) -> bool:
    # JSON can spell a NUL and halves of surrogate pairs, which no file name holds.
    return (
        isinstance(name, str)
        and bool(name.strip())
        and re.search("[\0\ud800-\udfff]", name) is None
    )


def _bad_line(path: Path, number: int, what: str) -> InputError:
    return InputError(f"{_where(path, number)}: {what}", hint=_FORMS, code=BAD_ROW)


def _where(path: Path, number: int) -> str:
    return f"{path}, line {number}"
