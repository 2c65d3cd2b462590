"""Exported files beside the programs that they are for: `gguf`, `mlx`, `moshi_mlx`, `moshi`.

`make parity` brings the packages along; they are never needed to export. `-s` prints what was seen.
The trained model's Mimi has other dimensions than the released one, which is all that `moshi_mlx`
reads: its language model gets the codes that our Mimi gives.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dsmops.audio import FRAME_SAMPLES, frames, open_audio
from dsmops.checkpoint.export import Runtime, export, plan_export
from dsmops.checkpoint.export.encodings import GGUF_QUANTS, MLX_QUANTS, Floats
from dsmops.checkpoint.export.verification import verify_export
from dsmops.shipped import shipped_models

pytestmark = [
    pytest.mark.parity,
    # What the peers' own code makes the present torch say.
    pytest.mark.filterwarnings("ignore"),
]

TINY = shipped_models()["tiny"]
FRAMES = 140
"""Two sentences: MLX computes quantised layers slowly on a CPU."""
BODY = json.loads((TINY / "config.json").read_text())


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip where a peer is not installed: `make parity` installs them."""
    absent = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


def weights() -> Floats:
    """Normal, few-bit, sparse and constant rows, as BF16 has them."""
    rng = np.random.default_rng(4)
    normal = rng.normal(0, 0.02, (256, 1024)).astype(np.float32)
    coarse = (rng.integers(-40, 40, (64, 1024)) / 16).astype(np.float32)
    sparse = np.where(rng.random((64, 1024)) < 0.9, 0, normal[:64])
    rows = np.concatenate([normal, coarse, sparse, np.zeros((4, 1024), np.float32)])
    return (rows.astype(np.float32).view(np.uint32) >> 16 << 16).view(np.float32)


def extremes() -> Floats:
    """Rows of zeros of both signs, equal values, ties, magnitudes from 2**-100 to 2**100.

    Below that the reference divides by a scale whose inverse no float32 holds.
    """
    rng = np.random.default_rng(5)
    signs = rng.choice([-1.0, 1.0], (6, 1024))
    any_size = np.exp2(rng.integers(-100, 100, (16, 32))).repeat(32, axis=1).reshape(16, 1024)
    rows = [signs * 0, signs * 3, signs * 0.75, np.full((1, 1024), -2.0)]
    rows += [
        any_size * rng.integers(-127, 128, (16, 1024)),
        rng.integers(-255, 256, (64, 1024)) / 2,
    ]
    joined = np.concatenate(rows).astype(np.float32)
    return (joined.view(np.uint32) >> 16 << 16).view(np.float32)


