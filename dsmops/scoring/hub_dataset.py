"""Rows of a Hugging Face dataset as utterances, through the package `datasets`.

Their audio stays encoded; the package `audio` decodes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dsmops.errors import (
    EnvironmentMissingError,
    ExtraMissingError,
    InputError,
    SourceError,
    TransferError,
)
from dsmops.progress import SILENT, Progress
from dsmops.scoring.corpus import Corpus, Utterance, reference_of

SCHEME = "hf-dataset://"
DEFAULT_SPLIT = "test"
_ESB = "hf-audio/esb-datasets-test-only-sorted"

DATASETS = {
    "rev16": ("distil-whisper/rev16", "whisper_subset", DEFAULT_SPLIT),
    "earnings21": ("distil-whisper/earnings21", "full", DEFAULT_SPLIT),
    "earnings22": ("distil-whisper/earnings22", "full", DEFAULT_SPLIT),
    "tedlium": ("distil-whisper/tedlium-long-form", None, DEFAULT_SPLIT),
    "meanwhile": ("distil-whisper/meanwhile", None, DEFAULT_SPLIT),
    "ami": (_ESB, "ami", DEFAULT_SPLIT),
    "voxpopuli": (_ESB, "voxpopuli", DEFAULT_SPLIT),
    "spgispeech": (_ESB, "spgispeech", DEFAULT_SPLIT),
    "gigaspeech": (_ESB, "gigaspeech", DEFAULT_SPLIT),
    "tedlium-short": (_ESB, "tedlium", DEFAULT_SPLIT),
    "earnings22-short": (_ESB, "earnings22", DEFAULT_SPLIT),
    "librispeech.clean": (_ESB, "librispeech", "test.clean"),
    "librispeech.other": (_ESB, "librispeech", "test.other"),
}
"""Names for the sets of published figures: repository, config, split. Source: upstream's evaluation
script."""


def is_dataset(name: str) -> bool:
    """Return whether `name` means a dataset and not a file.

    A dataset is an alias, or `hf-dataset://org/name[:config[:split]]`.
    """
    return name in DATASETS or name.startswith(SCHEME)


def open_dataset(name: str, *, progress: Progress = SILENT) -> Corpus:
    """Open a dataset, downloaded to where `datasets` keeps it.

    That package draws its own bars, unless `progress` is silent.

    Raises:
        ExtraMissingError: datasets is not installed.
        SourceError, InputError: the dataset, config or split does not exist or has no audio;
            while reading: a row has no reference.
        EnvironmentMissingError: datasets needs a further package for this dataset.
        TransferError: the network or the hub failed.
    """
    repo, config, split = _parse(name)
    try:
        import datasets
    except ImportError as exc:
        raise ExtraMissingError(f"reading {name}", "datasets", extra=None) from exc
    if progress is SILENT:
        datasets.disable_progress_bars()
    try:
        # Not streamed: datasets would encode each row's audio again, with one more package.
        rows = datasets.load_dataset(repo, config, split=split).cast_column(
            "audio", datasets.Audio(decode=False)
        )
    except FileNotFoundError as exc:
        raise SourceError(
            f"{name}: {exc}",
            hint="Check the name; `hf auth login` for a gated set.",
            code="dataset.unknown",
        ) from exc
    except (ValueError, KeyError) as exc:
        raise _unusable(name, exc) from exc
    except OSError as exc:
        hint = "Run it again: what arrived is kept by datasets."
        raise TransferError(f"{name} could not be fetched: {exc}", hint=hint) from exc
    except datasets.exceptions.DatasetsError as exc:
        reason = exc.__cause__ or exc
        if isinstance(reason, ImportError):
            raise EnvironmentMissingError(
                f"{name}: {reason}", hint="Install what it names with pip.", code="dataset.package"
            ) from exc
        raise _unusable(name, reason) from exc
    return Corpus(name, len(rows), _utterances(name, rows))


def _parse(name: str) -> tuple[str, str | None, str]:
    if name in DATASETS:
        return DATASETS[name]
    repo, *rest = name.removeprefix(SCHEME).split(":")
    if repo.count("/") != 1 or not all(repo.split("/")) or len(rest) > 2:
        raise SourceError(
            f"{name} names no dataset",
            hint=f"Write {SCHEME}org/name[:config[:split]], or one of {', '.join(DATASETS)}.",
            code="dataset.name",
        )
    config, split = [*rest, "", ""][:2]
    return repo, config or None, split or DEFAULT_SPLIT


def _utterances(name: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[Utterance]:
    for number, row in enumerate(rows):
        audio = row["audio"]
        label = Path(audio["path"]).name if audio["path"] else f"row {number}"
        content = audio["bytes"] if audio["bytes"] is not None else Path(audio["path"])
        yield Utterance(label, content, reference_of(row, where=f"{name}, row {number}"))


def _unusable(name: str, reason: BaseException) -> InputError:
    hint = f"Name config and split: {SCHEME}org/name:config:split, of a set with a column audio."
    return InputError(f"{name}: {reason}", hint=hint, code="dataset.unusable")
