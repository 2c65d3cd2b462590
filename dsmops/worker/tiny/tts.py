"""A tiny TTS model with random weights: all files of a published repository.

It is small enough for every test and for a machine without a GPU.

It speaks gibberish: murmurs whose sound depends on the words, the voice and the seed, neither
silent nor clipping. Like a real model, it asks at each step for the next word or for padding. Where
it is free to choose, each comes about half of the time, because the output rows of these two tokens
are longer than all others.

Nothing is trained and nothing is run to make it. One seed gives one set of bytes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from dsmops.files import replace_atomically
from dsmops.worker.models.conventions import END_OF_PADDING, PADDING
from dsmops.worker.models.tts_config import TtsConfig, TtsFiles
from dsmops.worker.tiny.codec import (
    BINS,
    CODEBOOKS,
    MIMI_FILE,
    PAUSE_LENGTH,
    TEXT_TOKENS,
    TOKENIZER_FILE,
    tiny_mimi,
    train_tokenizer,
    uniform,
)
from dsmops.worker.tiny.stt import API_KEY

LM_FILE = "dsm_tts_tiny@1.safetensors"
MODEL_CONFIG_FILE = "config.json"
SERVER_CONFIG_FILE = "config-tts-tiny.toml"
VOICE_FOLDER = "voices"
VOICES = ("tiny/first.wav", "tiny/second.wav")
"""Names as a caller gives them, the first being the default."""

_CODE_GAIN = 3.0
"""Spreads the logits of codes so that at temperature 0.6 a few of them share the probability, as
with a real model."""

BODY: dict[str, Any] = {
    "card": BINS,
    "n_q": CODEBOOKS,
    "dep_q": CODEBOOKS,
    "delays": [0, 0, *[2] * (CODEBOOKS - 1)],
    "dim": 64,
    "text_card": TEXT_TOKENS,
    "text_card_out": None,
    "existing_text_padding_id": PADDING,
    "num_heads": 4,
    "num_layers": 2,
    "hidden_scale": 4.125,
    "causal": True,
    "layer_scale": None,
    "context": 100,
    "max_period": 10_000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "cross_attention": True,
    "demux_second_stream": True,
    "depformer_dim": 32,
    "depformer_num_heads": 2,
    "depformer_num_layers": 2,
    "depformer_dim_feedforward": 96,
    "depformer_multi_linear": True,
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "depformer_weights_per_step_schedule": [0, 1, 1, 1, 2, 2, 2, 2],
    "depformer_low_rank_embeddings": 16,
    "conditioners": {
        "speaker_wavs": {"type": "tensor", "tensor": {"dim": 512}},
        "cfg": {
            "type": "lut",
            "lut": {
                "n_bins": 7,
                "dim": 16,
                "tokenizer": "noop",
                "possible_values": ["1.0", "1.5", "2.0", "2.5", "3.0", "3.5", "4.0"],
            },
        },
        "control": {
            "type": "lut",
            "lut": {"n_bins": 1, "dim": 64, "tokenizer": "noop", "possible_values": ["ok"]},
        },
    },
    "fuser": {
        "cross_attention_pos_emb": True,
        "cross_attention_pos_emb_scale": 1,
        "sum": ["control", "cfg"],
        "prepend": [],
        "cross": ["speaker_wavs"],
    },
    "mimi_name": MIMI_FILE,
    "moshi_name": LM_FILE,
    "tokenizer_name": TOKENIZER_FILE,
    "tts_config": {"audio_delay": 1.28, "second_stream_ahead": 2},
    "lm_gen_config": {"temp": 0.6, "text_temp": 0.6},
    "model_id": {"sig": "7e57da7a", "epoch": 1},
    "model_type": "tts",
}
"""The `config.json`: the keys of the published TTS repository, and its delays, voices and guidance,
with small networks."""


@dataclass(frozen=True, slots=True)
class TinyTts:
    """The files that `write_tiny_tts` wrote.

    They are the model's four files, a moshi-server config that names them, and a folder of voices.
    The names in `server_config` are relative: run the server, or `check-config`, in the folder.
    `voice_name` is the default voice, as a caller names it. `model_config` is `files.config`.
    """

    files: TtsFiles
    model_config: Path
    server_config: Path
    voice_folder: Path
    voice_name: str


def write_tiny_tts(folder: Path, *, seed: int = 0) -> TinyTts:
    """Write a complete tiny TTS model into `folder` and return its files.

    They are named like those of a published repository.

    The language model is stored in BF16, its conditioners in F32, Mimi in F32; codec and tokenizer
    are those of `write_tiny_stt` with the same seed. Two megabytes in all, a quarter of them the
    two voices. The same seed gives the same bytes.

    Raises:
        ResourceError, FileAccessError: the folder cannot be written.
    """
    config = TtsConfig.from_json(BODY)
    files = TtsFiles(
        folder / LM_FILE, folder / MIMI_FILE, folder / TOKENIZER_FILE, folder / MODEL_CONFIG_FILE
    )
    tiny = TinyTts(
        files, files.config, folder / SERVER_CONFIG_FILE, folder / VOICE_FOLDER, VOICES[0]
    )
    contents = {
        files.lm: save(_lm_tensors(seed, config)),
        files.mimi: tiny_mimi(seed),
        files.tokenizer: train_tokenizer(),
        files.config: (json.dumps(BODY, indent=2) + "\n").encode(),
        tiny.server_config: _SERVER_CONFIG.encode(),
    }
    for number, name in enumerate(VOICES):
        voice = uniform(np.random.default_rng([seed, 3, number]), (1, *config.voice_shape))
        contents[tiny.voice_folder / f"{name}{config.voice_suffix}"] = _voice_file(
            voice.astype("<f4")
        )
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(path, durable=False) as partial:
            partial.write(content)
    return tiny


def _voice_file(voice: NDArray[np.float32]) -> bytes:
    """Return a voice as a safetensors file like the published ones.

    The header is written here, because the library writes the two keys of the metadata in random
    order.
    """
    metadata = {key: str(value) for key, value in BODY["model_id"].items()}
    tensor = {"dtype": "F32", "shape": voice.shape, "data_offsets": [0, voice.nbytes]}
    header = json.dumps({"__metadata__": metadata, "speaker_wavs": tensor}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + voice.tobytes()


def _lm_tensors(seed: int, config: TtsConfig) -> dict[str, Tensor]:
    rng = np.random.default_rng([seed, 2])
    tensors = {}
    for name, shape in config.shape.tensors().items():
        values = uniform(rng, shape)
        if name.endswith("alpha") or ".norm" in name:
            values = 0.1 * values + (0 if name.endswith("bias") else 1)
        elif name.startswith("emb."):
            values /= math.sqrt(CODEBOOKS)
        elif name.endswith("learnt_padding"):
            values *= 0.2
        elif not name.startswith(
            ("depformer_emb.", "depformer_text_emb.", "text_emb.")
        ) or name.count(".") > 1 + name.startswith("depformer_emb."):
            values /= math.sqrt(shape[-1])
        if name.startswith("linears."):
            values *= _CODE_GAIN
        elif name == "text_linear.weight":
            values[[PADDING, END_OF_PADDING]] *= PAUSE_LENGTH
        tensor = torch.from_numpy(values.astype(np.float32))
        tensors[name] = tensor if name.startswith("condition_provider.") else tensor.bfloat16()
    return tensors


_SERVER_CONFIG = f"""\
# Text to speech with a tiny made-up model, for trying out servers, tools and configs. It speaks
# gibberish. File names count from the folder in which the server starts: start it in this one.

static_dir = "./static/"
log_dir = "./logs/"
instance_name = "tiny"
authorized_ids = ["{API_KEY}"]

[modules.tts_py]
type = "Py"
path = "/api/tts_streaming"
text_tokenizer_file = "{TOKENIZER_FILE}"
batch_size = 4
text_bos_token = 1

[modules.tts_py.py]
log_folder = "./logs/"
moshi_weight = "{LM_FILE}"
mimi_weight = "{MIMI_FILE}"
config_path = "{MODEL_CONFIG_FILE}"
tokenizer = "{TOKENIZER_FILE}"
voice_folder = "{VOICE_FOLDER}"
default_voice = "{VOICES[0]}"
cfg_coef = 2.0
padding_between = 1
n_q = {CODEBOOKS}
"""
