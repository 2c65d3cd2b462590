"""Serving plans: the smaller bound wins, the reason is said, and what cannot fit names what
would.
"""

import pytest

from dsmops.config.memory import ServedModel, serving_memory
from dsmops.config.plan import CAUTIOUS_BATCH_SIZE, LimitedBy, TimeBasis, plan_serving
from dsmops.config.timing import StepPoint, StepProfile
from dsmops.devices import ComputeCapability, Device, Runtime
from dsmops.dtypes import ComputeDType
from dsmops.errors import InputError
from dsmops.models import MODELS

GIB = 2**30
ONE_B, TWO_B, TTS = MODELS["stt-1b-en_fr"], MODELS["stt-2.6b-en"], MODELS["tts-1.6b-en_fr"]


def card(
    capability: str = "7.5",
    gib: float | None = 8,
    free_gib: float | None = None,
    gb_per_s: int | None = 448,
) -> Device:
    return Device(
        name="card",
        compute_capability=ComputeCapability.parse(capability) if capability else None,
        memory_total_bytes=None if gib is None else int(gib * GIB),
        memory_free_bytes=None if free_gib is None else int(free_gib * GIB),
        memory_bandwidth_bytes_per_s=None if gb_per_s is None else gb_per_s * 10**9,
        nvml_index=0,
        cuda_ordinal=0,
        uuid=None,
        source="simulated",
    )


def test_memory_limits_a_small_fast_card() -> None:
    """On an 8 GiB card with a wide bus the memory bound decides, and the plan fits what is
    usable.
    """
    plan = plan_serving(card(), ONE_B)
    assert (plan.limited_by, plan.batch_size) == (LimitedBy.MEMORY, plan.memory_batch_size)
    assert plan.memory.total_bytes <= plan.usable_bytes == 8 * GIB - plan.reserve_bytes


def test_time_limits_a_large_slow_card() -> None:
    """On a T4 the step time decides: memory allows about twice as many."""
    plan = plan_serving(card(gib=16, gb_per_s=320), ONE_B)
    assert plan.limited_by is LimitedBy.TIME
    assert plan.time_basis is TimeBasis.ESTIMATE
    assert plan.batch_size == plan.time_batch_size < plan.memory_batch_size
    assert plan.step_ms <= plan.step_budget_ms


def test_a_measured_profile_replaces_the_estimate() -> None:
    """With a profile the time bound is the measured one."""
    profile = StepProfile(
        "card",
        ONE_B.name,
        ComputeDType.F16,
        "moshi-server",
        (StepPoint(1, 25), StepPoint(8, 60), StepPoint(9, 85)),
    )
    plan = plan_serving(card(), ONE_B, profile=profile)
    assert (plan.batch_size, plan.limited_by, plan.time_basis, plan.step_ms) == (
        8,
        LimitedBy.TIME,
        TimeBasis.MEASURED,
        60,
    )


def test_free_memory_counts_not_the_size_of_the_card() -> None:
    """What other processes hold is not planned again."""
    assert plan_serving(card(free_gib=4), ONE_B).batch_size < plan_serving(card(), ONE_B).batch_size


def test_an_unknown_card_is_planned_cautiously() -> None:
    """Without a memory figure the batch size is small and the plan says why."""
    plan = plan_serving(card(gib=None, gb_per_s=None), ONE_B)
    assert (plan.batch_size, plan.limited_by, plan.step_ms) == (
        CAUTIOUS_BATCH_SIZE,
        LimitedBy.UNKNOWN_MEMORY,
        None,
    )
    assert any("unknown" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ("7.5", ComputeDType.F16),
        ("6.1", ComputeDType.F32),
        ("8.9", ComputeDType.BF16),
        ("7.0", ComputeDType.F16),
    ],
)
def test_the_dtype_follows_the_architecture(capability, dtype) -> None:
    """bf16 from Ampere, f16 on Volta and Turing, f32 on consumer Pascal."""
    assert plan_serving(card(capability), ONE_B).dtype is dtype


def test_when_nothing_fits_the_plan_says_what_would() -> None:
    """The 2.6B model in 4 GiB does not fit; the 1B does, and every alternative named really
    fits.
    """
    plan = plan_serving(card(gib=4), TWO_B)
    assert (plan.fits, plan.limited_by) == (False, LimitedBy.NOTHING_FITS)
    assert plan.alternatives
    for alternative in plan.alternatives:
        assert "stt-1b-en_fr" in alternative.change
        assert alternative.total_bytes <= plan.usable_bytes


def test_an_f32_card_is_offered_f16_and_a_shorter_context() -> None:
    """A 3.7 GiB Pascal card cannot hold the 1B in f32; f16 is named as the way."""
    plan = plan_serving(card("6.1", gib=4.4), ONE_B)
    assert not plan.fits
    assert any("--dtype f16" in alternative.change for alternative in plan.alternatives)


