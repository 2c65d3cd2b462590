"""What a model loop asks of a text-to-speech engine, and what it gets back. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dsmops.worker.models.tts_config import TtsConfig


class TtsTokenizer(Protocol):
    """What words need of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class TtsRequest:
    """How a new stream sounds.

    `voices`: the main speaker's, then the others', float32 [512, 125] each, as voice files hold
    them; with none the model chooses. `cfg`: how closely the voice is followed. `seed`: makes the
    stream repeatable, whatever its neighbours do. `temperature` 0 takes the most probable tokens.
    `padding_bonus`: added to the logit of padding; positive speaks slower.
    """

    voices: tuple[NDArray[np.float32], ...] = ()
    cfg: float = 2.0
    seed: int = 0
    temperature: float = 0.6
    padding_bonus: float = 0.0


@dataclass(frozen=True, slots=True)
class TtsOutput:
    """The result of one step, in arrays of its own.

    Rows that did not advance hold undefined values.

    `pcm` float32 [B, 1920], as decoded, not clipped; `valid` bool [B], where it is the stream's
    next sound; `finite` bool [B], False where a logit or a valid sample was NaN or infinite;
    `step_ms` wall time with the device synchronised, the time in `choose` included. Where steps
    overlap, it counts from the end of the step before.
    """

    pcm: NDArray[np.float32]
    valid: NDArray[np.bool_]
    finite: NDArray[np.bool_]
    step_ms: float


TtsChoose = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Takes each row's predicted text token and returns the multiplexed token that is fed. Rows that do
not advance hold anything."""


class TtsLaunchedStep(Protocol):
    """A step under way."""

    def predicted(self) -> NDArray[np.int64]:
        """Wait for the language model, and return each row's predicted text token, int64 [B]."""

    def wait(self) -> TtsOutput:
        """Wait for the sound, and return it."""


class TtsModelProtocol(Protocol):
    """What the loop asks of a loaded model."""

    @property
    def config(self) -> TtsConfig: ...
    @property
    def tokenizer(self) -> TtsTokenizer: ...


class TtsEngineProtocol(Protocol):
    """What the loop asks of `TtsEngine`, so that tests can bring one that fails."""

    batch_size: int

    @property
    def model(self) -> TtsModelProtocol: ...
    def check(self, request: TtsRequest) -> None: ...
    def reset(self, slots: Sequence[int], requests: Sequence[TtsRequest]) -> None: ...
    def step(
        self, exec_mask: NDArray[np.bool_], choose: TtsChoose, *, text_only: bool = False
    ) -> TtsOutput: ...
    def launch(
        self, exec_mask: NDArray[np.bool_], tokens: NDArray[np.int64], *, text_only: bool = False
    ) -> TtsLaunchedStep: ...
