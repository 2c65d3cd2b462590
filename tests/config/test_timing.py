"""Step times: profiles are interpolated and never extrapolated; estimates say what they cannot
know.
"""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from dsmops.config.memory import ServedModel
from dsmops.config.timing import (
    BUDGET_MS,
    PROFILE_SCHEMA,
    StepPoint,
    StepProfile,
    estimate_largest_batch,
    estimate_step_ms,
    find_profile,
    measured_of,
    read_profile,
)
from dsmops.devices import ComputeCapability, Device, Runtime
from dsmops.dtypes import ALL_INT8, PLAIN, ComputeDType, Quant, Quantised
from dsmops.errors import InputError, SourceError
from dsmops.models import MODELS, STT_MODELS, TTS_MODELS
from dsmops.operations.configs.planning import find_device

LM = STT_MODELS["stt-1b-en_fr"].shape
GOOD = {
    "schema": PROFILE_SCHEMA,
    "device_name": "Tesla T4",
    "model": "stt-1b-en_fr",
    "dtype": "F16",
    "runtime": "moshi-server",
    "points": [
        {"batch_size": 4, "step_p99_ms": 30.0},
        {"batch_size": 8, "step_p99_ms": 50.0},
        {"batch_size": 16, "step_p99_ms": 90.0},
    ],
}


def device(bandwidth: int | None) -> Device:
    return Device(
        "card", ComputeCapability(7, 5), 8 * 2**30, None, bandwidth, 0, 0, None, "simulated"
    )


def test_a_profile_is_linear_between_points_and_silent_beyond_them() -> None:
    """Between 8 and 16 the 99th percentile rises linearly; below the first point it is level;
    beyond the last it is unknown.
    """
    profile = StepProfile(
        "T4", "m", ComputeDType.F16, "r", (StepPoint(4, 30), StepPoint(8, 50), StepPoint(16, 90))
    )
    assert [profile.step_p99_ms(batch) for batch in (1, 4, 6, 8, 12, 16, 17)] == [
        30,
        30,
        40,
        50,
        70,
        90,
        None,
    ]
    assert profile.largest_batch(70) == 12
    assert profile.largest_batch(29) == 0
    assert profile.largest_batch(1000) == 16


H200 = Device(
    "H200", ComputeCapability(9, 0), None, None, 4_800_000_000_000, 0, 0, None, "simulated"
)


@pytest.mark.parametrize(
    ("dtype", "batch_size", "measured_ms"),
    [
        (ComputeDType.F16, 1, 14.5),
        (ComputeDType.F16, 8, 13.1),
        (ComputeDType.F16, 64, 13.7),
        (ComputeDType.F16, 256, 32.0),
        (ComputeDType.F16, 400, 48.2),
        (ComputeDType.F16, 560, 63.9),
        (ComputeDType.F16, 700, 79.0),
        (ComputeDType.BF16, 1, 14.5),
        (ComputeDType.BF16, 8, 16.9),
        (ComputeDType.BF16, 64, 16.6),
    ],
)
def test_moshi_servers_measured_steps_are_met(
    dtype: ComputeDType, batch_size: int, measured_ms: float
) -> None:
    """The table measured on an H200 with moshi-server 0.6.4 is reproduced within a tenth."""
    assert estimate_step_ms(ServedModel(LM, dtype), batch_size, H200) == pytest.approx(
        measured_ms, rel=0.1
    )


def test_the_planned_batch_of_an_h200_is_the_measured_one() -> None:
    """Measured, 560 slots take 63.9 ms; planned are as many within 64 ms, give or take 3 %."""
    assert estimate_largest_batch(ServedModel(LM, ComputeDType.F16), H200) == pytest.approx(
        560, rel=0.03
    )


@pytest.mark.parametrize(
    ("name", "capability", "bandwidth", "batch_size", "published_ms", "off"),
    [
        ("stt-1b-en_fr", (8, 9), 864_000_000_000, 64, 80 / 3, 0.05),  # L40S, 3 × real time
        ("stt-2.6b-en", (9, 0), 3_350_000_000_000, 400, 80.0, 0.02),  # H100, real time
        ("stt-1b-en_fr", (7, 5), 448_000_000_000, 2, 28.8, 0.53),  # RTX 2070, a slower host
    ],
)
def test_published_steps_of_other_cards_are_this_far_off(
    name: str,
    capability: tuple[int, int],
    bandwidth: int,
    batch_size: int,
    published_ms: float,
    off: float,
) -> None:
    """What others published is met as well as the estimate's docstring says."""
    card = replace(
        H200,
        compute_capability=ComputeCapability(*capability),
        memory_bandwidth_bytes_per_s=bandwidth,
    )
    estimated = estimate_step_ms(
        ServedModel(STT_MODELS[name].shape, ComputeDType.F16), batch_size, card
    )
    assert estimated == pytest.approx(published_ms, rel=off)


