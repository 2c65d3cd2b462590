"""What a text-to-speech model's config says, and what is refused rather than run wrongly."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from dsmops.errors import InputError, SourceError
from dsmops.models import TTS_MODELS
from dsmops.worker.models.tts import read_tts_config
from dsmops.worker.models.tts_config import TtsConfig
from tests.support.networks import FULL_TTS_CONFIG_BODY, TTS_CONFIG_BODY, UNGUIDED_TTS_CONFIG_BODY


def _changed(path: str, value: Any) -> dict[str, Any]:
    """Return the tiny config with one entry, named by keys between slashes, changed.

    None as value takes it out.
    """
    body = copy.deepcopy(TTS_CONFIG_BODY)
    *above, last = path.split("/")
    inner = body
    for key in above:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return body


def test_published_model() -> None:
    """The published config gives the published dimensions, delays, guidance and names of voices."""
    config = TtsConfig.from_json(FULL_TTS_CONFIG_BODY)
    assert config.shape == TTS_MODELS["tts-1.6b-en_fr"].shape
    assert (
        config.delay_steps,
        config.max_delay,
        config.second_stream_ahead,
        config.max_speakers,
    ) == (16, 2, 2, 5)
    assert config.delays == (0, *[2] * 31)
    assert config.cfg_values == (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
    assert config.distilled
    assert config.voice_shape == (512, 125)
    assert config.voice_suffix == ".1e68beda@240.safetensors"
    assert config.max_period == 10_000


def test_model_without_guidance() -> None:
    """Without a conditioner for it, guidance is not an input."""
    config = TtsConfig.from_json(UNGUIDED_TTS_CONFIG_BODY)
    assert not config.distilled
    assert config.voice_suffix == ".safetensors"


@pytest.mark.parametrize(
    "key",
    [
        "depformer_causal",
        "depformer_context",
        "depformer_max_period",
        "tokenizer_name",
        "lm_gen_config",
    ],
)
def test_keys_without_effect(key: str) -> None:
    """Keys that change nothing in such a model are allowed."""
    assert TtsConfig.from_json(TTS_CONFIG_BODY | {key: 8}) == TtsConfig.from_json(TTS_CONFIG_BODY)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model_type", "stt", ["model_type", "'stt'"]),
        ("model_type", None, ["does not say model_type"]),
        ("norm", "layer_norm", ["norm", "rms_norm_f32"]),
        ("cross_attention", False, ["cross_attention"]),
        ("demux_second_stream", False, ["demux_second_stream"]),
        ("depformer_norm", "rms_norm_f32", ["depformer_norm"]),
        ("depformer_gating", "none", ["depformer_gating"]),
        ("lora_name", "lora.safetensors", ["lora_name"]),
        ("kv_repeats", 1, ["'kv_repeats'", "unknown keys"]),
        ("depformer_bias", True, ["'depformer_bias'"]),
        ("dim", None, ["'dim'", "missing"]),
        ("dim", 62, ["62", "4 attention heads"]),
        ("num_layers", 10**9, ["num_layers"]),
        ("dep_q", 3, ["dep_q = 3"]),
        ("text_card_out", 5, ["text_card_out"]),
        ("delays", [0, 0, 2], ["delays", "4 codebooks"]),
        ("delays", [1, 0, 2, 2, 2], ["delays"]),
        ("delays", [0, 0, 2, 2, -2], ["delays"]),
        ("delays", 2, ["delays = 2"]),
        ("depformer_dim_feedforward", [96, 96], ["depformer_dim_feedforward"]),
        ("depformer_low_rank_embeddings", None, ["depformer_low_rank_embeddings"]),
        ("depformer_weights_per_step_schedule", [0, 1], ["schedule"]),
        ("depformer_weights_per_step_schedule", [0, 1, 3, 3], ["schedule"]),
        ("depformer_weights_per_step_schedule", [0, 1, 2, -1], ["schedule"]),
        ("depformer_weights_per_step_schedule", ["a"] * 4, ["schedule"]),
        ("tts_config/multistream", True, ["multistream"]),
        ("tts_config/second_stream_ahead", 0, ["second_stream_ahead"]),
        ("tts_config/second_stream_ahead", None, ["second_stream_ahead", "missing"]),
        ("tts_config/audio_delay", 1e6, ["audio_delay"]),
        ("tts_config/pace", 2, ["tts_config", "'pace'"]),
        ("tts_config", [1], ["tts_config"]),
        ("conditioners/description", {"type": "lut", "lut": {}}, ["conditioners", "'description'"]),
        ("conditioners/speaker_wavs", None, ["speaker_wavs"]),
        ("conditioners/speaker_wavs/type", "lut", ["speaker_wavs", "'lut'"]),
        ("conditioners/speaker_wavs/tensor/dim", 0, ["dim"]),
        ("conditioners/speaker_wavs/tensor/pooling", "mean", ["speaker_wavs", "'pooling'"]),
        ("conditioners/cfg/lut/tokenizer", "whitespace", ["cfg", "tokenizer"]),
        ("conditioners/cfg/lut/output_bias", True, ["cfg", "output_bias"]),
        ("conditioners/cfg/lut/possible_values", ["high"], ["high"]),
        ("conditioners/cfg/lut/possible_values", ["1.0"] * 8, ["at most 7"]),
        ("conditioners/cfg/lut/possible_values", None, ["possible_values"]),
        ("conditioners/control/lut/possible_values", ["good"], ["control", "'ok'"]),
        ("conditioners/control", "ok", ["control"]),
        ("fuser/prepend", ["control"], ["fuser"]),
        ("fuser/sum", ["control"], ["fuser"]),
        ("fuser/sum", 5, ["fuser.sum"]),
        ("fuser/sum", ["cfg", 5], ["fuser.sum"]),
        (
            "depformer_weights_per_step_schedule",
            [0, 1, 1, 10**10],
            ["depformer_weights_per_step_schedule"],
        ),
        ("conditioners/cfg/lut/possible_values", ["nan"], ["'nan'"]),
        ("fuser/cross", [], ["fuser"]),
        ("fuser/cross_attention_pos_emb", False, ["fuser"]),
        ("fuser/scale", 3, ["fuser", "'scale'"]),
        ("fuser", None, ["fuser"]),
    ],
)
def test_refused(path: str, value: Any, words: list[str]) -> None:
    """What is missing, unknown, misplaced or of another architecture is refused by name, with
    advice.
    """
    with pytest.raises(InputError) as raised:
        TtsConfig.from_json(_changed(path, value))
    assert all(word in str(raised.value) for word in words)
    assert raised.value.hint


def test_file(tmp_path: Path) -> None:
    """A config file is read; one that is not a JSON object, or not there, is one clear error."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TTS_CONFIG_BODY))
    assert read_tts_config(path) == TtsConfig.from_json(TTS_CONFIG_BODY)
    for content in ("{", "[1]", "[" * 100_000, "\xff"):
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(InputError, match=str(path)):
            read_tts_config(path)
    with pytest.raises(SourceError):
        read_tts_config(tmp_path / "none.json")
