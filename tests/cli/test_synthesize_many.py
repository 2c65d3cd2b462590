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
from dsmops.errors import InputError, RemoteError
from dsmops.worker.tiny.tts import write_tiny_tts
from tests.support.s3_servers import moto_server, shared_sdk_data


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


@pytest.mark.slow
def test_sound_goes_to_a_bucket(
    synthesize: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes that a folder gets, once, and nothing here but the run's own state."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert synthesize("@list", "--output-dir", str(tmp_path / "out")).exit_code == 0
    with shared_sdk_data(), moto_server() as server:
        for name, value in (server.env | {"AWS_ENDPOINT_URL": server.url}).items():
            monkeypatch.setenv(name, value)
        bucket = server.new_bucket()
        into = ("--output-dir", f"s3://{bucket}/sounds/", "--json")
        done = synthesize("@list", *into)
        assert done.exit_code == 0, done.output
        document = json.loads(done.stdout)
        assert (document["folder"], document["synthesized"]) == (f"s3://{bucket}/sounds", 1)
        sound = server.client.get_object(Bucket=bucket, Key="sounds/list-00001.wav")["Body"].read()
        assert sound == (tmp_path / "out" / "list-00001.wav").read_bytes()
        assert json.loads(synthesize("@list", *into).stdout)["done_before"] == 1
        server.client.delete_object(Bucket=bucket, Key="sounds/list-00001.wav")
        assert json.loads(synthesize("@list", *into).stdout)["synthesized"] == 1
        gone = synthesize("@list", "--output-dir", "s3://no-such-bucket-at-all/x")
        assert isinstance(gone.exception, InputError | RemoteError)
    (run,) = (tmp_path / "state" / "dsmops" / "runs").iterdir()
    assert {path.name for path in run.iterdir()} == {".dsmops-run"}


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
        (["in", "--output-dir", "gs://bucket/x"], "is neither a folder nor s3://BUCKET/PREFIX"),
        (["in", "--output-dir", "x", "--run-dir", "y"], "--output-dir s3://BUCKET/PREFIX"),
        (["a", "b.wav", "--run-dir", "y"], "it belongs to --output-dir"),
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
