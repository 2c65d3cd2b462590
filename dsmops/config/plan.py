"""Plan what to serve on a device: dtype, batch size, and the two bounds behind it.

The plan is one explained value. Pure. The server allocates for the whole batch at load and pays for
the whole batch in every step, so both bounds matter: memory says what fits, time says what keeps
up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from dsmops.config.memory import MIB, MemorySplit, ServedModel, largest_batch, serving_memory
from dsmops.config.timing import BUDGET_MS, StepProfile, estimate_largest_batch, estimate_step_ms
from dsmops.devices import Device, Runtime
from dsmops.dtypes import ALL_INT8, PLAIN, ComputeDType, Quantised
from dsmops.errors import InputError
from dsmops.models import CODEBOOK_CHOICES, MODELS, PublishedModel, TtsModel, TtsShape

CAUTIOUS_BATCH_SIZE = 4
"""Slots planned where the card's memory is unknown; the 1B model then needs 2.8 GiB in f16."""
_MIN_RESERVE_BYTES = 256 * MIB
_RESERVE_SHARE = 0.03
_MIN_SHARED_RESERVE_BYTES = 2048 * MIB
_SHARED_RESERVE_SHARE = 0.1


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
class CodebookChoice:
    """What generating `n_q` codebooks would take at the planned batch size.

    `step_ms` is an estimate, None where there is none.
    """

    n_q: int
    step_ms: float | None
    total_bytes: int


@dataclass(frozen=True, slots=True)
class AskedBatch:
    """Whether a number of slots that was asked about fits, in memory and in time.

    `fits` is None where the card's memory is unknown and time does not rule it out.
    """

    batch_size: int
    fits: bool | None
    memory: MemorySplit
    step_ms: float | None
    slow_host_step_ms: float | None


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """The planned serving of one model on one device by one runtime.

    `batch_size` is the largest safe number of slots, 0 when not even one fits. `memory` is the
    split at that size (at one slot when nothing fits). `memory_batch_size` and `time_batch_size`
    are the two bounds, None where unknown. `step_ms` is the 99th percentile of a measured profile,
    or an estimate, at `batch_size`; `slow_host_step_ms` the estimate for the slowest host that is
    published, None for a measured profile. `n_q` is how many codebooks a text-to-speech model
    generates, None for others, and `codebook_choices` what other numbers would change.
    """

    model: str
    runtime: Runtime
    device: Device
    dtype: ComputeDType
    context: int
    n_q: int | None
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
    codebook_choices: tuple[CodebookChoice, ...]
    notes: tuple[str, ...]
    asked: AskedBatch | None = None
    slow_host_step_ms: float | None = None
    quantised: Quantised = PLAIN

    @property
    def fits(self) -> bool:
        """Whether at least one stream can be served."""
        return self.batch_size > 0


