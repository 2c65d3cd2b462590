"""`plan --measure`: time the embedded worker's step on this machine's card.

The profile is kept for later plans.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from dsmops.config.memory import ServedModel, largest_batch
from dsmops.config.plan import ServingPlan
from dsmops.config.timing import PROFILE_SCHEMA, StepPoint, StepProfile
from dsmops.dtypes import Quant
from dsmops.errors import InputError
from dsmops.extras import require_worker
from dsmops.files import write_text_atomically
from dsmops.models import PublishedModel
from dsmops.operations.configs.planning import profile_folder
from dsmops.progress import SILENT, Progress

_LADDER = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Batch sizes measured, as far as memory goes."""


def measure_profile(
    plan: ServingPlan, model: PublishedModel, *, progress: Progress = SILENT
) -> Path:
    """Measure what `plan` plans on its device, and return the file of the step profile.

    The file is in this machine's state folder. Nothing is downloaded: the weights are random. Takes
    a minute or two, and of the card's memory what the plan says is usable.

    Raises:
        DriverMissingError: torch sees no such device here.
        InputError: the device is simulated, or nothing fits.
        ExtraMissingError: the worker's libraries are not installed.
    """
    require_worker("measuring")
    if plan.device.cuda_ordinal is None or plan.device.source == "simulated":
        raise InputError(
            f"{plan.device.label} is not a card of this machine that CUDA sees",
            hint="Omit --simulate to measure.",
        )
    if not plan.fits:
        raise InputError(
            f"not one slot of {plan.model} fits on {plan.device.label}: there is nothing to"
            " measure",
            code="plan.no_fit",
        )
    from dsmops.worker.runtime.measure import measure_steps

    most = plan.memory_batch_size or largest_batch(
        ServedModel(
            model.shape, plan.dtype, runtime=plan.runtime, n_q=plan.n_q, quantised=plan.quantised
        ),
        plan.usable_bytes or 0,
    )
    sizes = sorted({size for size in _LADDER if size < most} | {min(most, _LADDER[-1])})
    points = []
    progress.start(f"Measuring {plan.model} on {plan.device.name}", len(sizes), "batch sizes")
    try:
        device_name = f"cuda:{plan.device.cuda_ordinal}"
        for batch_size, step_p99_ms in measure_steps(
            model.shape,
            plan.dtype,
            sizes,
            device_name=device_name,
            n_q=plan.n_q,
            quantised=plan.quantised,
        ):
            points.append(StepPoint(batch_size, step_p99_ms))
            progress.advance(1)
    finally:
        progress.finish()
    return write_profile(
        StepProfile(
            plan.device.name,
            plan.model,
            plan.dtype,
            plan.runtime,
            tuple(points),
            plan.n_q,
            plan.quantised,
        )
    )


def write_profile(profile: StepProfile, path: Path | None = None) -> Path:
    """Write a step profile, by default into this machine's state folder, and return its file."""
    stored = {"weights": profile.quantised.weights, "kv": profile.quantised.kv}
    int8 = [part for part, quant in stored.items() if quant is Quant.INT8]
    body = {
        "schema": PROFILE_SCHEMA,
        "device_name": profile.device_name,
        "model": profile.model,
        "dtype": profile.dtype,
        "runtime": profile.runtime,
        **({"n_q": profile.n_q} if profile.n_q else {}),
        **dict.fromkeys(int8, Quant.INT8),
        "points": [
            {"batch_size": point.batch_size, "step_p99_ms": round(point.step_p99_ms, 3)}
            for point in profile.points
        ],
    }
    name = "-".join(
        (
            profile.device_name,
            profile.model,
            profile.dtype.candle_name,
            profile.runtime,
            *((f"{profile.n_q}-codebooks",) if profile.n_q else ()),
            *(f"int8-{part}" for part in int8),
        )
    )
    if path is None:
        path = profile_folder() / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(body, indent=2) + "\n")
    return path
