"""A tiny STT model with random weights: all files of a published repository.

It is small enough for every test and for a machine without a GPU.

Its words are nonsense, but it behaves like a model: silence gives padding and high pause
probabilities, sounds give short words with pauses between them, other sounds give other words.
Nothing is trained and nothing is run to make it. What brings this about:

- Mimi's encoder has no biases, and the first centroid of each codebook is zero. So silence, or a
  faint hiss, is code 0 in all of them.
- The rows of code 0 in the language model's tables all point one way. So do the output row of the
  padding token and the rows of each pause detector's first class.
- The output rows of the two tokens without text are longer than others, so that one of them wins
  about half of the time.
- Two channels mark whether the last token was text. Pieces that begin a word are barred after
  text, all others after a pause, and a word is likely to end.
- Audio weighs more than the text fed back, so that a token changed by rounding is soon forgotten.

All values are multiples and roots of uniform random numbers, which every machine computes alike:
one seed gives one set of bytes.
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
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from dsmops.files import replace_atomically
from dsmops.models import LmShape
from dsmops.worker.models.conventions import END_OF_PADDING, PADDING
from dsmops.worker.models.stt_config import SttFiles
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
from dsmops.worker.tiny.tables import stt_model_tables

_MAX_PERIOD = 100_000
_DELAY_STEPS = 6

LM = LmShape(
    d_model=64,
    num_heads=4,
    num_layers=2,
    dim_feedforward=256,
    context=100,
    text_in_vocab_size=TEXT_TOKENS + 1,
    text_out_vocab_size=TEXT_TOKENS,
    audio_vocab_size=BINS + 1,
    audio_codebooks=CODEBOOKS,
    extra_heads=(4, 6),
)
"""Dimensions of the language model. Its window is over after 8 s."""

LM_FILE = "model.safetensors"
MODEL_CONFIG_FILE = "config.json"
SERVER_CONFIG_FILE = "config-stt-tiny.toml"
API_KEY = "q7VfJ2mXw9ZrKc4TbN8sYh5LdPa3Ge6UtRx1WzQk0Mo"
"""The one key of the server's config. It is not a secret: it is for servers on this machine."""

_PAUSE_DETECTOR_LENGTH = 3.0
_ALIGNMENT = 0.6
"""Cosine between the direction of silence and the rows that answer to it."""
_TEXT_LENGTH = 0.25
"""Length of the fed-back text's embedding, the audio's having 1."""
_MARKS = slice(0, 2)
"""Two channels that nothing but the text fed back writes to: the first marks a pause or the start,
the second text."""
_MARK = 2.0
_BAR_WEIGHT = 8.0
"""Puts a logit that must not win about 12 lower."""
_WORD_END_WEIGHT = 2.0
"""Raises the two tokens without text by about 3 after text: most words have one to three pieces."""
_NO_TEXT = ("<s>", "</s>", "▁")
"""Pieces that would give empty words. Their logits stay 0, far below the best."""


@dataclass(frozen=True, slots=True)
class TinyStt:
    """The files that `write_tiny_stt` wrote.

    They are the model's three files, its `config.json`, and a moshi-server config that names them.
    The names in `server_config` are relative: run the server, or `check-config`, in the folder.
    """

    files: SttFiles
    model_config: Path
    server_config: Path


def write_tiny_stt(folder: Path, *, seed: int = 0) -> TinyStt:
    """Write a complete tiny STT model into `folder` and return its files.

    They are named like those of a published `-candle` repository.

    The language model is stored in BF16 with semantic-VAD heads, Mimi in F32 with its config in the
    metadata, encoder and decoder: one megabyte in all. The same seed gives the same bytes; another
    seed other weights, with the same tokenizer and configs.

    Raises:
        ResourceError, FileAccessError: the folder cannot be written.
    """
    tokenizer = train_tokenizer()
    pieces = SentencePieceProcessor(model_proto=tokenizer).id_to_piece(list(range(TEXT_TOKENS)))
    files = SttFiles(folder / LM_FILE, folder / MIMI_FILE, folder / TOKENIZER_FILE)
    tiny = TinyStt(files, folder / MODEL_CONFIG_FILE, folder / SERVER_CONFIG_FILE)
    contents = {
        files.lm: save(_lm_tensors(seed, pieces)),
        files.mimi: tiny_mimi(seed),
        files.tokenizer: tokenizer,
        tiny.model_config: (json.dumps(_model_config(), indent=2) + "\n").encode(),
        tiny.server_config: _SERVER_CONFIG.encode(),
    }
    for path, content in contents.items():
        with replace_atomically(path, durable=False) as partial:
            partial.write(content)
    return tiny