def test_a_slow_estimate_warns_but_does_not_forbid() -> None:
    """An estimate above the budget leaves one slot and a warning: only memory can say no."""
    plan = plan_serving(card(gib=16, gb_per_s=60), ONE_B)
    assert (plan.batch_size, plan.limited_by) == (1, LimitedBy.TIME)
    assert any("measure" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("device", "arguments", "words"),
    [
        (card(), {"dtype": ComputeDType.BF16}, "no bf16"),
        (card(capability=""), {}, "capability"),
        (card(), {"context": 0x1000}, "context"),
        (card(), {"context": 0}, "context"),
        (card(), {"n_q": 8}, "TTS models only"),
    ],
)
def test_what_cannot_work_is_refused(device, arguments, words) -> None:
    """A dtype the card lacks, an unknown card without a dtype and a context beyond the model's are
    input errors with a hint.
    """
    with pytest.raises(InputError, match=words) as caught:
        plan_serving(device, ONE_B, **arguments)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("device", "arguments", "words"),
    [
        (card(), {}, "no bf16 arithmetic"),
        (card("8.6"), {"dtype": ComputeDType.F16}, "not f16"),
        (card("8.6"), {"context": 250}, "config.json"),
        (card("8.6"), {"n_q": 33}, "--n-q 33 is invalid"),
        (card("8.6"), {"n_q": 0}, "--n-q 0 is invalid"),
    ],
)
def test_a_speaking_model_that_cannot_be_served_so_is_refused(device, arguments, words) -> None:
    """moshi-server's Python module is bf16 on every card and in every config; numbers that the
    model does not have are named.
    """
    with pytest.raises(InputError, match=words) as caught:
        plan_serving(device, TTS, **arguments)
    assert caught.value.hint


def test_an_old_card_speaks_through_the_embedded_worker() -> None:
    """What moshi-server cannot do on Turing the worker plans in f16, by memory and time; fewer
    codebooks never plan fewer slots.
    """
    with pytest.raises(InputError) as caught:
        plan_serving(card(), TTS)
    assert "--runtime embedded" in caught.value.hint
    plans = [plan_serving(card(), TTS, runtime=Runtime.EMBEDDED, n_q=n_q) for n_q in (32, 24, 8)]
    assert {plan.dtype for plan in plans} == {ComputeDType.F16}
    assert plans[0].batch_size <= plans[1].batch_size < plans[2].batch_size
    assert all(plan.memory.total_bytes <= plan.usable_bytes for plan in plans)
    assert not any("sounds worse" in note for note in plans[0].notes)
    assert any("sounds worse" in note for note in plans[1].notes)


def test_a_speaking_plan_says_what_fewer_codebooks_would_change() -> None:
    """Steps and memory of 8 to 32 codebooks at the planned size; the row of its own number is the
    plan itself.
    """
    plan = plan_serving(card(), TTS, runtime=Runtime.EMBEDDED, n_q=24)
    assert [choice.n_q for choice in plan.codebook_choices] == [8, 16, 24, 32]
    assert [choice.step_ms for choice in plan.codebook_choices] == sorted(
        choice.step_ms for choice in plan.codebook_choices
    )
    own = plan.codebook_choices[2]
    assert (own.step_ms, own.total_bytes) == (plan.step_ms, plan.memory.total_bytes)
    assert plan_serving(card(), ONE_B).codebook_choices == ()


def test_moshi_servers_tts_module_is_planned_as_measured() -> None:
    """On a card with bf16 the plan gives its memory, and the card on which it was measured."""
    plan = plan_serving(card("8.6", gib=24), TTS)
    assert plan.dtype is ComputeDType.BF16
    assert plan.fits
    assert any("measured on one H200" in note for note in plan.notes)
    assert any("type Tts" in note and "no released file" in note for note in plan.notes)


def test_a_speaking_model_that_does_not_fit_is_offered_fewer_codebooks() -> None:
    """Never another kind of model: an alternative speaks, and fits."""
    plan = plan_serving(card(gib=4.9), TTS, runtime=Runtime.EMBEDDED)
    assert not plan.fits
    (alternative,) = plan.alternatives
    assert "--model tts-1.6b-en_fr --dtype f16 --n-q" in alternative.change
    assert alternative.total_bytes <= plan.usable_bytes


def test_a_shorter_context_saves_exactly_its_cache() -> None:
    """Halving the context halves the KV cache and nothing else."""
    full, half = (
        serving_memory(ServedModel(ONE_B.shape, ComputeDType.F16, context=context), 4)
        for context in (750, 375)
    )
    assert full.kv_bytes == 2 * half.kv_bytes
    assert full.total_bytes - half.total_bytes == half.kv_bytes
