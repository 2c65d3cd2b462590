"""CUDA kernels: they compile here where NVRTC is, and on a card compute what PyTorch does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dsmops.dtypes import ComputeDType, Quant, Quantised
from dsmops.models import STT_MODELS
from dsmops.worker.models import kernels
from dsmops.worker.models.attention import (
    KeysValues,
    RingState,
    attend,
    init_ring,
    plan_positions,
    rotate,
)
from dsmops.worker.models.kernels import attention, compile_for, matrix
from dsmops.worker.models.matrix import (
    Int8Matrix,
    add_product_,
    multiply,
    multiply_into,
    quantise,
    values,
)
from dsmops.worker.models.state import RowState

CUDA = torch.device("cuda:0")
PERIOD = 10_000.0


@pytest.mark.parametrize(
    ("version", "extra"), [("12.8", "kernels-cu12"), ("13.0", "kernels"), (None, "kernels")]
)
def test_the_extra_goes_with_the_cuda_of_torch(
    monkeypatch: pytest.MonkeyPatch, version: str | None, extra: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", version)
    assert kernels.extra() == extra


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("attention.cu", "attend<f16, signed char, 128, 4, true>"),
        ("attention.cu", "attend<f16, f16, 64, 16, false>"),
        ("matrix.cu", "multiply_few<f16, signed char, 8>"),
        ("matrix.cu", "write_out<float>"),
        ("tensor_cores.cu", matrix.name_of(matrix._SHARES[8], torch.float16)),
        ("tensor_cores.cu", matrix.name_of(matrix._SHARES[64], torch.float16)),
        ("tensor_cores.cu", matrix.name_of(matrix._SHARES[128], torch.float16)),
    ],
)
def test_kernels_compile_for_turing(source: str, name: str) -> None:
    """Machine code for `sm_75`: no instruction is newer than the oldest card with tensor cores for
    int8.
    """
    pytest.importorskip("cuda.core", reason="the extra `kernels` is not installed")
    pytest.importorskip("cuda.bindings.nvrtc")
    try:
        compiled = compile_for("sm_75", source, name)
    except RuntimeError as exc:
        pytest.skip(f"NVRTC is not here: {exc}")
    assert bytes(compiled.code).startswith(b"\x7fELF")


def test_every_kernel_is_shipped() -> None:
    folder = Path(kernels.__file__).parent
    for source in (attention._SOURCE, matrix._SOURCE, matrix._TENSOR_CORES, kernels._HEADER):
        assert (folder / source).is_file()


def test_without_a_card_there_are_no_kernels() -> None:
    cpu = torch.device("cpu")
    assert kernels.why_not(cpu) == "it is not a CUDA device"
    entries = KeysValues.zeros(RowState(1, cpu), 2, 8, 64, torch.float32, Quant.INT8)
    assert not entries.in_kernel


@pytest.fixture
def seeded() -> torch.Generator:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    if why := kernels.why_not(CUDA):
        pytest.fail(f"the kernels cannot run: {why}")
    return torch.Generator(CUDA).manual_seed(1)


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 6e-3, torch.float32: 3e-4}
"""Of results rounded to a dtype; in float32, of queries of 14 bits."""


def exact_attention(query: Tensor, entries: KeysValues, seen: Tensor) -> Tensor:
    """Return what a query [B, H, 1, D] reads of the entries that `seen` [B, positions] marks."""
    read = entries.stored.double()
    if entries.scales is not None:
        read = read * (entries.scales.double() / 127)[..., None]
    mask = torch.zeros(seen.shape, dtype=torch.float64, device=CUDA).masked_fill_(~seen, -torch.inf)
    scores = query.double() @ read[:, :, 0].transpose(-1, -2) * query.shape[-1] ** -0.5
    return (scores + mask[:, None, None]).softmax(-1) @ read[:, :, 1]


@pytest.mark.gpu
@pytest.mark.parametrize("kv", Quant)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("head_dim", [16, 32, 64, 128])
@pytest.mark.parametrize(("rows", "heads"), [(1, 2), (5, 4), (70, 16)])
def test_attention_to_a_ring(
    seeded: torch.Generator, dtype: torch.dtype, head_dim: int, rows: int, heads: int, kv: Quant
) -> None:
    """Streams of all ages, among them empty and wrapped ones: the ring is written as PyTorch writes
    it, and what is read is that of float64.
    """
    context, capacity = 45, 48
    ring = init_ring(RowState(rows, CUDA), 1, heads, head_dim, context, dtype, kv)
    held = ring.entries[0]
    assert held.in_kernel
    assert held.positions == capacity
    twin = KeysValues(
        held.stored.clone(), held.scales if held.scales is None else held.scales.clone()
    )
    ring.offset.copy_(
        torch.randint(0, 3, (rows,), generator=seeded, device=CUDA)
        * torch.randint(0, 60, (rows,), generator=seeded, device=CUDA)
    )
    for _ in range(60):
        packed = torch.randn(rows, 1, 3 * heads * head_dim, generator=seeded, device=CUDA)
        packed = packed.to(dtype)
        at = plan(ring, head_dim, context, dtype)
        reference = plan(RingState(ring.offset, [twin]), head_dim, context, dtype)
        assert at.mask is None
        assert reference.slots is not None
        got = attention.attend_to_ring(
            packed, at.rotation, ring.offset, held.stored, held.scales, at.context
        )
        parts = packed.unflatten(-1, (3, heads, head_dim)).permute(0, 3, 2, 1, 4)
        turned = rotate(parts[:, :, :2], at.rotation[:, None])
        twin.write(reference.slots, torch.stack([turned[:, :, 1], parts[:, :, 2]], dim=2))
        if held.scales is None or twin.scales is None:
            torch.testing.assert_close(held.stored, twin.stored)
        else:
            # A sum of two products may be rounded once or twice, which moves a code by one.
            assert int((held.stored.int() - twin.stored.int()).abs().max()) <= 1
            assert float((held.stored != twin.stored).float().mean()) < 2e-3
            torch.testing.assert_close(held.scales, twin.scales, rtol=8e-3, atol=0)
        entries = torch.arange(capacity, device=CUDA)
        age = (ring.offset[:, None] - entries) % capacity
        seen = (age <= ring.offset[:, None]) & (age < context)
        wanted = exact_attention(turned[:, :, 0], held, seen)
        assert error(got, wanted.transpose(1, 2).flatten(-2)) < TOLERANCE[dtype]
        read = attend(turned[:, :, 0], *held.read(dtype, reference.filled), reference.mask)
        assert error(got, read.transpose(1, 2).flatten(-2)) < 3 * TOLERANCE[dtype]
        ring.offset.add_(1)


def plan(ring: RingState, head_dim: int, context: int, dtype: torch.dtype):
    return plan_positions(
        1,
        head_dim=head_dim,
        context=context,
        period=PERIOD,
        dtype=dtype,
        device=CUDA,
        ring=ring,
    )


@pytest.mark.gpu
@pytest.mark.parametrize("kv", Quant)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "length"), [(1, 625), (40, 625), (300, 7)])
def test_attention_to_a_voice(
    seeded: torch.Generator, dtype: torch.dtype, rows: int, length: int, kv: Quant
) -> None:
    """All positions are seen, also where their number is not a multiple of anything."""
    heads, head_dim = 4, 128
    state = RowState(rows, CUDA)
    entries = KeysValues.zeros(state, heads, length, head_dim, dtype, kv)
    for row in range(rows):
        new = torch.randn(heads, 2, length, head_dim, generator=seeded, device=CUDA)
        entries.put(row, (2 * new).to(dtype))
    query = torch.randn(rows, 1, heads * head_dim, generator=seeded, device=CUDA).to(dtype)
    got = attention.attend_to_all(query, entries.stored, entries.scales)
    seen = torch.ones(rows, length, dtype=torch.bool, device=CUDA)
    wanted = exact_attention(query.unflatten(-1, (heads, head_dim)).transpose(1, 2), entries, seen)
    assert error(got, wanted.transpose(1, 2).flatten(-2)) < TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("kv", Quant)
def test_what_is_not_finite_stays_with_its_stream(seeded: torch.Generator, kv: Quant) -> None:
    """NaN and infinity in a key, value or query reach what the stream reads, and no other's."""
    ring = init_ring(RowState(7, CUDA), 1, 2, 64, 16, torch.float16, kv)
    held = ring.entries[0]
    packed = torch.randn(7, 1, 3, 2, 64, generator=seeded, device=CUDA).half()
    for part in range(3):
        packed[2 * part, :, part, :, 5] = torch.nan
    packed[1, :, 0, :, 7] = torch.inf
    packed[3, :, 1, :, 7] = -torch.inf
    at = plan(ring, 64, 16, torch.float16)
    got = attention.attend_to_ring(
        packed.flatten(2), at.rotation, ring.offset, held.stored, held.scales, at.context
    )
    assert got.isfinite().flatten(1).all(-1).tolist() == [False] * 5 + [True] * 2


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (2048, 2048), (1024, 5632), (24, 1040)])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 31, 33, 64, 65, 128, 257])
def test_products(
    seeded: torch.Generator, dtype: torch.dtype, rows: int, columns: int, count: int
) -> None:
    """Of few, many and very many streams, alone and added; the matrix as it is held in int8."""
    weights = torch.randn(rows, columns, generator=seeded, device=CUDA) * columns**-0.5
    codes, largest = quantise(weights)
    x = torch.randn(count, columns, generator=seeded, device=CUDA).to(dtype)
    assert matrix.can_multiply(x, codes)
    wanted = x.double() @ (codes.double() * (largest.double() / 127)[:, None]).t()
    assert error(matrix.product(x, codes, largest), wanted) < 2 * TOLERANCE[dtype]
    given = torch.randn(count, rows, generator=seeded, device=CUDA).to(dtype)
    added = matrix.product(x, codes, largest, add_to=given.clone())
    assert error(added, wanted + given.double()) < 2 * TOLERANCE[dtype]
    written_out = matrix.written_out(codes, largest, dtype)
    torch.testing.assert_close(written_out, values(codes, largest).to(dtype), rtol=0.01, atol=0)
    assert error(written_out, values(codes, largest)) < 2 * TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "columns"), [(3, 1024), (3072, 1040), (2048, 5632)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_products_with_a_plain_matrix(
    seeded: torch.Generator, dtype: torch.dtype, rows: int, columns: int, count: int
) -> None:
    """Returned, written to a place and added; three rows are for cuBLAS."""
    weights = (torch.randn(rows, columns, generator=seeded, device=CUDA) * columns**-0.5).to(dtype)
    x = torch.randn(1, count, columns, generator=seeded, device=CUDA).to(dtype)
    wanted = x.double() @ weights.double().t()
    with torch.inference_mode():
        assert matrix.is_few(x, weights) is (count < 3)
        assert error(multiply(x, weights), wanted) < 2 * TOLERANCE[dtype]
        into = torch.full((count, 2, rows), 7.0, device=CUDA, dtype=dtype)
        multiply_into(into[:, 1], x[0], weights)
        assert error(into[:, 1], wanted[0]) < 2 * TOLERANCE[dtype]
        assert bool((into[:, 0] == 7).all())
        given = into[:, 1].contiguous()
        add_product_(given, x[0], weights)
        assert error(given, 2 * wanted[0]) < 2 * TOLERANCE[dtype]


@pytest.mark.gpu
def test_a_matrix_on_a_card_is_that_of_the_reference(seeded: torch.Generator) -> None:
    with CUDA:
        held = Int8Matrix(64, 128)
    weights = torch.randn(64, 128, generator=seeded, device=CUDA)
    held.fill(*quantise(weights))
    x = torch.randn(3, 2, 128, generator=seeded, device=CUDA).half()
    assert error(held(x), x.float() @ held.written_out().t()) < 1e-3
    with torch.inference_mode():
        y = torch.zeros(6, 64, device=CUDA).half()
        held.add_product_(y, x.flatten(0, 1))
    assert torch.equal(y.view(3, 2, 64), held(x))


@pytest.mark.gpu
@pytest.mark.parametrize("kv", Quant)
@pytest.mark.parametrize("model", ["stt-1b-en_fr", "stt-2.6b-en"])
def test_a_captured_step_computes_what_an_eager_one_does(
    seeded: torch.Generator, model: str, kv: Quant
) -> None:
    """Two layers at full width: the captured step, Mimi beside it, against PyTorch's arithmetic."""
    import numpy as np

    from dsmops.worker.models.random import random_stt
    from dsmops.worker.runtime.stt.engine import SttEngine

    shape = replace(STT_MODELS[model].shape, num_layers=2, context=20)
    int8 = Quantised(Quant.INT8, kv)
    loaded = random_stt(shape, CUDA, ComputeDType.F16, quantised=int8)
    engines = [SttEngine(loaded, 3), SttEngine(loaded, 3, cuda_graph=False)]
    engines[1]._ring.entries[:] = [
        replace(entries, in_kernel=False) for entries in engines[1]._ring.entries
    ]
    rng = np.random.default_rng(5)
    for step in range(45):
        pcm = rng.standard_normal((3, 1920), dtype=np.float32) / 10
        mask = np.array([True, step % 3 > 0, step > 25])
        forced = rng.integers(5, 100, 3)
        outputs = [engine.step(pcm, mask, forced) for engine in engines]
        assert torch.equal(engines[0].codes, engines[1].codes)
        assert all(output.finite[mask].all() for output in outputs)
        assert error(engines[0].logits[mask], engines[1].logits[mask]) < 0.01
        with torch.inference_mode():
            engines[1]._last_text.copy_(engines[0]._last_text)
