"""The conditions of a stream besides its text: the voice, and how closely to follow it.

Computed in float32, once for each stream.

A conditioner is mask·(W·input) + (1 − mask)·padding, with learnt padding where there is no input.
The lookup tables are summed into one vector that is added to every input of the language model. The
voices make a sequence that every layer attends to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from dsmops.models import ConditionerShape
from dsmops.worker.models.tts_config import CFG, CONTROL, CONTROL_VALUE, VOICE, TtsConfig

_POSITION_PERIOD = 10_000.0


class Conditioner(nn.Module):
    """One conditioner, `width` wide.

    `embed` is the lookup table, None for a tensor; its last row stands for a missing value.
    """

    def __init__(self, shape: ConditionerShape, width: int) -> None:
        super().__init__()
        # Given its weight, it draws none: that would import a second's worth of torch.
        self.embed = (
            None
            if shape.bins is None
            else nn.Embedding.from_pretrained(torch.empty(shape.bins + 1, shape.width))
        )
        self.output_proj = nn.Linear(shape.width, width, bias=False)
        self.learnt_padding = nn.Parameter(torch.empty(1, 1, width))

    def lookup(self, index: int) -> Tensor:
        """Return row `index` of the table, [1, own width]."""
        return cast("nn.Embedding", self.embed).weight[index : index + 1]

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Return the conditions [T, width] of `inputs` [T, own width].

        Rows where `mask` (bool [T]) is False are the learnt padding.
        """
        return torch.where(mask[:, None], self.output_proj(inputs), self.learnt_padding[0])


class Conditioning(nn.Module):
    """All conditioners of a model, always in float32."""

    def __init__(self, config: TtsConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.shape.lm.d_model
        self.conditioners = nn.ModuleDict(
            {shape.name: Conditioner(shape, self.width) for shape in config.shape.conditioners}
        )

    def summed(self, cfg: float, *, null: bool = False) -> Tensor:
        """Return the vector [width] that is added to every step's input.

        `null` gives the vector of the unconditioned pass.

        Raises:
            ValueError: the model is distilled, and `cfg` is not one of its values.
        """
        config, told = self.config, {}
        if config.control_values:
            told[CONTROL] = config.control_values.index(CONTROL_VALUE)
        if config.distilled:
            told[CFG] = 0 if null else config.cfg_values.index(cfg)
        total = self._named(VOICE).learnt_padding.new_zeros(self.width)
        for name, index in told.items():
            row = self._named(name).lookup(index)
            total = total + self._named(name)(row, torch.full((1,), not null, device=row.device))[0]
        return total

    def cross(self, voices: Sequence[Tensor]) -> Tensor:
        """Return the sequence [speakers · frames, width] that every layer attends to.

        `voices` are float32 [channels, frames] each. Missing speakers get the learnt padding.
        """
        config, conditioner = self.config, self._named(VOICE)
        frames = config.voice_frames
        inputs = conditioner.learnt_padding.new_zeros(
            config.max_speakers * frames, config.voice_width
        )
        for number, voice in enumerate(voices):
            inputs[number * frames : (number + 1) * frames] = voice.t()
        positions = torch.arange(len(inputs), device=inputs.device)
        return conditioner(inputs, positions < len(voices) * frames) + position_code(
            positions, self.width
        )

    def _named(self, name: str) -> Conditioner:
        return cast("Conditioner", self.conditioners[name])


def position_code(positions: Tensor, width: int) -> Tensor:
    """Return the sine and cosine code of `positions`, [T, width].

    The first half are cosines, the second sines, of the angles t / 10000^(i / (width/2 − 1)).
    """
    half = width // 2
    exponent = torch.arange(half, device=positions.device, dtype=torch.float32) / (half - 1)
    angle = positions[:, None].float() / torch.full_like(exponent, _POSITION_PERIOD) ** exponent
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
