"""Small networks with known weights, as files: what tests of the models load, and what upstream's
package loads beside them.

`wave_weights` needs no random generator, so what upstream computes with them is recorded as golden
numbers in tests. Its matrices are made of two waves, though, and attention over them sees hardly
any difference between keys; everything else is tested with random weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dsmops.dtypes import PLAIN, Quantised
from dsmops.models import STT_MODELS, LmShape
from dsmops.worker.models.loading import (
    MIMI_CONFIG_KEY,
    load_mimi_decoder,
    load_mimi_encoder,
    load_stt_lm,
    load_tts_lm,
    mimi_tensors,
)
from dsmops.worker.models.mimi import MimiConfig, MimiDecoder, MimiEncoder
from dsmops.worker.models.random import NoText
from dsmops.worker.models.state import RowState
from dsmops.worker.models.stt_config import SttConfig
from dsmops.worker.models.stt_lm import SttLm
from dsmops.worker.models.tts import LoadedTts
from dsmops.worker.models.tts_config import TtsConfig

CPU = torch.device("cpu")

STT_BODY: dict[str, Any] = {
    "dim": 64,
    "num_heads": 4,
    "num_layers": 2,
    "hidden_scale": 4.125,
    "context": 12,
    "max_period": 100_000,
    "text_card": 48,
    "card": 32,
    "n_q": 4,
    "dep_q": 0,
    "delays": [0, 0, 0, 0, 0],
    "causal": True,
    "layer_scale": None,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "existing_text_padding_id": 3,
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
}
"""A tiny STT model, in the keys that upstream's language model takes. 116,864 parameters."""

FULL_STT_BODY: dict[str, Any] = STT_BODY | {
    "dim": 2048,
    "num_heads": 16,
    "num_layers": 16,
    "context": 750,
    "text_card": 8000,
    "card": 2048,
    "n_q": 32,
    "delays": [0] * 33,
    "depformer_dim": 1024,
    "depformer_num_heads": 16,
    "depformer_num_layers": 6,
}
"""The dimensions of stt-1b-en_fr with its semantic-VAD heads."""

