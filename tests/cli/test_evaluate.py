"""`dsmops evaluate` as a user meets it: the text, the document, the lines in a file, and what goes
wrong.
"""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dsmops.audio import write
from dsmops.cli.app import app
from dsmops.worker.tiny.stt import write_tiny_stt
from tests.support.cli import dsmops
from tests.support.sound import sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, two recordings, one file that is not a recording, and a manifest of each
    kind.
    """
    folder = tmp_path_factory.mktemp("evaluate")
    write_tiny_stt(folder / "model")
    for name, seconds in (("a.wav", 1.0), ("b.wav", 1.6)):
        write(folder / name, [sweep(24_000, seconds)])
    (folder / "broken.wav").write_bytes(b"no audio")
    (folder / "good.tsv").write_text("a.wav\tTwenty-one words\nb.wav\t[music]\n")
    (folder / "bad.tsv").write_text("a.wav\tTwenty-one words\nbroken.wav\tone\n")
    return folder


@pytest.fixture
def evaluate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command in this process, in the folder of the manifests."""
    monkeypatch.chdir(folder)
    return lambda *args: CliRunner().invoke(app, ["evaluate", *args, "--model", "model", "--cpu"])


@pytest.mark.slow
def test_the_text_has_the_worst_and_the_totals(evaluate: Callable[..., Result]) -> None:
    """Exit 0 whatever the rate: a table with both texts, then sums, means and what was left out;
    speed on stderr.
    """
    done = evaluate("good.tsv")
    assert done.exit_code == 0, done.output
    assert "Worst 1 of 1 utterance, normalised (english):" in done.stdout
    assert "21 words" in done.stdout
    assert "corpus WER " in done.stdout
    assert "in 2 words" in done.stdout
    assert "1 of 2 utterances scored; 1 dropped" in done.stdout
    assert "× real time, 2 recordings at a time, F32 on cpu" in done.stderr


def test_unreadable_audio_is_a_no(folder: Path, evaluate: Callable[..., Result]) -> None:
    """Exit 1 and the reason, beside the figures of the rest; the file of lines is written all the
    same.
    """
    done = evaluate("bad.tsv", "-o", "lines.jsonl")
    assert done.exit_code == 1
    assert "failed: broken.wav: not readable as audio" in done.stdout
    assert "1 of 2 utterances scored; 1 failed, which are in none of these figures" in done.stdout
    assert [
        json.loads(line)["status"] for line in (folder / "lines.jsonl").read_text().splitlines()
    ] == ["scored", "failed"]


def test_the_document_has_all(folder: Path, evaluate: Callable[..., Result]) -> None:
    """One JSON document with totals and a record per utterance, null where nothing is known; the
    lines of -o are its records.
    """
    done = evaluate(
        "good.tsv", "--json", "-o", "lines.jsonl", "--normalizer", "basic", "--batch-size", "1"
    )
    document = json.loads(done.stdout)
    assert document["schema"] == "dsmops.evaluate/1"
    assert (document["normalizer"], document["batch_size"], document["dtype"]) == (
        "basic",
        1,
        "F32",
    )
    first, second = document["files"]
    assert first["normalized_reference"] == "twenty one words"
    assert set(first["score"]["words"]) == {"hits", "substitutions", "deletions", "insertions"}
    assert first["wer"] == document["totals"]["corpus_wer"] == document["totals"]["wer"]
    assert first["audio_s"] == document["totals"]["audio_s"] == 1.0
    # The basic rules take brackets for an aside too.
    assert (second["status"], second["hypothesis"], second["wer"], second["audio_s"]) == (
        "dropped",
        None,
        None,
        None,
    )
    assert [
        json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()
    ] == document["files"]
    assert done.stderr == ""


def test_one_recording_and_one_transcript(folder: Path, evaluate: Callable[..., Result]) -> None:
    """A reference text scores a recording, or what is in a file already; French asks for other
    rules.
    """
    (folder / "ref.txt").write_text("je ne sais pas ce que vous voulez dans la vie")
    (folder / "hyp.srt").write_text(
        "1\n00:00:00,000 --> 00:00:02,000\nje ne sais pas que vous voulez dans la vie\n"
    )
    done = evaluate("hyp.srt", "ref.txt", "--normalizer", "basic")
    assert done.exit_code == 0, done.output
    assert "corpus WER 9.09%: 0 substitutions, 1 deletions" in done.stdout
    assert done.stderr == ""
    done = evaluate("a.wav", "ref.txt")
    assert done.exit_code == 0, done.output
    assert "seem to be in French" in done.stderr
    assert evaluate("a.wav", "ref.txt", "-o", "ref.txt").exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["gone.jsonl"], 3, "error: gone.jsonl is not a file here, nor a dataset's alias"),
        (["."], 3, "error: . is a folder"),
        (["a.wav"], 3, "error: a.wav, line 1: "),
        (["rev16"], 4, "error: reading rev16 needs the package datasets"),
        (["hf-dataset://nothing"], 3, "error: hf-dataset://nothing names no dataset"),
        (["good.tsv", "-o", "a.wav/lines.jsonl"], 3, "error: a.wav/lines.jsonl"),
        (["good.tsv", "-o", "./good.tsv"], 2, "--output is the manifest itself"),
        (
            ["good.tsv", "-o", "model/model.safetensors"],
            3,
            "model/model.safetensors is a file of the model itself",
        ),
        (["good.tsv", "-o", "a.wav"], 3, "a.wav is a recording of the manifest"),
        (["good.tsv", "--batch-size", "0"], 2, "--batch-size"),
        (["good.tsv", "--limit", "0"], 2, "--limit"),
        (["good.tsv", "--normalizer", "french"], 2, "--normalizer"),
    ],
)
def test_wrong_input_is_told(folder: Path, args: list[str], code: int, message: str) -> None:
    """A clear error, its class's exit code, nothing on stdout, no traceback."""
    if args == ["rev16"] and find_spec("datasets") is not None:
        pytest.skip("datasets is installed here, and would look for the set")
    done = dsmops("evaluate", *args, "--model", "model", "--cpu", cwd=folder)
    assert done.code == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_run_that_fails_leaves_the_old_lines(folder: Path) -> None:
    """A model that cannot be loaded leaves what -o named as it was, and nothing beside it."""
    target = folder / "old.jsonl"
    target.write_text("old")
    done = dsmops("evaluate", "good.tsv", "--model", "gone.toml", "-o", "old.jsonl", cwd=folder)
    assert done.code == 3
    assert target.read_text() == "old"
    assert not list(folder.glob(".*partial*"))
