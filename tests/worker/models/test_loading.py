"""Strict loading: every published spelling is read alike.

Anything wrong with a file is one error that names it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsmops.errors import CheckpointError, DsmopsError
from dsmops.worker.models.loading import (
    MIMI_CONFIG_KEY,
    load_mimi_decoder,
    load_mimi_encoder,
    load_stt_lm,
)
from dsmops.worker.models.stt_config import SttConfig
from tests.support.networks import (
    CPU,
    MIMI_BODY,
    STT_BODY,
    LmRows,
    load_lm,
    load_mimi,
    tiny_mimi_weights,
    tiny_stt_weights,
    write_mimi,
    write_stt,
)

CODES = torch.tensor([[1, 2, 3, 4]])
NO_HEADS = STT_BODY | {"extra_heads_num_heads": 0}


def _renamed(weights: dict[str, Tensor], *changes: tuple[str, str]) -> dict[str, Tensor]:
    for old, new in changes:
        assert any(old in name for name in weights)
        weights = {name.replace(old, new): value for name, value in weights.items()}
    return weights


def _logits(path: Path) -> Tensor:
    rows = LmRows(load_lm(path), 1)
    rows.step(CODES)
    return rows.step(CODES).logits


@pytest.mark.parametrize(
    "changes",
    [
        [("in_proj_weight", "in_proj.weight")],
        [("in_proj_weight", "in_projs.0.weight"), ("out_proj.weight", "out_projs.0.weight")],
        [("out_proj.weight", "out_projs.0.weight")],
    ],
)
def test_language_model_spellings(tmp_path: Path, changes: list[tuple[str, str]]) -> None:
    """Attention weights may be spelt as in published files or as in a live upstream module."""
    plain = write_stt(tmp_path / "plain.safetensors")
    other = write_stt(tmp_path / "other.safetensors", _renamed(tiny_stt_weights(), *changes))
    assert torch.equal(_logits(plain), _logits(other))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        [
            ("_codebook._initialized", "_codebook.inited"),
            ("_codebook.cluster_usage", "_codebook.cluster_size"),
        ],
        [("_codebook.embedding_sum", "_codebook.embed_avg")],
        [("_codebook.embedding_sum", "_codebook.embed_sum")],
        [("in_proj_weight", "in_projs.0.weight"), ("out_proj.weight", "out_projs.0.weight")],
    ],
)
def test_mimi_spellings(tmp_path: Path, changes: list[tuple[str, str]]) -> None:
    """Codebook buffers may have their older names, attention weights those of a live module."""
    pcm = torch.sin(torch.arange(288.0)).view(1, 1, -1)
    heard = []
    for number, weights in enumerate(
        (tiny_mimi_weights(), _renamed(tiny_mimi_weights(), *changes))
    ):
        encoder, decoder = load_mimi(write_mimi(tmp_path / f"{number}.safetensors", weights))
        with torch.no_grad():
            heard.append(decoder.decode(encoder.encode(pcm, 8)))
    assert torch.equal(*heard)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(tmp_path: Path, dtype: torch.dtype, stored: torch.dtype) -> None:
    """Whatever dtype is stored, weights are cast to the one that is asked for."""
    lm = load_lm(write_stt(tmp_path / "lm.safetensors", dtype=stored), dtype=dtype)
    assert lm.dtype == lm.text_linear.weight.dtype == dtype
    assert torch.equal(
        lm.text_linear.weight, tiny_stt_weights()["text_linear.weight"].to(stored).to(dtype)
    )


def test_mimi_stored_in_16_bits(tmp_path: Path) -> None:
    """A Mimi in 16 bits is loaded as float32 throughout."""
    encoder, decoder = load_mimi(
        write_mimi(
            tmp_path / "m.safetensors", {k: v.bfloat16() for k, v in tiny_mimi_weights().items()}
        )
    )
    assert {
        tensor.dtype
        for half in (encoder, decoder)
        for tensor in (*half.parameters(), *half.buffers())
    } == {torch.float32}


def _drop(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda weights: weights.__delitem__(name)


def _put(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda weights: weights.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop("out_norm.alpha"), ["missing: out_norm.alpha (1, 1, 64)"]),
        (_put("lora.weight", torch.zeros(3, 5)), ["unexpected: lora.weight (3, 5)"]),
        (
            _put("emb.2.weight", torch.zeros(2049, 64)),
            ["wrong: emb.2.weight is (2049, 64), not (33, 64)"],
        ),
        (
            _put("emb.2.weight", torch.zeros(33, 64, dtype=torch.int8)),
            ["wrong: emb.2.weight is I8, not floating point"],
        ),
        (
            _put("transformer.layers.0.self_attn.in_projs.0.weight", torch.zeros(192, 64)),
            [
                "two names",
                "layers.0.self_attn.in_projs.0.weight",
                "layers.0.self_attn.in_proj_weight",
            ],
        ),
    ],
)
def test_language_model_of_no_use(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], None], words: list[str]
) -> None:
    """A missing, unexpected, misshapen, integer or doubled tensor is named with its shape."""
    weights = tiny_stt_weights()
    change(weights)
    path = tmp_path / "lm.safetensors"
    save_file(weights, path)
    with pytest.raises(CheckpointError) as caught:
        load_lm(path)
    assert all(word in caught.value.message for word in (*words, str(path)))
    assert caught.value.hint


def test_another_model(tmp_path: Path) -> None:
    """The weights of another model give one message that counts what is too much to list."""
    path = write_stt(tmp_path / "lm.safetensors")
    config = SttConfig.from_json(STT_BODY | {"num_layers": 4, "n_q": 2})
    with pytest.raises(
        CheckpointError,
        match=(
            r"missing: .* and 8 more; unexpected: emb.2.weight \(33, 64\), emb.3.weight \(33, "
            r"64\)$"
        ),
    ):
        load_stt_lm(path, config.lm, config.max_period, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("in_file", [True, False])
def test_semantic_vad_heads(tmp_path: Path, in_file: bool) -> None:
    """Heads that only the file or only the config has are an error that says where they come
    from.
    """
    weights = {
        name: value
        for name, value in tiny_stt_weights().items()
        if in_file or not name.startswith("extra_heads")
    }
    path = write_stt(tmp_path / "lm.safetensors", weights)
    with pytest.raises(
        CheckpointError,
        match=f"{'unexpected' if in_file else 'missing'}: extra_heads.0.weight \\(6, 64\\)",
    ) as caught:
        load_lm(path, NO_HEADS if in_file else STT_BODY)
    assert "stt-1b-en_fr-candle" in caught.value.hint


def test_without_heads(tmp_path: Path) -> None:
    """A model without heads loads with a config without them and gives no pause probabilities."""
    weights = {
        name: value
        for name, value in tiny_stt_weights().items()
        if not name.startswith("extra_heads")
    }
    rows = LmRows(load_lm(write_stt(tmp_path / "lm.safetensors", weights), NO_HEADS), 1)
    assert rows.step(CODES).pauses is None


def test_config_too_large_for_the_machine(tmp_path: Path) -> None:
    """Dimensions that no memory holds are compared with the file before any memory is asked for."""
    with pytest.raises(CheckpointError, match=r"not \(1048577, 1048576\)"):
        load_lm(
            write_stt(tmp_path / "lm.safetensors"),
            STT_BODY | {"dim": 2**20, "card": 2**20, "num_layers": 1024},
        )


LOADERS = [
    load_lm,
    lambda path: load_mimi_encoder(path, device=CPU),
    lambda path: load_mimi_decoder(path, device=CPU),
]


@pytest.mark.parametrize("load", LOADERS)
def test_not_a_checkpoint(tmp_path: Path, load: Callable[[Path], object]) -> None:
    """A file that is empty, text, a folder, a pickle or not there is an error that names it."""
    paths = [tmp_path / name for name in ("empty", "text", "folder", "pickle", "absent")]
    paths[0].touch()
    paths[1].write_text("<!doctype html><title>Not found</title>")
    paths[2].mkdir()
    torch.save({"weight": torch.zeros(2)}, paths[3])
    for path in paths:
        with pytest.raises(DsmopsError) as caught:
            load(path)
        assert str(path) in caught.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path) -> None:
    """A file without read permission is a `DsmopsError`."""
    path = write_stt(tmp_path / "lm.safetensors")
    path.chmod(0)
    with pytest.raises(DsmopsError, match=r"lm\.safetensors"):
        load_lm(path)


@pytest.mark.parametrize("load", LOADERS)
def test_truncated(tmp_path: Path, load: Callable[[Path], object]) -> None:
    """A file that stops early, at whatever point, is an error that names it."""
    whole = (write_stt if load is load_lm else write_mimi)(
        tmp_path / "whole.safetensors"
    ).read_bytes()
    cut = tmp_path / "cut.safetensors"
    for size in (1, 7, 8, 9, 500, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(
            CheckpointError, match=r"cut\.safetensors is not a complete safetensors file"
        ):
            load(cut)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            _drop("upsample.convtr.convtr.convtr.weight"),
            ["missing: upsample.convtr.convtr.convtr.weight (32, 1, 4)"],
        ),
        (_put("wavlm_proj.weight", torch.zeros(2, 2)), ["unexpected: wavlm_proj.weight (2, 2)"]),
        (
            _put("encoder.model.0.conv.conv.bias", torch.zeros(5)),
            ["wrong: encoder.model.0.conv.conv.bias is (5), not (4)"],
        ),
        (
            _put("quantizer.rvq_rest.vq.layers.0._codebook.embed_avg", torch.zeros(32, 16)),
            ["two names", "quantizer.rvq_rest.vq.layers.0._codebook.embed_avg"],
        ),
    ],
)
@pytest.mark.parametrize("load", LOADERS[1:])
def test_mimi_of_no_use(
    tmp_path: Path,
    load: Callable[[Path], object],
    change: Callable[[dict[str, Tensor]], None],
    words: list[str],
) -> None:
    """Either half checks the whole file, the other half's tensors too."""
    weights = tiny_mimi_weights()
    change(weights)
    path = write_mimi(tmp_path / "mimi.safetensors", weights)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert all(word in caught.value.message for word in (*words, str(path)))