@needs("gguf")
@pytest.mark.parametrize("quant", ["q8_0", "q4_0"])
def test_blocks_have_the_bytes_of_the_reference_quantisers(quant: str) -> None:
    """Every byte, from float32 and from the patterns of BF16."""
    from gguf import GGMLQuantizationType, quants  # type: ignore[import-not-found]

    encoding = GGUF_QUANTS[quant]
    assert encoding is not None
    values = np.concatenate([weights(), extremes()])
    patterns = (values.view(np.uint32) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        theirs = quants.quantize(values, GGMLQuantizationType[quant.upper()])
    for items in (values, patterns):
        arranged = encoding.arrange(items.reshape(-1, encoding.group))
        with np.errstate(over="ignore"):
            ours = encoding.encode(arranged).pieces[0]
        assert np.array_equal(ours.reshape(theirs.shape), theirs)


@needs("gguf")
@pytest.mark.parametrize("quant", ["q8_0", "q4_0", "q4_k", "none"])
def test_the_gguf_reader_reads_what_was_exported(tmp_path: Path, quant: str) -> None:
    """Names, shapes and metadata; its dequantiser gives our values to the bit."""
    from gguf import GGUFReader, quants

    target = tmp_path / "tiny.gguf"
    plan = plan_export(TINY / "model.safetensors", target, Runtime.GGUF, quant)
    export(plan)
    reader = GGUFReader(target)
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert list(found) == [tensor.name for tensor in plan.tensors]
    for planned in plan.tensors:
        tensor, (piece,) = found[planned.name], planned.encoding.pieces
        assert tuple(reversed(tensor.shape.tolist())) == planned.source.shape
        theirs = quants.dequantize(tensor.data, tensor.tensor_type)
        raw = np.frombuffer(tensor.data.tobytes(), np.uint8).reshape(-1, piece.group_bytes)
        ours = planned.encoding.decode((raw,)).reshape(theirs.shape)
        assert np.allclose(ours, theirs, rtol=0, atol=1e-7 * float(np.abs(theirs).max()))
    assert reader.get_field("dsmops.quant").contents() == quant


@needs("mlx")
@pytest.mark.parametrize("quant", ["q8", "q4"])
def test_mlx_reads_the_codes_and_makes_no_smaller_error(quant: str) -> None:
    """`mx.dequantize` gives the values that we count errors from, within the rounding of F16; the
    error is that of `mx.quantize`.
    """
    import mlx.core as mx  # type: ignore[import-not-found]

    encoding = MLX_QUANTS[quant]
    assert encoding is not None
    values, bits = weights(), int(quant[1:])
    encoded = encoding.encode(encoding.arrange(values.reshape(-1, encoding.group)))
    decoded = encoding.decode(encoded.pieces)
    codes, scales, biases = (
        piece.reshape(len(values), -1).view(dtype)
        for piece, dtype in zip(encoded.pieces, ("<u4", "<f2", "<f2"), strict=True)
    )
    arrays = (mx.array(codes), mx.array(scales), mx.array(biases))
    read = np.array(mx.dequantize(*arrays, group_size=encoding.group, bits=bits))
    largest = float(np.abs(values).max())
    assert np.abs(read.reshape(-1) - decoded.reshape(-1)).max() <= largest * 2**-10
    theirs = mx.quantize(mx.array(values.astype(np.float16)), group_size=encoding.group, bits=bits)
    again = np.array(mx.dequantize(*theirs, group_size=encoding.group, bits=bits))
    ours_rms, theirs_rms = (
        float(np.sqrt(np.square(one.reshape(values.shape) - values).mean()))
        for one in (decoded, again.astype(np.float32))
    )
    print(f"{quant}: rms error {ours_rms:.3g}, of mx.quantize {theirs_rms:.3g}")
    assert ours_rms <= 1.01 * theirs_rms


@dataclass(frozen=True, slots=True)
class Heard:
    """The example recording through our engine: codes [T, K] and text tokens [T]."""

    codes: NDArray[np.int64]
    tokens: NDArray[np.int64]


@pytest.fixture(scope="module")
def heard() -> Heard:
    from dsmops.operations.models.stt import find_stt, load_stt_source
    from dsmops.worker.runtime.stt.engine import Alignment, SttEngine

    loaded = load_stt_source(find_stt("tiny"), cpu=True)
    engine = SttEngine(loaded, 1, alignment=Alignment.SERVER)
    with open_audio(TINY / "example.flac") as audio:
        pcm = [frame for frame in frames(audio.blocks()) if len(frame) == FRAME_SAMPLES]
    engine.reset([0])
    codes, tokens = [], []
    for frame in pcm[:FRAMES]:
        tokens.append(int(engine.step(frame[None], np.ones(1, np.bool_)).text_tokens[0]))
        codes.append(engine.codes[0].cpu().numpy().copy())
    return Heard(np.stack(codes), np.array(tokens))


def words(tokens: NDArray[np.int64]) -> list[str]:
    from sentencepiece import SentencePieceProcessor

    tokenizer = SentencePieceProcessor(str(TINY / BODY["tokenizer_name"]))
    text = "".join(tokenizer.id_to_piece(int(token)) for token in tokens if token not in (0, 3))
    return text.replace("▁", " ").split()


@needs("mlx", "moshi_mlx")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("quant", "name", "tolerated"),
    [
        ("none", "m.safetensors", 0),
        ("q8", "m.q8.safetensors", 0),
        ("q4", "m.q4.safetensors", 2),
    ],
)
def test_moshi_mlx_hears_the_words_of_our_engine(
    tmp_path: Path, heard: Heard, quant: str, name: str, tolerated: int
) -> None:
    """Its own strict loader takes the file, and the trained model says the same words from it."""
    import mlx.core as mx
    from moshi_mlx import models, utils  # type: ignore[import-not-found]

    target = tmp_path / name
    export(plan_export(TINY / "model.safetensors", target, Runtime.MLX, quant))
    model = load_mlx(target)
    generator = models.LmGen(
        model=model,
        max_steps=len(heard.codes),
        text_sampler=utils.Sampler(temp=0),
        audio_sampler=utils.Sampler(temp=0),
    )
    tokens = []
    for codes in heard.codes:
        token, _ = generator.step(mx.array(codes[None].astype(np.int32)))
        tokens.append(int(token[0].item()))
    theirs, ours = words(np.array(tokens)), words(heard.tokens)
    wrong = sum(a != b for a, b in zip(theirs, ours, strict=False)) + abs(len(theirs) - len(ours))
    print(f"{quant}: {wrong} of {len(ours)} words differ, {np.mean(tokens == heard.tokens):.1%}")
    assert wrong <= tolerated


