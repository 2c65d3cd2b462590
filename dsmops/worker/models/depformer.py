"""The depformer: a small causal transformer over the codebooks of one frame.

Each codebook, or several of them together, has a set of weights. The depformer starts empty at
every step. Each codebook sees the state of the language model, the text token, and the codes chosen
before it.

Source: `moshi` 0.2.13, `models/lm.py`, `depformer_step`; parity is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.models import DepformerShape, TtsShape
from dsmops.worker.models.attention import attend
from dsmops.worker.models.backbone import RmsNorm
from dsmops.worker.models.matrix import (
    Matrix,
    add_product_,
    hold_int8,
    multiply,
    multiply_into,
)

Pick = Callable[[int, Tensor], Tensor]
"""Takes a codebook's number and its logits [R, card]; returns one code per stream, int64 [B], R
being B or a multiple of it."""


class DemuxEmbedding(nn.Module):
    """The embedding of two text streams that share one number.

    For a table of R rows, u = (r + 1)·R + l stands for O1·W[l] + O2·W[r]; the second term only
    where r >= 0. u = -1 is the zero vector. `weight` has a row of zeros behind its R rows, `out`
    holds [O1 | O2].
    """

    def __init__(self, rows: int, inner: int, width: int) -> None:
        super().__init__()
        self.rows = rows
        self.weight = nn.Parameter(torch.empty(rows + 1, inner))
        self.out = nn.Parameter(torch.empty(width, 2 * inner))

    def prepare(self) -> None:
        """Fill the row that no file holds; to be called once the weights are loaded."""
        self.weight[self.rows].zero_()

    def read(self, tokens: Tensor) -> Tensor:
        """Return [..., 2·inner], the input of `out`."""
        left = torch.where(tokens < 0, self.rows, tokens % self.rows)
        right = torch.where(tokens < self.rows, self.rows, tokens // self.rows - 1)
        return F.embedding(torch.stack([left, right], dim=-1), self.weight).flatten(-2)


class DepformerLayer(nn.Module):
    """One layer's weights, all sets of them stacked; the norms are shared."""

    in_proj: Tensor | nn.ModuleList
    out_proj: Tensor | nn.ModuleList
    linear_in: Tensor | nn.ModuleList
    linear_out: Tensor | nn.ModuleList

    def __init__(self, shape: DepformerShape, sets: int) -> None:
        super().__init__()
        width, hidden = shape.d_model, shape.ffn_hidden
        self.heads = shape.num_heads
        self.norm1 = RmsNorm(width)
        self.norm2 = RmsNorm(width)
        self.in_proj = nn.Parameter(torch.empty(sets, 3 * width, width))
        self.out_proj = nn.Parameter(torch.empty(sets, width, width))
        self.linear_in = nn.Parameter(torch.empty(sets, 2 * hidden, width))
        self.linear_out = nn.Parameter(torch.empty(sets, width, hidden))

    def forward(self, x: Tensor, past: Tensor, codebook: int, weight_set: int) -> Tensor:
        """Advance `x` [R, width], which is overwritten, by one codebook.

        `past` [R, K, 3·width] holds [Q | K | V] of each codebook.
        """
        # The product writes straight into its place, so that keys and values are never copied.
        in_proj = cast("Matrix", self.in_proj[weight_set])
        multiply_into(past[:, codebook], self.norm1(x), in_proj)
        query, key, value = past.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = (
            query[:, :, codebook : codebook + 1],
            key[:, :, : codebook + 1],
            value[:, :, : codebook + 1],
        )
        # The first codebook sees itself alone.
        seen = attend(query, key, value, None) if codebook else value
        x = add_product_(x, seen.flatten(1), cast("Matrix", self.out_proj[weight_set]))
        linear_in = cast("Matrix", self.linear_in[weight_set])
        gate, up = multiply(self.norm2(x), linear_in).chunk(2, dim=-1)
        return add_product_(x, F.silu(gate).mul_(up), cast("Matrix", self.linear_out[weight_set]))

    def hold_int8(self) -> None:
        """Keep the weights in int8, as `matrix.hold_int8` does."""
        for name in ("in_proj", "out_proj", "linear_in", "linear_out"):
            hold_int8(self, name)


class Depformer(nn.Module):
    """The first `codebooks` codebooks of a depformer.

    `inputs`: [sets · width, D], from the language model's state. `emb`: [K - 1, card + 1, rank]
    with `low_rank` [K - 1, width, rank]; `tables`: their products [K - 1, card + 1, width], which
    save a product for every codebook. `heads`: [K, card, width].
    """

    tables: Tensor

    def __init__(self, shape: TtsShape, codebooks: int) -> None:
        super().__init__()
        inner = shape.depformer
        self.schedule = inner.schedule[:codebooks]
        sets = max(self.schedule) + 1
        self.inputs = nn.Parameter(torch.empty(sets * inner.d_model, shape.lm.d_model))
        self.text_emb = DemuxEmbedding(shape.lm.text_in_vocab_size, inner.low_rank, inner.d_model)
        self.emb = nn.Parameter(
            torch.empty(codebooks - 1, shape.lm.audio_vocab_size, inner.low_rank)
        )
        self.low_rank = nn.Parameter(torch.empty(codebooks - 1, inner.d_model, inner.low_rank))
        self.layers = nn.ModuleList(DepformerLayer(inner, sets) for _ in range(inner.num_layers))
        self.heads = nn.Parameter(
            torch.empty(codebooks, shape.lm.audio_vocab_size - 1, inner.d_model)
        )
        self.register_buffer("tables", torch.empty(0), persistent=False)

    def prepare(self) -> None:
        """Derive what no file holds; to be called once the weights are loaded."""
        self.text_emb.prepare()
        self.tables = torch.bmm(self.emb, self.low_rank.transpose(1, 2))

    def forward(self, states: Tensor, text: Tensor, pick: Pick) -> Tensor:
        """Return the codes int64 [B, K] that `pick` chose.

        `states` is [R, D], and `text`, the multiplexed text tokens, int64 [B].
        """
        count, width, times = len(self.schedule), self.heads.shape[-1], len(states) // len(text)
        starts = F.linear(states, self.inputs).unflatten(-1, (-1, width))
        pasts = [states.new_empty(len(states), count, 3 * width) for _ in self.layers]

        def for_all(tokens: Tensor) -> Tensor:
            return tokens.repeat(times) if times > 1 else tokens

        codes: list[Tensor] = []
        told = F.linear(self.text_emb.read(for_all(text)), self.text_emb.out)
        for codebook, weight_set in enumerate(self.schedule):
            if codebook:
                told = F.embedding(for_all(codes[-1]), self.tables[codebook - 1])
            x = starts[:, weight_set] + told
            for layer, past in zip(self.layers, pasts, strict=True):
                x = layer(x, past, codebook, weight_set)
            codes.append(pick(codebook, multiply(x, self.heads[codebook])))
        return torch.stack(codes, dim=1)