def _lm_tensors(seed: int, pieces: list[str]) -> dict[str, Tensor]:
    """Return the language model's weights, for text tokens that mean `pieces`."""
    rng = np.random.default_rng([seed, 0])
    unit = 1 / math.sqrt(LM.d_model)
    silence = np.sign(uniform(rng, (LM.d_model,))) * unit
    silence[_MARKS] = 0

    def facing_silence(row: NDArray[np.float64]) -> NDArray[np.float64]:
        return _ALIGNMENT * silence + math.sqrt(1 - _ALIGNMENT**2) * row

    pauses = [PADDING, END_OF_PADDING]
    tensors = {}
    for name, shape in LM.tensors().items():
        values = uniform(rng, shape)
        if name.endswith("alpha"):
            values = 1 + 0.1 * values
        elif name.startswith("emb."):
            values[0] = silence / unit
            values[:, _MARKS] = 0
            values /= math.sqrt(CODEBOOKS)
        elif name == "text_emb.weight":
            values *= _TEXT_LENGTH
            values[:, _MARKS] = 0, _MARK
            values[[*pauses, TEXT_TOKENS], _MARKS] = _MARK, 0
        else:
            values /= math.sqrt(shape[-1])
        if name.endswith(("out_proj.weight", "linear_out.weight")):
            values[_MARKS] = 0
        elif name == "text_linear.weight":
            values[PADDING] = facing_silence(values[PADDING])
            values[pauses] *= PAUSE_LENGTH
            begins = np.array([piece.startswith("▁") for piece in pieces])
            values[begins, _MARKS] = 0, -_BAR_WEIGHT
            values[~begins, _MARKS] = -_BAR_WEIGHT, 0
            values[pauses, _MARKS] = 0, _WORD_END_WEIGHT
            values[[pieces.index(piece) for piece in _NO_TEXT]] = 0
        elif name.startswith("extra_heads."):
            values[0] = facing_silence(values[0])
            values *= _PAUSE_DETECTOR_LENGTH
        tensors[name] = torch.from_numpy(values.astype(np.float32)).bfloat16()
    return tensors


def _model_config() -> dict[str, Any]:
    """Return the `config.json`: the keys of the published STT repositories, flat."""
    return {
        "card": BINS,
        "n_q": CODEBOOKS,
        "dep_q": 0,
        "delays": [0] * (CODEBOOKS + 1),
        "dim": LM.d_model,
        "text_card": TEXT_TOKENS,
        "existing_text_padding_id": PADDING,
        "num_heads": LM.num_heads,
        "num_layers": LM.num_layers,
        "hidden_scale": 4.125,
        "causal": True,
        "layer_scale": None,
        "context": LM.context,
        "max_period": _MAX_PERIOD,
        "gating": "silu",
        "norm": "rms_norm_f32",
        "positional_embedding": "rope",
        "depformer_dim": 32,
        "depformer_num_heads": 2,
        "depformer_num_layers": 2,
        "depformer_dim_feedforward": None,
        "depformer_multi_linear": True,
        "depformer_pos_emb": "none",
        "depformer_weights_per_step": True,
        "conditioners": {},
        "fuser": None,
        "cross_attention": False,
        "extra_heads_num_heads": 4,
        "extra_heads_dim": 6,
        "mimi_name": MIMI_FILE,
        "moshi_name": LM_FILE,
        "tokenizer_name": TOKENIZER_FILE,
        "lm_gen_config": {"temp": 0.0, "temp_text": 0.0, "top_k": 250, "top_k_text": 50},
        "stt_config": {"audio_silence_prefix_seconds": 0.0, "audio_delay_seconds": 0.5},
        "model_type": "stt",
    }


_SERVER_CONFIG = f"""\
# Speech to text with a tiny made-up model, for trying out servers, tools and configs. Its words
# mean nothing. File names count from the folder in which the server starts: start it in this one.

static_dir = "./static/"
log_dir = "./logs/"
instance_name = "tiny"
authorized_ids = ["{API_KEY}"]

[modules.asr]
path = "/api/asr-streaming"
type = "BatchedAsr"
lm_model_file = "{LM_FILE}"
text_tokenizer_file = "{TOKENIZER_FILE}"
audio_tokenizer_file = "{MIMI_FILE}"
asr_delay_in_tokens = {_DELAY_STEPS}
batch_size = 4
temperature = 0.0

{stt_model_tables(LM, max_period=_MAX_PERIOD)}"""
