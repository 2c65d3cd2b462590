"""The engine beside a plain loop over the same networks: what a slot gives depends on its own audio
alone, in the order it was given.
"""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsmops.dtypes import ComputeDType
from dsmops.errors import ResourceError
from dsmops.worker.models.conventions import END_OF_PADDING, LAST_SPECIAL, PADDING
from dsmops.worker.models.device import device_errors
from dsmops.worker.models.stt import LoadedStt, load_stt
from dsmops.worker.models.stt_config import SttConfig, SttFiles
from dsmops.worker.runtime.stt.engine import (
    MOST_LAUNCHED_STEPS,
    Alignment,
    SttEngine,
    SttLaunchedStep,
)
from dsmops.worker.tiny.stt import LM, TinyStt
from tests.support.steps import step_stt

CPU = torch.device("cpu")
FRAME = 1920
STEPS = 60
SLOTS = 3
POISON = 7
"""A text token whose embedding is NaN in `poisoned`: once a row has been made to say it, its next
logits are NaN."""


@pytest.fixture(scope="module")
def clips() -> Tensor:
    """Bursts of noise and silence for every slot, float32 [STEPS, SLOTS, 1, FRAME]."""
    generator = torch.Generator().manual_seed(3)
    loud = (torch.rand(STEPS, SLOTS, 1, 1, generator=generator) > 0.4) * torch.rand(
        STEPS, SLOTS, 1, 1, generator=generator
    )
    return 0.5 * loud * torch.randn(STEPS, SLOTS, 1, FRAME, generator=generator)


def everyone(slots: int = 1) -> Tensor:
    return torch.ones(slots, dtype=torch.bool)


def spoken(engine: SttEngine, clip: Tensor, forced: list[int] | None = None) -> list[int]:
    """Feed `clip` [T, 1, FRAME] to slot 0 of one and return its tokens."""
    tokens = []
    for step, frame in enumerate(clip):
        said = None if forced is None else torch.tensor([forced[step]])
        tokens.append(int(step_stt(engine, frame[None], everyone(), said).text_tokens))
    return tokens


@torch.no_grad()
def plain_loop(
    model: LoadedStt, clip: Tensor, alignment: Alignment
) -> tuple[list[int], Tensor, Tensor]:
    """Return tokens, logits and pauses of one recording, from the whole signal's codes and a
    language model without caches.

    By the server's alignment step t takes frame t - 1 and the codec begins with zeros, by the other
    step t takes frame t and the codec repeats its first value. Step 0 takes the initial tokens.
    """
    lm, is_server = model.lm, alignment is Alignment.SERVER
    delay_frames = int(is_server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.mimi.downsample, "repeat_first", not is_server)
        codes = model.mimi.encode(clip.reshape(1, 1, -1), lm.shape.audio_codebooks)[0]
    heard = torch.full((lm.shape.audio_codebooks, len(clip)), lm.initial_audio)
    heard[:, 1:] = codes[:, 1 - delay_frames : len(clip) - delay_frames]
    text = [lm.initial_text]
    for step in range(len(clip)):
        logits, states = lm(torch.tensor([text]), heard[None, :, : step + 1])
        text.append(int(logits[0, -1].argmax()))
    pauses = lm.pause_probabilities(states)
    assert pauses is not None
    return text[1:], logits[0], pauses[0]


@pytest.mark.slow
@pytest.mark.parametrize("alignment", Alignment)
def test_it_does_what_a_plain_loop_does(
    model: LoadedStt, clips: Tensor, alignment: Alignment
) -> None:
    """Tokens are exactly those of whole-signal codes and a model without caches.

    Logits and pauses agree, by either alignment.
    """
    clip = clips[:40, 0]
    engine = SttEngine(model, 1, alignment=alignment)
    tokens, logits, pauses = plain_loop(model, clip, alignment)
    for step, frame in enumerate(clip):
        output = step_stt(engine, frame[None], everyone())
        assert int(output.text_tokens) == tokens[step]
        torch.testing.assert_close(engine.logits[0], logits[step], atol=1e-4, rtol=0)
        torch.testing.assert_close(output.pause_probabilities[0], pauses[step], atol=1e-4, rtol=0)
        assert output.finite.tolist() == [True]
        assert output.step_ms > 0
    assert len(set(tokens)) > 5


