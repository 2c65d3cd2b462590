"""A slot depends on nothing but its own stream: not on its neighbours, not on idle steps, not on
what ran in it before a reset.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor

from dsmops.worker.models.mimi import MimiDecoder, MimiEncoder
from dsmops.worker.models.state import RowState
from dsmops.worker.models.stt_lm import SttLm
from tests.support.networks import (
    CPU,
    LmRows,
    every_row,
    load_lm,
    load_mimi,
    tiny_stt_weights,
    write_mimi,
    write_stt,
)
from tests.support.tolerances import LOGITS, MIMI

SLOTS, STEPS, FRAME = 5, 48, 96
POISON_CODE = 31
POISONS = (float("nan"), float("inf"), float("-inf"), 3e38)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Stream(Protocol):
    """A model with rows.

    `step` takes one input per row and gives one output per row, and does not care what idle rows
    are given.
    """

    def step(self, inputs: Tensor, mask: Tensor) -> Tensor: ...

    def reset(self, rows: list[int]) -> None: ...


class Spoken:
    """The language model, given codes and told what to say: logits.

    Code 31 of the first codebook makes a row's keys and values NaN.
    """

    def __init__(self, lm: SttLm, rows: int) -> None:
        self._rows = LmRows(lm, rows)

    def step(self, inputs: Tensor, mask: Tensor) -> Tensor:
        return self._rows.step(inputs[:, 1:], mask, say=inputs[:, 0]).logits

    def reset(self, rows: list[int]) -> None:
        self._rows.reset(rows)


class _Mimi:
    def __init__(self, half: MimiEncoder | MimiDecoder, rows: int) -> None:
        self._state = RowState(rows, CPU)
        self._half: Any = half
        self._streams = half.init_state(self._state)

    def reset(self, rows: list[int]) -> None:
        self._state.reset(rows)


class Encoded(_Mimi):
    """PCM to latents."""

    @torch.no_grad()
    def step(self, inputs: Tensor, mask: Tensor) -> Tensor:
        return self._half.latents(inputs, self._streams, mask)


class Decoded(_Mimi):
    """Codes to PCM."""

    @torch.no_grad()
    def step(self, inputs: Tensor, mask: Tensor) -> Tensor:
        return self._half.decode(inputs, self._streams, mask)


@dataclass
class Plan:
    """Per step: which rows are reset before it, which advance, which of all rows are fed poison.

    A row that advanced on poison is given up until it is reset.
    """

    resets: list[list[int]]
    masks: list[list[bool]]
    poisoned: list[list[bool]]

    @classmethod
    def random(cls, seed: int, *, poison: bool) -> Plan:
        chance = random.Random(seed)
        # One slot idles through the first ten steps; one is never reset, and so goes round its ring
        # several times.
        masks = [
            [chance.random() < 0.7 and (slot > 0 or step >= 10) for slot in range(SLOTS)]
            for step in range(STEPS)
        ]
        resets = [
            [slot for slot in range(1, SLOTS) if step and chance.random() < 0.06]
            for step in range(STEPS)
        ]
        poisoned = [
            [
                poison and (not masks[step][slot] or (slot > 1 and chance.random() < 0.05))
                for slot in range(SLOTS)
            ]
            for step in range(STEPS)
        ]
        return cls(resets, masks, poisoned)


def _follow(
    plan: Plan, together: Stream, alone: list[Stream], inputs: Tensor, poisons: Tensor, atol: float
) -> int:
    """Run `together` by the plan and every slot in a stream of its own.

    Return how many outputs were compared.
    """
    compared, spoilt = 0, [False] * SLOTS
    for step in range(STEPS):
        if plan.resets[step]:
            together.reset(plan.resets[step])
        mask, poisoned = torch.tensor(plan.masks[step]), torch.tensor(plan.poisoned[step])
        given = torch.where(
            poisoned.view(-1, *(1,) * (inputs.dim() - 2)), poisons[step], inputs[step]
        )
        outputs = together.step(given, mask)
        for slot in range(SLOTS):
            if slot in plan.resets[step]:
                alone[slot].reset([0])
                spoilt[slot] = False
            if not mask[slot]:
                continue
            spoilt[slot] |= bool(poisoned[slot])
            if not spoilt[slot]:
                own = alone[slot].step(inputs[step, slot : slot + 1], every_row(1))
                torch.testing.assert_close(outputs[slot : slot + 1], own, atol=atol, rtol=0)
                compared += 1
    return compared


@pytest.fixture(scope="module")
def stt_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model one of whose codes is poison."""
    weights = tiny_stt_weights()
    weights["emb.0.weight"][POISON_CODE] = float("nan")
    return write_stt(tmp_path_factory.mktemp("stt") / "model.safetensors", weights)


