"""Exporting a checkpoint: what is in the file, what is reported, and what refuses."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dsmops.checkpoint import read_header
from dsmops.checkpoint.export import Runtime, export, is_current, plan_export
from dsmops.checkpoint.export.accuracy import MAGNITUDES, Errors
from dsmops.checkpoint.export.outcome import carry_out
from dsmops.checkpoint.export.verification import is_export, verify_export
from dsmops.checkpoint.gguf import ALIGNMENT, read_gguf_header
from dsmops.errors import InputError, TensorRangeError
from tests.support.checkpoints import Stored, read_file, write_file, write_sharded


def weights(rows: int, columns: int, seed: int = 1) -> Stored:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.02, (rows, columns)).astype(np.float32)
    return "BF16", (rows, columns), (values.view(np.uint32) >> 16).astype("<u2").tobytes()


MODEL: dict[str, Stored] = {
    "text_emb.weight": weights(10, 256, 1),
    "emb.0.weight": weights(5, 256, 2),
    "transformer.layers.0.self_attn.in_proj_weight": weights(768, 256, 3),
    "transformer.layers.0.gating.linear_out.weight": weights(256, 576, 4),
    "transformer.layers.0.norm1.alpha": ("BF16", (1, 1, 256), b"\x80\x3f" * 256),
    "out_norm.alpha": ("F32", (1, 1, 256), np.ones(256, "<f4").tobytes()),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_file(tmp_path_factory.mktemp("source") / "model.safetensors", MODEL)


def values_of(stored: Stored) -> np.ndarray:
    dtype, shape, raw = stored
    if dtype == "F32":
        return np.frombuffer(raw, "<f4").reshape(shape)
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)


def test_gguf_holds_every_tensor_under_its_own_name(source: Path, tmp_path: Path) -> None:
    """Matrices in blocks, where a row has whole ones; longer blocks give way to Q8_0; the rest F32.

    Each tensor begins at a multiple of the alignment, as readers map the file.
    """
    target = tmp_path / "model.q4k.gguf"
    export(plan_export(source, target, Runtime.GGUF, "q4_k"))
    header = read_gguf_header(target)
    assert {name: (one.dtype, one.shape) for name, one in header.tensors.items()} == {
        "text_emb.weight": ("Q4_K", (10, 256)),
        "emb.0.weight": ("Q4_K", (5, 256)),
        "transformer.layers.0.self_attn.in_proj_weight": ("Q4_K", (768, 256)),
        "transformer.layers.0.gating.linear_out.weight": ("Q8_0", (256, 576)),
        "transformer.layers.0.norm1.alpha": ("F32", (1, 1, 256)),
        "out_norm.alpha": ("F32", (1, 1, 256)),
    }
    assert all(one.begin % ALIGNMENT == 0 for one in header.tensors.values())
    assert header.metadata["general.alignment"] == str(ALIGNMENT)
    assert header.metadata["dsmops.source"] == "model.safetensors"
    assert header.metadata["general.license"] == "that of the source"
    stored = header.tensors["out_norm.alpha"]
    at = header.data_start + stored.begin
    assert target.read_bytes()[at : at + stored.nbytes] == MODEL["out_norm.alpha"][2]


def test_mlx_has_the_names_that_moshi_mlx_gives(source: Path, tmp_path: Path) -> None:
    """Codes, scales and biases for each matrix; norms lose their two leading dimensions."""
    target = tmp_path / "model.q8.safetensors"
    export(plan_export(source, target, Runtime.MLX, "q8"))
    header = read_header(target)
    shapes = {name: (one.dtype, one.shape) for name, one in header.tensors.items()}
    attention = "transformer.layers.0.self_attn.in_proj"
    assert shapes[f"{attention}.weight"] == ("U32", (768, 64))
    assert shapes[f"{attention}.scales"] == shapes[f"{attention}.biases"] == ("F16", (768, 4))
    assert shapes["audio_embs.0.weight"] == ("U32", (5, 64))
    assert shapes["out_norm.weight"] == ("F16", (256,))
    assert len(shapes) == 4 * 3 + 2


def test_moshi_gets_int8_layers_and_plain_embeddings(source: Path, tmp_path: Path) -> None:
    """One F32 scale for each row of a linear layer, under the names that the package loads."""
    target = tmp_path / "model.int8.safetensors"
    export(plan_export(source, target, Runtime.MOSHI, None))
    tensors, metadata = read_file(target)
    name = "transformer.layers.0.self_attn.in_proj_weight"
    assert tensors["text_emb.weight"][0] == tensors["emb.0.weight"][0] == "F16"
    assert tensors[name][:2] == ("I8", (768, 256))
    dtype, shape, raw = tensors[f"{name}_scb"]
    assert (dtype, shape) == ("F32", (768,))
    largest = np.abs(values_of(MODEL[name])).max(axis=1)
    assert np.array_equal(np.frombuffer(raw, "<f4"), largest.astype(np.float16))
    assert metadata["dsmops.export"] == "moshi"


@pytest.mark.parametrize(
    ("runtime", "quant", "name"),
    [
        (Runtime.GGUF, "q8_0", "a.gguf"),
        (Runtime.GGUF, "q4_0", "a.gguf"),
        (Runtime.GGUF, "none", "a.gguf"),
        (Runtime.MLX, "q4", "a.q4.safetensors"),
        (Runtime.MOSHI, "int8", "a.safetensors"),
    ],
)
def test_the_report_counts_the_errors_of_all_values(
    source: Path, tmp_path: Path, runtime: Runtime, quant: str, name: str
) -> None:
    """Largest, mean and classes are those of the file's own values, read back value by value."""
    plan = plan_export(source, tmp_path / name, runtime, quant)
    report = export(plan)
    data = plan.target.read_bytes()[len(plan.head) :]
    everything = []
    for planned, counted in zip(plan.tensors, report.tensors, strict=True):
        encoding = planned.encoding
        pieces = tuple(
            np.frombuffer(data[info.begin : info.end], np.uint8).reshape(-1, piece.group_bytes)
            for info, piece in zip(planned.pieces, encoding.pieces, strict=True)
        )
        stored = values_of(MODEL[planned.source.name])
        error = np.abs(encoding.decode(pieces).reshape(stored.shape) - stored).astype(np.float64)
        found = counted.errors.summary()
        assert found.elements == stored.size
        assert found.max_error == error.max()
        assert found.mean_error == pytest.approx(error.mean(), rel=1e-5)
        rms = np.sqrt(np.square(error).sum() / np.square(stored.astype(np.float64)).sum())
        assert found.relative_rms_error == pytest.approx(rms, rel=1e-4)
        everything.append(error.ravel())
    errors = np.concatenate(everything)
    shares = list(report.totals.summary().shares.values())
    below = [float((errors <= np.float32(bound)).mean()) for bound in MAGNITUDES]
    assert np.cumsum(shares)[:-1] == pytest.approx(below)
    assert sum(shares) == pytest.approx(1)


