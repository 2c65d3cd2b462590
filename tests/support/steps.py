"""Step a speech-to-text engine with torch tensors, for tests that compare it with networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dsmops.worker.runtime.stt.engine import SttEngine


@dataclass(frozen=True)
class StepTensors:
    """An `SttOutput` as tensors."""

    text_tokens: Tensor
    pause_probabilities: Tensor
    finite: Tensor
    step_ms: float


def step_stt(
    engine: SttEngine, pcm: Tensor, exec_mask: Tensor, forced: Tensor | None = None
) -> StepTensors:
    """Step `engine` with `pcm` float32 [B, 1, 1920]."""
    output = engine.step(
        pcm[:, 0].numpy(), exec_mask.numpy(), None if forced is None else forced.numpy()
    )
    return StepTensors(
        torch.from_numpy(output.text_tokens),
        torch.from_numpy(output.pause_probabilities),
        torch.from_numpy(output.finite),
        output.step_ms,
    )