@pytest.mark.slow
def test_steps_launched_ahead_give_what_steps_give(model: LoadedStt, clips: Tensor) -> None:
    """The next step is launched before the last one's words are read, and rows are reset between
    them.
    """
    chance = np.random.default_rng(2)
    one, other = (SttEngine(model, SLOTS) for _ in range(2))
    expected, steps = [], list[SttLaunchedStep]()
    for step in range(STEPS):
        mask = chance.random(SLOTS) < 0.8
        begun = [slot for slot in range(SLOTS) if chance.random() < 0.1]
        forced = np.where(chance.random(SLOTS) < 0.2, 9, -1)
        pcm = clips[step, :, 0].numpy()
        for engine in (one, other):
            engine.reset(begun)
        expected.append((mask, one.step(pcm, mask, forced)))
        steps.append(other.launch(pcm, mask, forced))
        if step % 3 == 2:
            steps[step - 1].wait()
    for one_step, (mask, output) in zip(steps, expected, strict=True):
        launched = one_step.wait()
        np.testing.assert_array_equal(launched.text_tokens[mask], output.text_tokens[mask])
        np.testing.assert_array_equal(
            launched.pause_probabilities[mask], output.pause_probabilities[mask]
        )
        assert launched.finite.tolist() == output.finite.tolist()
        assert launched.step_ms > 0


@pytest.mark.slow
@pytest.mark.parametrize("alignment", Alignment)
@pytest.mark.parametrize("seed", range(3))
def test_a_slot_among_others_is_a_slot_alone(
    model: LoadedStt, clips: Tensor, alignment: Alignment, seed: int
) -> None:
    """Whatever its neighbours do (idle, begin again, hold garbage while idle), a slot says exactly
    what it says alone.
    """
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(STEPS, SLOTS, generator=generator) > 0.3
    resets = torch.rand(STEPS, SLOTS, generator=generator) < 0.05
    garbage = torch.tensor([float("nan"), float("inf"), -3e38])[
        torch.randint(3, (STEPS,), generator=generator)
    ]
    together = SttEngine(model, SLOTS, alignment=alignment)
    alone = [SttEngine(model, 1, alignment=alignment) for _ in range(SLOTS)]
    said: list[list[int]] = [[] for _ in range(SLOTS)]
    for step in range(STEPS):
        begun = [slot for slot in range(SLOTS) if resets[step, slot]]
        together.reset(begun)
        for slot in begun:
            alone[slot].reset([0])
        pcm = torch.where(masks[step].view(-1, 1, 1), clips[step], garbage[step])
        output = step_stt(together, pcm, masks[step])
        for slot in range(SLOTS):
            if masks[step, slot]:
                own = step_stt(alone[slot], clips[step, slot : slot + 1], everyone())
                assert int(output.text_tokens[slot]) == int(own.text_tokens)
                assert torch.equal(together.codes[slot], alone[slot].codes[0])
                torch.testing.assert_close(
                    output.pause_probabilities[slot], own.pause_probabilities[0], atol=1e-5, rtol=0
                )
                said[slot].append(int(own.text_tokens))
    assert all(len(set(tokens)) > 5 for tokens in said)


@pytest.mark.slow
def test_a_reset_is_a_new_stream(model: LoadedStt, clips: Tensor) -> None:
    """After a reset a slot says what a fresh engine says; without one it goes on where it was."""
    clip = clips[:, 1]
    engine = SttEngine(model, 1)
    first = spoken(engine, clip)
    assert spoken(engine, clip) != first
    engine.reset([0])
    assert spoken(engine, clip) == first
    engine.reset([])
    assert spoken(engine, clip) != first


