"""Step times by batch size, and the profile that plans read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from dsmops.config.plan import ServingPlan, TimeBasis
from dsmops.config.timing import find_profile, measured_of
from dsmops.devices import ComputeCapability, Device, Runtime
from dsmops.dtypes import ALL_INT8, PLAIN, ComputeDType, Quant, Quantised
from dsmops.errors import DriverMissingError, InputError
from dsmops.models import STT_MODELS, TTS_MODELS
from dsmops.operations.configs import measuring as measure
from dsmops.operations.configs.planning import plan_model, profile_folder
from dsmops.worker.models.tts_config import TtsConfig
from dsmops.worker.runtime import measure as runtime_measure
from dsmops.worker.runtime.measure import measure_steps
from dsmops.worker.tiny.stt import LM
from dsmops.worker.tiny.tts import BODY

GIB = 2**30
CARD = Device(
    "A card", ComputeCapability(7, 5), 16 * GIB, 16 * GIB, 320_000_000_000, 0, 0, "GPU-1", "nvml"
)
TINY = replace(STT_MODELS["stt-1b-en_fr"], shape=LM)
SPEAKING = replace(TTS_MODELS["tts-1.6b-en_fr"], shape=TtsConfig.from_json(BODY).shape)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few steps, and the state folder in a test's own."""
    monkeypatch.setattr(runtime_measure, "_TIMED_STEPS", 3)
    monkeypatch.setattr(runtime_measure, "_WARM_UP_STEPS", 0)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    steps = runtime_measure.measure_steps
    monkeypatch.setattr(
        runtime_measure,
        "measure_steps",
        lambda *args, device_name, **more: steps(*args, device_name="cpu", **more),
    )


def test_a_card_that_torch_does_not_see() -> None:
    """The error says how many devices torch sees."""
    with pytest.raises(DriverMissingError, match="and not cuda:99"):
        list(measure_steps(LM, ComputeDType.F16, [1], device_name="cuda:99"))


@pytest.mark.slow
@pytest.mark.parametrize("quantised", [PLAIN, ALL_INT8])
def test_a_measured_profile_is_what_the_next_plan_reads(
    monkeypatch: pytest.MonkeyPatch, quantised: Quantised
) -> None:
    """Real steps, timed on the CPU, end in the state folder, where the planner finds them."""
    monkeypatch.setattr(measure, "_LADDER", (1, 2))

    def plan(quantised: Quantised) -> ServingPlan:
        return plan_model(
            TINY, CARD, runtime=Runtime.EMBEDDED, dtype=ComputeDType.F16, quantised=quantised
        )

    path = measure.measure_profile(plan(quantised), TINY)
    assert path.parent == profile_folder()
    profile = find_profile(
        profile_folder(),
        measured_of("A card", TINY.name, ComputeDType.F16, "embedded", None, quantised),
    )
    assert profile is not None
    assert profile.points[0].batch_size == 1
    assert plan(quantised).time_basis is TimeBasis.MEASURED
    assert plan(Quantised(kv=Quant.INT8)).time_basis is TimeBasis.ESTIMATE
    assert plan_model(TINY, CARD, dtype=ComputeDType.F16).time_basis is TimeBasis.ESTIMATE


@pytest.mark.slow
def test_a_speaking_models_profile_is_one_of_its_codebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps with four codebooks are planned with where four are generated, and not where all
    are.
    """
    monkeypatch.setattr(measure, "_LADDER", (1, 2))
    plan = plan_model(SPEAKING, CARD, runtime=Runtime.EMBEDDED, n_q=4)
    path = measure.measure_profile(plan, SPEAKING)
    assert "4-codebooks" in path.name
    bases = [
        plan_model(SPEAKING, CARD, runtime=Runtime.EMBEDDED, n_q=n_q).time_basis
        for n_q in (4, None)
    ]
    assert bases == [TimeBasis.MEASURED, TimeBasis.ESTIMATE]


def test_a_simulated_card_cannot_be_measured() -> None:
    """Only a card that is here has step times."""
    plan = plan_model(TINY, replace(CARD, source="simulated"), runtime=Runtime.EMBEDDED)
    with pytest.raises(InputError, match="not a card of this machine"):
        measure.measure_profile(plan, TINY)
