"""Rules about the dtype, the device, its memory, and the server's version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dsmops.config.lint import tts
from dsmops.config.lint.inputs import LintInputs
from dsmops.config.lint.report import Findings, finding
from dsmops.config.load import Config
from dsmops.config.memory import ServedModel, largest_batch, serving_memory
from dsmops.config.modules import FileReference, FileRole, Module, file_references, modules
from dsmops.config.plan import default_reserve_bytes
from dsmops.config.schema import MODULES, SERVER_DTYPES
from dsmops.config.timing import estimate_step_ms
from dsmops.devices import ComputeCapability, Device, Runtime
from dsmops.dtypes import ComputeDType, Quant, Quantised, StorageDType
from dsmops.models import FRAME_MS
from dsmops.units import size


def dtype_words(config: Config, given: LintInputs) -> Findings:  # noqa: ARG001
    """Report `dtype_override` values that load and fail later."""
    for module in _with_lm(config):
        text = module.text("dtype_override")
        if text is None or text in SERVER_DTYPES:
            continue
        try:
            hint = f'Write "{ComputeDType.parse(text).candle_name}".'
        except ValueError:
            hint = f"Use one of {', '.join(SERVER_DTYPES)}."
        message = (
            f'dtype_override = "{text}" loads, and the module then fails to start; names are lower'
            " case and short"
        )
        yield finding(config, "bad-dtype", module.where("dtype_override"), message, hint)


def dtype_on_device(config: Config, given: LintInputs) -> Findings:
    """Report dtypes that do not suit the device."""
    device = given.device
    capability = device.compute_capability if device else None
    if device is None or capability is None:
        return
    for module in _with_lm(config):
        if "dtype_override" not in module.table:
            if not capability.native_bf16:
                message = (
                    f"no dtype_override, so the server computes in bf16, which {device.label}"
                    " cannot: it starts, listens, and never sends Ready (CUDA_ERROR_NOT_FOUND)"
                )
                hint = (
                    f'Add dtype_override = "{capability.serving_dtype.candle_name}" below'
                    " batch_size."
                )
                yield finding(config, "dtype-override-missing", module.where(), message, hint)
            continue
        dtype = _overriding_dtype(module)
        if dtype is not None:
            for code, message in _unsuited(dtype, device, capability):
                hint = f'"{capability.serving_dtype.candle_name}" suits this device.'
                yield finding(config, code, module.where("dtype_override"), message, hint)
    for module in modules(config):
        if (
            module.is_python
            and not capability.native_bf16
            and "script" not in module.table
            and _device_word(module) != "cpu"
        ):
            message = (
                f"{module.type} computes in bf16, written into its script, and {device.label} has"
                " no bf16 arithmetic: moshi-server fails there, or emulates it too slowly to be"
                " of use"
            )
            dtype = capability.serving_dtype
            hint = (
                "Give it a script: a copy of the embedded one (`moshi-server configs`) that passes"
                f" float{8 * dtype.itemsize}."
            )
            if module.type == "Py":
                hint = (
                    f"`dsmops worker` serves this file in {dtype.candle_name}. Else:"
                    f" {hint[0].lower()}{hint[1:]}"
                )
            yield finding(config, "python-bf16", module.where("type"), message, hint)


def _unsuited(
    dtype: ComputeDType, device: Device, capability: ComputeCapability
) -> Iterator[tuple[str, str]]:
    best = capability.serving_dtype
    if dtype is ComputeDType.BF16 and not capability.native_bf16:
        yield (
            "bf16-on-old-device",
            (
                f"{device.label} has no bf16 arithmetic: the server starts, listens, and never"
                " sends Ready"
            ),
        )
    elif dtype is ComputeDType.F16 and not capability.has_f16_kernels:
        yield (
            "no-f16-kernels",
            (
                f"the server has no f16 kernels for {device.label}: it starts, listens, and never"
                " sends Ready"
            ),
        )
    elif dtype is ComputeDType.F16 and best is ComputeDType.F32:
        yield "slow-f16", f"f16 arithmetic on {device.label} crawls, at 1/64 of the f32 rate"
    elif dtype is ComputeDType.F16 and best is ComputeDType.BF16:
        yield (
            "f16-on-bf16-device",
            (
                f"{device.label} computes bf16, for which the model was trained; f16 works and"
                " saves nothing"
            ),
        )
    elif dtype is ComputeDType.F32 and best is not ComputeDType.F32:
        yield (
            "costly-f32",
            f"f32 takes twice the memory of {best.candle_name}, and more time, on {device.label}",
        )


def _device_word(module: Module) -> str | None:
    # voice.py (PyPost) computes on the CPU unless told otherwise.
    return module.text("py", "device") or ("cpu" if module.type == "PyPost" else None)


def server_version(config: Config, given: LintInputs) -> Findings:
    """Report keys and module types that are newer than the server.

    It ignores such keys and refuses such types.
    """
    version, capability = (
        given.server_version,
        given.device.compute_capability if given.device else None,
    )
    needed = capability is not None and not capability.native_bf16
    for module in modules(config):
        section = MODULES[module.type]
        if section.since and version and version < section.since:
            message = (
                f"moshi-server {version} does not know the type {module.type}, and refuses the"
                " config"
            )
            yield finding(
                config,
                "module-too-new",
                module.where("type"),
                message,
                f"Use moshi-server {section.since} or newer.",
            )
        for name, key in section.keys.items():
            if key.since is None or name not in module.table or (version and version >= key.since):
                continue
            where, newer = module.where(name), f"Use moshi-server {key.since} or newer."
            if version is None:
                message = (
                    f"read by moshi-server {key.since} and newer; an older one ignores it without a"
                    " word"
                )
                yield finding(
                    config,
                    "needs-newer-server",
                    where,
                    message,
                    "Give --server-version to have it judged.",
                )
            elif needed:
                message = (
                    f"moshi-server {version} ignores {name}, and this device cannot do without: the"
                    " server would never send Ready"
                )
                yield finding(config, "override-unread", where, message, newer)
            else:
                message = (
                    f"moshi-server {version} ignores {name} without a word, and computes in bf16"
                )
                yield finding(config, "override-too-new", where, message, newer)


def memory(config: Config, given: LintInputs) -> Findings:
    """Report batches that do not fit.

    Counts the modules of which the size is known; every figure is derived, not measured.
    """
    device = given.device
    if device is None or device.memory_total_bytes is None:
        return
    needs = [
        (served, serving_memory(served.model, served.slots)) for served in _served(config, given)
    ]
    if not needs:
        return
    own = [split.total_bytes - split.runtime_bytes for _, split in needs]
    # Each language brings a CUDA runtime of its own into the one process; modules of one share it.
    runtimes = sum(
        {served.module.is_python: split.runtime_bytes for served, split in needs}.values()
    )
    need = sum(own) + runtimes
    largest = max(range(len(own)), key=own.__getitem__)
    served = needs[largest][0]
    total, free = device.memory_total_bytes, device.memory_free_bytes
    usable = total - default_reserve_bytes(device)
    where, shown = served.module.where("batch_size"), f"the config needs about {size(need)}"
    hint = _what_fits(served, usable - (need - own[largest] - needs[largest][1].runtime_bytes))
    if need > total:
        yield finding(
            config,
            "memory-too-small",
            where,
            f"{shown}, and {device.label} has {size(total)}",
            hint,
        )
    elif need > usable:
        yield finding(
            config,
            "memory-tight",
            where,
            f"{shown} of the {size(total)} of {device.label}, which leaves little",
            hint,
        )
    elif free is not None and need > free:
        message = f"{shown}, and {device.label} has {size(free)} free now"
        yield finding(
            config, "memory-tight", where, message, "`dsmops check-gpu` says who uses the rest."
        )


@dataclass(frozen=True, slots=True)
class _Served:
    """A module whose model is known, and what it is served with."""

    module: Module
    model: ServedModel
    slots: int


def _served(config: Config, given: LintInputs) -> Iterator[_Served]:
    int8_files = {
        reference.where[1]
        for reference in file_references(config, given.environ)
        if reference.role is FileRole.LM and _is_int8(given, reference)
    }

    def quantised(module: Module) -> Quantised:
        asked = given.quantised
        is_stored = module.name in int8_files and asked.weights is None
        return replace(asked, weights=Quant.INT8) if is_stored else asked

    for module in _with_lm(config):
        shape, dtype, slots = module.lm_shape(), _served_dtype(module), _slots(module)
        if shape is not None and dtype is not None and slots is not None:
            stored = quantised(module)
            server = Runtime.EMBEDDED if stored.has_int8 else Runtime.MOSHI_SERVER
            yield _Served(
                module, ServedModel(shape, dtype, runtime=server, quantised=stored), slots
            )
    for module in tts.tts_modules(config):
        slots, n_q = module.whole("batch_size"), tts.codebooks_of(module)
        model = tts.published_model(module, given)
        if slots is not None and n_q is not None and model is not None:
            capability = given.device.compute_capability if given.device else None
            dtype = capability.serving_dtype if capability else ComputeDType.BF16
            stored = quantised(module)
            # Where moshi-server's script cannot, the embedded worker serves the same file.
            by_script = dtype is ComputeDType.BF16 and not stored.has_int8
            runtime = Runtime.MOSHI_SERVER if by_script else Runtime.EMBEDDED
            served = ServedModel(model.shape, dtype, None, runtime, n_q, stored)
            yield _Served(module, served, slots)


def _is_int8(given: LintInputs, reference: FileReference) -> bool:
    known = given.files.get((reference.value.text, reference.role))
    tensors = {} if known is None or known.tensors is None else known.tensors
    return any(dtype == StorageDType.I8 for dtype, _ in tensors.values())


def _what_fits(served: _Served, usable_bytes: int) -> str:
    batched = served.module.type in {"BatchedAsr", "Py"}
    fitting = largest_batch(served.model, usable_bytes) if batched else 0
    return f"batch_size = {fitting} fits." if fitting else "`dsmops plan` says what would fit."


def step_time(config: Config, given: LintInputs) -> Findings:
    """Report batches that are estimated to miss the 80 ms of a step."""
    device = given.device
    for served in _served(config, given):
        if device is None or not served.module.whole("batch_size"):
            continue
        step_ms = estimate_step_ms(served.model, served.slots, device)
        if step_ms is not None and step_ms > FRAME_MS:
            message = (
                f"a step of {served.slots} slots is estimated at {step_ms:.0f} ms on"
                f" {device.label}, and a frame is {FRAME_MS:.0f} ms"
            )
            yield finding(
                config,
                "slower-than-real-time",
                served.module.where("batch_size"),
                message,
                "`dsmops plan` says what keeps up.",
            )


def _with_lm(config: Config) -> tuple[Module, ...]:
    return tuple(module for module in modules(config) if module.has_lm)


def _served_dtype(module: Module) -> ComputeDType | None:
    """Return the dtype on a GPU: bf16 unless overridden, None for a word the server cannot read."""
    return _overriding_dtype(module) if "dtype_override" in module.table else ComputeDType.BF16


def _overriding_dtype(module: Module) -> ComputeDType | None:
    """Return what `dtype_override` says, None where the server cannot read it."""
    text = module.text("dtype_override")
    return ComputeDType.parse(text) if text in SERVER_DTYPES else None


def _slots(module: Module) -> int | None:
    """Return the number of streams that memory is taken for.

    It is all of a batch at load, and at least one where each connection adds its own.
    """
    return {"BatchedAsr": module.whole("batch_size"), "Asr": 1}.get(module.type)