@pytest.mark.slow
def test_a_step_of_nobody_changes_nothing(model: LoadedStt, clips: Tensor) -> None:
    """Steps in which no slot advances, before the first frame or in the middle, leave the rest as
    it was.
    """
    clip, nobody = clips[:, 0], torch.zeros(1, dtype=torch.bool)
    wanted = spoken(SttEngine(model, 1), clip)
    engine, tokens = SttEngine(model, 1), []
    for frame in clip:
        step_stt(engine, torch.full((1, 1, FRAME), torch.nan), nobody)
        tokens.append(int(step_stt(engine, frame[None], everyone()).text_tokens))
    assert tokens == wanted


@pytest.mark.slow
def test_a_forced_step_chooses_among_three(model: LoadedStt, clips: Tensor) -> None:
    """Where a token is forced the best of it and the two paddings is taken, and fed back; -1 and
    None leave the choice free.
    """
    clip = clips[:, 2]
    free = spoken(SttEngine(model, 1), clip)
    assert spoken(SttEngine(model, 1), clip, [-1] * STEPS) == free
    wanted = next(token for token in free if token > LAST_SPECIAL)
    engine = SttEngine(model, 1)
    chosen = set()
    for frame in clip:
        token = int(step_stt(engine, frame[None], everyone(), torch.tensor([wanted])).text_tokens)
        allowed = [END_OF_PADDING, PADDING, wanted]
        assert token == allowed[int(engine.logits[0, allowed].argmax())]
        chosen.add(token)
    assert wanted in chosen
    assert chosen <= {END_OF_PADDING, PADDING, wanted} < set(free)


@pytest.mark.slow
def test_a_forced_slot_leaves_its_neighbour_free(model: LoadedStt, clips: Tensor) -> None:
    """Forcing is per slot."""
    free = spoken(SttEngine(model, 1), clips[:30, 1])
    engine = SttEngine(model, 2)
    tokens = [
        step_stt(engine, clips[step, :2], everyone(2), torch.tensor([100, -1])).text_tokens.tolist()
        for step in range(30)
    ]
    assert [token for _, token in tokens] == free
    assert {token for token, _ in tokens} <= {END_OF_PADDING, PADDING, 100}


@pytest.mark.slow
def test_a_temperature_draws_by_the_softmax(model: LoadedStt) -> None:
    """Tokens are drawn from softmax(logits / temperature), each slot for itself, the same ones from
    the same seed.
    """
    slots, temperature = 800, 4.0
    warm = replace(model, config=replace(model.config, temperature=temperature))

    def drawn(seed: int) -> tuple[Tensor, Tensor]:
        engine = SttEngine(warm, slots)
        torch.manual_seed(seed)
        # The first step takes the initial tokens alone, so the logits of all slots are the same.
        tokens = step_stt(engine, torch.zeros(slots, 1, FRAME), everyone(slots)).text_tokens
        return tokens, (engine.logits[0] / temperature).softmax(-1)

    tokens, expected = drawn(0)
    counts = torch.bincount(tokens, minlength=LM.text_out_vocab_size)
    likely = expected * slots >= 5
    # Pearson's statistic over the likely tokens, the rest as one; its expectation is the number of
    # classes.
    seen = torch.cat([counts[likely].double(), counts[~likely].sum().double()[None]])
    wanted = torch.cat([expected[likely].double(), expected[~likely].sum().double()[None]]) * slots
    assert len(seen) > 5
    assert float(((seen - wanted) ** 2 / wanted).sum()) < 3 * len(seen)
    assert torch.equal(tokens, drawn(0)[0])
    assert not torch.equal(tokens, drawn(1)[0])


def test_a_forced_step_at_a_temperature_draws_nothing_else(model: LoadedStt, clips: Tensor) -> None:
    """What is barred has no chance, however hot."""
    engine = SttEngine(replace(model, config=replace(model.config, temperature=50.0)), 1)
    torch.manual_seed(0)
    assert set(spoken(engine, clips[:, 0], [100] * STEPS)) == {END_OF_PADDING, PADDING, 100}


