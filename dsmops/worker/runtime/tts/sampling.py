"""Draw tokens so that a stream can be repeated.

A stream's noise is a function of its seed, its own step, the codebook and the token. It does not
depend on the other rows of a batch, on what ran before, or on whether a CUDA graph is replayed, as
a generator's state would. The functions take and return tensors and can be captured.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

_Numbers = TypeVar("_Numbers", int, Tensor)

_MASK = 0xFFFFFFFF
_FIRST, _SECOND = 0x21F0AAAD, 0x735A2D97
"""Multipliers of a 32-bit integer hash of good avalanche (`triple32`'s two-round relative,
Wellons). Both are below 2**31, so a product with 32 bits fits int64."""
_STREAM = 0x2545F491
"""Odd; sets the keys of neighbouring steps and codebooks apart."""


def stream_key(seed: int) -> int:
    """Return the 32-bit key of a stream with this `seed`.

    All 64 bits of a seed matter, and its sign.
    """
    key = 0
    for part in (seed & _MASK, (seed >> 32) & _MASK, (seed >> 64) & _MASK):
        key = mix(key ^ part ^ _STREAM)
    return key


def mix(x: _Numbers) -> _Numbers:
    """Return a hash, 0 to 2**32 - 1, of `x`, or of each number of an int64 tensor.

    Both of the same range.
    """
    for shift, multiplier in ((16, _FIRST), (15, _SECOND)):
        x = ((x ^ (x >> shift)) * multiplier) & _MASK
    return x ^ (x >> 15)


def noise(keys: Tensor, steps: Tensor, first: int, count: int, tokens: int) -> Tensor:
    """Return negative Gumbel noise, float32 [B, count, tokens], for `count` codebooks.

    They are `first` to `first + count - 1`; codebook 0 stands for the text. `keys` int64 [B], from
    `stream_key`; `steps` int64 [B], each row's own. Values lie between -16.7 and 2.9.
    """
    device = keys.device
    codebooks = torch.arange(first, first + count, device=device)
    streams = mix((mix(keys ^ mix(steps + _STREAM))[:, None] + codebooks * _STREAM) & _MASK)
    # From here on the passes are over every token of every codebook, so they are as few as a usable
    # hash allows.
    bits = streams[:, :, None] ^ mix(torch.arange(tokens, device=device) + _STREAM)
    bits = bits.mul_(_FIRST).bitwise_and_(_MASK)
    bits = bits.bitwise_xor_(bits >> 15).mul_(_SECOND).bitwise_and_(_MASK)
    # The upper 23 bits, so that neither 0 nor 1 can come out: -log(-log(u)) stays finite, and 0
    # times it stays 0.
    uniform = (bits >> 9).float().add_(0.5).mul_(2.0**-23)
    return uniform.log_().neg_().log_()


def draw(logits: Tensor, noise: Tensor, temperature: Tensor, top_k: int) -> Tensor:
    """Return one token for each row, int64 [B], drawn from its logits.

    It is drawn from softmax(logits / temperature) among the `top_k` most probable; at temperature 0
    it is the most probable one. `logits` [B, V] of any floating dtype, raised to float32; `noise`
    float32 [B, V], from `noise`; `temperature` float32 [B]. Tokens that tie with the last of the
    most probable count among them, so the choice does not depend on the order in which a device
    sorts.
    """
    size = logits.shape[-1]
    # Of 16-bit logits as they are: the selection goes through a number's bits, two a pass.
    least = logits.kthvalue(size - min(top_k, size) + 1, dim=-1, keepdim=True).values
    # argmax(l/T + gumbel), with both sides times T.
    scores = torch.addcmul(logits, noise, temperature[:, None], value=-1)
    return scores.masked_fill_(logits < least, -torch.inf).argmax(-1)
