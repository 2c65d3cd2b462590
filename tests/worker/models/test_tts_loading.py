"""Strict loading of text-to-speech models: every published spelling is read alike.

Anything wrong is one error that names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dsmops.dtypes import ComputeDType
from dsmops.errors import CheckpointError, InputError
from dsmops.worker.models.loading import load_tts_lm
from dsmops.worker.models.tts import load_tts
from dsmops.worker.models.tts_lm import TtsLm
from dsmops.worker.tiny.stt import write_tiny_stt
from dsmops.worker.tiny.tts import TinyTts, write_tiny_tts
from tests.support.networks import CPU, random_weights, tts_config, write_tts

ATTENTION = "depformer.layers.1.self_attn"


def _weights() -> dict[str, Tensor]:
    return random_weights(tts_config().shape.tensors())


def _load(path: Path, codebooks: int = 4, dtype: torch.dtype = torch.float32) -> TtsLm:
    return load_tts_lm(path, tts_config(), codebooks, device=CPU, dtype=dtype)


def _split(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as a live upstream module names them: attention apart for each weight
    set.
    """
    apart = {}
    for name, value in weights.items():
        packed = re.fullmatch(r"(.*)\.(in|out)_proj[._]weight", name)
        if packed is None or ".conditioners." in name:
            apart[name] = value
            continue
        parts = value.chunk(3) if name.startswith("depformer.") else [value]
        apart |= {
            f"{packed[1]}.{packed[2]}_projs.{number}.weight": part.clone()
            for number, part in enumerate(parts)
        }
    return apart


def _same(one: TtsLm, other: TtsLm) -> bool:
    return all(
        torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items()
    )


def test_spellings(tmp_path: Path) -> None:
    """Attention weights may be packed as in published files or split into weight sets as in a live
    upstream module.
    """
    plain = _load(write_tts(tmp_path / "plain.safetensors"))
    split = _split(_weights())
    assert f"{ATTENTION}.in_projs.2.weight" in split
    assert "transformer.layers.0.cross_attention.out_projs.0.weight" in split
    assert _same(plain, _load(write_tts(tmp_path / "split.safetensors", split)))


@pytest.mark.slow
def test_every_tensor_is_used(tmp_path: Path) -> None:
    """A change in any tensor but the one that upstream never reads either changes the loaded
    model.
    """
    plain, weights = _load(write_tts(tmp_path / "plain.safetensors")), _weights()
    for name in weights:
        changed = weights | {name: weights[name] + 1}
        same = _same(plain, _load(write_tts(tmp_path / "changed.safetensors", changed)))
        assert same == (name == "depformer_text_emb.low_rank.weight"), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    """Weights are cast to the dtype that is asked for, conditioners stay in float32."""
    lm = _load(write_tts(tmp_path / "lm.safetensors"), dtype=dtype)
    assert lm.dtype == lm.depformer.heads.dtype == dtype
    assert torch.equal(lm.text_linear.weight, _weights()["text_linear.weight"].to(dtype))
    assert {parameter.dtype for parameter in lm.conditioning.parameters()} == {torch.float32}


