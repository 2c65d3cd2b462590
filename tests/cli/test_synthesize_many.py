"""`dsmops synthesize ... --output-dir` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("torch", reason="the worker extra is not installed")

from dsmops.audio import read
from dsmops.cli.app import app
from dsmops.worker.tiny.tts import write_tiny_tts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    write_tiny_tts(folder / "model")
    (folder / "in").mkdir()
    (folder / "in" / "a.txt").write_text("One.")
    (folder / "in" / "blank.txt").write_text(" \n")
    (folder / "list").write_text("Two.\n")
    return folder


@pytest.fixture
def synthesize(made: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(made)
    return lambda *args: CliRunner().invoke(app, ["synthesize", *args, "--model", "model", "--cpu"])


@pytest.mark.slow
def test_a_folder_and_a_list_become_sounds(
    synthesize: Callable[..., Result], made: Path, tmp_path: Path
) -> None:
    """Exit 1 where one could not be used; the others are there, and are not done again."""
    into = ("--output-dir", str(tmp_path / "out"), "--format", "flac")
    done = synthesize("in", "@list", *into)
    assert done.exit_code == 1, done.output
    assert "failed: there is nothing to synthesize: in/blank.txt is empty" in done.stdout
    assert "3 texts: 2 synthesized, 1 failed" in done.stdout
    assert "× real time, 1 text at a time, F32 on cpu" in done.stderr
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"a.flac", "list-00001.flac", ".dsmops-run"}
    again = synthesize("in/a.txt", "@list", *into, "--json")
    document = json.loads(again.stdout)
    assert again.exit_code == 0
    assert document["schema"] == "dsmops.synthesize-many/1"
    assert (document["done_before"], document["synthesized"]) == (2, 0)
    alone = synthesize("One.", str(tmp_path / "a.wav"), "--seed", "0")
    assert alone.exit_code == 0
    assert (read(tmp_path / "a.wav") == read(tmp_path / "out" / "a.flac")).all()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["a", "b.wav", "c"], "many texts need a folder: --output-dir DIR"),
        (["a", "b.wav", "--shard", "1/2"], "it belongs to --output-dir"),
        (["a", "b.wav", "--batch-size", "2"], "it belongs to --output-dir"),
        (["a", "-", "--format", "mp3"], "it applies to --output-dir only"),
        (["in", "--output-dir", "x", "--format", "raw"], "--format raw does not go with"),
        (["in", "--output-dir", "x", "--play"], "--play does not go with"),
        (["in", "--output-dir", "x", "--url", "ws://127.0.0.1:1"], "--url does not go with"),
        (["-", "--output-dir", "x"], "standard input does not go with"),
        (["in", "--output-dir", "x", "--shard", "3/2"], "is not like 1/8"),
        (["https://example.org/a.txt", "--output-dir", "x"], "is an address, not a file"),
        (["gs://bucket/a", "--output-dir", "x"], "of object stores only s3:// is read"),
    ],
)
def test_usage_errors(
    synthesize: Callable[..., Result], made: Path, args: list[str], words: str
) -> None:
    """Exit 2 and one sentence, before anything is read or made."""
    done = synthesize(*args)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (made / "x").exists()
