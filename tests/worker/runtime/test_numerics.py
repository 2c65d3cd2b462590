"""What a language model computes, seen from inside: the watch sees where values leave their range,
and comparing changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsmops.dtypes import ComputeDType
from dsmops.worker.models.stt import LoadedStt, load_lm
from dsmops.worker.models.stt_config import SttConfig
from dsmops.worker.models.stt_lm import SttLm
from dsmops.worker.runtime.numerics import (
    Stage,
    SttLmRun,
    compare_logits,
    encode_frames,
    run_stt_lm,
)
from dsmops.worker.runtime.stt.engine import SttEngine
from dsmops.worker.tiny.stt import LM, TinyStt
from tests.support.steps import step_stt
from tests.support.tolerances import LOGITS

CPU = torch.device("cpu")
FRAMES = 30
LAYER = "transformer.layers.1"
BIG = 30_000.0
"""Fits into float16 well; its product with another such value does not."""


@pytest.fixture(scope="module")
def pcm() -> Tensor:
    """Loud and soft noise in turns, float32 [FRAMES, 1920]."""
    rng = np.random.default_rng(1)
    loudness = np.repeat(np.tile([0.3, 0.0, 0.1], FRAMES)[:FRAMES, None], 1920, axis=1)
    return torch.from_numpy((rng.uniform(-1, 1, (FRAMES, 1920)) * loudness).astype(np.float32))


@pytest.fixture(scope="module")
def codes(model: LoadedStt, pcm: Tensor) -> Tensor:
    return encode_frames(model.mimi, pcm.numpy(), LM.audio_codebooks, device=CPU)


@pytest.fixture(scope="module")
def original(model: LoadedStt, codes: Tensor) -> SttLmRun:
    return run_stt_lm(model.lm, codes)


def spoilt(
    tiny_stt: TinyStt,
    config: SttConfig,
    folder: Path,
    dtype: ComputeDType,
    **values: tuple[tuple[int, ...], float],
) -> SttLm:
    """Load the tiny model with single weights changed.

    `__` in a name stands for a dot, and names without a layer belong to `LAYER`.
    """
    weights = load_file(tiny_stt.files.lm)
    for name, (at, value) in values.items():
        dotted = name.replace("__", ".")
        weights[dotted if dotted in weights else f"{LAYER}.{dotted}"][at] = value
    path = folder / "spoilt.safetensors"
    save_file(weights, path)
    return load_lm(path, config, device=CPU, dtype=dtype)


def test_the_tokens_are_those_that_an_engine_serves(
    model: LoadedStt, pcm: Tensor, codes: Tensor, original: SttLmRun
) -> None:
    """Same codes, same alignment, same choices: what is judged here is what clients get."""
    engine = SttEngine(model, batch_size=1)
    tokens = []
    for number, frame in enumerate(pcm):
        tokens.append(
            int(step_stt(engine, frame[None, None], torch.ones(1, dtype=torch.bool)).text_tokens)
        )
        assert engine.codes[0].tolist() == codes[number].tolist()
        assert torch.allclose(engine.logits[0], original.logits[number], atol=LOGITS[torch.float32])
    assert tuple(tokens) == original.tokens


def test_watching_leaves_the_network_as_it_was(
    model: LoadedStt, codes: Tensor, original: SttLmRun
) -> None:
    """No hook stays behind, and a second run gives the same."""
    hooks = [
        hook
        for module in model.lm.modules()
        for hook in (*module._forward_hooks, *module._forward_pre_hooks)
    ]
    assert hooks == []
    again = run_stt_lm(model.lm, codes)
    assert again.tokens == original.tokens
    assert again.readings == original.readings


def test_each_layer_is_named_as_in_the_checkpoint_in_the_order_of_computing(
    original: SttLmRun,
) -> None:
    """The embedding first, four places a layer, the logits last; all finite, none untouched."""
    inside = [Stage.SCORES, Stage.ATTENTION, Stage.GATE, Stage.FEED_FORWARD]
    layers = [
        (f"transformer.layers.{number}", stage)
        for number in range(LM.num_layers)
        for stage in inside
    ]
    assert [(reading.layer, reading.stage) for reading in original.readings] == [
        ("emb", Stage.EMBEDDING),
        *layers,
        ("text_linear", Stage.LOGITS),
    ]
    assert all(
        reading.largest and not reading.non_finite and reading.first_non_finite_step is None
        for reading in original.readings
    )


def test_readings_are_the_largest_values_of_all_steps(
    model: LoadedStt, codes: Tensor, original: SttLmRun
) -> None:
    """The logits' reading is what the logits say, and attention scores grow with the queries."""
    assert original.readings[-1].largest == pytest.approx(float(original.logits.abs().max()))
    weights = model.lm.layers[0].self_attn.in_proj_weight
    queries = weights[: LM.d_model].clone()
    weights[: LM.d_model] *= 4
    louder = run_stt_lm(model.lm, codes[:1])
    weights[: LM.d_model] = queries
    assert louder.readings[1].largest == pytest.approx(
        4 * (run_stt_lm(model.lm, codes[:1]).readings[1].largest or 0), rel=1e-5
    )


