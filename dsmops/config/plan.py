"""What to serve on a device: dtype, batch size, and the two bounds behind it, as one explained value. Pure.

The server allocates for the whole batch at load and pays for the whole batch in every step, so both bounds matter: memory says what
fits, time says what keeps up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dsmops.config.memory import MIB, MemorySplit, largest_batch, serving_memory
from dsmops.config.timing import BUDGET_MS, StepProfile, estimate_largest_batch, estimate_step_ms
from dsmops.errors import InputError
from dsmops.facts import Device, DType, Runtime
from dsmops.models import MODELS, LmShape, PublishedModel

CAUTIOUS_BATCH_SIZE = 4
"""Slots planned where the card's memory is unknown; the 1B model then needs 2.8 GiB in f16."""
_MIN_RESERVE_BYTES = 256 * MIB
_RESERVE_SHARE = 0.03
_SHORTER_CONTEXTS = (375, 250, 125)
"""Attention windows tried when nothing fits: 30, 20 and 10 s."""


class LimitedBy(StrEnum):
    """What decided the batch size."""

    MEMORY = "memory"
    TIME = "time"
    UNKNOWN_MEMORY = "unknown memory"
    NOTHING_FITS = "nothing fits"


class TimeBasis(StrEnum):
    """Where the time bound comes from."""

    MEASURED = "measured profile"
    ESTIMATE = "bandwidth estimate"
    UNKNOWN = "unknown bandwidth"


