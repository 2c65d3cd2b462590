"""Write trained networks as the files that the product loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dsmops.models import LmShape
from dsmops.worker.models.loading import (
    MIMI_CONFIG_KEY,
    published_mimi_tables,
    published_tables,
    published_tts_tables,
)
from dsmops.worker.models.stt_lm import SttLm
from dsmops.worker.models.tts_config import VOICE, TtsFiles
from dsmops.worker.models.tts_lm import TtsLm
from tools.tiny_models.networks import Codec
from tools.tiny_models.settings import (
    BINS,
    CODEBOOKS,
    DELAY_STEPS,
    MAX_PERIOD,
    MIMI,
    STT,
    TTS_BODY,
    TTS_SIGNATURE,
)

MIMI_FILE = "mimi-tiny@1.safetensors"
LM_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer_tiny_en_1200.model"
TTS_FILE = "tts.safetensors"
TTS_CONFIG_FILE = "config-tts.json"
TTS_VOICES = "voices"


def round_codec(codec: Codec) -> None:
    """Round all weights to bf16, as the file stores them.

    To be done before codes are taken from the codec.
    """
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.copy_(parameter.bfloat16())
        for half in (codec.quantizer.rvq_first, codec.quantizer.rvq_rest):
            half.codebooks.copy_(half.codebooks.bfloat16())
            half.prepare()


def keep_bits(values: Tensor, bits: int) -> Tensor:
    """Return `values` rounded to so many significant bits; bf16 holds 8.

    A file packs better with fewer bits: 5 in place of 8 save a quarter of it.
    """
    fraction, exponent = torch.frexp(values.float())
    steps = 2.0**bits
    return torch.ldexp((fraction * steps).round() / steps, exponent)


def mimi_tensors(codec: Codec) -> dict[str, Tensor]:
    """Return published name → bf16 tensor of a Mimi file."""
    tables = published_mimi_tables(codec.encoder) | published_mimi_tables(codec.decoder)
    return {
        name: tensor.detach().to("cpu", torch.bfloat16).clone().contiguous()
        for name, tensor in tables.items()
    }


def write_mimi(codec: Codec, path: Path) -> None:
    """Write a Mimi file with its config in the metadata."""
    save_file(mimi_tensors(codec), path, {MIMI_CONFIG_KEY: json.dumps(MIMI)})


def write_stt(lm: SttLm, folder: Path, delay_steps: int = DELAY_STEPS) -> None:
    """Write the language model and its `config.json`."""
    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16).clone().contiguous()
        for name, tensor in published_tables(lm).items()
    }
    save_file(tensors, folder / LM_FILE, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(stt_config(STT, delay_steps), indent=2) + "\n")


def stt_config(shape: LmShape, delay_steps: int) -> dict[str, Any]:
    """Return the `config.json` of an STT model: the keys of the published repositories."""
    return {
        "card": BINS, "n_q": CODEBOOKS, "dep_q": 0, "delays": [0] * (CODEBOOKS + 1), "dim": shape.d_model, "text_card": shape.text_out_vocab_size,

        "existing_text_padding_id": 3, "num_heads": shape.num_heads, "num_layers": shape.num_layers,
        "hidden_scale": shape.dim_feedforward / shape.d_model,
        "causal": True,
        "layer_scale": None, "context": shape.context, "max_period": MAX_PERIOD, "gating": "silu",
        "norm": "rms_norm_f32",
        "positional_embedding": "rope", "depformer_dim": 32, "depformer_num_heads": 2, "depformer_num_layers": 2,
        "depformer_dim_feedforward": None,

        "depformer_multi_linear": True, "depformer_pos_emb": "none", "depformer_weights_per_step": True, "conditioners": {}, "fuser": None,
        "cross_attention": False, "extra_heads_num_heads": 4, "extra_heads_dim": 6, "mimi_name": MIMI_FILE, "moshi_name": LM_FILE,
        "tokenizer_name": TOKENIZER_FILE,
        "lm_gen_config": {"temp": 0.0, "temp_text": 0.0, "top_k": 250, "top_k_text": 50},
        "stt_config": {"audio_silence_prefix_seconds": 0.0, "audio_delay_seconds": delay_steps * 0.08},
        "model_type": "stt",
    }  # fmt: skip


def tts_files(folder: Path) -> TtsFiles:
    """Return the files of the TTS model in a folder that the recipe wrote."""
    return TtsFiles(
        folder / TTS_FILE, folder / MIMI_FILE, folder / TOKENIZER_FILE, folder / TTS_CONFIG_FILE
    )


def write_tts(lm: TtsLm, folder: Path) -> None:
    """Write the TTS language model, its conditioners in f32, and its config."""
    tensors = {
        name: tensor.detach()
        .to("cpu", torch.float32 if name.startswith("condition_provider.") else torch.bfloat16)
        .clone()
        .contiguous()
        for name, tensor in published_tts_tables(lm).items()
    }
    # Published files hold this table, which nothing reads.
    inner = lm.depformer.text_emb.out
    rank = inner.shape[1] // 2
    unread = torch.zeros(inner.shape[0], rank, dtype=torch.bfloat16)
    tensors["depformer_text_emb.low_rank.weight"] = unread
    save_file(tensors, folder / TTS_FILE, {"format": "pt"})
    (folder / TTS_CONFIG_FILE).write_text(json.dumps(TTS_BODY, indent=2) + "\n")


def write_voice(prompt: Tensor, folder: Path, name: str) -> None:
    """Write a voice file of `prompt`, float32 [width, frames]."""
    suffix = f".{TTS_SIGNATURE['sig']}@{TTS_SIGNATURE['epoch']}.safetensors"
    (folder / TTS_VOICES).mkdir(parents=True, exist_ok=True)
    metadata = {key: str(value) for key, value in TTS_SIGNATURE.items()}
    stored = {VOICE: prompt[None].float().cpu().contiguous()}
    save_file(stored, folder / TTS_VOICES / f"{name}{suffix}", metadata)