def plan_serving(
    device: Device,
    model: PublishedModel,
    *,
    runtime: Runtime = Runtime.MOSHI_SERVER,
    dtype: ComputeDType | None = None,
    context: int | None = None,
    n_q: int | None = None,
    reserve_bytes: int | None = None,
    profile: StepProfile | None = None,
    asked_batch_size: int | None = None,
    quantised: Quantised = PLAIN,
) -> ServingPlan:
    """Plan `model` on `device`; what is None follows from the device and the model.

    `quantised` is what the embedded worker keeps in int8.

    `asked_batch_size` is a number of slots about which the plan must say whether it fits.

    The dtype is the one to serve in on that architecture, the reserve 3 % of the card and at least
    256 MiB. Memory counts from what is free now where the machine says, from the whole card
    otherwise.

    Raises:
        InputError: `runtime` cannot serve the model there, or a number makes no sense.
    """
    if quantised.has_int8 and runtime is Runtime.MOSHI_SERVER:
        raise InputError(
            "moshi-server keeps nothing in int8",
            hint="Use --runtime embedded for --weights and --kv.",
            code="plan.int8",
        )
    chosen = planned_dtype(device, model, runtime, dtype)
    window, codebooks = model.window(context), model.codebooks(n_q)
    served = ServedModel(model.shape, chosen, window, runtime, codebooks, quantised)
    reserve = reserve_bytes if reserve_bytes is not None else default_reserve_bytes(device)
    usable = _usable_bytes(device, reserve)
    if profile is not None:
        time_batch: int | None = profile.largest_batch()
        basis = TimeBasis.MEASURED
    else:
        time_batch = estimate_largest_batch(served, device)
        basis = TimeBasis.UNKNOWN if time_batch is None else TimeBasis.ESTIMATE
    memory_batch = None if usable is None else largest_batch(served, usable)
    batch_size, limited_by = _smaller_bound(memory_batch, time_batch)
    slots = max(1, batch_size)

    def step_ms_of(size: int, *, slow_host: bool = False) -> float | None:
        if profile is not None:
            return None if slow_host else profile.step_p99_ms(size)
        return estimate_step_ms(served, size, device, slow_host=slow_host)

    step_ms = step_ms_of(slots)
    slow_host_step_ms = step_ms_of(slots, slow_host=True)
    asked = None
    if asked_batch_size is not None:
        fits = (
            (None if asked_batch_size <= (time_batch or asked_batch_size) else False)
            if memory_batch is None
            else asked_batch_size <= batch_size
        )
        asked = AskedBatch(
            asked_batch_size,
            fits,
            serving_memory(served, asked_batch_size),
            step_ms_of(asked_batch_size),
            step_ms_of(asked_batch_size, slow_host=True),
        )
    return ServingPlan(
        model=model.name,
        runtime=runtime,
        device=device,
        dtype=chosen,
        context=window,
        n_q=codebooks,
        usable_bytes=usable,
        reserve_bytes=reserve,
        batch_size=batch_size,
        limited_by=limited_by,
        quantised=quantised,
        memory_batch_size=memory_batch,
        time_batch_size=time_batch,
        time_basis=basis,
        step_ms=step_ms,
        step_budget_ms=BUDGET_MS,
        memory=serving_memory(served, slots),
        asked=asked,
        slow_host_step_ms=slow_host_step_ms,
        alternatives=(
            () if batch_size or usable is None else _alternatives(device, model, served, usable)
        ),
        codebook_choices=tuple(_codebook_choices(served, slots, device)),
        notes=(
            *_notes(device, model, chosen, window, codebooks, step_ms, limited_by, runtime),
            *_slow_host_note(step_ms, slow_host_step_ms),
            *_int8_notes(served, device, usable, memory_batch),
        ),
    )


def planned_dtype(
    device: Device, model: PublishedModel, runtime: Runtime, asked: ComputeDType | None
) -> ComputeDType:
    """Return the dtype that `runtime` serves `model` in on `device`.

    It is the one asked for, or the one that the device computes best.

    Raises:
        InputError: the device or the runtime cannot compute the one asked for, or its capability
            is unknown.
    """
    if model.mimi is not None and runtime is Runtime.MOSHI_SERVER:
        raise InputError(
            f"moshi-server cannot serve {model.name}: it reads only the published Mimi, and"
            f" {model.name} has a smaller one",
            hint="`dsmops worker` serves it: --runtime embedded.",
            code="plan.other_mimi",
        )
    fixed = model.server_dtype
    if fixed is None or runtime is Runtime.EMBEDDED:
        return serving_dtype(device, asked)
    capability = device.compute_capability
    if asked not in {None, fixed}:
        why = f"not {asked.candle_name}"
    elif capability is not None and not capability.native_bf16:
        why = f"and {device.label} has no bf16 arithmetic"
    else:
        return fixed
    raise InputError(
        f"moshi-server cannot serve {model.name} so: its Python module computes in bf16 and no key"
        f" changes that, {why}; its Rust module (type Tts) runs no released file",
        hint="`dsmops worker` serves the same files in f16 or f32: --runtime embedded.",
        code="plan.python_bf16",
    )


def config_runtime(
    model: PublishedModel,
    device: Device,
    asked: ComputeDType | None = None,
    quantised: Quantised = PLAIN,
) -> Runtime:
    """Return the runtime that a config of `model` is made for.

    It is moshi-server, or the embedded worker where only that can serve the model. That is a model
    with a Mimi of its own, anything in int8, and a text-to-speech model in another dtype than bf16
    or on a card without bf16 arithmetic.
    """
    if model.mimi is not None or quantised.has_int8:
        return Runtime.EMBEDDED
    capability = device.compute_capability
    in_bf16 = asked in {None, ComputeDType.BF16} and (capability is None or capability.native_bf16)
    return Runtime.EMBEDDED if model.server_dtype and not in_bf16 else Runtime.MOSHI_SERVER