def load_mlx(target: Path, body: dict[str, Any] = BODY) -> Any:
    """Load a file as `moshi_mlx.run_inference` does. It has no key for the width of the gating
    layers, which is not the released one's here, so that is set.
    """
    import mlx.core as mx
    from mlx import nn
    from moshi_mlx import models

    config = models.LmConfig.from_config_dict({**body, "depformer_dim_feedforward": 1})
    if body["hidden_scale"] != 4.125:
        config.transformer.dim_feedforward = int(body["hidden_scale"] * body["dim"])
    model = models.Lm(config)
    model.set_dtype(mx.bfloat16)
    if target.name.endswith(".q4.safetensors"):
        nn.quantize(model, bits=4, group_size=32)
    elif target.name.endswith(".q8.safetensors"):
        nn.quantize(model, bits=8, group_size=64)
    model.load_weights(str(target), strict=True)
    return model


@needs("moshi", "bitsandbytes")
def test_the_moshi_package_computes_with_the_int8_file(tmp_path: Path) -> None:
    """Its own loader takes the file, and its logits are as near as int8 with F16 arithmetic allows.

    The loader casts the scales to the dtype it is given, and its layers then accept F32 only: with
    `dtype=torch.float32` it runs, with its default of bfloat16 it does not.
    """
    import torch
    from moshi.models import loaders  # type: ignore[import-not-found]

    target = tmp_path / "tiny.int8.safetensors"
    export(plan_export(TINY / "model.safetensors", target, Runtime.MOSHI, None))
    assert verify_export(TINY / "model.safetensors", target).same
    unknown = {"mimi_name", "moshi_name", "tokenizer_name", "lm_gen_config", "stt_config"}
    body = {key: BODY[key] for key in BODY if key not in unknown | {"model_type"}}

    def logits(file: Path, *, quantize: bool, dtype: torch.dtype) -> torch.Tensor:
        model = loaders.get_moshi_lm(
            file, lm_kwargs={**body, "quantize": quantize}, device="cpu", dtype=dtype
        )
        random = torch.Generator().manual_seed(0)
        codes = torch.randint(0, BODY["card"], (1, 9, 30), generator=random)
        with torch.no_grad():
            found: torch.Tensor = model.forward_text(codes)[1].float()
        return found

    plain = logits(TINY / "model.safetensors", quantize=False, dtype=torch.float32)
    int8 = logits(target, quantize=True, dtype=torch.float32)
    error = float((plain - int8).abs().max())
    print(f"logits up to {float(plain.abs().max()):.1f}, int8 at most {error:.2f} off")
    assert error < 0.05 * float(plain.abs().max())
    with pytest.raises(RuntimeError, match="weight_scb"):
        logits(target, quantize=True, dtype=torch.bfloat16)


@needs("mlx", "moshi_mlx")
def test_moshi_mlx_loads_layers_of_the_full_size(tmp_path: Path) -> None:
    """Two layers of the 1B's width, with few codebooks: strict loading checks every name and
    shape, and one step gives finite logits.
    """
    import mlx.core as mx

    body = {
        **BODY,
        "dim": 2048,
        "num_heads": 16,
        "num_layers": 2,
        "hidden_scale": 4.125,
        "card": 2048,
        "n_q": 2,
        "delays": [0, 0, 0],
        "text_card": 8000,
        "context": 750,
    }
    source = write_random(tmp_path / "wide.safetensors", body)
    for quant, name in (("q8", "wide.q8.safetensors"), ("q4", "wide.q4.safetensors")):
        export(plan_export(source, tmp_path / name, Runtime.MLX, quant))
        model = load_mlx(tmp_path / name, body)
        _, logits = model.forward_text(mx.array([[8000]]))
        assert np.isfinite(np.array(logits.astype(mx.float32))).all()


def write_random(path: Path, body: dict[str, Any]) -> Path:
    """Write random weights in the shapes that an STT config describes."""
    import torch
    from safetensors.torch import save_file

    from dsmops.worker.models.stt_config import SttConfig

    random = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(shape, generator=random).mul_(0.02).to(torch.bfloat16)
        for name, shape in SttConfig.from_json(body).lm.tensors().items()
    }
    save_file(tensors, path)
    return path
