"""The shipped models in int8: the words that they give are those that they gave before."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from dsmops.dtypes import PLAIN, Quant, Quantised
from dsmops.operations.speech.evaluation import evaluate
from dsmops.shipped import shipped_folder
from tests.support.cli import dsmops

MANIFEST = shipped_folder("models") / "recordings" / "manifest.jsonl"
INT8 = Quantised(Quant.INT8, Quant.INT8)
MOST_RISE = 0.002
"""What int8 may add to the word error rate: 0.2 points."""


@pytest.mark.slow
def test_the_word_error_rate_does_not_rise() -> None:
    """Weights, keys and values all in int8, on all recordings that travel with the package."""
    rates = [
        evaluate(str(MANIFEST), "tiny", cpu=True, quantised=quantised).totals.corpus_wer
        for quantised in (PLAIN, INT8)
    ]
    assert rates[0] is not None
    assert rates[1] is not None
    assert rates[1] - rates[0] <= MOST_RISE


@pytest.mark.slow
def test_there_and_back_in_int8(tmp_path: Path) -> None:
    """Both commands take the options, and words that are synthesized are transcribed."""
    options = ("--model", "tiny", "--cpu", "--weights", "int8", "--kv", "int8")
    sound = tmp_path / "hello.wav"
    made = dsmops("synthesize", *options, "--seed", "1", "good morning my friend", sound)
    assert made.code == 0, made.stderr
    assert dsmops("transcribe", *options, sound).stdout.split()[:2] == ["good", "morning"]


def test_a_server_decides_by_itself() -> None:
    """With --url, and with moshi-server, the options are usage errors that name them."""
    for command, refused in (
        (("transcribe", "--url", "ws://127.0.0.1:1", "--kv", "int8", "a.wav"), "--kv"),
        (("smoke-test", "--backend", "moshi-server", "--weights", "int8"), "--weights"),
    ):
        run = dsmops(*command)
        assert run.code == 2
        assert refused in run.stderr