def test_a_slow_host_is_bounded_by_what_is_published() -> None:
    """The published RTX 2070 (28.8 ms at batch 2) lies between both estimates, at the upper one;
    where the card decides, both are the same.
    """
    card = replace(
        H200,
        compute_capability=ComputeCapability(7, 5),
        memory_bandwidth_bytes_per_s=448_000_000_000,
    )
    low, high = (
        estimate_step_ms(ServedModel(LM, ComputeDType.F16), 2, card, slow_host=slow)
        for slow in (False, True)
    )
    assert low is not None
    assert high is not None
    assert low < 28.8 <= high * 1.01
    assert high == pytest.approx(28.8, rel=0.03)
    assert estimate_step_ms(
        ServedModel(LM, ComputeDType.F16), 560, H200, slow_host=True
    ) == estimate_step_ms(ServedModel(LM, ComputeDType.F16), 560, H200)


@pytest.mark.parametrize(
    ("card", "model", "published_fps", "share"),
    [
        ("rtx2070", "stt-1b-en_fr", 93.27, 0.90),
        ("rtx4060", "stt-1b-en_fr", 76.63, 1.11),
        ("rtx3060", "stt-1b-en_fr", 78.02, 0.90),
        ("rtx2070", "tts-1.6b-en_fr", 20.64, 0.55),
        ("rtx4060", "tts-1.6b-en_fr", 19.41, 0.75),
        ("rtx3060", "tts-1.6b-en_fr", 17.98, 0.56),
    ],
)
def test_the_workers_estimates_are_this_far_from_moshi_cpp(
    card: str, model: str, published_fps: float, share: float
) -> None:
    """Its README: frames a second of one stream on CUDA and Linux. `share` is what the estimate
    takes of that time.
    """
    estimated = estimate_step_ms(
        ServedModel(MODELS[model].shape, ComputeDType.F16, runtime=Runtime.EMBEDDED),
        1,
        find_device([card], None),
    )
    assert estimated is not None
    assert estimated * published_fps / 1000 == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(("texts", "measured_ms"), [(1, 21.1), (32, 28.8), (64, 32.8)])
def test_the_python_modules_measured_steps_are_met(texts: int, measured_ms: float) -> None:
    """moshi-server's Py module on an H200 with 24 codebooks, within a tenth."""
    shape = TTS_MODELS["tts-1.6b-en_fr"].shape
    estimated = estimate_step_ms(ServedModel(shape, ComputeDType.BF16, n_q=24), texts, H200)
    assert estimated == pytest.approx(measured_ms, rel=0.1)


@pytest.mark.parametrize(
    ("batch_size", "measured_ms"), [(1, 9.5), (32, 11.2), (64, 13.5), (128, 18.4)]
)
def test_the_estimate_for_speaking_is_near_the_workers_own_times(
    batch_size: int, measured_ms: float
) -> None:
    """The embedded worker on the same card, 32 codebooks in f16: within a twentieth."""
    shape = MODELS["tts-1.6b-en_fr"].shape
    estimated = estimate_step_ms(
        ServedModel(shape, ComputeDType.F16, runtime=Runtime.EMBEDDED),
        batch_size,
        device(4_800_000_000_000),
    )
    assert estimated == pytest.approx(measured_ms, rel=0.05)


def test_each_codebook_costs_a_pass_of_the_depformer() -> None:
    """A step grows evenly with n_q, by launches and one weight set, also where codebooks share
    theirs; other models have no codebooks.
    """
    shape, card = MODELS["tts-1.6b-en_fr"].shape, device(320_000_000_000)
    steps = [
        estimate_step_ms(
            ServedModel(shape, ComputeDType.F16, runtime=Runtime.EMBEDDED, n_q=n_q), 4, card
        )
        for n_q in (8, 16, 24, 32)
    ]
    gains = [after - before for before, after in pairwise(steps)]
    assert gains == pytest.approx([gains[0]] * 3)
    assert gains[0] > 8 * 92_274_688 / 320_000_000_000 * 1000
    assert (
        estimate_step_ms(ServedModel(shape, ComputeDType.F16, runtime=Runtime.EMBEDDED), 4, card)
        == steps[-1]
    )


def test_the_estimate_grows_with_batch_and_shrinks_with_bandwidth_and_context() -> None:
    """More slots cost more, a wider bus or a shorter context less; the largest batch sits at the
    edge of the budget.
    """
    slow, fast = device(320_000_000_000), device(900_000_000_000)
    assert estimate_step_ms(ServedModel(LM, ComputeDType.F16), 8, slow) > estimate_step_ms(
        ServedModel(LM, ComputeDType.F16), 7, slow
    )
    assert estimate_step_ms(ServedModel(LM, ComputeDType.F16), 8, fast) < estimate_step_ms(
        ServedModel(LM, ComputeDType.F16), 8, slow
    )
    assert estimate_step_ms(
        ServedModel(LM, ComputeDType.F16, context=375), 8, slow
    ) < estimate_step_ms(ServedModel(LM, ComputeDType.F16), 8, slow)
    edge = estimate_largest_batch(ServedModel(LM, ComputeDType.F16), slow)
    assert (
        estimate_step_ms(ServedModel(LM, ComputeDType.F16), edge, slow)
        <= BUDGET_MS
        < estimate_step_ms(ServedModel(LM, ComputeDType.F16), edge + 1, slow)
    )


