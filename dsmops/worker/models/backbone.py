"""The transformer that the STT and TTS language models share, causal over frames.

It has RMS norms, rotary positions, a gated SiLU feed-forward and no biases. Norms and rotations are
computed in float32, whatever the dtype of the weights.

Source: `moshi` 0.2.13, `modules/transformer.py`; parity is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.dtypes import Quant
from dsmops.models import LmShape
from dsmops.worker.models.attention import (
    CrossAttention,
    KeysValues,
    Positions,
    RingState,
    SelfAttention,
    init_ring,
    plan_positions,
)
from dsmops.worker.models.matrix import add_product_, hold_int8, multiply
from dsmops.worker.models.state import RowState

_NORM_EPS = 1e-8


class RmsNorm(nn.Module):
    """x · alpha / √(mean(x²) + 1e-8), rounded once.

    Computed in float32, then rounded to the dtype of `x` and `alpha` [1, 1, D].
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.alpha.shape[-1:], self.alpha.view(-1), _NORM_EPS)


class GatedFeedForward(nn.Module):
    """W_out·(silu(a) · b), [a; b] = W_in·x."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(width, 2 * hidden, bias=False)
        self.linear_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return what `linear_out` reads."""
        gate, up = multiply(x, self.linear_in.weight).chunk(2, dim=-1)
        return F.silu(gate) * up

    def hold_int8(self) -> None:
        """Keep the weights in int8, as `matrix.hold_int8` does."""
        hold_int8(self.linear_in, "weight")
        hold_int8(self.linear_out, "weight")


class Layer(nn.Module):
    """x + Attn(norm1(x)), with `cross` then x + Cross(norm_cross(x)), then x + FF(norm2(x))."""

    def __init__(self, shape: LmShape, *, cross: bool = False) -> None:
        super().__init__()
        self.norm1 = RmsNorm(shape.d_model)
        self.self_attn = SelfAttention(shape.d_model, shape.num_heads)
        self.norm_cross = nn.LayerNorm(shape.d_model, eps=1e-5) if cross else None
        self.cross_attention = CrossAttention(shape.d_model, shape.num_heads) if cross else None
        self.norm2 = RmsNorm(shape.d_model)
        self.gating = GatedFeedForward(shape.d_model, shape.ffn_hidden)

    def forward(
        self,
        x: Tensor,
        at: Positions,
        ring: RingState | None,
        layer: int,
        cross: KeysValues | None = None,
    ) -> Tensor:
        """Return the next `x` [B, T, D], written over the one given.

        `cross`: what is attended to, as `CrossAttention.project` makes it.
        """
        x = _add_linear(x, self.self_attn(self.norm1(x), at, ring, layer), self.self_attn.out_proj)
        if self.norm_cross is not None and self.cross_attention is not None:
            x = _add_linear(
                x, self.cross_attention(self.norm_cross(x), cross), self.cross_attention.out_proj
            )
        return _add_linear(x, self.gating(self.norm2(x)), self.gating.linear_out)


def _add_linear(x: Tensor, y: Tensor, linear: nn.Linear) -> Tensor:
    """Return x + W·y, written over `x` [B, T, D]."""
    add_product_(x.flatten(0, 1), y.flatten(0, 1), linear.weight)
    return x


class Backbone(nn.Module):
    """The transformer of a language model, from the sum of a step's embeddings to text logits.

    Subclasses embed the inputs.

    The audio tables of all K codebooks are one, in which codebook q starts at row q ·
    audio_vocab_size. The last row of each table, and of the text table, is the initial token.
    `cross`: every layer attends to a sequence that the stream keeps, too.
    """

    def __init__(self, shape: LmShape, max_period: float, *, cross: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.max_period = max_period
        self.kv = Quant.NONE
        """How streams keep their keys and values."""
        self.head_dim = shape.d_model // shape.num_heads
        self.layers = nn.ModuleList(Layer(shape, cross=cross) for _ in range(shape.num_layers))
        self.out_norm = RmsNorm(shape.d_model)
        self.text_linear = nn.Linear(shape.d_model, shape.text_out_vocab_size, bias=False)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of activations, and of weights and caches that are not in int8."""
        return self.text_linear.weight.dtype

    @property
    def initial_text(self) -> int:
        """The text token of a stream's first step."""
        return self.shape.text_in_vocab_size - 1

    @property
    def initial_audio(self) -> int:
        """The code of every codebook before its first own."""
        return self.shape.audio_vocab_size - 1

    def hold_int8(self) -> None:
        """Keep the matrices of the layers in int8; embeddings, heads and norms stay."""
        for layer in cast("list[Layer]", self.layers):
            layer.self_attn.hold_int8()
            layer.gating.hold_int8()
            if layer.cross_attention is not None:
                layer.cross_attention.hold_int8()

    def init_state(self, rows: RowState) -> RingState:
        """Return empty rings of `context` positions for `rows`."""
        shape = self.shape
        return init_ring(
            rows,
            shape.num_layers,
            shape.num_heads,
            self.head_dim,
            shape.context,
            self.dtype,
            self.kv,
        )

    def audio_rows(self, audio: Tensor) -> Tensor:
        """Return the rows of the audio tables that hold the codes `audio`.

        Both are int64 [B, K, T].
        """
        first_rows = (
            torch.arange(self.shape.audio_codebooks, device=audio.device)[:, None]
            * self.shape.audio_vocab_size
        )
        return audio + first_rows

    def transform(
        self, x: Tensor, ring: RingState | None, cross: Sequence[KeysValues] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return text logits [B, T, V] and normed states [B, T, D] of `x` [B, T, D].

        `x` holds the embedded steps and is overwritten.

        Without `ring` the T steps are a whole stream; with it, each row's next ones, and the caller
        moves `ring.offset` on. `cross`: per layer what it attends to, as `CrossAttention.project`
        makes it.
        """
        at = plan_positions(
            x.shape[1],
            head_dim=self.head_dim,
            context=self.shape.context,
            period=self.max_period,
            dtype=x.dtype,
            device=x.device,
            ring=ring,
        )
        for number, layer in enumerate(self.layers):
            x = layer(x, at, ring, number, None if cross is None else cross[number])
        x = self.out_norm(x)
        return self.text_linear(x), x