@pytest.fixture(scope="module")
def mimi(tmp_path_factory: pytest.TempPathFactory) -> tuple[MimiEncoder, MimiDecoder]:
    """The tiny Mimi, whose ring is full after five frames."""
    return load_mimi(write_mimi(tmp_path_factory.mktemp("mimi") / "mimi.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(2))
def test_language_model(stt_file: Path, dtype: torch.dtype, seed: int) -> None:
    """Logits of a slot among busy, idle, resetting and NaN-ridden neighbours are those of the slot
    alone.
    """
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(POISON_CODE, (STEPS, SLOTS, 4), generator=generator)
    inputs = torch.cat([torch.randint(48, (STEPS, SLOTS, 1), generator=generator), codes], dim=-1)
    poisons = inputs.clone()
    poisons[..., 1] = POISON_CODE
    lm = load_lm(stt_file, dtype=dtype)
    alone: list[Stream] = [Spoken(lm, 1) for _ in range(SLOTS)]
    assert (
        _follow(
            Plan.random(seed, poison=True), Spoken(lm, SLOTS), alone, inputs, poisons, LOGITS[dtype]
        )
        > STEPS
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_mimi_encoder(mimi: tuple[MimiEncoder, MimiDecoder], seed: int) -> None:
    """Latents of a slot among others are those of the slot alone, whatever PCM idle rows hold: NaN,
    infinity, the largest floats.
    """
    inputs = 0.5 * torch.randn(
        STEPS, SLOTS, 1, FRAME, generator=torch.Generator().manual_seed(seed)
    )
    poisons = (
        torch.tensor(POISONS)[torch.arange(STEPS) % len(POISONS)]
        .view(-1, 1, 1, 1)
        .expand_as(inputs)
    )
    alone: list[Stream] = [Encoded(mimi[0], 1) for _ in range(SLOTS)]
    assert (
        _follow(
            Plan.random(seed, poison=True), Encoded(mimi[0], SLOTS), alone, inputs, poisons, MIMI
        )
        > STEPS
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_mimi_decoder(mimi: tuple[MimiEncoder, MimiDecoder], seed: int) -> None:
    """PCM of a slot among others is that of the slot alone."""
    generator = torch.Generator().manual_seed(seed)
    inputs, garbage = (
        torch.randint(32, (STEPS, SLOTS, 8, 1), generator=generator) for _ in range(2)
    )
    alone: list[Stream] = [Decoded(mimi[1], 1) for _ in range(SLOTS)]
    assert (
        _follow(
            Plan.random(seed, poison=True), Decoded(mimi[1], SLOTS), alone, inputs, garbage, MIMI
        )
        > STEPS
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_choices_are_the_same(
    tmp_path: Path, mimi: tuple[MimiEncoder, MimiDecoder], seed: int
) -> None:
    """In float32 a slot among others gets the very codes and gives the very words that it does
    alone, each word fed back to it.
    """
    plan, lm = Plan.random(seed, poison=False), load_lm(write_stt(tmp_path / "lm.safetensors"))
    pcm = 0.5 * torch.randn(STEPS, SLOTS, 1, FRAME, generator=torch.Generator().manual_seed(seed))
    together, alone = (
        _Listener(mimi[0], lm, SLOTS),
        [_Listener(mimi[0], lm, 1) for _ in range(SLOTS)],
    )
    heard: list[list[int]] = [[] for _ in range(SLOTS)]
    for step in range(STEPS):
        mask = torch.tensor(plan.masks[step])
        if plan.resets[step]:
            together.reset(plan.resets[step])
        outputs = together.step(pcm[step], mask)
        for slot in range(SLOTS):
            if slot in plan.resets[step]:
                alone[slot].reset([0])
            if mask[slot]:
                assert torch.equal(
                    outputs[slot], alone[slot].step(pcm[step, slot : slot + 1], every_row(1))[0]
                )
                heard[slot].append(int(outputs[slot, 0]))
    assert all(len(set(words)) > 5 for words in heard)


class _Listener:
    """PCM to one text token and its codes per row, the token fed back."""

    def __init__(self, encoder: MimiEncoder, lm: SttLm, rows: int) -> None:
        self._encoder, self._lm = encoder, LmRows(lm, rows)
        self._streams = encoder.init_state(self._lm.state)

    @torch.no_grad()
    def step(self, pcm: Tensor, mask: Tensor) -> Tensor:
        codes = self._encoder.encode(pcm, 4, self._streams, mask)[..., 0]
        return torch.cat([self._lm.step(codes, mask).tokens[:, None], codes], dim=1)

    def reset(self, rows: list[int]) -> None:
        self._lm.reset(rows)


def test_reset_of_no_rows(mimi: tuple[MimiEncoder, MimiDecoder]) -> None:
    """An empty reset changes nothing."""
    rows = RowState(2, CPU)
    tensor = rows.zeros(3)
    tensor.fill_(7)
    rows.reset([])
    assert (tensor == 7).all()
    rows.reset([1])
    assert tensor.tolist() == [[7] * 3, [0] * 3]