def test_without_bandwidth_there_is_no_estimate() -> None:
    """A card of unknown bandwidth gets no number rather than a wrong one."""
    assert estimate_step_ms(ServedModel(LM, ComputeDType.F16), 1, device(None)) is None
    assert estimate_largest_batch(ServedModel(LM, ComputeDType.F16), device(None)) is None


@pytest.mark.parametrize(
    ("name", "streams", "kv_ms", "within"),
    [
        ("stt-1b-en_fr", 64, 4.06, 0.2),
        ("stt-1b-en_fr", 400, 14.0, 0.05),
        ("stt-1b-en_fr", 1000, 31.4, 0.05),
        ("stt-2.6b-en", 400, 19.5, 0.2),
        ("tts-1.6b-en_fr", 64, 11.2, 0.2),
        ("tts-1.6b-en_fr", 128, 14.2, 0.2),
    ],
)
def test_steps_with_int8_keys_and_values_as_measured(
    name: str, streams: int, kv_ms: float, within: float
) -> None:
    """Full windows on an H200 in f16, as in runbooks/quantising.md."""
    estimated = estimate_step_ms(
        ServedModel(
            MODELS[name].shape,
            ComputeDType.F16,
            runtime=Runtime.EMBEDDED,
            quantised=Quantised(kv=Quant.INT8),
        ),
        streams,
        H200,
    )
    assert estimated == pytest.approx(kv_ms, rel=within)


def test_int8_needs_less_time_for_the_bytes_that_it_saves() -> None:
    """Weights save time at any batch size, keys and values with each slot."""
    shape = MODELS["stt-1b-en_fr"].shape

    def step_ms(streams: int, quantised: Quantised = PLAIN) -> float:
        found = estimate_step_ms(
            ServedModel(shape, ComputeDType.F16, runtime=Runtime.EMBEDDED, quantised=quantised),
            streams,
            H200,
        )
        assert found is not None
        return found

    weights, kv = Quantised(Quant.INT8), Quantised(kv=Quant.INT8)
    saved_ms = [step_ms(streams) - step_ms(streams, weights) for streams in (1, 100)]
    assert saved_ms[0] == pytest.approx(saved_ms[1])
    assert saved_ms[0] > 0.2
    saved_ms = [step_ms(streams) - step_ms(streams, kv) for streams in (1, 100)]
    assert saved_ms[1] == pytest.approx(100 * saved_ms[0])


def test_a_profile_file_is_found_by_what_it_measured(tmp_path: Path) -> None:
    """Only the file for the same device, model, dtype, runtime, number of codebooks and int8 is
    taken.
    """
    (tmp_path / "a.json").write_text(json.dumps({**GOOD, "device_name": "Tesla V100"}))
    (tmp_path / "b.json").write_text(json.dumps(GOOD))
    (tmp_path / "c.json").write_text(json.dumps({**GOOD, "n_q": 24}))
    (tmp_path / "d.json").write_text(json.dumps({**GOOD, "kv": "int8"}))

    def found(
        n_q: int | None = None,
        quantised: Quantised = PLAIN,
        dtype: ComputeDType = ComputeDType.F16,
        folder: str = ".",
    ) -> StepProfile | None:
        measured = measured_of("Tesla T4", "stt-1b-en_fr", dtype, "moshi-server", n_q, quantised)
        return find_profile(tmp_path / folder, measured)

    assert found() == found(quantised=Quantised(Quant.NONE)) == read_profile(tmp_path / "b.json")
    assert found(24) == read_profile(tmp_path / "c.json")
    assert found(quantised=Quantised(kv=Quant.INT8)) == read_profile(tmp_path / "d.json")
    assert found(16) is None
    assert found(quantised=ALL_INT8) is None
    assert found(dtype=ComputeDType.F32) is None
    assert found(folder="none") is None


@pytest.mark.parametrize(
    "body",
    [
        "not json",
        "[]",
        json.dumps({**GOOD, "schema": "other/1"}),
        json.dumps({**GOOD, "points": []}),
        json.dumps({**GOOD, "points": GOOD["points"][::-1]}),
        json.dumps({**GOOD, "points": [{"batch_size": 1}]}),
        json.dumps({**GOOD, "dtype": "int8"}),
        json.dumps({**GOOD, "kv": "int4"}),
        json.dumps({**GOOD, "points": [{"batch_size": 1, "step_p99_ms": -1}]}),
        json.dumps({**GOOD, "points": 7}),
        "[" * 100_000,
    ],
)
def test_a_damaged_profile_is_an_input_error(tmp_path: Path, body: str) -> None:
    """Whatever is wrong with the file, the error names it and says how to go on."""
    path = tmp_path / "p.json"
    path.write_text(body)
    with pytest.raises(InputError, match="not a step profile") as caught:
        read_profile(path)
    assert caught.value.hint


def test_a_missing_profile_is_a_source_error(tmp_path: Path) -> None:
    """A file that was named and is not there is an error, not a plan without it."""
    with pytest.raises(SourceError):
        read_profile(tmp_path / "missing.json")
