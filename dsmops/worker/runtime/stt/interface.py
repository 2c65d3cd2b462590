"""What a model loop asks of a speech-to-text engine, and what it gets back. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dsmops.worker.models.stt_config import SttConfig


class SttTokenizer(Protocol):
    """What words need of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str: ...

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class SttOutput:
    """The result of one step, in arrays of its own.

    Rows that did not advance hold undefined values.

    Shapes (B slots):
        text_tokens: int64 [B].
        pause_probabilities: float32 [B, heads]; heads is 0 for a model without them.
        finite: bool [B], False where a latent of Mimi or a logit was NaN or infinite.
        step_ms: wall time; of a launched step on a GPU, the GPU's time.
    """

    text_tokens: NDArray[np.int64]
    pause_probabilities: NDArray[np.float32]
    finite: NDArray[np.bool_]
    step_ms: float


class SttModelProtocol(Protocol):
    """What the loop asks of a loaded model."""

    @property
    def config(self) -> SttConfig: ...
    @property
    def tokenizer(self) -> SttTokenizer: ...
    @property
    def frame_samples(self) -> int: ...


class SttEngineProtocol(Protocol):
    """What the loop asks of an `SttEngine`. Tests use engines without a network."""

    batch_size: int

    @property
    def model(self) -> SttModelProtocol: ...
    def new_frames(self) -> NDArray[np.float32]: ...
    def reset(self, slots: Sequence[int]) -> None: ...
    def step(self, pcm: NDArray[np.float32], exec_mask: NDArray[np.bool_]) -> SttOutput: ...
