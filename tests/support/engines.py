"""Engines without a model: for the model loop and the server, where networks would only take
time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dsmops.worker.models.stt_config import SttConfig
from dsmops.worker.runtime.stt.interface import SttOutput
from dsmops.worker.tiny.stt import LM


class Letters:
    """A tokenizer of one letter a token: 4 is `a`."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + token - 4) for token in ids)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") + 4 for letter in text]


@dataclass
class EchoModel:
    """A model in name."""

    config: SttConfig = field(default_factory=lambda: SttConfig(LM, 10_000.0, text_delay_steps=2))
    tokenizer: Letters = field(default_factory=Letters)
    frame_samples: int = 1920


class EchoEngine:
    """Return for each row the token that stands in the frame's first sample, a NaN as a row that
    has gone wrong.

    `before_step` is called with the number of each step, and may raise, or wait. `heard` holds per
    slot the frames since its last reset.
    """

    def __init__(
        self,
        batch_size: int = 2,
        *,
        heads: int = 1,
        before_step: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.batch_size = batch_size
        self.model = EchoModel()
        self.heard: dict[int, list[float]] = {slot: [] for slot in range(batch_size)}
        self.resets: list[int] = []
        self.steps = 0
        self.threads: set[int] = set()
        self._heads, self._before_step = heads, before_step

    def new_frames(self) -> NDArray[np.float32]:
        return np.zeros((self.batch_size, self.model.frame_samples), np.float32)

    def reset(self, slots: Sequence[int]) -> None:
        self.threads.add(threading.get_ident())
        self.resets += slots
        for slot in slots:
            self.heard[slot] = []

    def step(self, pcm: NDArray[np.float32], exec_mask: NDArray[np.bool_]) -> SttOutput:
        self.threads.add(threading.get_ident())
        self._before_step(self.steps)
        self.steps += 1
        first = pcm[:, 0]
        for slot in np.flatnonzero(exec_mask).tolist():
            self.heard[slot].append(float(first[slot]))
        finite = np.isfinite(first)
        tokens = np.where(finite, first, 0).round().astype(np.int64)
        pauses = np.full((self.batch_size, self._heads), 0.5, np.float32)
        return SttOutput(tokens, pauses, finite, 1.0)
