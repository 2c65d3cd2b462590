"""From a card to a plan: which device, which model, what the measured profiles say."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from dsmops.config.plan import ServingPlan, plan_serving, planned_dtype
from dsmops.config.timing import StepProfile, find_profile, measured_of, read_profile
from dsmops.devices import Device, Runtime
from dsmops.dtypes import PLAIN, ComputeDType, Quantised
from dsmops.errors import InputError
from dsmops.files import state_folder
from dsmops.gpu import choose, probe, simulate
from dsmops.models import KNOWN, PublishedModel, model_of_repo


def find_device(simulated: Sequence[str] | None, ordinal: int | None) -> Device:
    """Return the device to plan for.

    It is one of the `simulated` cards when there are any, and one of this machine otherwise.
    `ordinal` None means 0, the one moshi-server takes.

    Raises:
        DriverMissingError: this machine shows no usable GPU.
        InputError: there is no device with that ordinal, or a simulated card cannot be understood.
    """
    report = simulate(simulated) if simulated else probe()
    return choose(report, ordinal)


def find_model(name: str) -> PublishedModel:
    """Return a known model by its name, or by its repository's.

    Raises:
        InputError: no model has that name; the hint has the closest names.
    """
    found = KNOWN.get(name) or model_of_repo(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, KNOWN, n=2, cutoff=0.3) or list(KNOWN)
    raise InputError(
        f"no model is called {name!r}",
        hint=f"Did you mean {' or '.join(near)}? Known: {', '.join(KNOWN)}.",
        code="model.unknown",
    )


def plan_model(
    model: PublishedModel,
    device: Device,
    *,
    runtime: Runtime = Runtime.MOSHI_SERVER,
    dtype: ComputeDType | None = None,
    context: int | None = None,
    n_q: int | None = None,
    reserve_bytes: int | None = None,
    profile_file: Path | None = None,
    asked_batch_size: int | None = None,
    quantised: Quantised = PLAIN,
) -> ServingPlan:
    """Plan `model` on `device`.

    The step times are those of `profile_file`, or of this machine's own profiles, if there are any.

    Raises:
        InputError: what was asked for makes no sense, or a profile is damaged or of something else.
    """
    served = planned_dtype(device, model, runtime, dtype)
    measured = measured_of(
        device.name, model.name, served, runtime.value, model.codebooks(n_q), quantised
    )
    if profile_file is not None:
        profile: StepProfile | None = read_profile(profile_file)
        if profile is not None and profile.measured != measured:
            found, wanted = next(
                (was, now)
                for was, now in zip(profile.measured, measured, strict=True)
                if was != now
            )
            raise InputError(
                f"{profile_file} was measured with {found}, and this plan is for {wanted}",
                hint="Omit --profile to plan with an estimate.",
                code="plan.other_profile",
            )
    else:
        profile = find_profile(profile_folder(), measured)
    return plan_serving(
        device,
        model,
        runtime=runtime,
        dtype=dtype,
        context=context,
        n_q=n_q,
        reserve_bytes=reserve_bytes,
        profile=profile,
        asked_batch_size=asked_batch_size,
        quantised=quantised,
    )


def profile_folder() -> Path:
    """Return where this machine's measured step times are kept."""
    return state_folder() / "profiles"
