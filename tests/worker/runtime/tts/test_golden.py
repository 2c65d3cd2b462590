"""Numbers of text to speech that upstream's package (moshi 0.2.13) gave for weights and inputs that
a formula describes.

Printed with six decimals, so they are compared to 1e-5; the smallest margin between the best and
the second-best choice was 7e-4, so tokens are compared exactly. The text tokens that upstream's
state machine fed are part of the recording.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsmops.worker.models.tts import LoadedTts
from dsmops.worker.runtime.tts.engine import TtsEngine
from dsmops.worker.runtime.tts.interface import TtsRequest
from tests.support.networks import load_tts_model, tts_config, wave_weights, write_mimi, write_tts

SUMMED = [-0.008050, -0.680444, 0.487168, -0.919751]
CROSS_0 = [0.465433, 1.586279, 0.666717, 0.907068]
CROSS_9 = [0.010651, 1.919376, 1.153803, -0.209638]
LOGITS_STEP_0 = [-0.797203, 2.160878, -0.869605, -1.490102]
LOGITS_STEP_20 = [1.273237, 1.884882, -2.727154, 0.218727]
PREDICTIONS = (
    "1 46 46 45 10 45 0 13 32 7 7 7 7 7 40 24 39 7 7 7 7 7 7 7 0 7 7 7 7 7 7 13 7 7 7 7 7 7 7"
)
TEXT = "3 3 50 1529 1579 3 69 2012 3 3 3 3 3 79 31 3 3 3 3 3 3 3 3 89 3 3 3 3 3 3 52 3 3 3 3 3 3"
CODES = (
    "22 19 23 22 22 22 22 22 18 8 22 22 22 22 22 22 22 22 30 22 22 22 22 22 22 17 22 22 22 22 "
    "22 22",
    "12 6 6 6 6 6 8 26 19 6 6 6 6 6 6 6 2 6 6 6 6 6 6 15 6 6 6 6 6 6 6 6",
    "10 13 13 13 13 13 25 16 0 13 13 13 13 13 13 13 28 13 13 13 13 13 13 28 13 13 13 13 13 13 "
    "13 13",
    "23 15 15 15 15 15 9 20 15 15 15 15 15 15 15 15 14 15 15 15 15 15 15 14 15 15 15 15 15 15 "
    "15 15",
)
"""Of each codebook, frames 5 to 36: those before are without sound."""
PADDING = 3
STEPS = 39


@dataclass
class Recording:
    """What an engine gave, step by step."""

    predictions: list[int] = field(default_factory=list)
    text_logits: list[list[float]] = field(default_factory=list)
    codes: list[list[int]] = field(default_factory=list)
    valid: list[bool] = field(default_factory=list)


def voice() -> NDArray[np.float32]:
    """The main speaker's voice of the recording; the other speaker has none."""
    tensor: Tensor = torch.sin(0.1 * torch.arange(1, 121, dtype=torch.float64)).float()
    return tensor.view(5, 24).t().contiguous().numpy()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedTts:
    """The tiny model of the recording, in float32. What its codec sounds like was not recorded."""
    folder = tmp_path_factory.mktemp("tts")
    weights = wave_weights(tts_config().shape.tensors(), phase=13.571, gain=2)
    return load_tts_model(
        write_tts(folder / "model.safetensors", weights), write_mimi(folder / "mimi.safetensors")
    )


@pytest.fixture(scope="module")
def recording(model: LoadedTts) -> Recording:
    """The recorded script, fed again."""
    engine, seen = TtsEngine(model, 1), Recording()
    engine.reset([0], [TtsRequest((voice(),), cfg=2.0, temperature=0.0)])
    for token in (*map(int, TEXT.split()), PADDING, PADDING):

        def choose(predicted: NDArray[np.int64], token: int = token) -> NDArray[np.int64]:
            seen.predictions.append(int(predicted[0]))
            return np.array([token])

        out = engine.step(np.array([True]), choose)
        assert out.finite.all()
        seen.valid.append(bool(out.valid[0]))
        seen.codes.append(engine.codes[0].tolist())
        seen.text_logits.append(engine.text_logits[0].tolist())
    return seen


def _close(seen: object, expected: object) -> None:
    np.testing.assert_allclose(np.asarray(seen), np.asarray(expected), atol=1e-5, rtol=0)


def test_size_is_that_of_the_recording() -> None:
    """The tiny model has the recorded number of tensors and values."""
    shapes = tts_config().shape.tensors()
    assert len(shapes) == 74
    assert sum(math.prod(shape) for shape in shapes.values()) == 240_896


def test_conditioning(model: LoadedTts) -> None:
    """The summed vector and the sequence of voices, spoken for and not, start with the recorded
    values.
    """
    with torch.no_grad():
        _close(model.lm.conditioning.summed(2.0)[:4], SUMMED)
        sequence = model.lm.conditioning.cross([torch.from_numpy(voice())])
    assert sequence.shape == (10, 64)
    _close(sequence[0, :4], CROSS_0)
    _close(sequence[9, :4], CROSS_9)


def test_text_logits(recording: Recording) -> None:
    """Steps 0 and 20 have the recorded logits."""
    _close(recording.text_logits[0][:4], LOGITS_STEP_0)
    _close(recording.text_logits[20][:4], LOGITS_STEP_20)


def test_predictions(recording: Recording) -> None:
    """Every step predicts the recorded text token."""
    assert recording.predictions == [int(token) for token in PREDICTIONS.split()]


@pytest.mark.parametrize("codebook", range(4))
def test_codes(recording: Recording, codebook: int) -> None:
    """Every codebook, moved back by its delay, holds the recorded codes from frame 5 on and nothing
    before.
    """
    codes = [step[codebook] for step in recording.codes]
    begin = 5 + tts_config().delays[codebook]
    assert codes[:begin] == [-1] * begin
    assert codes[begin : begin + 32] == [int(code) for code in CODES[codebook].split()]


def test_sound_begins_when_its_first_frame_is_whole(recording: Recording) -> None:
    """Five steps of text and two of delay have no sound, all others have."""
    assert recording.valid == [False] * 7 + [True] * (STEPS - 7)