def test_mimi_without_metadata(tmp_path: Path) -> None:
    """A file without a config of its own must be the released model."""
    with pytest.raises(
        CheckpointError, match=r"encoder.model.0.conv.conv.weight is \(4, 1, 7\), not \(64, 1, 7\)"
    ):
        load_mimi(write_mimi(tmp_path / "mimi.safetensors", config=None))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("null", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('"tiny"', "not a JSON object"),
        ('{"sample_rate": 1' + "0" * 5000 + "}", "not JSON"),
        ('{"frame_rate": Infinity}', "frame_rate"),
        (
            json.dumps(
                MIMI_BODY
                | {"seanet": MIMI_BODY["seanet"] | {"n_filters": 2**14, "ratios": [2] * 8}}
            ),
            "not a whole number of latents",
        ),
        (
            json.dumps({"seanet": {"n_filters": 2**14, "kernel_size": 2**14}}),
            "is (4, 1, 7), not (16384, 1, 16384)",
        ),
        (json.dumps({"transformer": {"num_layers": 10**9}}), "num_layers"),
    ],
)
def test_mimi_config_of_no_use(tmp_path: Path, text: str, words: str) -> None:
    """A config in the metadata that is not a config, or not this file's, is an error that names the
    file; nothing large is allocated.
    """
    path = tmp_path / "mimi.safetensors"
    save_file(tiny_mimi_weights(), path, metadata={MIMI_CONFIG_KEY: text})
    with pytest.raises(CheckpointError) as caught:
        load_mimi(path)
    assert str(path) in caught.value.message
    assert words in caught.value.message
    assert len(caught.value.message) < 1500


def test_unused_centroids(tmp_path: Path) -> None:
    """A centroid that training never used, its count zero, stays finite: counts are raised to
    1e-5.
    """
    weights = tiny_mimi_weights()
    prefix = "quantizer.rvq_first.vq.layers.0._codebook"
    weights[f"{prefix}.cluster_usage"][3] = 0
    encoder, _ = load_mimi(write_mimi(tmp_path / "mimi.safetensors", weights))
    expected = weights[f"{prefix}.embedding_sum"][3] / 1e-5
    assert torch.equal(encoder.quantizer.rvq_first.codebooks[0, 3], expected)


def test_weights_are_copies(tmp_path: Path) -> None:
    """A loaded model does not change when its file does."""
    path = write_stt(tmp_path / "lm.safetensors")
    lm = load_lm(path)
    before = lm.text_emb.clone()
    save_file({name: torch.zeros_like(value) for name, value in load_file(path).items()}, path)
    assert torch.equal(lm.text_emb, before)
