"""Real words: what the trained model makes of recordings whose words and times are known.

The random models of the other tests cannot show a wrong word, a wrong time or a missed pause.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import median

import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from safetensors.torch import load_file, save_file

from dsmops.cli.views.numerics import show_numerics
from dsmops.operations.speech.evaluation import Evaluation, evaluate
from dsmops.operations.speech.numerics import compare_numerics, plan_numerics
from dsmops.operations.speech.numerics_verdict import NumericsReport, NumericsVerdict
from dsmops.operations.speech.numerics_words import WordRates, word_rates
from dsmops.operations.speech.transcription import Transcription, transcribe
from dsmops.shipped import shipped_folder, shipped_models
from tests.support.cli import dsmops

pytestmark = pytest.mark.slow

RECORDINGS = shipped_folder("models") / "recordings"
ROWS = [json.loads(line) for line in (RECORDINGS / "manifest.jsonl").read_text().splitlines()]
TINY = shipped_models()["tiny"]
SHORTEST = min(ROWS, key=lambda row: len(row["text"]))


@pytest.fixture(scope="module")
def evaluated() -> Evaluation:
    return evaluate(str(RECORDINGS / "manifest.jsonl"), "tiny", cpu=True)


@pytest.fixture(scope="module")
def transcribed() -> Transcription:
    return transcribe(RECORDINGS / SHORTEST["audio"], "tiny", cpu=True)


def test_evaluate_finds_the_words_that_are_spoken(evaluated: Evaluation) -> None:
    """Each hypothesis is its own reference, so nothing is exchanged between slots."""
    assert evaluated.totals.scored == len(ROWS)
    assert evaluated.totals.corpus_wer is not None
    assert evaluated.totals.corpus_wer <= 0.05
    for file, row in zip(evaluated.files, ROWS, strict=True):
        assert file.reference == row["text"]
        assert file.wer is not None
        assert file.wer <= 0.2


def test_words_begin_where_they_are_spoken(transcribed: Transcription) -> None:
    """Within half a frame in the median, and none is more than three frames off."""
    assert transcribed.text == SHORTEST["text"]
    shifts = [
        word.start_s - start_s
        for word, start_s in zip(transcribed.words, SHORTEST["word_starts_s"], strict=True)
    ]
    assert abs(median(shifts)) <= 0.04
    assert max(map(abs, shifts)) <= 0.24


@pytest.mark.slow
def test_the_end_of_the_last_sentence_is_a_pause(transcribed: Transcription) -> None:
    """One turn ends, after the last word."""
    last_s = SHORTEST["word_starts_s"][-1]
    assert [turn.time_s for turn in transcribed.turns if turn.time_s > last_s]
    assert all(turn.time_s > SHORTEST["word_starts_s"][0] for turn in transcribed.turns)


def numerics(folder: Path, *, broken: bool) -> NumericsReport:
    """Compare the model, as it is or with a layer left out, on the shortest recording."""
    target = folder / "target.safetensors"
    tensors = load_file(TINY / "model.safetensors")
    if broken:
        for leaf in ("self_attn.out_proj.weight", "gating.linear_out.weight"):
            tensors[f"transformer.layers.0.{leaf}"].zero_()
    save_file(tensors, target)
    (folder / "reference.txt").write_text(SHORTEST["text"].title() + ".\n")
    source = TINY / "model.safetensors"
    plan = plan_numerics(
        str(source),
        (source, target),
        RECORDINGS / SHORTEST["audio"],
        reference=folder / "reference.txt",
    )
    return compare_numerics(plan, cpu=True)


def test_numerics_gives_word_error_rates_before_and_after(tmp_path: Path) -> None:
    """A layer that is missing is a no, also by its words."""
    report = numerics(tmp_path, broken=True)
    assert report.words is not None
    assert report.words.source_wer == 0
    assert report.words.rise > report.thresholds.largest_wer_rise
    assert report.verdict is NumericsVerdict.NO
    assert any("the word error rate rises from 0.0%" in one.message for one in report.findings)
    said = [block for block in show_numerics(report) if isinstance(block, str)]
    assert any(block.startswith("Word error rate: 0.0% before") for block in said)


def test_numerics_says_what_int8_changes(tmp_path: Path) -> None:
    """Logits move, and neither a token of the trained model nor a word does."""
    source = TINY / "model.safetensors"
    recording = RECORDINGS / SHORTEST["audio"]
    copy = shutil.copy(source, tmp_path)
    run = dsmops(
        "verify",
        "--numerics",
        recording,
        "--kv",
        "int8",
        "--json",
        "--cpu",
        source,
        copy,
        "--model",
        str(TINY),
    )
    report = json.loads(run.stdout)["numerics"]
    assert run.code == 0, run.stderr
    assert report["agreement"]["first_difference_step"] is None
    assert 1e-4 < report["logits"]["relative_rms"] < 0.05
    assert any("keys and values of the target are in int8" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("target", "rise"), [("one two three four", 0.0), ("one two four", 0.25), ("", 1.0)]
)
def test_rates_count_against_the_reference(target: str, rise: float) -> None:
    rates = word_rates("one two three four", "One, two: three four!", target)
    assert rates == WordRates(4, 0, round(4 * rise), 0.0, rise)
    assert rates.rise == rise


def test_a_reference_without_words_is_refused(tmp_path: Path) -> None:
    """Before anything is computed. Without --numerics the option is a mistake."""
    empty = tmp_path / "empty.txt"
    empty.write_text("...\n")
    source = TINY / "model.safetensors"
    recording = RECORDINGS / SHORTEST["audio"]
    run = dsmops("verify", "--numerics", recording, "--reference", empty, source, source)
    assert (run.code, run.stdout) == (3, "")
    assert "holds no word" in run.stderr
    assert dsmops("verify", "--reference", empty, source, source).code == 2
