"""The lint's verdicts on 699 configs are those of the real moshi-server 0.6.4."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from dsmops.config.lint import FileState, KnownFile, LintInputs, lint
from dsmops.config.load import parse_config
from dsmops.config.modules import FileRole, file_references
from dsmops.errors import ConfigError
from dsmops.models import STT_MODELS

MODEL = "/home/operator/models"
FILES = {
    f"{MODEL}/model.safetensors",
    f"{MODEL}/tokenizer_en_fr_audio_8000.model",
    f"{MODEL}/mimi-pytorch-e351c8d8@125.safetensors",
}
"""What was there when the server was asked."""
LM = KnownFile(
    FileState.PRESENT,
    tensors={
        name: ("BF16", shape)
        for name, shape in replace(STT_MODELS["stt-1b-en_fr"].shape, num_layers=2).tensors().items()
    },
)
KEYS = {"lm_model_file", "text_tokenizer_file", "audio_tokenizer_file"}
VERDICTS = Path(__file__).parents[1] / "data" / "real-server" / "config-verdicts.jsonl.gz"


def has_errors(text: str) -> bool:
    """Return whether the text is not a config, or the lint finds an error in it."""
    try:
        config = parse_config(text)
    except ConfigError:
        return True
    files = {
        (reference.value.text, reference.role): KnownFile(FileState.MISSING)
        for reference in file_references(config, {})
        if reference.where[-1] in KEYS and reference.value.text not in FILES
    }
    files[f"{MODEL}/model.safetensors", FileRole.LM] = LM
    return lint(config, LintInputs(files=files)).has_errors


@pytest.mark.slow
def test_each_verdict_is_the_servers() -> None:
    """What `validate` refuses, and what makes the worker exit, panic or die, is an error; the rest
    is not. Three configs that run make no sense, and are errors on purpose.
    """
    ran_without_sense, differing = [], []
    with gzip.open(VERDICTS, "rt", encoding="utf-8") as file:
        cases = [json.loads(line) for line in file]
    for case in cases:
        fails = not case["validate_accepts"] or case["worker"] not in {None, "runs"}
        found = has_errors(case["toml"])
        if found and case["worker"] == "runs":
            ran_without_sense.append(case["name"])
        elif found != fails:
            differing.append(case["name"])
    assert len(cases) == 699
    assert differing == []
    assert len(ran_without_sense) == 3
