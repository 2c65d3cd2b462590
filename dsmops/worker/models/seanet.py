"""SEANet: the convolutional halves of Mimi, between PCM and latents at twice the frame rate.

Layer positions follow the published tensor names; the gaps between them are ELU activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.worker.models.convolution import CausalConv, CausalConvTranspose
from dsmops.worker.models.state import RowState


@dataclass(frozen=True, slots=True)
class SeanetConfig:
    """`ratios` are the decoder's upsampling factors in order.

    The encoder downsamples by them in reverse.
    """

    dimension: int = 512
    n_filters: int = 64
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    kernel_size: int = 7
    residual_kernel_size: int = 3
    last_kernel_size: int = 3
    compress: int = 2


class Residual(nn.Module):
    """x + Conv1(ELU(Conv3(ELU(x)))), narrowed inside.

    Names as published: `block.1` and `block.3`.
    """

    def __init__(self, width: int, config: SeanetConfig) -> None:
        super().__init__()
        inside = width // config.compress
        self.block = nn.ModuleDict(
            {
                "1": CausalConv(width, inside, config.residual_kernel_size),
                "3": CausalConv(inside, width, 1),
            }
        )

    def init_state(self, rows: RowState) -> Any:
        return self.block["1"].init_state(rows)  # type: ignore[operator]

    def forward(self, x: Tensor, state: Any = None, exec_mask: Tensor | None = None) -> Tensor:
        return x + self.block["3"](F.elu(self.block["1"](F.elu(x), state, exec_mask)))


class _Seanet(nn.Module):
    """A chain of layers with an ELU before each layer but the first.

    Residual blocks have ELUs of their own.
    """

    model: nn.ModuleDict

    def init_state(self, rows: RowState) -> list[Any]:
        """Return the state of each layer for `rows`."""
        return [layer.init_state(rows) for layer in self.model.values()]  # type: ignore[operator]

    def forward(
        self, x: Tensor, states: list[Any] | None = None, exec_mask: Tensor | None = None
    ) -> Tensor:
        """Run the chain over a whole signal, or over the next part of each row's stream."""
        for index, layer in enumerate(self.model.values()):
            if index and not isinstance(layer, Residual):
                x = F.elu(x)
            x = layer(x, states[index] if states else None, exec_mask)
        return x


class SeanetEncoder(_Seanet):
    """PCM [B, 1, T] → latents [B, dimension, T / hop], hop being the product of the ratios."""

    def __init__(self, config: SeanetConfig) -> None:
        super().__init__()
        width = config.n_filters
        self.model = nn.ModuleDict({"0": CausalConv(1, width, config.kernel_size)})
        for number, ratio in enumerate(reversed(config.ratios)):
            self.model[str(3 * number + 1)] = Residual(width, config)
            self.model[str(3 * number + 3)] = CausalConv(width, 2 * width, 2 * ratio, ratio)
            width *= 2
        self.model[str(3 * len(config.ratios) + 2)] = CausalConv(
            width, config.dimension, config.last_kernel_size
        )


class SeanetDecoder(_Seanet):
    """Latents [B, dimension, T] → PCM [B, 1, T · hop]."""

    def __init__(self, config: SeanetConfig) -> None:
        super().__init__()
        widths = [config.n_filters * 2**power for power in range(len(config.ratios), -1, -1)]
        self.model = nn.ModuleDict(
            {"0": CausalConv(config.dimension, widths[0], config.kernel_size)}
        )
        for number, (ratio, (wide, narrow)) in enumerate(
            zip(config.ratios, pairwise(widths), strict=True)
        ):
            self.model[str(3 * number + 2)] = CausalConvTranspose(wide, narrow, ratio)
            self.model[str(3 * number + 3)] = Residual(narrow, config)
        self.model[str(3 * len(config.ratios) + 2)] = CausalConv(
            widths[-1], 1, config.last_kernel_size
        )
