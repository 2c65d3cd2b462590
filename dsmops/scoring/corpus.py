"""Recordings with their reference texts, from any source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsmops.errors import InputError

BAD_ROW = "corpus.row"

TEXT_COLUMNS = ("text", "sentence", "normalized_text", "transcript", "transcription")
"""Columns of a reference, the first that is there counts. Source: upstream's evaluation script."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A recording, by its path or as the bytes of its file, and its reference text.

    `name` is for people. The utterance is the `duration_s` (None: all) from `offset_s` on.
    """

    name: str
    audio: Path | bytes
    reference: str
    offset_s: float = 0.0
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class Corpus:
    """What to evaluate on: `count` utterances, which can be read once."""

    name: str
    count: int
    utterances: Iterable[Utterance]


def reference_of(row: Mapping[str, Any], *, where: str) -> str:
    """Return a row's reference; `where` the row is, is for the error.

    Raises:
        InputError: it has none, or one that is not text.
    """
    column = next((column for column in TEXT_COLUMNS if column in row), None)
    if column is None:
        raise InputError(
            f"{where}: no reference",
            hint=f"It goes under {', '.join(TEXT_COLUMNS)}; the first counts.",
            code=BAD_ROW,
        )
    reference = row[column]
    if not isinstance(reference, str):
        raise InputError(
            f"{where}: its {column} is {reference!r}",
            hint="A reference is text, an empty one for silence.",
            code=BAD_ROW,
        )
    return reference