@pytest.mark.parametrize(("codebooks", "sets"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_fewer_codebooks(tmp_path: Path, codebooks: int, sets: int) -> None:
    """Only the weight sets, tables and heads of the codebooks asked for are kept, and these are the
    first ones.
    """
    path = write_tts(tmp_path / "lm.safetensors")
    lm, whole = _load(path, codebooks), _load(path)
    layer, first = lm.depformer.layers[0], whole.depformer.layers[0]
    assert torch.equal(layer.in_proj, first.in_proj[:sets])
    assert len(layer.in_proj) == len(layer.linear_out) == sets
    assert torch.equal(lm.depformer.heads, whole.depformer.heads[:codebooks])
    assert torch.equal(lm.depformer.emb, whole.depformer.emb[: codebooks - 1])
    assert torch.equal(lm.emb, whole.emb)


def _drop(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda weights: weights.__delitem__(name)


def _put(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda weights: weights.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop("depformer_in.2.weight"), ["missing: depformer_in.2.weight (32, 64)"]),
        (
            _drop("depformer_text_emb.low_rank.weight"),
            ["missing: depformer_text_emb.low_rank.weight"],
        ),
        (
            _drop("condition_provider.conditioners.cfg.learnt_padding"),
            ["missing: condition_provider.conditioners.cfg.learnt_padding"],
        ),
        (
            _put("extra_heads.0.weight", torch.zeros(6, 64)),
            ["unexpected: extra_heads.0.weight (6, 64)"],
        ),
        (
            _put("linears.0.weight", torch.zeros(33, 32)),
            ["wrong: linears.0.weight is (33, 32), not (32, 32)"],
        ),
        (
            _put(f"{ATTENTION}.in_proj_weight", torch.zeros(96, 32)),
            [f"wrong: {ATTENTION}.in_proj_weight is (96, 32), not (288, 32)"],
        ),
        (
            _put(f"{ATTENTION}.in_projs.0.weight", torch.zeros(96, 32)),
            ["two names", f"{ATTENTION}.in_projs.0.weight"],
        ),
        (
            _put("linears.1.weight", torch.zeros(32, 32, dtype=torch.int32)),
            ["linears.1.weight is I32, not floating point"],
        ),
    ],
)
def test_of_no_use(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], None], words: list[str]
) -> None:
    """A missing, unexpected, misshapen, integer or doubled tensor is named with its shape."""
    weights = _weights()
    change(weights)
    save_file(weights, tmp_path / "lm.safetensors")
    with pytest.raises(CheckpointError) as raised:
        _load(tmp_path / "lm.safetensors")
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            _drop(f"{ATTENTION}.in_projs.1.weight"),
            ["in parts, and some are missing", f"{ATTENTION}.in_projs.2.weight"],
        ),
        (
            _drop(f"{ATTENTION}.out_projs.2.weight"),
            [f"{ATTENTION}.out_proj.weight is (64, 32), not (96, 32)"],
        ),
        (
            _put(f"{ATTENTION}.in_projs.1.weight", torch.zeros(96, 31)),
            [f"wrong: {ATTENTION}.in_proj_weight is ()"],
        ),
        (
            _put(f"{ATTENTION}.in_projs.7.weight", torch.zeros(96, 32)),
            ["some are missing", "in_projs.7.weight"],
        ),
    ],
)
def test_parts_of_no_use(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], None], words: list[str]
) -> None:
    """A weight set that is missing, misshapen or too many is named."""
    weights = _split(_weights())
    change(weights)
    save_file(weights, tmp_path / "lm.safetensors")
    with pytest.raises(CheckpointError) as raised:
        _load(tmp_path / "lm.safetensors")
    assert all(word in str(raised.value) for word in words)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyTts:
    return write_tiny_tts(tmp_path_factory.mktemp("tiny"))


def test_whole_model(tiny: TinyTts) -> None:
    """All files of a model load, with as many codebooks as asked for."""
    model = load_tts(tiny.files, device=CPU, dtype=ComputeDType.BF16, n_q=3)
    assert (model.codebooks, model.frame_samples, model.dtype, model.device) == (
        3,
        1920,
        ComputeDType.BF16,
        CPU,
    )
    assert model.config.voice_suffix == ".7e57da7a@1.safetensors"
    assert model.tokenizer.size == 320


@pytest.mark.parametrize("n_q", [0, -1, 9])
def test_number_of_codebooks(tiny: TinyTts, n_q: int) -> None:
    """A number of codebooks that the model does not have is refused with those it has."""
    with pytest.raises(InputError, match=f"n_q = {n_q}, and the model has 1 to 8"):
        load_tts(tiny.files, device=CPU, dtype=ComputeDType.F32, n_q=n_q)


def test_files_of_different_models(tiny: TinyTts, tmp_path: Path) -> None:
    """A language model of speech to text, or a codec or tokenizer of another model, is
    distinguished.
    """
    listener = write_tiny_stt(tmp_path)
    for files, error, words in (
        (
            replace(tiny.files, lm=listener.files.lm),
            CheckpointError,
            "does not hold the text-to-speech model",
        ),
        (replace(tiny.files, mimi=listener.files.lm), CheckpointError, "Mimi"),
        (replace(tiny.files, config=listener.model_config), InputError, "model_type"),
        (replace(tiny.files, tokenizer=tiny.files.lm), InputError, "SentencePiece"),
    ):
        with pytest.raises(error, match=words):
            load_tts(files, device=CPU, dtype=ComputeDType.F32)
