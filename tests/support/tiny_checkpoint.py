"""A model small enough for every test: the STT architecture with tiny dimensions, and a complete
moshi-server around it.

And the published layout without its data: a sparse file of the right size and header, for what
reads headers only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dsmops.checkpoint.header import render_header
from dsmops.models import MIMI_TENSOR_PROBES, MODELS, LmShape, Shape
from dsmops.worker.tiny.tables import stt_model_tables
from tests.support.synthetic import Layout, planned_tensors, write_checkpoint

TINY = LmShape(
    d_model=64,
    num_heads=4,
    num_layers=2,
    dim_feedforward=256,
    context=100,
    text_in_vocab_size=41,
    text_out_vocab_size=40,
    audio_vocab_size=33,
    audio_codebooks=4,
    extra_heads=(4, 6),
)
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer_tiny_40.model"
MIMI_FILE = "mimi-tiny.safetensors"

CONFIG = f"""\
# Speech to text with a model that fits into a test.
static_dir = "static"
log_dir = "logs"
instance_name = "tiny"
authorized_ids = ["a-key-that-nobody-guesses"]

[modules.asr]
path = "/api/asr-streaming"
type = "BatchedAsr"
lm_model_file = "{WEIGHTS_FILE}"
text_tokenizer_file = "{TOKENIZER_FILE}"
audio_tokenizer_file = "{MIMI_FILE}"
asr_delay_in_tokens = 6
batch_size = 4
dtype_override = "f16"

{stt_model_tables(TINY, max_period=100_000)}"""
"""The server's config, for the weights in f16. Its relative paths count from its own folder."""


def write_tiny_server(folder: Path) -> Path:
    """Write `CONFIG` and all its files, the weights in f16 and zero, into `folder`, and return the
    config's path.
    """
    write_zeros(folder / WEIGHTS_FILE, TINY.tensors(), "F16")
    write_tiny_companions(folder)
    path = folder / "tiny.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def write_tiny_template(path: Path) -> Path:
    """Write the config as it was before anybody thought of f16, and return `path`."""
    path.write_text(CONFIG.replace('dtype_override = "f16"\n', ""), encoding="utf-8")
    return path


def write_tiny_weights(
    path: Path, *, plant: Mapping[str, Mapping[int, int]] | None = None, seed: int = 7
) -> Path:
    """Write the weights in bf16, with values like a trained model's; `plant` puts bit patterns at
    element numbers.
    """
    write_checkpoint(
        path,
        {name: ("BF16", shape) for name, shape in TINY.tensors().items()},
        seed=seed,
        plant=plant,
    )
    return path


def write_tiny_companions(folder: Path) -> None:
    """Write a tokenizer of the right number of pieces and a Mimi file with its characteristic
    tensors into `folder`.
    """
    (folder / TOKENIZER_FILE).write_bytes(tokenizer(TINY.text_out_vocab_size))
    write_zeros(folder / MIMI_FILE, MIMI_TENSOR_PROBES, "F32")


PUBLISHED_TTS_CONFIG = {
    "card": 2048, "n_q": 32, "dep_q": 32, "delays": [0, 0, *[2] * 31], "dim": 2048, "text_card": 8000, "text_card_out": None,
    "existing_text_padding_id": 3, "num_heads": 16, "num_layers": 16, "hidden_scale": 4.125, "causal": True, "layer_scale": None,
    "context": 500, "max_period": 10_000, "gating": "silu", "norm": "rms_norm_f32", "positional_embedding": "rope",
    "cross_attention": True, "demux_second_stream": True, "depformer_dim": 1024, "depformer_num_heads": 16, "depformer_num_layers": 4,
    "depformer_dim_feedforward": 3072, "depformer_multi_linear": True, "depformer_pos_emb": "none", "depformer_weights_per_step": True,
    "depformer_weights_per_step_schedule": [*range(8), *[8] * 8, *[9] * 8, *[10] * 8], "depformer_low_rank_embeddings": 128,
    "conditioners": {
        "speaker_wavs": {"type": "tensor", "tensor": {"dim": 512}},
        "cfg": {
            "type": "lut",
            "lut": {"n_bins": 7, "dim": 16, "tokenizer": "noop", "possible_values": ["1.0", "1.5", "2.0", "2.5", "3.0", "3.5", "4.0"]},
        },
        "control": {"type": "lut", "lut": {"n_bins": 1, "dim": 2048, "tokenizer": "noop", "possible_values": ["ok"]}},
    },
    "fuser": {
        "cross_attention_pos_emb": True, "cross_attention_pos_emb_scale": 1, "sum": ["control", "cfg"], "prepend": [],
        "cross": ["speaker_wavs"],
    },
    "model_type": "tts", "mimi_name": MODELS["tts-1.6b-en_fr"].mimi_file, "moshi_name": MODELS["tts-1.6b-en_fr"].model_file,
    "tokenizer_name": MODELS["tts-1.6b-en_fr"].tokenizer_file, "tts_config": {"audio_delay": 1.28, "second_stream_ahead": 2},
    "lm_gen_config": {"temp": 0.6, "text_temp": 0.6}, "model_id": {"sig": "1e68beda", "epoch": 240},
}  # fmt: skip
"""The config.json of the published text-to-speech model."""


def published_layout(shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the layout of a published checkpoint: BF16, but for conditioners; wide values first,
    then by name.
    """
    layout = {
        name: ("F32" if name.startswith("condition_provider.") else "BF16", sizes)
        for name, sizes in shape.tensors().items()
    }
    return dict(sorted(layout.items(), key=lambda item: (item[1][0] != "F32", item[0])))


def write_published_header(path: Path, model: str = "stt-1b-en_fr") -> Path:
    """Write a sparse file with the header and the size of a published checkpoint, and return
    `path`; its values read as zero.
    """
    _write_sparse(path, published_layout(MODELS[model].shape))
    return path


def write_zeros(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
    """Write a safetensors file of zeros, as a sparse file."""
    _write_sparse(path, {name: (dtype, shape) for name, shape in shapes.items()})


def _write_sparse(path: Path, layout: Layout) -> None:
    entries = planned_tensors(layout)
    header = render_header(entries, {})
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + entries[-1].end)


def tokenizer(pieces: int) -> bytes:
    """Return a sentencepiece model with as many pieces, in its protobuf layout, and nothing
    else.
    """
    return b"\n\x03\n\x01a" * pieces