def test_the_same_model_told_its_own_text_gives_its_own_logits(
    model: LoadedStt, codes: Tensor, original: SttLmRun
) -> None:
    """Both rows go the same way, and nothing is apart but the order of sums."""
    again = run_stt_lm(model.lm, codes, reference=original)
    error = compare_logits(original, again)
    assert again.tokens == original.tokens
    assert error.same_choice_share == 1
    assert error.max_abs is not None
    assert error.max_abs < LOGITS[torch.float32]


def test_text_that_was_told_is_heard(model: LoadedStt, codes: Tensor, original: SttLmRun) -> None:
    """With another text the logits are others, while the model left alone writes what it wrote."""
    other = run_stt_lm(
        model.lm, codes, reference=replace(original, tokens=(LM.text_out_vocab_size - 1,) * FRAMES)
    )
    assert other.tokens == original.tokens
    assert (compare_logits(original, other).rms or 0) > 0.1


@pytest.mark.parametrize("dtype", [ComputeDType.F16, ComputeDType.BF16])
def test_errors_of_16_bits_are_within_the_table(
    tiny_stt: TinyStt, config: SttConfig, codes: Tensor, original: SttLmRun, dtype: ComputeDType
) -> None:
    """The largest error is what the tolerances allow for logits of this size.

    F16 is nearer than bf16.
    """
    error = compare_logits(
        original,
        run_stt_lm(
            load_lm(tiny_stt.files.lm, config, device=CPU, dtype=dtype), codes, reference=original
        ),
    )
    torch_dtype = {ComputeDType.F16: torch.float16, ComputeDType.BF16: torch.bfloat16}[dtype]
    assert error.max_abs is not None
    # The table is for logits up to 4; those of this model reach 17.
    assert 0 < error.max_abs < LOGITS[torch_dtype] * (original.readings[-1].largest or 0) / 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "stage"),
    [
        ({"self_attn__in_proj_weight": ((0,), BIG)}, Stage.SCORES),
        (
            {
                "self_attn__in_proj_weight": ((2 * LM.d_model,), BIG),
                "self_attn__out_proj__weight": ((3, 0), BIG),
            },
            Stage.ATTENTION,
        ),
        ({"gating__linear_in__weight": ((0,), BIG)}, Stage.GATE),
        ({"gating__linear_out__weight": ((3,), BIG)}, Stage.FEED_FORWARD),
    ],
    ids=["scores", "attention", "gate", "feed-forward"],
)
def test_overflow_is_seen_where_it_begins(
    tiny_stt: TinyStt,
    config: SttConfig,
    codes: Tensor,
    tmp_path: Path,
    weights: dict[str, tuple[tuple[int, ...], float]],
    stage: Stage,
) -> None:
    """Weights that all fit, activations that do not: in f16 the first place that is not finite is
    the one after them, and f32 has none.
    """
    seen = run_stt_lm(spoilt(tiny_stt, config, tmp_path, ComputeDType.F16, **weights), codes)
    assert seen.faults == ()
    bad = [reading for reading in seen.readings if reading.first_non_finite_step is not None]
    first = min(bad, key=lambda reading: reading.first_non_finite_step or 0)
    assert (first.layer, first.stage) == (LAYER, stage)
    exact = run_stt_lm(spoilt(tiny_stt, config, tmp_path, ComputeDType.F32, **weights), codes)
    assert not any(reading.non_finite for reading in exact.readings)


def test_what_is_not_finite_is_counted_from_its_first_step(
    tiny_stt: TinyStt, config: SttConfig, codes: Tensor, tmp_path: Path
) -> None:
    """A NaN in the row of one code comes up when that code is used, a step after its frame."""
    code = int(codes[4, 0])
    step = codes[:, 0].tolist().index(code) + 1
    lm = spoilt(
        tiny_stt, config, tmp_path, ComputeDType.F32, emb__0__weight=((code, 5), float("nan"))
    )
    seen = run_stt_lm(lm, codes)
    assert [(fault.tensor, fault.non_finite) for fault in seen.faults] == [("emb.0.weight", 1)]
    embedding = seen.readings[0]
    assert embedding.first_non_finite_step == step
    assert embedding.non_finite == codes[:-1, 0].tolist().count(code)
    assert (
        compare_logits(
            run_stt_lm(spoilt(tiny_stt, config, tmp_path, ComputeDType.F32), codes), seen
        ).max_abs
        is not None
    )


def test_nothing_finite_gives_no_error(
    tiny_stt: TinyStt, config: SttConfig, codes: Tensor, tmp_path: Path, original: SttLmRun
) -> None:
    """Where every logit is NaN there is no figure, and no zero that looks like a good one."""
    lm = spoilt(
        tiny_stt, config, tmp_path, ComputeDType.F32, out_norm__alpha=((0, 0, 0), float("nan"))
    )
    seen = run_stt_lm(lm, codes, reference=original)
    error = compare_logits(original, seen)
    assert (error.max_abs, error.rms, error.relative_rms, error.same_choice_share) == (
        None,
        None,
        None,
        0,
    )
    assert seen.readings[-1].largest is None
