"""Numbers that upstream's package (moshi 0.2.13) gave for weights and inputs that a formula
describes.

It is not needed here.

Printed with six decimals, so they are compared to 1e-5; the smallest margin between the best and
the second-best choice was 7e-4 for tokens and 5.5e-3 for codes, so these are compared exactly.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from dsmops.worker.models.loading import mimi_tensors
from dsmops.worker.models.mimi import MimiConfig
from dsmops.worker.models.state import RowState
from dsmops.worker.models.stt_config import SttConfig
from tests.support.networks import (
    CPU,
    MIMI_BODY,
    STT_BODY,
    LmRows,
    LmStep,
    every_row,
    load_lm,
    load_mimi,
    wave_weights,
    write_mimi,
    write_stt,
)

TOKENS = (
    [12, 32, 2, 14, 39, 4, 44, 4, 35, 35, 16, 43, 7, 41, 28, 42],
    [12, 2, 39, 35, 12, 9, 33, 12, 40, 8, 21, 32, 47, 46, 17, 47],
)
LOGITS_STEP_0 = [-0.114607, -1.351198, 1.156863, 0.458843, -1.510795, 0.706519]
LOGITS_STEP_15 = [
    [1.016279, 1.244556, -1.976276, 0.279858, 1.760405, -1.637759],
    [-0.385346, -1.370899, 1.442799, 0.257986, -1.641799, 1.008427],
]
PAUSES_STEP_15 = [
    [0.319723, 0.451823, 0.209088, 0.019470],
    [0.042661, 0.016045, 0.030255, 0.156353],
]

CODES = [
    [25, 8, 7, 6, 6, 6, 6, 6],
    [2, 2, 17, 17, 17, 17, 17, 17],
    [22, 22, 0, 1, 1, 1, 1, 1],
    [4, 4, 21, 23, 23, 23, 23, 23],
    [25, 25, 6, 7, 7, 7, 7, 7],
    [7, 7, 27, 27, 27, 27, 27, 27],
    [27, 28, 10, 9, 9, 9, 9, 9],
    [10, 11, 31, 30, 30, 30, 30, 30],
]
LATENT_FRAME_0 = [-0.946917, 1.819307, -1.609223, 0.441666]
LATENT_FRAME_7 = [-1.841215, -0.394458, 2.395432, -2.971144]
PCM_START = [-0.127853, 0.147333, 0.306984, 0.396675]
PCM_END = [0.654699, 0.786858, 0.647939, 0.767218]
PCM_RMS = 0.733039

FRAMES, FRAME = 8, 96


def _stt_weights() -> dict[str, torch.Tensor]:
    return wave_weights(SttConfig.from_json(STT_BODY).lm.tensors(), phase=13.571, gain=2)


def _mimi_weights() -> dict[str, torch.Tensor]:
    return wave_weights(mimi_tensors(MimiConfig.from_json(MIMI_BODY)), phase=8.1234, gain=4)


def _close(seen: torch.Tensor, expected: object) -> None:
    torch.testing.assert_close(seen, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> list[LmStep]:
    """Sixteen steps of the tiny model with two rows."""
    rows = LmRows(
        load_lm(write_stt(tmp_path_factory.mktemp("stt") / "model.safetensors", _stt_weights())), 2
    )
    codes = torch.tensor(
        [
            [[(7 * t + 3 * q + 5 * b + t * t // 3 + 1) % 32 for q in range(4)] for b in range(2)]
            for t in range(16)
        ]
    )
    return [rows.step(frame) for frame in codes]


@pytest.mark.slow
def test_weights_are_those_of_the_recording() -> None:
    """The formula gives the recorded first values of an embedding and of a norm, which is tensor 8
    of the sorted names.
    """
    weights = _stt_weights()
    _close(weights["emb.0.weight"][0, :2], [0.989830, 0.960864])
    assert sorted(weights).index("out_norm.alpha") == 8
    _close(weights["out_norm.alpha"].flatten()[:2], [0.995969, 0.955270])


def test_sizes_are_those_of_the_recording() -> None:
    """The tiny models have the recorded numbers of tensors and values."""
    for weights, tensors, values in (
        (_stt_weights(), 23, 116_864),
        (_mimi_weights(), 126, 110_781),
    ):
        assert len(weights) == tensors
        assert sum(math.prod(weight.shape) for weight in weights.values()) == values


def test_text_tokens(spoken: list[LmStep]) -> None:
    """Both rows say the recorded tokens."""
    assert tuple(torch.stack([step.tokens for step in spoken]).T.tolist()) == TOKENS


def test_margin(spoken: list[LmStep]) -> None:
    """The closest call between two tokens is as close as recorded, so rounding decides none of
    them.
    """
    best, second = torch.stack([step.logits for step in spoken]).topk(2).values.unbind(-1)
    assert 6e-4 < (best - second).min() < 8e-4


def test_text_logits(spoken: list[LmStep]) -> None:
    """The first and the last step have the recorded logits; both rows start alike."""
    _close(spoken[0].logits[:, :6], [LOGITS_STEP_0] * 2)
    _close(spoken[15].logits[:, :6], LOGITS_STEP_15)


def test_pause_probabilities(spoken: list[LmStep]) -> None:
    """The semantic-VAD heads give the recorded probabilities of class 0."""
    assert spoken[15].pauses is not None
    _close(spoken[15].pauses, PAUSES_STEP_15)


def test_mimi(tmp_path: Path) -> None:
    """Streaming encode and decode of eight frames give the recorded latents, codes and PCM."""
    encoder, decoder = load_mimi(write_mimi(tmp_path / "mimi.safetensors", _mimi_weights()))
    index = torch.arange(FRAMES * FRAME, dtype=torch.float64)
    pcm = (0.7 * torch.sin(0.0011 * index**2 + 0.02 * index)).float().view(1, 1, -1)
    rows = RowState(1, CPU)
    encoding, decoding = encoder.init_state(rows), decoder.init_state(rows)
    latents, codes, heard = [], [], []
    with torch.no_grad():
        for frame in pcm.split(FRAME, dim=-1):
            latents.append(encoder.latents(frame, encoding, every_row(1)))
            codes.append(encoder.quantizer.encode(latents[-1], 8))
            heard.append(decoder.decode(codes[-1], decoding, every_row(1)))
    _close(latents[0][0, :4, 0], LATENT_FRAME_0)
    _close(latents[7][0, :4, 0], LATENT_FRAME_7)
    assert torch.cat(codes, dim=-1)[0].tolist() == CODES
    sound = torch.cat(heard, dim=-1).flatten()
    _close(sound[:4], PCM_START)
    _close(sound[-4:], PCM_END)
    _close(sound.square().mean().sqrt(), PCM_RMS)