def test_values_that_are_not_finite_take_no_memory() -> None:
    """Without them every block of a tensor has another number of values."""
    values, errors = np.ones(10_000, np.float32), Errors()
    errors.note(values, values)
    tracemalloc.start()
    try:
        for place in range(100):
            values[place] = np.nan
            errors.note(values, values)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 200_000
    assert errors.not_finite == sum(range(101))


def test_the_same_source_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    """No time, path or order of threads is in the file."""
    for name in ("a", "b"):
        export(plan_export(source, tmp_path / name / "m.gguf", Runtime.GGUF, "q8_0"))
    a, b = (tmp_path / name / "m.gguf" for name in ("a", "b"))
    assert a.read_bytes() == b.read_bytes()


def test_a_sharded_source_becomes_one_file(source: Path, tmp_path: Path) -> None:
    """Which shard a tensor is in makes no difference to its bytes."""
    names = list(MODEL)
    folder = write_sharded(
        tmp_path / "sharded",
        {
            "a.safetensors": {name: MODEL[name] for name in names[:3]},
            "b.safetensors": {name: MODEL[name] for name in names[3:]},
        },
    )
    whole = export(plan_export(source, tmp_path / "whole.gguf", Runtime.GGUF, "q8_0"))
    parts = export(plan_export(folder, tmp_path / "parts.gguf", Runtime.GGUF, "q8_0"))
    assert parts.totals == whole.totals
    assert verify_export(folder, tmp_path / "whole.gguf").same


def test_an_export_that_is_up_to_date_is_left_alone(source: Path, tmp_path: Path) -> None:
    """Until its options, its source or its own bytes change."""
    target = tmp_path / "m.gguf"
    plan = plan_export(source, target, Runtime.GGUF, "q8_0")
    assert carry_out(plan).status == "exported"
    assert carry_out(plan).status == "up to date"
    assert not is_current(plan_export(source, target, Runtime.GGUF, "q4_0"))
    with target.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    assert not is_current(plan)


def test_a_file_of_another_origin_is_kept(source: Path, tmp_path: Path) -> None:
    """Only --force replaces it."""
    target = tmp_path / "m.gguf"
    target.write_bytes(b"GGUF mine")
    plan = plan_export(source, target, Runtime.GGUF, "q8_0")
    with pytest.raises(InputError, match="did not make it"):
        carry_out(plan)
    assert target.read_bytes() == b"GGUF mine"
    assert carry_out(plan, force=True).status == "exported"


