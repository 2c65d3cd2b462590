"""A TTS engine without a model: for the model loop and the server, where networks would only
take time.

What a row gives depends on its request and on the tokens it was fed, and on nothing else, so that a
neighbour's influence would be seen.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dsmops.errors import InputError
from dsmops.models import ConditionerShape, DepformerShape, LmShape, TtsShape
from dsmops.worker.models.tts_config import CFG, VOICE, TtsConfig
from dsmops.worker.runtime.tts.interface import TtsChoose, TtsOutput, TtsRequest
from tests.support.engines import Letters

NEW_WORD, PADDING = 0, 3
TEXT_ROWS = 49
FRAME = 1920
BROKEN = "z"
"""A word with this letter gives numbers that are not finite."""

_LM = LmShape(
    d_model=8,
    num_heads=1,
    num_layers=1,
    dim_feedforward=32,
    context=40,
    text_in_vocab_size=TEXT_ROWS,
    text_out_vocab_size=TEXT_ROWS - 1,
    audio_vocab_size=9,
    audio_codebooks=2,
    extra_heads=None,
)
TALK = TtsConfig(
    TtsShape(
        _LM,
        DepformerShape(8, 1, 1, 32, (0, 1), 4),
        (ConditionerShape(VOICE, 6), ConditionerShape(CFG, 4, 2)),
    ),
    max_period=10_000.0,
    delays=(0, 2),
    delay_steps=3,
    second_stream_ahead=2,
    voice_frames=5,
    cfg_values=(1.0, 2.0),
    voice_suffix=".abcd1234@7.safetensors",
)
"""A model whose sound comes three steps behind its text, and whose voices are six numbers wide."""


@dataclass
class TalkModel:
    """A model in name."""

    config: TtsConfig = TALK
    tokenizer: Letters = field(default_factory=Letters)


class TalkEngine:
    """Asks for a word one time out of four, and sounds like a number made of its request and of all
    tokens it was fed.

    `before_step` is called with the number of each step, and may raise, or wait. `fed` holds per
    slot the tokens since its last reset, `text_only` for each step whether it was one, `masks` who
    took it.
    """

    def __init__(
        self,
        batch_size: int = 2,
        *,
        config: TtsConfig = TALK,
        before_step: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.may_step_nobody = False
        self.batch_size = batch_size
        self.model = TalkModel(config)
        self.fed: dict[int, list[int]] = {slot: [] for slot in range(batch_size)}
        self.requests: dict[int, TtsRequest] = {}
        self.resets: list[int] = []
        self.text_only: list[bool] = []
        self.masks: list[tuple[bool, ...]] = []
        self.threads: set[int] = set()
        self._states = [0] * batch_size
        self._before_step = before_step

    @property
    def steps(self) -> int:
        """Steps of the engine so far."""
        return len(self.text_only)

    def check(self, request: TtsRequest) -> None:
        if request.cfg not in self.model.config.cfg_values:
            raise InputError(
                f"cfg {request.cfg} is none of {self.model.config.cfg_values}",
                hint="Take one of these.",
            )

    def reset(self, slots: Sequence[int], requests: Sequence[TtsRequest]) -> None:
        self.threads.add(threading.get_ident())
        for slot, request in zip(slots, requests, strict=True):
            self.check(request)
            self.resets.append(slot)
            self.requests[slot] = request
            self.fed[slot] = []
            voices = b"".join(voice.tobytes() for voice in request.voices)
            self._states[slot] = zlib.crc32(repr((request.seed, request.cfg)).encode() + voices)

    def step(
        self, exec_mask: NDArray[np.bool_], choose: TtsChoose, *, text_only: bool = False
    ) -> TtsOutput:
        self.threads.add(threading.get_ident())
        self._before_step(self.steps)
        assert self.may_step_nobody or exec_mask.any()
        self.text_only.append(text_only)
        self.masks.append(tuple(exec_mask.tolist()))
        config = self.model.config
        predictions = np.array(
            [NEW_WORD if state % 4 == 0 else 7 for state in self._states], np.int64
        )
        tokens = choose(predictions)
        pcm = np.full((self.batch_size, FRAME), np.nan, np.float32)
        valid = np.zeros(self.batch_size, np.bool_)
        finite = np.ones(self.batch_size, np.bool_)
        for slot in np.flatnonzero(exec_mask).tolist():
            offset, token = len(self.fed[slot]), int(tokens[slot])
            if text_only and offset >= config.delay_steps:
                raise ValueError(f"slot {slot} sounds already")
            self.fed[slot].append(token)
            self._states[slot] = zlib.crc32(token.to_bytes(4, "little"), self._states[slot])
            valid[slot] = offset >= config.delay_steps + config.max_delay
            finite[slot] = token % TEXT_ROWS != ord(BROKEN) - ord("a") + 4
            pcm[slot] = self._states[slot] / 2**31 - 1
        return TtsOutput(pcm, valid, finite, 1.0)

    def launch(
        self, exec_mask: NDArray[np.bool_], tokens: NDArray[np.int64], *, text_only: bool = False
    ) -> Launched:
        predicted = np.zeros(self.batch_size, np.int64)

        def choose(predictions: NDArray[np.int64]) -> NDArray[np.int64]:
            predicted[:] = predictions
            chosen: NDArray[np.int64] = np.where(
                predictions == NEW_WORD, tokens[:, 1], tokens[:, 0]
            )
            return chosen

        return Launched(predicted, self.step(exec_mask, choose, text_only=text_only))


@dataclass(frozen=True)
class Launched:
    """A step that is over already."""

    predictions: NDArray[np.int64]
    output: TtsOutput

    def predicted(self) -> NDArray[np.int64]:
        return self.predictions

    def wait(self) -> TtsOutput:
        return self.output
