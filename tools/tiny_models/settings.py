"""Dimensions of the tiny models, in the words of the published configs."""

from __future__ import annotations

from typing import Any

from dsmops.models import LmShape

CODEBOOKS = 8
BINS = 512
TEXT_CARD = 1200
DELAY_STEPS = 6
FRAME_S = 0.08
FRAME_SAMPLES = 1920
MAX_PERIOD = 10_000

_WIDTH = 128
MIMI: dict[str, Any] = {
    "channels": 1,
    "sample_rate": 24_000,
    "frame_rate": 12.5,
    "seanet": {
        "channels": 1, "dimension": _WIDTH, "causal": True, "n_filters": 16, "n_residual_layers": 1, "activation": "ELU", "compress": 2,
        "dilation_base": 2, "disable_norm_outer_blocks": 0, "kernel_size": 7, "residual_kernel_size": 3, "last_kernel_size": 3, "norm": "none",
        "pad_mode": "constant", "ratios": [8, 6, 5, 4], "true_skip": True,
    },
    "transformer": {
        "d_model": _WIDTH, "num_heads": 4, "num_layers": 4, "causal": True, "layer_scale": 0.1, "context": 100, "conv_layout": True,
        "max_period": 10_000, "gating": "none", "norm": "layer_norm", "positional_embedding": "rope", "dim_feedforward": 512,
        "input_dimension": _WIDTH, "output_dimensions": [_WIDTH],
    },
    "quantizer": {"dimension": 64, "n_q": CODEBOOKS, "bins": BINS, "input_dimension": _WIDTH, "output_dimension": _WIDTH},
}  # fmt: skip

STT = LmShape(
    d_model=256,
    num_heads=4,
    num_layers=4,
    dim_feedforward=864,
    context=250,
    text_in_vocab_size=TEXT_CARD + 1,
    text_out_vocab_size=TEXT_CARD,
    audio_vocab_size=BINS + 1,
    audio_codebooks=CODEBOOKS,
    extra_heads=(4, 6),
)
PAUSES_S = (0.5, 1.0, 2.0, 3.0)
"""What the four heads foretell: no word joins the transcript within this time."""

TTS_CODEBOOKS = 6
"""Codebooks that the TTS model generates, the first of Mimi's eight."""
TTS_DELAY_STEPS = 10
"""Steps from a word's text to its sound: 0.8 s."""
ACOUSTIC_DELAY_STEPS = 2
AHEAD_WORDS = 2
VOICE_WIDTH = 64
VOICE_FRAMES = 125
TTS_SIGNATURE = {"sig": "71a7d5a1", "epoch": 1}
TTS_BODY: dict[str, Any] = {
    "card": BINS, "n_q": TTS_CODEBOOKS, "dep_q": TTS_CODEBOOKS, "delays": [0, 0, *[ACOUSTIC_DELAY_STEPS] * (TTS_CODEBOOKS - 1)],
    "dim": 192, "text_card": TEXT_CARD, "text_card_out": None, "existing_text_padding_id": 3, "existing_text_end_padding_id": 0,
    "num_heads": 4, "num_layers": 3, "hidden_scale": 3.0, "causal": True, "layer_scale": None, "context": 125, "max_period": 10_000,
    "gating": "silu", "norm": "rms_norm_f32", "positional_embedding": "rope", "cross_attention": True, "demux_second_stream": True,
    "depformer_dim": 64, "depformer_num_heads": 4, "depformer_num_layers": 2, "depformer_dim_feedforward": 192,
    "depformer_multi_linear": True, "depformer_pos_emb": "none", "depformer_weights_per_step": True,
    "depformer_weights_per_step_schedule": [0, 1, 2, 2, 3, 3], "depformer_low_rank_embeddings": 24,
    "conditioners": {
        "speaker_wavs": {"type": "tensor", "tensor": {"dim": VOICE_WIDTH}},
        "control": {"type": "lut", "lut": {"n_bins": 1, "dim": 16, "tokenizer": "noop", "possible_values": ["ok"]}},
    },
    "fuser": {
        "cross_attention_pos_emb": True, "cross_attention_pos_emb_scale": 1, "sum": ["control"], "prepend": [], "cross": ["speaker_wavs"],
    },
    "mimi_name": "mimi-tiny@1.safetensors", "moshi_name": "tts.safetensors", "tokenizer_name": "tokenizer_tiny_en_1200.model",
    "tts_config": {"audio_delay": TTS_DELAY_STEPS * FRAME_S, "second_stream_ahead": AHEAD_WORDS, "max_speakers": 2},
    "lm_gen_config": {"temp": 0.3, "text_temp": 0.3}, "model_id": TTS_SIGNATURE, "model_type": "tts",
}  # fmt: skip
"""The `config.json` of the TTS model: the keys of the published one. It is not distilled: guidance
runs a second pass without text and voice."""
