"""A stream fed piece by piece gives what one pass over the whole gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsmops.worker.models.convolution import CausalConv, CausalConvTranspose
from dsmops.worker.models.mimi import MimiConfig, MimiDecoder, MimiEncoder
from dsmops.worker.models.state import RowState
from tests.support.networks import (
    CPU,
    MIMI_BODY,
    STT_BODY,
    LmRows,
    every_row,
    load_lm,
    load_mimi,
    write_mimi,
    write_stt,
)
from tests.support.tolerances import LOGITS, MIMI, PAUSES

ROWS = 3
FRAME = 96
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def stt_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny language model's weights."""
    return write_stt(tmp_path_factory.mktemp("stt") / "model.safetensors")


@pytest.fixture(scope="module")
def wide_mimi(tmp_path_factory: pytest.TempPathFactory) -> tuple[MimiEncoder, MimiDecoder]:
    """The tiny Mimi with a window of 25 frames instead of 5; weights do not depend on it."""
    config = MIMI_BODY | {"transformer": MIMI_BODY["transformer"] | {"context": 50}}
    return load_mimi(
        write_mimi(tmp_path_factory.mktemp("mimi") / "mimi.safetensors", config=config)
    )


def _in_pieces(x: Tensor, lengths: list[int], step: Callable[[Tensor], Tensor]) -> Tensor:
    assert sum(lengths) == x.shape[-1]
    return torch.cat([step(piece) for piece in x.split(lengths, dim=-1)], dim=-1)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("context", [1, 5, 12, 16])
def test_language_model(stt_file: Path, context: int, dtype: torch.dtype) -> None:
    """Forty single steps give the logits and pauses of one pass over the same tokens, the ring
    wrapped several times.
    """
    lm = load_lm(stt_file, STT_BODY | {"context": context}, dtype=dtype)
    generator = torch.Generator().manual_seed(context)
    audio = torch.randint(32, (ROWS, 4, 40), generator=generator)
    said = torch.randint(48, (ROWS, 40), generator=generator)
    rows = LmRows(lm, ROWS)
    steps = [rows.step(audio[..., t], say=said[:, t]) for t in range(40)]
    text = torch.cat([torch.full((ROWS, 1), lm.initial_text), said[:, :-1]], dim=1)
    heard = torch.cat([torch.full((ROWS, 4, 1), lm.initial_audio), audio[..., 1:]], dim=-1)
    logits, states = lm(text, heard)
    torch.testing.assert_close(
        torch.stack([step.logits for step in steps], 1), logits, atol=LOGITS[dtype], rtol=0
    )
    streamed = torch.stack([step.pauses for step in steps if step.pauses is not None], 1)
    torch.testing.assert_close(streamed, lm.pause_probabilities(states), atol=PAUSES[dtype], rtol=0)


@pytest.mark.slow
@torch.no_grad()
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_language_model_in_pieces(stt_file: Path, lengths: list[int]) -> None:
    """Several steps a call, however they are cut, are a whole pass as long as the window holds
    them.
    """
    lm = load_lm(stt_file, STT_BODY | {"context": 25})
    total = sum(lengths)
    generator = torch.Generator().manual_seed(total)
    audio, text = (
        torch.randint(33, (2, 4, total), generator=generator),
        torch.randint(49, (2, total), generator=generator),
    )
    state = RowState(2, CPU)
    ring = lm.init_state(state)
    pieces = zip(text.split(lengths, dim=-1), audio.split(lengths, dim=-1), strict=True)
    streamed = torch.cat(
        [lm(words, codes, ring, every_row(2))[0] for words, codes in pieces], dim=1
    )
    torch.testing.assert_close(streamed, lm(text, audio)[0], atol=LOGITS[torch.float32], rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("hours", "limit"), [(0.25, 2e-4), (24, 0.02)])
