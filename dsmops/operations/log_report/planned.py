"""What a card's name, a config and a model's name say of a server, and what `plan` makes of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dsmops.config.load import read_config
from dsmops.config.memory import ServedModel, serving_memory
from dsmops.config.modules import modules
from dsmops.config.plan import TimeBasis
from dsmops.config.presets import described_model, served_model
from dsmops.devices import Runtime
from dsmops.dtypes import ComputeDType
from dsmops.models import PublishedModel
from dsmops.operations.configs.planning import find_device, find_model, plan_model
from dsmops.operations.log_report.capacity import Served
from dsmops.operations.log_report.result import CapacityPlan

_BASIS = {
    TimeBasis.MEASURED: "a measured profile of this card",
    TimeBasis.ESTIMATE: "an estimate, measured on an H200 and scaled to this card",
    TimeBasis.UNKNOWN: None,
}


def served(gpu: str | None, config: Path | None, model: str | None) -> Served:
    """Return what a card's name, a config and a model's name say.

    A model that is named counts more than the one of the config.

    Raises:
        InputError: a card or model is unknown, or the config serves no one model.
        ConfigError, FileAccessError: the config cannot be read.
    """
    found = Served() if config is None else _of_config(config)
    origin = list(found.origin)
    if model is not None:
        found = replace(found, model=find_model(model), n_q=None)
        origin.append(f"the model {model}, as named")
    if gpu is not None:
        device = find_device([gpu], None)
        found = replace(found, device=device)
        origin.append(f"the card {device.label}, as named")
    return replace(found, origin=tuple(origin))


def _of_config(path: Path) -> Served:
    config = read_config(path)
    model = served_model(config) or described_model(config)
    module = next(
        (each for each in modules(config) if each.type in ("BatchedAsr", "Py")),
        modules(config)[0],
    )
    dtype = None
    with suppress(ValueError):
        dtype = ComputeDType.parse(module.text("dtype_override") or "")
    return Served(
        model=model,
        dtype=dtype,
        batch_size=module.whole("batch_size"),
        context=module.whole("model", "transformer", "context"),
        n_q=module.whole("py", "n_q"),
        origin=(f"the config {path.name}",),
    )


def capacity_plan(
    known: Served, model: PublishedModel, batch: int | None, used: int
) -> CapacityPlan:
    """Return what `plan` says of a model, of `batch` slots of which `used` were in use at most."""
    runtime = known.runtime or Runtime.MOSHI_SERVER
    plan = None
    dtype = known.dtype or ComputeDType.BF16
    n_q = model.codebooks(known.n_q)
    if known.device is not None:
        plan = plan_model(
            model,
            known.device,
            runtime=runtime,
            dtype=known.dtype,
            context=known.context,
            n_q=known.n_q,
            asked_batch_size=batch,
        )
        dtype = plan.dtype

    served = ServedModel(model.shape, dtype, model.window(known.context), runtime, n_q)

    def total_bytes(slots: int) -> int:
        return serving_memory(served, slots).total_bytes

    used = max(1, used)
    return CapacityPlan(
        model.name,
        dtype.candle_name,
        runtime.value,
        None if known.device is None else known.device.label,
        batch,
        total_bytes(2) - total_bytes(1),
        None if batch is None else max(0, total_bytes(batch) - total_bytes(min(batch, used))),
        None if plan is None else plan.memory_batch_size,
        None if plan is None else plan.time_batch_size,
        None if plan is None or plan.asked is None else plan.asked.step_ms,
        None if plan is None else _BASIS[plan.time_basis],
    )
