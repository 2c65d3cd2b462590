"""Speech-to-text models with random weights, made in memory on the device: for step times and memory, which do not depend on values."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dsmops.facts import DType
from dsmops.models import LmShape
from dsmops.worker.models.config import SttConfig
from dsmops.worker.models.convolution import CausalConv
from dsmops.worker.models.mimi import MimiConfig, MimiEncoder
from dsmops.worker.models.quantizer import ResidualQuantizer
from dsmops.worker.models.stt import TORCH_DTYPES, SttModel
from dsmops.worker.models.stt_lm import SttLm


class NoText:
    """Stands in for a tokenizer where only tokens matter."""

    size = 0

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]


def random_stt(shape: LmShape, device: torch.device, dtype: DType, *, seed: int = 0, mimi: MimiConfig | None = None) -> SttModel:
    """Return a model of `shape` with weights of scale 1/√fan_in, norms at 1 and Mimi in float32."""
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        lm = SttLm(shape, 100_000.0).to(TORCH_DTYPES[dtype])
        encoder = MimiEncoder(mimi or MimiConfig(bins=shape.audio_vocab_size - 1))
    for network in (lm, encoder):
        network.to_empty(device=device).eval().requires_grad_(False)
        for name, parameter in network.named_parameters():
            if parameter.dim() < 2 or name.endswith("alpha"):
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                fan_in = parameter[0].numel() if "emb" not in name else 1
                parameter.normal_(generator=generator).mul_(fan_in**-0.5)
        for module in network.modules():
            if isinstance(module, ResidualQuantizer):
                module.codebooks.normal_(generator=generator)
            if isinstance(module, ResidualQuantizer | CausalConv):
                module.prepare()
    return SttModel(SttConfig(shape, 100_000.0, 6), lm, encoder, NoText(), device)  # type: ignore[arg-type]