@dataclass(frozen=True, slots=True)
class Alternative:
    """Something that fits where the asked-for plan does not."""

    change: str
    batch_size: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """The planned serving of one model on one device by one runtime.

    `batch_size` is the largest safe number of slots, 0 when not even one fits. `memory` is the split at that size (at one slot when
    nothing fits). `memory_batch_size` and `time_batch_size` are the two bounds, None where unknown. `step_ms` is the 99th percentile of a
    measured profile, or an estimate, at `batch_size`.
    """

    model: str
    runtime: Runtime
    device: Device
    dtype: DType
    context: int
    usable_bytes: int | None
    reserve_bytes: int
    batch_size: int
    limited_by: LimitedBy
    memory_batch_size: int | None
    time_batch_size: int | None
    time_basis: TimeBasis
    step_ms: float | None
    step_budget_ms: float
    memory: MemorySplit
    alternatives: tuple[Alternative, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether at least one stream can be served."""
        return self.batch_size > 0


def plan_serving(
    device: Device,
    model: PublishedModel,
    *,
    runtime: Runtime = Runtime.MOSHI_SERVER,
    dtype: DType | None = None,
    context: int | None = None,
    reserve_bytes: int | None = None,
    profile: StepProfile | None = None,
) -> ServingPlan:
    """Plan `model` on `device`; what is None follows from the device and the model.

    The dtype is the one to serve in on that architecture, the reserve 3 % of the card and at least 256 MiB. Memory counts from what is
    free now where the machine says, from the whole card otherwise.

    Raises:
        InputError: the model has no memory model, the dtype cannot run on the device, or a number makes no sense.
    """
    lm = _language_model(model)
    chosen = serving_dtype(device, dtype)
    window = lm.context if context is None else context
    if not 0 < window <= lm.context:
        raise InputError(f"a context of {context} does not suit {model.name}", hint=f"Use 1 to {lm.context} (its own).")
    reserve = reserve_bytes if reserve_bytes is not None else default_reserve_bytes(device)
    usable = _usable_bytes(device, reserve)
    time_batch, basis = _time_bound(lm, chosen, window, device, profile, runtime)
    memory_batch = None if usable is None else largest_batch(lm, chosen, usable, context=window, runtime=runtime)
    batch_size, limited_by = _smaller_bound(memory_batch, time_batch)
    if profile is not None:
        step_ms = profile.step_p99_ms(max(1, batch_size))
    else:
        step_ms = estimate_step_ms(lm, chosen, max(1, batch_size), device, context=window, runtime=runtime)
    return ServingPlan(
        model=model.name,
        runtime=runtime,
        device=device,
        dtype=chosen,
        context=window,
        usable_bytes=usable,
        reserve_bytes=reserve,
        batch_size=batch_size,
        limited_by=limited_by,
        memory_batch_size=memory_batch,
        time_batch_size=time_batch,
        time_basis=basis,
        step_ms=step_ms,
        step_budget_ms=BUDGET_MS,
        memory=serving_memory(lm, chosen, max(1, batch_size), context=window, runtime=runtime),
        alternatives=() if batch_size or usable is None else _alternatives(device, model, chosen, usable, runtime),
        notes=_notes(device, chosen, window, lm, step_ms, limited_by, runtime),
    )


def _language_model(model: PublishedModel) -> LmShape:
    if model.lm is None:
        known = ", ".join(name for name, other in MODELS.items() if other.lm)
        raise InputError(
            f"{model.name} cannot be planned: moshi-server runs it through Python, in bf16, with memory this tool does not model yet",
            hint=f"Models that can be planned: {known}.",
        )
    return model.lm


def serving_dtype(device: Device, asked: DType | None = None) -> DType:
    """Return the dtype to serve in: the one asked for, or what the device computes best.

    Raises:
        InputError: the device cannot compute the one asked for, or nobody knows what it computes.
    """
    capability = device.compute_capability
    if capability is None and asked is None:
        raise InputError(f"the compute capability of {device.name} is unknown", hint="Name the dtype to serve in: --dtype f16.")
    if asked is DType.BF16 and capability is not None and not capability.native_bf16:
        raise InputError(
            f"{device.label} has no bf16 arithmetic: the server would listen and never answer",
            hint=f"Use --dtype {capability.serving_dtype.candle_name}.",
        )
    return asked or capability.serving_dtype  # type: ignore[union-attr]  # one of both is there, by the first check


def default_reserve_bytes(device: Device) -> int:
    """Return the memory to leave free: 3 % of the card, at least 256 MiB."""
    return max(_MIN_RESERVE_BYTES, int((device.memory_total_bytes or 0) * _RESERVE_SHARE))


def _usable_bytes(device: Device, reserve_bytes: int) -> int | None:
    available = device.memory_free_bytes if device.memory_free_bytes is not None else device.memory_total_bytes
    return None if available is None else max(0, available - reserve_bytes)


def _time_bound(
    lm: LmShape, dtype: DType, context: int, device: Device, profile: StepProfile | None, runtime: Runtime
) -> tuple[int | None, TimeBasis]:
    if profile is not None:
        return profile.largest_batch(), TimeBasis.MEASURED
    estimate = estimate_largest_batch(lm, dtype, device, context=context, runtime=runtime)
    return estimate, TimeBasis.UNKNOWN if estimate is None else TimeBasis.ESTIMATE


def _smaller_bound(memory_batch: int | None, time_batch: int | None) -> tuple[int, LimitedBy]:
    """Join the bounds. Time never brings the size below one: a slow estimate is a warning, an empty card a fact."""
    if memory_batch == 0:
        return 0, LimitedBy.NOTHING_FITS
    time_slots = None if time_batch is None else max(1, time_batch)
    if memory_batch is None:
        return min(CAUTIOUS_BATCH_SIZE, time_slots or CAUTIOUS_BATCH_SIZE), LimitedBy.UNKNOWN_MEMORY
    if time_slots is not None and time_slots < memory_batch:
        return time_slots, LimitedBy.TIME
    return memory_batch, LimitedBy.MEMORY


def _alternatives(device: Device, model: PublishedModel, dtype: DType, usable_bytes: int, runtime: Runtime) -> tuple[Alternative, ...]:
    """Return what would fit: another dtype, a shorter context, a smaller model, each with the size it allows."""
    capability = device.compute_capability
    dtypes = [dtype]
    if dtype is DType.F32:
        # f16 kernels exist from 5.3; they are slow on most of these cards, and slow is better than not at all.
        dtypes += [DType.F16] if capability is None or (capability.major, capability.minor) >= (5, 3) else []
    found: list[Alternative] = []
    for other in (model, *(known for known in MODELS.values() if known is not model)):
        if other.lm is None or (model.lm is not None and other.lm.parameters > model.lm.parameters):
            continue
        for other_dtype in dtypes:
            for context in (other.lm.context, *(short for short in _SHORTER_CONTEXTS if short < other.lm.context)):
                batch_size = largest_batch(other.lm, other_dtype, usable_bytes, context=context, runtime=runtime)
                if batch_size:
                    change = f"--model {other.name} --dtype {other_dtype.candle_name}"
                    change += f" --context {context}" if context != other.lm.context else ""
                    total = serving_memory(other.lm, other_dtype, batch_size, context=context, runtime=runtime).total_bytes
                    found.append(Alternative(change, batch_size, total))
                    break
    return tuple(found)


def _notes(
    device: Device, dtype: DType, context: int, lm: LmShape, step_ms: float | None, limited_by: LimitedBy, runtime: Runtime
) -> tuple[str, ...]:
    embedded = runtime is Runtime.EMBEDDED
    notes = [
        "Memory is modelled on measurements of the embedded worker on one H200; the CUDA runtime's share differs between cards."
        if embedded
        else "Memory is derived from the server's sources, not measured on a device."
    ]
    if device.cuda_ordinal:
        who = "The embedded worker" if embedded else "moshi-server"
        notes.append(f"{who} takes CUDA device 0: start it with {visible_to_server(device)} for this one.")
    if not embedded and device.compute_capability is not None and not device.compute_capability.native_bf16:
        notes.append(f'Needs dtype_override = "{dtype.candle_name}" and moshi-server 0.6.4 or newer: older ones ignore the key silently.')
    if limited_by is LimitedBy.UNKNOWN_MEMORY:
        notes.append("The card's memory is unknown, so a cautious batch size is planned; name the card to plan by memory.")
    if step_ms is not None and step_ms > BUDGET_MS:
        notes.append(f"A step may take {step_ms:.0f} ms, more than the {BUDGET_MS:.0f} ms planned for: measure before relying on it.")
    if context < lm.context:
        notes.append(f"The attention window shrinks to {context * 0.08:.0f} s; its effect on quality is unknown.")
    if limited_by is LimitedBy.NOTHING_FITS:
        notes.append("For a card this small, moshi.cpp with quantised weights serves a single stream.")
    return tuple(notes)


def visible_to_server(device: Device) -> str:
    """Return the environment variable, as a shell writes it, that makes `device` the one moshi-server takes."""
    return f"CUDA_VISIBLE_DEVICES={device.uuid or device.cuda_ordinal}"