def serving_dtype(device: Device, asked: ComputeDType | None = None) -> ComputeDType:
    """Return the dtype to serve in: the one asked for, or what the device computes best.

    Raises:
        InputError: the device cannot compute the one asked for, or it is unknown what it computes.
    """
    capability = device.compute_capability
    if capability is None and asked is None:
        raise InputError(
            f"the compute capability of {device.name} is unknown",
            hint="Name the dtype to serve in: --dtype f16.",
        )
    if asked is ComputeDType.BF16 and capability is not None and not capability.native_bf16:
        raise InputError(
            f"{device.label} has no bf16 arithmetic: the server would listen and never answer",
            hint=f"Use --dtype {capability.serving_dtype.candle_name}.",
        )
    return asked or capability.serving_dtype  # type: ignore[union-attr]  # one of both is there, by the first check


def default_reserve_bytes(device: Device) -> int:
    """Return the memory to leave free.

    3 % of the card, at least 256 MiB; 10 % and 2 GiB where the host computes in the same memory.
    """
    total = device.memory_total_bytes or 0
    if device.shares_host_memory:
        return max(_MIN_SHARED_RESERVE_BYTES, int(total * _SHARED_RESERVE_SHARE))
    return max(_MIN_RESERVE_BYTES, int(total * _RESERVE_SHARE))


def _usable_bytes(device: Device, reserve_bytes: int) -> int | None:
    available = (
        device.memory_free_bytes
        if device.memory_free_bytes is not None
        else device.memory_total_bytes
    )
    return None if available is None else max(0, available - reserve_bytes)


def _smaller_bound(memory_batch: int | None, time_batch: int | None) -> tuple[int, LimitedBy]:
    """Join the bounds.

    Time never brings the size below one: a slow estimate is a warning, an empty card a fact.
    """
    if memory_batch == 0:
        return 0, LimitedBy.NOTHING_FITS
    time_slots = None if time_batch is None else max(1, time_batch)
    if memory_batch is None:
        return min(CAUTIOUS_BATCH_SIZE, time_slots or CAUTIOUS_BATCH_SIZE), LimitedBy.UNKNOWN_MEMORY
    if time_slots is not None and time_slots < memory_batch:
        return time_slots, LimitedBy.TIME
    return memory_batch, LimitedBy.MEMORY


def _alternatives(
    device: Device,
    model: PublishedModel,
    served: ServedModel,
    usable_bytes: int,
) -> tuple[Alternative, ...]:
    """Return what would fit, each with the size that it allows.

    Another dtype, a shorter context or fewer codebooks, or a smaller model.
    """
    capability = device.compute_capability
    dtypes = [served.dtype]
    if served.dtype is ComputeDType.F32:
        # f16 kernels exist from 5.3; they are slow on most of these cards, and slow is better than
        # not at all.
        dtypes += (
            [ComputeDType.F16]
            if capability is None or (capability.major, capability.minor) >= (5, 3)
            else []
        )
    found: list[Alternative] = []
    for other in (model, *(known for known in MODELS.values() if known is not model)):
        if type(other) is not type(model) or other.shape.parameters > model.shape.parameters:
            continue
        for other_dtype in dtypes:
            for saving in other.savings(served.n_q):
                smaller = ServedModel(
                    other.shape, other_dtype, saving.context, served.runtime, saving.n_q
                )
                batch_size = largest_batch(smaller, usable_bytes)
                if batch_size:
                    change = (
                        f"--model {other.name} --dtype {other_dtype.candle_name}{saving.options}"
                    )
                    total_bytes = serving_memory(smaller, batch_size).total_bytes
                    found.append(Alternative(change, batch_size, total_bytes))
                    break
    return tuple(found)


def _codebook_choices(
    served: ServedModel, batch_size: int, device: Device
) -> Iterator[CodebookChoice]:
    shape = served.shape
    if not isinstance(shape, TtsShape):
        return
    for n_q in CODEBOOK_CHOICES:
        if n_q <= shape.lm.audio_codebooks:
            with_codebooks = replace(served, context=None, n_q=n_q)
            total_bytes = serving_memory(with_codebooks, batch_size).total_bytes
            step_ms = estimate_step_ms(with_codebooks, batch_size, device)
            yield CodebookChoice(n_q, step_ms, total_bytes)