@pytest.fixture(scope="module")
def poisoned(
    tiny_stt: TinyStt, config: SttConfig, tmp_path_factory: pytest.TempPathFactory
) -> LoadedStt:
    """A model that answers `POISON` with NaN."""
    tensors = load_file(tiny_stt.files.lm)
    tensors["text_emb.weight"][POISON] = torch.nan
    path = tmp_path_factory.mktemp("poisoned") / "model.safetensors"
    save_file(tensors, path)
    return load_stt(
        SttFiles(path, tiny_stt.files.mimi, tiny_stt.files.tokenizer),
        config,
        device=CPU,
        dtype=ComputeDType.F32,
    )


@pytest.mark.slow
def test_broken_numbers_stay_in_their_slot(poisoned: LoadedStt, clips: Tensor) -> None:
    """NaN is reported for its own slot only, for as long as its stream lasts; neighbours say what
    they say alone, and a reset heals.
    """
    clip, sick = clips[:, 0], 1
    alone = spoken(SttEngine(poisoned, 1), clip)
    assert POISON not in alone
    engine = SttEngine(poisoned, SLOTS)
    told = torch.tensor([-1, POISON, -1])
    outputs = [
        step_stt(engine, frame.expand(SLOTS, 1, FRAME), everyone(SLOTS), told) for frame in clip
    ]
    said = [output.text_tokens.tolist() for output in outputs]
    broken = 1 + [tokens[sick] for tokens in said].index(POISON)
    assert [output.finite.tolist() for output in outputs] == [
        [True, step < broken, True] for step in range(STEPS)
    ]
    assert [tokens[0] for tokens in said] == [tokens[2] for tokens in said] == alone
    engine.reset([sick])
    outputs = [step_stt(engine, frame.expand(SLOTS, 1, FRAME), everyone(SLOTS)) for frame in clip]
    assert [int(output.text_tokens[sick]) for output in outputs] == alone
    assert all(output.finite.all() for output in outputs[:broken])


@pytest.mark.parametrize(
    ("pcm", "mask", "forced"),
    [
        ((2, FRAME + 1), (2,), None),
        ((1, FRAME), (2,), None),
        ((2, 1, FRAME), (2,), None),
        ((2, FRAME), (1,), None),
        ((2, FRAME), (2,), (1,)),
        ((2, FRAME), (2,), (2, 1)),
    ],
)
def test_wrong_shapes_are_refused(
    model: LoadedStt, pcm: tuple[int, ...], mask: tuple[int, ...], forced: tuple[int, ...] | None
) -> None:
    """A wrong shape is a ValueError that says what would fit, before any slot has moved."""
    engine = SttEngine(model, 2)
    with pytest.raises(ValueError, match=r"has shape .*; this engine takes \[2"):
        engine.step(
            np.zeros(pcm, np.float32),
            np.ones(mask, np.bool_),
            None if forced is None else np.zeros(forced, np.int64),
        )
    assert not engine._started.any()


@pytest.mark.parametrize("slot", [-1, 2])
def test_a_slot_that_is_not_there_cannot_be_reset(model: LoadedStt, slot: int) -> None:
    """On a GPU such an index would end every stream."""
    with pytest.raises(ValueError, match="not all among 2"):
        SttEngine(model, 2).reset([0, slot])


def test_slots_that_do_not_fit_are_told(model: LoadedStt) -> None:
    """More than any machine has memory for is an error that says so, not a bug; what else goes
    wrong stays what it is.
    """
    with pytest.raises(ResourceError, match="out of memory for the model") as caught:
        # The first state tensor alone is too much, so that nothing is taken before the failure.
        SttEngine(model, 2**48)
    assert (caught.value.code, caught.value.exit_code) == ("memory.full", 5)
    with pytest.raises(RuntimeError, match="shape"), device_errors(CPU):
        torch.zeros(2).view(3)


def test_outputs_are_the_callers_to_keep(model: LoadedStt, clips: Tensor) -> None:
    """What a step returned does not change with the next one."""
    engine = SttEngine(model, 1)
    outputs = [step_stt(engine, frame[None], everyone()) for frame in clips[:20, 0]]
    assert [int(output.text_tokens) for output in outputs] == spoken(
        SttEngine(model, 1), clips[:20, 0]
    )
    assert len({float(output.pause_probabilities[0, 0]) for output in outputs}) > 5


