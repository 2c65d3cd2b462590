"""The batched streaming engine of text-to-speech: one call advances every active slot by one frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsmops.worker.models.tts import TtsModel


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """How a new stream speaks.

    `voices`: the main speaker's, then the others', float32 [512, 125] each, as voice files hold them; none at all leaves the model to
    itself. `cfg`: how closely the voice is followed. `seed`: makes the stream repeatable, whatever its neighbours do. `temperature` 0
    takes the most probable tokens. `padding_bonus`: added to the logit of padding; positive speaks slower.
    """

    voices: tuple[NDArray[np.float32], ...] = ()
    cfg: float = 2.0
    seed: int = 0
    temperature: float = 0.6
    padding_bonus: float = 0.0


@dataclass(frozen=True, slots=True)
class TtsOutput:
    """What one step gave, on the CPU. Rows that did not advance hold meaningless values.

    `pcm` float32 [B, 1920], as decoded, not clipped; `valid` bool [B], where it is the stream's next sound; `finite` bool [B], False
    where a logit or a sample was NaN or infinite; `step_ms` wall time with the device synchronised, the time in `choose` included.
    """

    pcm: NDArray[np.float32]
    valid: NDArray[np.bool_]
    finite: NDArray[np.bool_]
    step_ms: float


Choose = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Takes each row's predicted text token and returns the, multiplexed, one that is fed. Rows that do not advance hold anything."""


class TtsEngine:
    """A model with `batch_size` slots. Not thread-safe: one thread owns an engine, but for `check`."""

    def __init__(self, model: TtsModel, batch_size: int, *, guidance: bool = False, cuda_graph: bool = True) -> None:
        self.model = model
        self.batch_size = batch_size
        self.offsets: NDArray[np.int64] = np.zeros(batch_size, np.int64)
        raise NotImplementedError

    def check(self, request: SlotRequest) -> None:
        """Raise InputError for a request that this engine cannot follow. Any thread may ask."""
        raise NotImplementedError

    def reset(self, slots: Sequence[int], requests: Sequence[SlotRequest]) -> None:
        """Start new streams in `slots`. Other slots are untouched."""
        raise NotImplementedError

    def step(self, exec_mask: NDArray[np.bool_], choose: Choose, *, text_only: bool = False) -> TtsOutput:
        """Advance every slot marked in `exec_mask` by one frame."""
        raise NotImplementedError
