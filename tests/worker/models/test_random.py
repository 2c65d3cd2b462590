"""Random models, made in memory: of the shape asked for, with numbers of a size that a step can be
timed with.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dsmops.dtypes import ComputeDType
from dsmops.worker.models.mimi import MimiConfig
from dsmops.worker.models.random import random_tts
from dsmops.worker.runtime.tts.engine import TtsEngine
from dsmops.worker.runtime.tts.interface import TtsRequest
from tests.support.networks import CPU, MIMI_BODY, tts_config


@pytest.mark.slow
@pytest.mark.parametrize("n_q", [None, 2])
@pytest.mark.parametrize("dtype", ComputeDType)
def test_a_random_speaker_speaks(dtype: ComputeDType, n_q: int | None) -> None:
    """It generates as many codebooks as asked for, with logits of about unit size and sound, in
    every dtype; a seed repeats it.
    """
    shape = tts_config().shape
    models = [
        random_tts(shape, CPU, dtype, n_q=n_q, mimi=MimiConfig.from_json(MIMI_BODY))
        for _ in range(2)
    ]
    assert torch.equal(models[0].lm.depformer.heads, models[1].lm.depformer.heads)
    assert (models[0].codebooks, models[0].dtype) == (n_q or 4, dtype)
    engine = TtsEngine(models[0], 1)
    engine.reset([0], [TtsRequest()])
    for _ in range(20):
        out = engine.step(np.array([True]), lambda predicted: predicted)
        assert out.finite.all()
        assert 0.3 < engine.text_logits.std() < 3
        assert 0.3 < engine.audio_logits.std() < 5
    assert out.valid.all()
    assert np.abs(out.pcm).max() > 0