@pytest.mark.parametrize(
    ("target", "runtime", "quant", "words"),
    [
        ("m.safetensors", Runtime.GGUF, None, r"\.gguf"),
        ("m.gguf", Runtime.MOSHI, None, r"\.safetensors"),
        ("m.safetensors", Runtime.MLX, "q8", "another quantisation in its name"),
        ("m.q4.safetensors", Runtime.MLX, "none", "another quantisation in its name"),
        ("m.gguf", Runtime.GGUF, "q5_k", "not available"),
        (".", Runtime.GGUF, None, "folder"),
    ],
)
def test_a_target_that_no_program_would_load_is_refused(
    source: Path, tmp_path: Path, target: str, runtime: Runtime, quant: str | None, words: str
) -> None:
    """Before a byte is read; the hint says the name or the value that works."""
    with pytest.raises(InputError, match=words) as caught:
        plan_export(source, tmp_path / target, runtime, quant)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_values_that_have_no_code_are_refused(tmp_path: Path) -> None:
    """NaN in a block would spoil its neighbours. Nothing is left of the target."""
    _, shape, raw = weights(4, 256)
    spoilt = raw[:20] + b"\xc0\x7f" + raw[22:]
    source = write_file(tmp_path / "in" / "m.safetensors", {"a.weight": ("BF16", shape, spoilt)})
    with pytest.raises(TensorRangeError, match=r"a\.weight holds 1 values that are NaN"):
        export(plan_export(source, tmp_path / "m.gguf", Runtime.GGUF, "q8_0"))
    large = write_file(
        tmp_path / "in" / "l.safetensors", {"a.weight": ("F32", (1, 1), b"\xff\xff\x7f\x7f")}
    )
    with pytest.raises(TensorRangeError, match="cannot hold"):
        export(plan_export(large, tmp_path / "m.gguf", Runtime.GGUF, "none"))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_verify_finds_what_was_changed(source: Path, tmp_path: Path) -> None:
    """A block replaced by noise is named; a file of other tensors is not taken for an export."""
    target = tmp_path / "m.gguf"
    plan = plan_export(source, target, Runtime.GGUF, "q8_0")
    export(plan)
    assert is_export(target)
    assert not is_export(source)
    assert verify_export(source, target).same
    place = plan.tensors[2].pieces[0]
    with target.open("r+b") as file:
        file.seek(len(plan.head) + place.begin)
        file.write(random.Random(1).randbytes(3400))
    (difference,) = verify_export(source, target).differences
    assert difference.tensor == "transformer.layers.0.self_attn.in_proj_weight"


def test_verify_names_values_that_are_not_finite(source: Path, tmp_path: Path) -> None:
    """A scale that became NaN: the other values alone are near enough."""
    target = tmp_path / "m.gguf"
    plan = plan_export(source, target, Runtime.GGUF, "q8_0")
    export(plan)
    with target.open("r+b") as file:
        file.seek(len(plan.head) + plan.tensors[2].pieces[0].begin)
        file.write(b"\x7f\x7f")
    (difference,) = verify_export(source, target).differences
    assert "32 values are NaN or infinite" in difference.message


def test_empty_tensors_and_single_values_are_exported(tmp_path: Path) -> None:
    """Shapes without rows, without dimensions, and rows that no block divides."""
    odd = np.array([-0.0, 1e-40, 3, 65504], "<f4").tobytes()
    source = write_file(
        tmp_path / "in.safetensors",
        {
            "none.weight": ("BF16", (0, 32), b""),
            "scalar": ("F32", (), odd[8:12]),
            "odd.weight": ("F32", (1, 4), odd),
            "row.weight": ("BF16", (2, 32), b"\x80\x80" * 32 + b"\x01\x00" * 32),
        },
    )
    target = tmp_path / "m.gguf"
    totals = export(plan_export(source, target, Runtime.GGUF, "q8_0")).totals
    header = read_gguf_header(target)
    assert {name: one.dtype for name, one in header.tensors.items()} == {
        "none.weight": "Q8_0", "scalar": "F32", "odd.weight": "F32", "row.weight": "Q8_0"
    }  # fmt: skip
    assert (totals.elements, totals.not_finite, totals.overflowed) == (69, 0, 0)
    assert verify_export(source, target).same


def test_verify_accepts_another_encoder_of_the_same_error(source: Path, tmp_path: Path) -> None:
    """One code in 32 moved by one step is within the encoding's own error."""
    target = tmp_path / "m.gguf"
    plan = plan_export(source, target, Runtime.GGUF, "q4_0")
    export(plan)
    place = plan.tensors[2].pieces[0]
    with target.open("r+b") as file:
        file.seek(len(plan.head) + place.begin + 2)
        (code,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([code ^ 1]))
    assert verify_export(source, target).same


def test_a_moshi_mlx_file_of_a_tts_model_is_refused(tmp_path: Path) -> None:
    """moshi_mlx reads the published file of a TTS model, and quantises it itself."""
    source = write_file(tmp_path / "m.safetensors", {"depformer_in.0.weight": weights(4, 256)})
    with pytest.raises(InputError, match="as published"):
        plan_export(source, tmp_path / "m.q8.safetensors", Runtime.MLX, "q8")


def test_an_old_journal_is_not_used(source: Path, tmp_path: Path) -> None:
    """A journal of another source says nothing about this target."""
    plan = plan_export(source, tmp_path / "m.gguf", Runtime.GGUF, "q8_0")
    plan.journal_path.write_text(f"{json.dumps('another key')}\n{{}}\n")
    assert export(plan).resumed_tensors == 0
    assert not plan.journal_path.exists()
    assert verify_export(source, plan.target).same