def test_state_is_what_plan_counts(model: LoadedStt) -> None:
    """The bytes of all slots grow with their number, and are at least the rings'."""
    one, three = (SttEngine(model, slots).state_bytes for slots in (1, 3))
    assert three == 3 * one
    assert one > LM.kv_bytes_per_stream(4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [ComputeDType.F16, ComputeDType.BF16])
def test_it_runs_in_16_bits_on_a_cpu(
    tiny_stt: TinyStt, config: SttConfig, clips: Tensor, dtype: ComputeDType
) -> None:
    """Half precision gives finite numbers, and words."""
    engine = SttEngine(load_stt(tiny_stt.files, config, device=CPU, dtype=dtype), 1)
    outputs = [step_stt(engine, frame[None], everyone()) for frame in clips[:, 0]]
    assert all(output.finite.all() for output in outputs)
    assert len({int(output.text_tokens) for output in outputs}) > 5


def test_a_model_without_heads_has_no_pauses(
    tiny_stt: TinyStt, config: SttConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As the 2.6B model: `pause_probabilities` is [B, 0]."""
    path = tmp_path_factory.mktemp("plain") / "model.safetensors"
    save_file(
        {
            name: value
            for name, value in load_file(tiny_stt.files.lm).items()
            if not name.startswith("extra_heads")
        },
        path,
    )
    plain = replace(config, lm=replace(config.lm, extra_heads=None))
    engine = SttEngine(
        load_stt(
            SttFiles(path, tiny_stt.files.mimi, tiny_stt.files.tokenizer),
            plain,
            device=CPU,
            dtype=ComputeDType.F32,
        ),
        2,
    )
    assert step_stt(engine, torch.zeros(2, 1, FRAME), everyone(2)).pause_probabilities.shape == (
        2,
        0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_broken_sound_is_told(model: LoadedStt, clips: Tensor, bad: float) -> None:
    """One sample that is not finite marks its slot, and no other, for as long as its stream
    remembers it; a reset heals the slot.
    """
    engine, alone = SttEngine(model, SLOTS), SttEngine(model, SLOTS)
    for number, frame in enumerate(clips[:20]):
        given = frame.clone()
        if number == 5:
            given[1, 0, 700] = bad
        output, expected = (
            step_stt(engine, given, everyone(SLOTS)),
            step_stt(alone, frame, everyone(SLOTS)),
        )
        assert output.finite.tolist() == [True, number < 5, True]
        assert output.text_tokens[[0, 2]].tolist() == expected.text_tokens[[0, 2]].tolist()
    engine.reset([1])
    assert step_stt(engine, clips[0], everyone(SLOTS)).finite.all()


def allocated() -> dict[int, int]:
    """Return the bytes of every tensor storage that is in use, by address."""
    gc.collect()
    storages = [thing.untyped_storage() for thing in gc.get_objects() if type(thing) is Tensor]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


@pytest.mark.slow
def test_state_is_all_that_is_allocated(model: LoadedStt, clips: Tensor) -> None:
    """`state_bytes` counts every tensor of an engine but its inputs and outputs, and steps keep
    none besides.
    """
    before = allocated()
    engine = SttEngine(model, SLOTS)
    after = allocated()
    mask_and_forced, report = 1 + 8, (2 + 4) * 4
    inputs, outputs = (
        FRAME * 4 + mask_and_forced,
        report + LM.audio_codebooks * 8 + LM.text_out_vocab_size * 4,
    )
    handed_over = MOST_LAUNCHED_STEPS * (mask_and_forced + report)
    taken = sum(size for address, size in after.items() if address not in before)
    assert engine.state_bytes == taken - SLOTS * (inputs + outputs + handed_over)
    for frame in clips[:3]:
        step_stt(engine, frame, everyone(SLOTS))
    assert allocated().keys() <= after.keys()
