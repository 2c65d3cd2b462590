"""Models in int8: the files that hold them, and what a stream computes with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dsmops.checkpoint.export.outcome import carry_out
from dsmops.checkpoint.export.plan import Runtime, plan_export
from dsmops.dtypes import Quant, Quantised
from dsmops.worker.models.loading import int8_tables, load_tts_lm, published_tts_tables
from dsmops.worker.models.stt_lm import SttLm
from dsmops.worker.models.tts_lm import TtsLm
from tests.support.networks import CPU, LmRows, load_lm, tts_config, write_stt, write_tts

INT8, PLAIN = Quantised(Quant.INT8), Quantised(Quant.NONE)
STEPS = 30
"""Two and a half windows of the tiny model."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stt(tmp_path_factory.mktemp("stt") / "plain.safetensors")


@pytest.fixture(scope="module")
def plain_tts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tts(tmp_path_factory.mktemp("tts") / "plain.safetensors")


def exported(source: Path) -> Path:
    """Return the int8 file for the `moshi` package."""
    target = source.with_name("int8.safetensors")
    carry_out(plan_export(source, target, Runtime.MOSHI, None), force=True)
    return target


def load_tts(path: Path, quantised: Quantised, codebooks: int = 3) -> TtsLm:
    config = tts_config()
    return load_tts_lm(
        path, config, codebooks, device=CPU, dtype=torch.float32, quantised=quantised
    )


def logits(lm: SttLm, *, rows: int = 1) -> Tensor:
    """Return the logits of all steps, [STEPS, rows, V], each row fed with codes of its own."""
    stream = LmRows(lm, rows)
    codes = torch.randint(0, 32, (STEPS, 1, 4), generator=torch.Generator().manual_seed(3))
    said = torch.arange(rows)
    return torch.stack([stream.step(one.repeat(rows, 1), say=said).logits for one in codes])


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


def test_an_int8_file_is_loaded_as_it_is(plain: Path) -> None:
    """Layers are int8 without a word, with the file's own codes; heads and tables are not."""
    path = exported(plain)
    lm, stored = load_lm(path), load_file(path)
    tables = int8_tables(lm)
    assert len(tables) == 2 * 4
    for name, (matrix,) in tables.items():
        scales = stored[f"{name}_scb"]
        assert torch.equal(matrix.largest, scales)
        assert torch.equal(matrix.written_out(), stored[name].float() * (scales / 127)[:, None])
    assert lm.text_linear.weight.dtype is torch.float32


def test_a_plain_file_becomes_the_int8_file(plain: Path) -> None:
    """Quantised at load, layers are what `export` writes; told otherwise, int8 is written out."""
    stored, made = load_lm(exported(plain)), load_lm(plain, quantised=INT8)
    for ours, theirs in zip(int8_tables(made).values(), int8_tables(stored).values(), strict=True):
        assert torch.equal(ours[0].written_out(), theirs[0].written_out())
    written_out = load_lm(exported(plain), quantised=PLAIN)
    assert not int8_tables(written_out)
    assert relative_error(logits(stored), logits(written_out)) < 1e-3


def test_text_to_speech_files(plain_tts: Path) -> None:
    """Backbone, cross-attention and the weight sets of a depformer that generates 3 codebooks."""
    stored, made = load_tts(exported(plain_tts), Quantised()), load_tts(plain_tts, INT8)
    written_out = published_tts_tables(load_tts(exported(plain_tts), PLAIN))
    tables = int8_tables(stored)
    assert {name.rsplit(".layers.")[0] for name in tables} == {"transformer", "depformer"}
    for name, ours in int8_tables(made).items():
        rows = torch.cat([matrix.written_out() for matrix in ours])
        assert torch.equal(rows, torch.cat([matrix.written_out() for matrix in tables[name]]))
        assert torch.equal(rows, written_out[name])


def test_weights_move_logits_little(plain: Path) -> None:
    """Rounding weights to int8 changes random logits by a few percent, streams by nothing else."""
    assert (
        1e-4 < relative_error(logits(load_lm(plain, quantised=INT8)), logits(load_lm(plain))) < 0.05
    )


def test_keys_and_values_move_logits_little(plain: Path) -> None:
    """Also after the window wrapped: a stream of int8 keys and values follows the exact one."""
    error = relative_error(
        logits(load_lm(plain, quantised=Quantised(kv=Quant.INT8))), logits(load_lm(plain))
    )
    assert 1e-4 < error < 0.03
