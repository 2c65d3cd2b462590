"""What the language models of speech-to-text and text-to-speech share: the layers of a causal transformer over frames.

RMS norms, rotary positions, gated SiLU feed-forward, no biases. Norms and rotations are computed in float32 whatever the weights are.
Source: `moshi` 0.2.13, `modules/transformer.py`; parity is tested.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.models import LmShape
from dsmops.worker.models.attention import CrossAttention, Positions, RingState, SelfAttention

_NORM_EPS = 1e-8


class RmsNorm(nn.Module):
    """x · alpha / √(mean(x²) + 1e-8), computed in float32 and rounded once to the dtype of `x` and `alpha` [1, 1, D]."""

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
        gate, up = self.linear_in(x).chunk(2, dim=-1)
        return F.silu(gate) * up


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

    def forward(self, x: Tensor, at: Positions, ring: RingState | None, layer: int, cross: Tensor | None = None) -> Tensor:
        """Return the next `x` [B, T, D], written over the one given. `cross`: what is attended to, as `CrossAttention.project` makes it."""
        x = _add_linear(x, self.self_attn(self.norm1(x), at, ring, layer), self.self_attn.out_proj)
        if self.norm_cross is not None and self.cross_attention is not None:
            x = _add_linear(x, self.cross_attention(self.norm_cross(x), cross), self.cross_attention.out_proj)
        return _add_linear(x, self.gating(self.norm2(x)), self.gating.linear_out)


def _add_linear(x: Tensor, y: Tensor, linear: nn.Linear) -> Tensor:
    """Return x + W·y, summed before the one rounding and written over `x` [B, T, D]."""
    x.flatten(0, 1).addmm_(y.flatten(0, 1), linear.weight.t())
    return x
