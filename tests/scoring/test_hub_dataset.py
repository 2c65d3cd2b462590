"""The use of `datasets`, with a stand-in for the package: what is asked of it, what its rows and
its errors become.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

from dsmops.errors import (
    DsmopsError,
    EnvironmentMissingError,
    ExtraMissingError,
    InputError,
    SourceError,
    TransferError,
)
from dsmops.scoring import DATASETS, Utterance, is_dataset, open_dataset
from tests.support.fake_datasets import DatasetsError, Rows, install


def row(**more: Any) -> dict[str, Any]:
    return {"audio": {"bytes": b"RIFF", "path": "x/1.flac"}, "text": "one", **more}


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("rev16", ("distil-whisper/rev16", "whisper_subset", "test")),
        ("meanwhile", ("distil-whisper/meanwhile", None, "test")),
        (
            "librispeech.other",
            ("hf-audio/esb-datasets-test-only-sorted", "librispeech", "test.other"),
        ),
        ("tedlium-short", ("hf-audio/esb-datasets-test-only-sorted", "tedlium", "test")),
        ("hf-dataset://org/name", ("org/name", None, "test")),
        ("hf-dataset://org/name:fr", ("org/name", "fr", "test")),
        ("hf-dataset://org/name:fr:validation", ("org/name", "fr", "validation")),
        ("hf-dataset://org/name::train", ("org/name", None, "train")),
    ],
)
def test_names_say_repository_config_and_split(
    monkeypatch: pytest.MonkeyPatch, name: str, asked: tuple[str, str | None, str]
) -> None:
    """Aliases are upstream's; the split is "test" where none is named; audio is asked for as it is
    stored.
    """
    seen: list[Any] = []
    rows = Rows([row(), row(sentence="left aside")])

    def load(repo: str, config: str | None, *, split: str) -> Rows:
        seen.append((repo, config, split))
        return rows

    install(monkeypatch, load)
    assert is_dataset(name)
    corpus = open_dataset(name)
    assert seen == [asked]
    assert rows.casts == [("audio", ("Audio", False))]
    assert corpus.count == 2
    assert list(corpus.utterances) == [Utterance("1.flac", b"RIFF", "one")] * 2


def test_bars_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own bars go where ours would, and are off where ours are."""
    said = install(monkeypatch, lambda *_, **__: Rows([row()]))
    open_dataset("ami", progress=type("Bars", (), {})())
    assert said == []
    open_dataset("ami")
    assert said == ["no bars"]


def test_audio_may_be_a_file_on_disk_or_have_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set made of files gives their paths instead of bytes; bytes without a name go by
    their row.
    """
    audio: list[dict[str, Any]] = [
        {"bytes": None, "path": "/data/7.wav"},
        {"bytes": b"", "path": None},
    ]
    install(monkeypatch, lambda *_, **__: Rows([row(audio=one) for one in audio]))
    assert list(open_dataset("ami").utterances) == [
        Utterance("7.wav", Path("/data/7.wav"), "one"),
        Utterance("row 1", b"", "one"),
    ]


def test_a_row_without_a_reference_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its number in the set."""
    install(monkeypatch, lambda *_, **__: Rows([row(), {"audio": {"bytes": b"", "path": None}}]))
    with pytest.raises(InputError, match="ami, row 1: no reference"):
        list(open_dataset("ami").utterances)


GENERATION_FAILED = DatasetsError("An error occurred while generating the dataset")
GENERATION_FAILED.__cause__ = ImportError("please install 'torchcodec'")


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (FileNotFoundError("Dataset 'org/name' doesn't exist on the Hub"), SourceError),
        (ValueError("BuilderConfig 'xx' not found"), InputError),
        (KeyError("audio"), InputError),
        (ConnectionError("Couldn't reach the Hub"), TransferError),
        (DatasetsError("columns differ"), InputError),
        (GENERATION_FAILED, EnvironmentMissingError),
    ],
)
def test_its_errors_are_put_into_ours(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, kind: type[DsmopsError]
) -> None:
    """Unknown sets, configs and columns are bad input; a package may be missing; the network is the
    other side.
    """

    def load(*_: object, **__: object) -> Rows:
        raise failure

    install(monkeypatch, load)
    with pytest.raises(kind, match="hf-dataset://org/name:xx") as caught:
        open_dataset("hf-dataset://org/name:xx")
    assert caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "hf-dataset://",
        "hf-dataset://name",
        "hf-dataset://org/",
        "hf-dataset://a/b/c",
        "hf-dataset://a/b:c:d:e",
    ],
)
def test_names_that_name_nothing(name: str) -> None:
    """They are distinguished before anything is asked for, with the aliases."""
    with pytest.raises(SourceError) as caught:
        open_dataset(name)
    assert all(alias in caught.value.hint for alias in DATASETS)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package belongs to no extra, so the command names it."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ExtraMissingError) as caught:
        open_dataset("librispeech.clean")
    assert caught.value.hint == "Run `pip install datasets`."
