"""A moshi-server config with all its files, complete and tiny: real safetensors headers, a real sentencepiece layout."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from dsmops.models import MIMI_TENSOR_PROBES, LmShape

LM = LmShape(
    d_model=16,
    num_heads=2,
    num_layers=2,
    dim_feedforward=64,
    context=10,
    text_in_vocab_size=41,
    text_out_vocab_size=40,
    audio_vocab_size=21,
    audio_codebooks=3,
    extra_heads=(4, 6),
)

CONFIG = """\
static_dir = "static"
log_dir = "logs"
instance_name = "small"
authorized_ids = ["a-key-that-nobody-guesses"]

[modules.asr]
path = "/api/asr-streaming"
type = "BatchedAsr"
lm_model_file = "lm.safetensors"
text_tokenizer_file = "tokenizer.model"
audio_tokenizer_file = "mimi.safetensors"
asr_delay_in_tokens = 6
batch_size = 2
dtype_override = "f16"

[modules.asr.model]
audio_vocab_size = 21
text_in_vocab_size = 41
text_out_vocab_size = 40
audio_codebooks = 3

[modules.asr.model.transformer]
d_model = 16
num_heads = 2
num_layers = 2
dim_feedforward = 64
causal = true
norm_first = true
bias_ff = false
bias_attn = false
context = 10
max_period = 100000
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
num_heads = 4
dim = 6
"""


def write_small_server(folder: Path, *, dtype: str = "F16") -> Path:
    """Write config and files into `folder`, and return the config's path. Its relative paths count from `folder`."""
    write_zeros(folder / "lm.safetensors", LM.tensors(), dtype)
    write_zeros(folder / "mimi.safetensors", MIMI_TENSOR_PROBES, "F32")
    (folder / "tokenizer.model").write_bytes(tokenizer(LM.text_out_vocab_size))
    path = folder / "small.toml"
    path.write_text(CONFIG)
    return path


def write_zeros(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
    """Write a safetensors file of zeros, as a sparse file."""
    header: dict[str, object] = {}
    position = 0
    for name, shape in shapes.items():
        end = position + math.prod(shape) * (4 if dtype == "F32" else 2)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)


def tokenizer(pieces: int) -> bytes:
    """Return a sentencepiece model with as many pieces, in its protobuf layout, and nothing else."""
    return b"\n\x03\n\x01a" * pieces
