"""The model that travels with the package, in the commands that take its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsmops.shipped import shipped_models
from tests.support.cli import dsmops

TINY = shipped_models()["tiny"]


def test_plan_counts_its_own_codec(tmp_path: Path) -> None:
    """The embedded worker's plan; moshi-server has none, and the message says why."""
    plan = dsmops(
        *("plan", "--model", "tiny", "--simulate", "t4", "--runtime", "embedded", "--json"),
        cwd=tmp_path,
    )
    assert plan.code == 0, plan.stderr
    assert plan.document["memory"]["mimi_weights_bytes"] < 10_000_000
    refused = dsmops("plan", "--model", "tiny", "--simulate", "t4", cwd=tmp_path)
    assert (refused.code, refused.stdout) == (3, "")
    assert "it reads only the published Mimi" in refused.stderr
    assert "--runtime embedded" in refused.stderr


def test_prep_sm75_knows_its_checkpoint(tmp_path: Path) -> None:
    """Without a template: its layout names it. The config says which server it is for."""
    run = dsmops(
        *("prep-sm75", "--simulate", "t4", "--input-path", TINY / "model.safetensors"),
        *("--output", "tiny.fp16.safetensors"),
        cwd=tmp_path,
    )
    assert run.code == 0, run.stderr
    text = (tmp_path / "tiny.fp16.toml").read_text()
    assert "moshi-server reads only the published Mimi" in text
    assert 'dtype_override = "f16"' in text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("worker",), "name what to serve: --config FILE or --model NAME"),
        (("worker", "--model", "tiny", "--config", "x.toml"), "name what to serve"),
        (("worker", "--config", "x.toml", "--api-key", "k"), "omit --api-key"),
        (("smoke-test", "--model", "tiny", "--url", "ws://x"), "exclude each other"),
        (
            ("smoke-test", "--model", "tiny", "--moshi-bin", "moshi-server"),
            "moshi-server cannot serve tiny",
        ),
    ],
)
def test_options_that_do_not_go_together(args: tuple[str, ...], words: str) -> None:
    run = dsmops(*args)
    assert run.code == 2
    assert words in " ".join(run.stderr.split())


@pytest.mark.heavy
def test_smoke_test_serves_and_judges_it(tmp_path: Path) -> None:
    """From its name to its words, with the error rate in the document."""
    run = dsmops("smoke-test", "--model", "tiny", "--cpu", "--json", cwd=tmp_path, timeout_s=200)
    assert run.code == 0, run.stdout
    checks = {check["name"]: check for check in run.document["checks"]}
    assert checks["words"]["status"] == "passed", checks["words"]
    assert run.document["modules"][0]["wer"] <= 0.1


@pytest.mark.heavy
def test_its_recordings_can_be_evaluated(tmp_path: Path) -> None:
    """The recordings of the smoke test are a manifest of `evaluate`."""
    run = dsmops(
        *("evaluate", TINY.parent / "recordings" / "manifest.jsonl", "--model", "tiny"),
        *("--cpu", "--json"),
        cwd=tmp_path,
        timeout_s=200,
    )
    assert run.code == 0, run.stderr
    assert json.loads(run.stdout)["totals"]["corpus_wer"] <= 0.1
