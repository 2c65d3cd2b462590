"""`dsmops transcribe ... --output-dir` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dsmops.audio import write
from dsmops.cli.app import app
from dsmops.errors import InputError
from dsmops.worker.tiny.stt import write_tiny_stt
from tests.support.sound import sweep


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    write_tiny_stt(folder / "model")
    (folder / "in").mkdir()
    for name in ("a", "b"):
        write(folder / "in" / f"{name}.wav", [sweep(24_000, 0.4)])
    (folder / "in" / "broken.mp3").write_bytes(b"no audio")
    return folder


@pytest.fixture
def transcribe(made: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(made)
    return lambda *args: CliRunner().invoke(app, ["transcribe", *args, "--model", "model", "--cpu"])


def test_a_folder_becomes_a_folder_of_texts(
    transcribe: Callable[..., Result], tmp_path: Path
) -> None:
    """Exit 1 where one could not be read; the others are there, and are not done again."""
    done = transcribe("in", "--output-dir", str(tmp_path / "out"), "--format", "txt,srt")
    assert done.exit_code == 1, done.output
    assert "failed: in/broken.mp3: not readable as audio" in done.stdout
    assert "3 recordings: 2 transcribed, 1 failed" in done.stdout
    assert "× real time, 3 recordings at a time, F32 on cpu" in done.stderr
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"a.txt", "a.srt", "b.txt", "b.srt", ".dsmops-run"}
    again = transcribe(
        "in/a.wav", "in/b.wav", "--output-dir", str(tmp_path / "out"), "--format", "txt,srt",
        "--json",
    )  # fmt: skip
    document = json.loads(again.stdout)
    assert again.exit_code == 0
    assert document["schema"] == "dsmops.transcribe-many/1"
    assert (document["done_before"], document["transcribed"]) == (2, 0)
    assert document["device"] is None


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["in/a.wav", "in/b.wav"], "2 recordings need a folder: --output-dir DIR"),
        (["in/a.wav", "--shard", "1/2"], "it belongs to --output-dir"),
        (["in/a.wav", "--batch-size", "2"], "it belongs to --output-dir"),
        (["in/a.wav", "--devices", "0"], "it belongs to --output-dir"),
        (["in", "--output-dir", "x", "--devices", "cpu"], "--cpu with --devices does not go"),
        (["in", "--output-dir", "x", "--shard", "3/2"], "is not like 1/8"),
        (["in", "--output-dir", "x", "--format", "doc"], "'doc' is not one of txt, srt, vtt, json"),
        (["in", "--output-dir", "x", "--srt"], "--srt does not go with --output-dir"),
        (["in", "--output-dir", "x", "--url", "ws://127.0.0.1:1"], "--url does not go with"),
        (["-", "--output-dir", "x"], "standard input does not go with"),
        (["--output-dir", "x"], "name recordings, folders or lists"),
        (["https://example.org/a.mp3", "--output-dir", "x"], "is an address, not a file"),
    ],
)
def test_usage_errors(
    transcribe: Callable[..., Result], made: Path, args: list[str], words: str
) -> None:
    """Exit 2 and one sentence, before anything is read or made."""
    done = transcribe(*args)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (made / "x").exists()


def test_a_folder_with_other_files_is_refused(
    transcribe: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = transcribe("in", "--output-dir", str(tmp_path))
    assert isinstance(done.exception, InputError)
    assert "holds files that are not of such a run" in done.exception.message
