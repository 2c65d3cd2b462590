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