def test_long_stream(stt_file: Path, hours: float, limit: float) -> None:
    """A stream that has run for hours gives what it gave at first: only distances between
    positions count, but for float32 angles.
    """
    lm = load_lm(stt_file)
    fresh, late = LmRows(lm, 1), LmRows(lm, 1)
    late.ring.offset.fill_(int(hours * 3600 * 12.5))
    generator = torch.Generator().manual_seed(4)
    for step in range(50):
        codes, said = (
            torch.randint(32, (1, 4), generator=generator),
            torch.randint(48, (1,), generator=generator),
        )
        one, other = fresh.step(codes, say=said), late.step(codes, say=said)
        # Two layers of 12 positions: from then on nothing is left of the empty ring that the late
        # stream began with.
        if step > 24:
            torch.testing.assert_close(one.logits, other.logits, atol=limit, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_language_model_in_16_bits(stt_file: Path, dtype: torch.dtype) -> None:
    """In 16 bits the logits are those of float32 but for what so few bits lose.

    They come in the model's dtype.
    """
    narrow, wide = (LmRows(load_lm(stt_file, dtype=kind), ROWS) for kind in (dtype, torch.float32))
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        codes, said = (
            torch.randint(32, (ROWS, 4), generator=generator),
            torch.randint(48, (ROWS,), generator=generator),
        )
        one, other = narrow.step(codes, say=said), wide.step(codes, say=said)
        assert one.logits.dtype == dtype
        torch.testing.assert_close(one.logits.float(), other.logits, atol=LOGITS[dtype], rtol=0)


@pytest.mark.slow
@torch.no_grad()
@settings(max_examples=60)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_mimi(wide_mimi: tuple[MimiEncoder, MimiDecoder], lengths: list[int]) -> None:
    """Latents, codes and PCM of a stream of frames, however many a call, are those of the whole
    inside the window.
    """
    encoder, decoder = wide_mimi
    frames = [FRAME * length for length in lengths]
    pcm = 0.5 * torch.randn(
        ROWS, 1, sum(frames), generator=torch.Generator().manual_seed(len(lengths))
    )
    rows, mask = RowState(ROWS, CPU), every_row(ROWS)
    first, second, third = (
        encoder.init_state(rows),
        encoder.init_state(rows),
        decoder.init_state(rows),
    )
    latents, codes = encoder.latents(pcm), encoder.encode(pcm, 8)
    torch.testing.assert_close(
        _in_pieces(pcm, frames, lambda x: encoder.latents(x, first, mask)),
        latents,
        atol=MIMI,
        rtol=0,
    )
    assert torch.equal(_in_pieces(pcm, frames, lambda x: encoder.encode(x, 8, second, mask)), codes)
    streamed = _in_pieces(codes, lengths, lambda x: decoder.decode(x, third, mask))
    torch.testing.assert_close(streamed, decoder.decode(codes), atol=MIMI, rtol=0)


@torch.no_grad()
def test_mimi_leaves_the_window(tmp_path: Path) -> None:
    """With the tiny window of five frames stream and whole agree for five frames and not longer:
    of a frame's two latents, the first loses one key to the second, as upstream has it.
    """
    encoder, _ = load_mimi(write_mimi(tmp_path / "mimi.safetensors"))
    pcm = 0.5 * torch.randn(1, 1, 12 * FRAME, generator=torch.Generator().manual_seed(1))
    state = encoder.init_state(RowState(1, CPU))
    streamed = _in_pieces(pcm, [FRAME] * 12, lambda x: encoder.latents(x, state, every_row(1)))
    apart = (streamed - encoder.latents(pcm)).abs().amax((0, 1))
    assert apart[:5].max() < MIMI
    assert 1e-4 < apart[5:].max() < 0.5


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_fewer_codebooks(wide_mimi: tuple[MimiEncoder, MimiDecoder], count: int) -> None:
    """The first codes are the same however many are asked for, and as few as one can be decoded."""
    encoder, decoder = wide_mimi
    pcm = 0.5 * torch.randn(1, 1, 4 * FRAME, generator=torch.Generator().manual_seed(2))
    codes = encoder.encode(pcm, count)
    assert torch.equal(codes, encoder.encode(pcm, 8)[:, :count])
    assert decoder.decode(codes).shape == pcm.shape


def test_quantizer_takes_the_nearest(wide_mimi: tuple[MimiEncoder, MimiDecoder]) -> None:
    """Each code is the nearest centroid to what the codes before it left, computed the slow way in
    float64.
    """
    encoder, _ = wide_mimi
    latents = torch.randn(2, 32, 50, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        codes = encoder.quantizer.encode(latents, 8)
    for quantizer, own in (
        (encoder.quantizer.rvq_first, codes[:, :1]),
        (encoder.quantizer.rvq_rest, codes[:, 1:]),
    ):
        left = torch.einsum(
            "dw,bwt->btd", quantizer.input_proj.weight[..., 0].double(), latents.double()
        )
        for codebook, code in zip(quantizer.codebooks.double(), own.unbind(1), strict=True):
            assert torch.equal((left[..., None, :] - codebook).square().sum(-1).argmin(-1), code)
            left = left - codebook[code]


@st.composite
def _cuts(draw: st.DrawFn) -> list[int]:
    return draw(st.lists(st.integers(1, 6), min_size=1, max_size=8))


def _randomised(layer: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 4


@pytest.mark.slow
@torch.no_grad()
@given(_cuts(), st.integers(1, 5), st.integers(0, 9), st.booleans(), st.booleans())
def test_convolution(
    cuts: list[int], stride: int, left: int, bias: bool, repeat_first: bool
) -> None:
    """A convolution of any kernel and stride gives the same wherever its input is cut.

    Its output does not see the future.
    """
    layer = CausalConv(3, 4, stride + left, stride, bias=bias, repeat_first=repeat_first)
    _randomised(layer, stride)
    x = torch.randn(2, 3, stride * sum(cuts), generator=torch.Generator().manual_seed(left))
    whole = layer(x)
    assert whole.shape == (2, 4, sum(cuts))
    state = layer.init_state(RowState(2, CPU))
    pieces = [stride * cut for cut in cuts]
    torch.testing.assert_close(
        _in_pieces(x, pieces, lambda part: layer(part, state, every_row(2))),
        whole,
        atol=1e-5,
        rtol=0,
    )
    torch.testing.assert_close(layer(x[..., :stride]), whole[..., :1], atol=1e-5, rtol=0)
    start = x[..., :1].expand(-1, -1, left) if repeat_first else torch.zeros(2, 3, left)
    padded = torch.nn.functional.conv1d(
        torch.cat([start, x], dim=-1), layer.weight, layer.bias, stride=stride
    )
    torch.testing.assert_close(padded, whole, atol=1e-5, rtol=0)


@pytest.mark.slow
@torch.no_grad()
@given(_cuts(), st.integers(1, 6), st.booleans(), st.booleans(), st.booleans())
def test_transposed_convolution(
    cuts: list[int], stride: int, bias: bool, depthwise: bool, prepared: bool
) -> None:
    """A transposed convolution is torch's, but for the last stride of outputs, and gives the same
    wherever its input is cut.
    """
    layer = CausalConvTranspose(4, 4, stride, bias=bias, depthwise=depthwise)
    _randomised(layer, stride)
    if prepared:
        layer.prepare()
    x = torch.randn(2, 4, sum(cuts), generator=torch.Generator().manual_seed(stride))
    whole = layer(x)
    assert whole.shape == (2, 4, stride * sum(cuts))
    state = layer.init_state(RowState(2, CPU))
    torch.testing.assert_close(
        _in_pieces(x, cuts, lambda part: layer(part, state, every_row(2))), whole, atol=1e-5, rtol=0
    )
    raw = torch.nn.functional.conv_transpose1d(
        x, layer.weight, layer.bias, stride=stride, groups=4 if depthwise else 1
    )
    torch.testing.assert_close(raw[..., :-stride], whole, atol=1e-5, rtol=0)


def test_full_size_state() -> None:
    """A slot of the released Mimi remembers 11,526 values in its encoder's convolutions, 12,672 in
    its decoder's, and one flag.
    """
    meta = torch.device("meta")
    ring = (
        2 * 8 * 8 * 256 * 64 * 4 + 8
    )  # keys and values of 8 layers in float32, 250 positions rounded up to 256; a position
    with meta:
        halves = MimiEncoder(MimiConfig()), MimiDecoder(MimiConfig())
    for half, values, flags in zip(halves, (11_526, 12_672), (1, 0), strict=True):
        rows = RowState(1, meta)
        half.init_state(rows)
        assert rows.nbytes == 4 * values + flags + ring
