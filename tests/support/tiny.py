"""A model small enough for every test: the STT architecture with tiny dimensions, its checkpoint, its tokenizer, its config.

And the published layout without its data: a sparse file of the right size and header, for what reads headers only.
"""

from __future__ import annotations

from pathlib import Path

import tomlkit

from dsmops.checkpoint import TensorInfo, write_checkpoint
from dsmops.checkpoint.header import render_header
from dsmops.models import MIMI_TENSOR_PROBES, MODELS, LmShape
from dsmops.shipped import shipped_folder

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
TOKENIZER_FILE = "tokenizer_tiny_40.model"
MIMI_FILE = "mimi-tiny.safetensors"


def write_tiny_weights(path: Path, *, plant: dict[str, dict[int, int]] | None = None, seed: int = 7) -> Path:
    """Write the tiny model's weights in bf16; `plant` puts bit patterns at element numbers."""
    write_checkpoint(path, {name: ("BF16", shape) for name, shape in TINY.tensors().items()}, seed=seed, plant=plant)
    return path


def write_tiny_template(path: Path, *, weights: str = "model.safetensors") -> Path:
    """Write the shipped 1B config with the tiny model's dimensions and file names."""
    config = tomlkit.parse((shipped_folder("configs") / "config-stt-en_fr-hf.toml").read_text(encoding="utf-8"))
    module = config["modules"]["asr"]  # type: ignore[index]
    module["lm_model_file"] = weights  # type: ignore[index]
    module["text_tokenizer_file"] = TOKENIZER_FILE  # type: ignore[index]
    module["audio_tokenizer_file"] = MIMI_FILE  # type: ignore[index]
    model = module["model"]  # type: ignore[index]
    for key in ("audio_vocab_size", "text_in_vocab_size", "text_out_vocab_size", "audio_codebooks"):
        model[key] = getattr(TINY, key)  # type: ignore[index]
    for key in ("d_model", "num_heads", "num_layers", "dim_feedforward", "context"):
        model["transformer"][key] = getattr(TINY, key)  # type: ignore[index]
    path.write_text(tomlkit.dumps(config), encoding="utf-8")
    return path


def write_tiny_companions(folder: Path) -> None:
    """Write a tokenizer of the right number of pieces and a Mimi file with its characteristic tensors into `folder`."""
    pieces = b"".join(b"\x0a" + bytes([len(piece)]) + piece for piece in (b"\x0a\x01" + bytes([97 + n % 26]) for n in range(40)))
    (folder / TOKENIZER_FILE).write_bytes(pieces)
    write_checkpoint(folder / MIMI_FILE, {name: ("F32", shape) for name, shape in MIMI_TENSOR_PROBES.items()})


def write_published_header(path: Path, model: str = "stt-1b-en_fr") -> Path:
    """Write a sparse file with the header and the size of a published checkpoint; its values read as zero."""
    lm = MODELS[model].lm
    assert lm is not None
    entries, reached = [], 0
    for name, shape in lm.tensors().items():
        nbytes = 2
        for length in shape:
            nbytes *= length
        entries.append(TensorInfo(name, "BF16", shape, reached, reached + nbytes))
        reached += nbytes
    head = render_header(entries, {})
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + reached)
    return path
