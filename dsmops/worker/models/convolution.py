"""Causal 1-D convolutions, whole or streaming.

Whole: zeros (or copies of the first input) on the left, nothing on the right. Streaming: the last
inputs of the previous call take the place of the padding, so the outputs of consecutive calls are
those of one whole call.

Source of the arithmetic: the Mimi codec of `moshi` 0.2.13, `modules/conv.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.worker.models.state import RowState, keep


@dataclass(frozen=True, slots=True)
class ConvState:
    """The last inputs of a convolution, [B, C, P].

    `started` (bool [B]) exists only where the padding repeats the first input.
    """

    previous: Tensor
    started: Tensor | None


class CausalConv(nn.Module):
    """Convolution [B, in, T] → [B, out, T / stride]. T must be a multiple of `stride`.

    `repeat_first` pads the start of a stream with copies of its first input instead of zeros.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        bias: bool = True,
        repeat_first: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.stride = stride
        self.left = kernel - stride
        self.repeat_first = repeat_first

    def prepare(self) -> None:
        """Lay the loaded weights out with channels innermost.

        The kernels for tensor cores read them in this order, and so do plain products.
        """
        self.weight.data = self.weight.data.transpose(1, 2).contiguous().transpose(1, 2)

    def init_state(self, rows: RowState, *, zero_start: bool = False) -> ConvState | None:
        """Return the state for `rows`, None where no input needs to be remembered.

        With `zero_start` streams begin with zeros, even where `repeat_first` is set.
        """
        if self.left == 0:
            return None
        previous = rows.zeros(self.weight.shape[1], self.left)
        # A reset zeroes `previous`, so that without `started` a stream begins with zeros.
        repeats = self.repeat_first and not zero_start
        return ConvState(previous, rows.zeros(dtype=torch.bool) if repeats else None)

    def forward(
        self, x: Tensor, state: ConvState | None = None, exec_mask: Tensor | None = None
    ) -> Tensor:
        """Convolve one whole signal, or the next part of each stream.

        It is the next part when `state` and `exec_mask` (bool [B]) are given.
        """
        if self.left:
            # Joined with channels innermost, the layout that the convolution kernels for tensor
            # cores take without a copy.
            x = torch.cat(
                [self._left_context(x, state).transpose(1, 2), x.transpose(1, 2)], dim=1
            ).transpose(1, 2)
            if state is not None and exec_mask is not None:
                keep(state.previous, x[..., -self.left :], exec_mask)
                if state.started is not None:
                    state.started.logical_or_(exec_mask)
        channels, taps = self.weight.shape[1:]
        if taps > 1 and channels > 1 and (state is None or not x.is_cpu):
            # As an image of one line: conv1d would bring the channels outermost and back, at twice
            # the cost of the convolution itself.
            return F.conv2d(
                x.unsqueeze(2), self.weight.unsqueeze(2), self.bias, stride=(1, self.stride)
            ).squeeze(2)
        # One tap, or a single input channel: a plain product, several times faster than what cuDNN
        # picks at large batches. A stream's step on a CPU too: its convolutions lay the weights out
        # again in each call, which takes longer than the product.
        inputs = x.transpose(1, 2)
        if taps > 1:
            inputs = inputs.unfold(1, taps, self.stride).transpose(2, 3).flatten(2).contiguous()
        return F.linear(inputs, self.weight.transpose(1, 2).flatten(1), self.bias).transpose(1, 2)

    def _left_context(self, x: Tensor, state: ConvState | None) -> Tensor:
        start = (
            x[..., :1].expand(-1, -1, self.left)
            if self.repeat_first
            else x.new_zeros(*x.shape[:-1], self.left)
        )
        if state is None:
            return start
        return (
            state.previous
            if state.started is None
            else torch.where(state.started.view(-1, 1, 1), state.previous, start)
        )


class CausalConvTranspose(nn.Module):
    """Transposed convolution [B, in, T] → [B, out, T · stride].

    The kernel is twice as long as the stride. Weight layout (in, out, kernel), or (channels, 1,
    kernel) when `depthwise`. Streaming adds the tail of the previous call to the start of this one
    and holds the new tail back, without the bias, which each output gets once.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        bias: bool = True,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(in_channels, 1 if depthwise else out_channels, 2 * stride)
        )
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.stride = stride
        self.depthwise = depthwise
        self.out_channels = out_channels

    def prepare(self) -> None:
        """Lay the loaded weights out as one matrix from the inputs to every tap of every output."""
        self.weight.data = self.weight.data.permute(2, 1, 0).contiguous().permute(2, 1, 0)

    def init_state(self, rows: RowState) -> Tensor:
        """Return the tail [B, stride, out] that the next call adds."""
        return rows.zeros(self.stride, self.out_channels)

    def forward(
        self, x: Tensor, state: Tensor | None = None, exec_mask: Tensor | None = None
    ) -> Tensor:
        """Expand one whole signal, or the next part of each stream.

        It is the next part when `state` and `exec_mask` (bool [B]) are given.
        """
        inputs, taps = x.transpose(1, 2), self.weight.permute(2, 1, 0)
        # Plain products, channels innermost, as the convolutions around have them: cuDNN would turn
        # its input and weights first.
        expanded = (
            inputs[:, :, None] * taps[:, 0]
            if self.depthwise
            else F.linear(inputs, taps.flatten(0, 1)).unflatten(-1, taps.shape[:2])
        )
        # Every input reaches over two strides of outputs.
        early, late = expanded.chunk(2, dim=2)
        y = early.contiguous() if self.bias is None else early + self.bias
        y[:, 1:].add_(late[:, :-1])
        if state is not None and exec_mask is not None:
            y[:, 0].add_(state)
            keep(state, late[:, -1], exec_mask)
        return y.flatten(1, 2).transpose(1, 2)
