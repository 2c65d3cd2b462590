"""The `[modules.asr.model]` tables of a moshi-server config, for a given shape. No torch."""

from __future__ import annotations

from dsmops.models import LmShape


def stt_model_tables(shape: LmShape, *, max_period: int) -> str:
    """Return the TOML tables that describe a language model of `shape` to moshi-server.

    The model has extra heads.
    """
    number, width = shape.extra_heads or (0, 0)
    return f"""\
[modules.asr.model]
audio_vocab_size = {shape.audio_vocab_size}
text_in_vocab_size = {shape.text_in_vocab_size}
text_out_vocab_size = {shape.text_out_vocab_size}
audio_codebooks = {shape.audio_codebooks}

[modules.asr.model.transformer]
d_model = {shape.d_model}
num_heads = {shape.num_heads}
num_layers = {shape.num_layers}
dim_feedforward = {shape.dim_feedforward}
causal = true
norm_first = true
bias_ff = false
bias_attn = false
context = {shape.context}
max_period = {max_period}
use_conv_block = false
use_conv_bias = true
gating = "silu"
norm = "RmsNorm"
positional_embedding = "Rope"
conv_layout = false
conv_kernel_size = 3
kv_repeat = 1
max_seq_len = 40960

[modules.asr.model.extra_heads]
num_heads = {number}
dim = {width}
"""