TTS_BODY: dict[str, Any] = {
    **{key: value for key, value in STT_BODY.items() if not key.startswith("extra_heads")},
    "context": 40,
    "max_period": 10_000,
    "dep_q": 4,
    "delays": [0, 0, 2, 2, 2],
    "depformer_dim_feedforward": 96,
    "depformer_weights_per_step_schedule": [0, 1, 2, 2],
    "depformer_low_rank_embeddings": 16,
    "demux_second_stream": True,
    "text_card_out": None,
    "cross_attention": True,
    "conditioners": {
        "speaker_wavs": {"type": "tensor", "tensor": {"dim": 24}},
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
}
"""A tiny TTS model, in the keys that upstream's language model takes. 240,896 parameters."""

TTS_CONFIG_BODY: dict[str, Any] = TTS_BODY | {
    "model_type": "tts",
    "tts_config": {"audio_delay": 0.4, "second_stream_ahead": 2, "max_speakers": 2},
}
"""The same as a whole `config.json`: five steps from text to audio, two speakers."""

FULL_TTS_CONFIG_BODY: dict[str, Any] = TTS_CONFIG_BODY | {
    **{
        key: FULL_STT_BODY[key]
        for key in ("dim", "num_heads", "num_layers", "text_card", "card", "n_q")
    },
    "context": 500,
    "dep_q": 32,
    "delays": [0, 0, *[2] * 31],
    "depformer_dim": 1024,
    "depformer_num_heads": 16,
    "depformer_num_layers": 4,
    "depformer_dim_feedforward": 3072,
    "depformer_weights_per_step_schedule": [*range(8), *[8] * 8, *[9] * 8, *[10] * 8],
    "depformer_low_rank_embeddings": 128,
    "conditioners": {
        "speaker_wavs": {"type": "tensor", "tensor": {"dim": 512}},
        "cfg": TTS_BODY["conditioners"]["cfg"],
        "control": {
            "type": "lut",
            "lut": {"n_bins": 1, "dim": 2048, "tokenizer": "noop", "possible_values": ["ok"]},
        },
    },
    "tts_config": {"audio_delay": 1.28, "second_stream_ahead": 2},
    "model_id": {"sig": "1e68beda", "epoch": 240},
}
"""The dimensions of tts-1.6b-en_fr."""

TTS_VOICE_FRAMES = 5

UNGUIDED_TTS_CONFIG_BODY: dict[str, Any] = TTS_CONFIG_BODY | {
    "conditioners": {name: TTS_BODY["conditioners"][name] for name in ("speaker_wavs", "control")},
    "fuser": TTS_BODY["fuser"] | {"sum": ["control"]},
}
"""The same without the conditioner for guidance, so not distilled."""

_SEANET = {
    "channels": 1,
    "causal": True,
    "n_residual_layers": 1,
    "activation": "ELU",
    "compress": 2,
    "dilation_base": 2,
    "disable_norm_outer_blocks": 0,
    "kernel_size": 7,
    "residual_kernel_size": 3,
    "last_kernel_size": 3,
    "norm": "none",
    "pad_mode": "constant",
    "true_skip": True,
}
_TRANSFORMER = {
    "causal": True,
    "conv_layout": True,
    "max_period": 10_000,
    "gating": "none",
    "norm": "layer_norm",
    "positional_embedding": "rope",
}
MIMI_BODY: dict[str, Any] = {
    "channels": 1,
    "sample_rate": 1200,
    "frame_rate": 12.5,
    "seanet": _SEANET | {"dimension": 32, "n_filters": 4, "ratios": [4, 3, 2, 2]},
    "transformer": (
        _TRANSFORMER
        | {
            "d_model": 32,
            "num_heads": 4,
            "num_layers": 2,
            "dim_feedforward": 64,
            "context": 10,
            "layer_scale": 0.3,
            "input_dimension": 32,
            "output_dimensions": [32],
        }
    ),
    "quantizer": {
        "dimension": 16,
        "n_q": 8,
        "bins": 32,
        "input_dimension": 32,
        "output_dimension": 32,
    },
}
"""A tiny Mimi, in the keys that upstream takes: frames of 96 samples. 110,781 values."""

_TABLES = re.compile(r"(depformer_)?(text_)?emb(\.\d+)?\.weight")


def _shaped(name: str, shape: tuple[int, ...], s: Tensor, gain: float) -> Tensor:
    """Return values for one tensor from noise `s` of about unit size: norms near 1, small biases,
    matrices that keep their input's size.
    """
    if name.endswith("alpha") or (name.endswith(".weight") and len(shape) == 1):
        return 1 + 0.1 * s
    if name.endswith("bias"):
        return 0.1 * s
    if name.endswith(".scale"):
        return 0.3 + 0.1 * s
    if name.endswith("cluster_usage"):
        return 1 + 0.5 * s
    if name.endswith("embedding_sum"):
        return 0.5 * s
    if name.endswith("_initialized"):
        return torch.ones_like(s)
    if name.endswith("learnt_padding") or _TABLES.fullmatch(name):
        return s
    return s * math.sqrt(gain / math.prod(shape[1:]))


def wave_weights(
    shapes: Mapping[str, tuple[int, ...]], *, phase: float, gain: float
) -> dict[str, Tensor]:
    """Return float32 weights by formula: tensor n of the sorted names holds sin(12.9898·(j+1) +
    phase·(n+1)), scaled by its role.
    """
    weights = {}
    for number, name in enumerate(sorted(shapes), start=1):
        shape = shapes[name]
        index = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
        weights[name] = (
            _shaped(name, shape, torch.sin(12.9898 * index + phase * number), gain)
            .float()
            .reshape(shape)
        )
    return weights


def random_weights(
    shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0, gain: float = 1.0
) -> dict[str, Tensor]:
    """Return float32 weights drawn from a seed, every tensor of them, scaled as in `wave_weights`.

    `cluster_usage` stays positive.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name in sorted(shapes):
        noise = torch.randn(shapes[name], generator=generator)
        noise = noise.clamp(-1, 1) if name.endswith("cluster_usage") else noise
        weights[name] = _shaped(name, shapes[name], noise, gain)
    return weights


def tiny_stt_weights() -> dict[str, Tensor]:
    """Return random weights of the tiny language model."""
    return random_weights(SttConfig.from_json(STT_BODY).lm.tensors())


def tts_config(body: Mapping[str, Any] = TTS_CONFIG_BODY) -> TtsConfig:
    """Return what a TTS config says; a tiny model's voices have a few frames."""
    config = TtsConfig.from_json(body)
    return (
        replace(config, voice_frames=TTS_VOICE_FRAMES)
        if config.shape.lm.d_model == TTS_BODY["dim"]
        else config
    )


def write_tts(
    path: Path,
    weights: Mapping[str, Tensor] | None = None,
    *,
    body: Mapping[str, Any] = TTS_CONFIG_BODY,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write the weights of a TTS language model, random ones unless told otherwise, and return
    `path`.
    """
    return write_stt(
        path,
        random_weights(tts_config(body).shape.tensors()) if weights is None else weights,
        dtype=dtype,
    )


def load_tts_model(
    lm: Path,
    mimi: Path,
    *,
    body: Mapping[str, Any] = TTS_CONFIG_BODY,
    n_q: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> LoadedTts:
    """Load a tiny TTS model; it has no tokenizer."""
    config = tts_config(body)
    network = load_tts_lm(
        lm, config, n_q or config.shape.lm.audio_codebooks, device=device, dtype=dtype
    )
    return LoadedTts(config, network, load_mimi_decoder(mimi, device=device), NoText(), device)  # type: ignore[arg-type]


def tiny_mimi_weights() -> dict[str, Tensor]:
    """Return random weights of the tiny Mimi."""
    return random_weights(mimi_tensors(MimiConfig.from_json(MIMI_BODY)))


def write_stt(
    path: Path, weights: Mapping[str, Tensor] | None = None, *, dtype: torch.dtype = torch.float32
) -> Path:
    """Write language-model weights, the tiny ones unless told otherwise, and return `path`."""
    weights = tiny_stt_weights() if weights is None else weights
    save_file({name: value.to(dtype) for name, value in weights.items()}, path)
    return path


def write_mimi(
    path: Path, weights: Mapping[str, Tensor] | None = None, *, config: Any = MIMI_BODY
) -> Path:
    """Write a Mimi file, the tiny one unless told otherwise, and return `path`.

    `config` None leaves the metadata out.
    """
    weights = tiny_mimi_weights() if weights is None else weights
    save_file(
        dict(weights),
        path,
        metadata=None if config is None else {MIMI_CONFIG_KEY: json.dumps(config)},
    )
    return path


def load_lm(
    path: Path,
    body: Mapping[str, Any] = STT_BODY,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    quantised: Quantised = PLAIN,
) -> SttLm:
    """Load a language model of `body`'s config."""
    config = SttConfig.from_json(body)
    return load_stt_lm(
        path, config.lm, config.max_period, device=device, dtype=dtype, quantised=quantised
    )


def load_mimi(path: Path, *, device: torch.device = CPU) -> tuple[MimiEncoder, MimiDecoder]:
    """Load both halves of a Mimi file."""
    return load_mimi_encoder(path, device=device), load_mimi_decoder(path, device=device)


def every_row(rows: int, device: torch.device = CPU) -> Tensor:
    """Return the execution mask of a step that advances all rows."""
    return torch.ones(rows, dtype=torch.bool, device=device)


@dataclass(frozen=True, slots=True)
class LmStep:
    """One step's logits [B, V], chosen text tokens [B] and pause probabilities [B, heads] (None for
    a model without heads).
    """

    logits: Tensor
    tokens: Tensor
    pauses: Tensor | None


class LmRows:
    """Rows of a language model fed with codes: initial tokens at a row's first step, afterwards its
    own last text token.

    The frame given at step t is used at step t, except the first, which is not used: how
    upstream's `LMGen` aligns them.
    """

    def __init__(self, lm: SttLm, rows: int) -> None:
        self.lm = lm
        self.device = lm.text_emb.device
        self.state = RowState(rows, self.device)
        self.ring = lm.init_state(self.state)
        self._text = torch.full((rows,), lm.initial_text, device=self.device)
        self._started = torch.zeros(rows, dtype=torch.bool, device=self.device)

    def reset(self, rows: list[int]) -> None:
        """Start new streams in `rows`."""
        self.state.reset(rows)
        self._started[rows] = False
        self._text[rows] = self.lm.initial_text

    @torch.no_grad()
    def step(
        self, codes: Tensor, exec_mask: Tensor | None = None, *, say: Tensor | None = None
    ) -> LmStep:
        """Feed `codes` int64 [B, K].

        `say` int64 [B] takes the place of the most probable tokens.
        """
        mask = every_row(len(codes), self.device) if exec_mask is None else exec_mask
        audio = torch.where(self._started[:, None], codes, self.lm.initial_audio)
        logits, states = self.lm(self._text[:, None], audio[..., None], self.ring, mask)
        tokens = logits[:, 0].argmax(-1) if say is None else say
        self._text = torch.where(mask, tokens, self._text)
        self._started |= mask
        pauses = self.lm.pause_probabilities(states)
        return LmStep(logits[:, 0], tokens, None if pauses is None else pauses[:, 0])


def published_shape(name: str) -> LmShape:
    """Return the shape of a published STT model."""
    return STT_MODELS[name].shape