def _notes(
    device: Device,
    model: PublishedModel,
    dtype: ComputeDType,
    context: int,
    n_q: int | None,
    step_ms: float | None,
    limited_by: LimitedBy,
    runtime: Runtime,
) -> Iterator[str]:
    embedded, is_tts = runtime is Runtime.EMBEDDED, isinstance(model, TtsModel)
    if embedded:
        yield (
            "Memory is modelled on measurements of the embedded worker on one H200; the CUDA"
            " runtime's share differs between cards."
        )
    elif is_tts:
        yield "Memory and time were measured on one H200 with moshi-server 0.6.4, and scaled."
        yield (
            "Speech comes from the server's Python module (type Py), in bf16; its Rust module (type"
            " Tts) runs no released file."
        )
    else:
        yield (
            "Memory and time were measured on one H200 with moshi-server 0.6.4. Time is scaled by"
            " bandwidth and arithmetic; launches also depend on the host's processor."
        )
    if device.shares_host_memory:
        yield (
            "The card computes in the host's memory: 10 %, at least 2 GiB, are left to the other"
            " programs."
        )
    if device.cuda_ordinal:
        who = "The embedded worker" if embedded else "moshi-server"
        yield f"{who} takes CUDA device 0: start it with {visible_to_server(device)} for this one."
    if (
        not embedded
        and not is_tts
        and device.compute_capability is not None
        and not device.compute_capability.native_bf16
    ):
        yield (
            f'Needs dtype_override = "{dtype.candle_name}" and moshi-server 0.6.4 or newer: older'
            " ones ignore the key silently."
        )
    if limited_by is LimitedBy.UNKNOWN_MEMORY:
        yield (
            "The card's memory is unknown, so a cautious batch size is planned; name the card to"
            " plan by memory."
        )
    if step_ms is not None and step_ms > BUDGET_MS:
        yield (
            f"A step may take {step_ms:.0f} ms, more than the {BUDGET_MS:.0f} ms planned for:"
            " measure before relying on it."
        )
    if context < model.shape.context:
        yield (
            f"The attention window shrinks to {context * 0.08:.0f} s; its effect on quality is"
            " unknown."
        )
    if isinstance(model, TtsModel) and n_q and n_q < model.shape.lm.audio_codebooks:
        yield (
            f"{n_q} of {model.shape.lm.audio_codebooks} codebooks are generated: faster, and it"
            " sounds worse."
        )
    if limited_by is LimitedBy.NOTHING_FITS and not is_tts:
        yield "For a card this small, moshi.cpp with quantised weights serves a single stream."


def _slow_host_note(step_ms: float | None, slow_host_step_ms: float | None) -> Iterator[str]:
    if step_ms is None or slow_host_step_ms is None or slow_host_step_ms <= step_ms:
        return
    beyond = (
        f", more than the {BUDGET_MS:.0f} ms planned for" if slow_host_step_ms > BUDGET_MS else ""
    )
    yield (
        f"A small batch waits for the host's processor to launch kernels: {step_ms:.0f} ms a step"
        f" with an H200's host, up to {slow_host_step_ms:.0f} ms with a slow one{beyond}."
    )


def _int8_notes(
    served: ServedModel, device: Device, usable_bytes: int | None, memory_batch: int | None
) -> Iterator[str]:
    """Say where int8 fits a model or doubles the streams, and what is not known of it.

    `memory_batch`: streams that memory allows without int8.
    """
    if served.quantised.has_int8:
        yield (
            "Install dsmops[kernels] on the machine with the GPU: without it, int8 takes more time"
            " and memory than planned."
        )
        return
    if usable_bytes is None or memory_batch is None:
        return
    in_int8 = replace(served, runtime=Runtime.EMBEDDED, quantised=ALL_INT8)
    slots = largest_batch(in_int8, usable_bytes)
    time_batch = estimate_largest_batch(in_int8, device)
    slots = slots if time_batch is None else min(slots, max(1, time_batch))
    if slots and slots >= 2 * memory_batch:
        alone = "" if served.runtime is Runtime.EMBEDDED else "; moshi-server knows neither"
        yield (
            f"`dsmops worker --weights int8 --kv int8` has memory for {slots} instead of"
            f" {memory_batch}{alone}. `plan --runtime embedded`, `prep-sm75` and `make-config` take"
            " both."
        )


def visible_to_server(device: Device) -> str:
    """Return the environment variable that makes moshi-server take `device`, for a shell."""
    return f"CUDA_VISIBLE_DEVICES={device.uuid or device.cuda_ordinal}"
