"""A serving plan as people read it: the answer first, then the split behind it."""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.config.plan import LimitedBy, ServingPlan, TimeBasis
from dsmops.facts import Runtime
from dsmops.report import Block, Table
from dsmops.units import size

_SOURCES = {
    Runtime.MOSHI_SERVER: {
        "weights": "parameters × bytes of the dtype",
        "KV cache": "2 × layers × context × width × bytes × slots, all allocated at load",
        "Mimi weights": "114,040,673 floats, always F32",
        "Mimi state": "16.4 MB a slot, F32, both transformers",
        "step workspace": "estimate, 5 MiB a slot",
        "CUDA runtime": "estimate, 600 MiB: context, cuBLAS, kernels",
    },
    Runtime.EMBEDDED: {
        "weights": "parameters × bytes of the dtype",
        "KV cache": "2 × layers × context rounded up to 8 × width × bytes × slots, all allocated at load",
        "Mimi weights": "56,234,272 floats of the encoder half, always F32",
        "Mimi state": "8.4 MB a slot, F32, encoder only",
        "step workspace": "measured, 3.6 MB a slot: activations of the captured step",
        "CUDA runtime": "measured on an H200, 960 MB: context, kernels, workspaces",
    },
}


def show_plan(plan: ServingPlan, *, explain: bool = False) -> Iterator[Block]:
    """Yield the plan: a verdict line, both bounds, the memory table, alternatives and notes."""
    where = f"{plan.device.label}, {size(plan.device.memory_total_bytes)}"
    if plan.device.memory_free_bytes is not None:
        where += f" ({size(plan.device.memory_free_bytes)} free)"
    yield f"{plan.model} in {plan.dtype.candle_name} on {where}, {plan.runtime}"
    if plan.fits:
        yield f"batch_size = {plan.batch_size}, limited by {plan.limited_by.value}"
    else:
        yield f"Does not fit: one slot needs {size(plan.memory.total_bytes)}, and {size(plan.usable_bytes)} are usable."
    yield f"  memory allows {_bound(plan.memory_batch_size)}; time allows {_bound(plan.time_batch_size)} ({_time_words(plan)})"
    yield ""
    yield _memory_table(plan, explain=explain)
    for alternative in plan.alternatives:
        yield f"Would fit: {alternative.change}: batch_size {alternative.batch_size}, {size(alternative.total_bytes)}"
    if explain:
        yield "Usable memory is what is free now (the whole card when simulated) less what is left free."
        yield f"A step is planned to end within {plan.step_budget_ms:.0f} ms, 80 % of a frame; every step runs all slots, used or not."
    for note in plan.notes:
        yield f"note: {note}"


def _bound(batch_size: int | None) -> str:
    return "unknown" if batch_size is None else str(batch_size)


def _time_words(plan: ServingPlan) -> str:
    if plan.step_ms is None:
        return "the card's bandwidth is unknown" if plan.time_basis is TimeBasis.UNKNOWN else "beyond what was measured"
    kind = "measured, 99th percentile" if plan.time_basis is TimeBasis.MEASURED else "estimated from bandwidth, not measured"
    return f"{plan.step_ms:.0f} of {plan.step_budget_ms:.0f} ms a step at {max(1, plan.batch_size)}; {kind}"


def _memory_table(plan: ServingPlan, *, explain: bool) -> Table:
    slots = max(1, plan.batch_size)
    split = plan.memory
    lines = [
        ("weights", split.weights_bytes, None),
        ("KV cache", split.kv_bytes, split.kv_bytes // slots),
        ("Mimi weights", split.mimi_weights_bytes, None),
        ("Mimi state", split.mimi_state_bytes, split.mimi_state_bytes // slots),
        ("step workspace", split.workspace_bytes, split.workspace_bytes // slots),
        ("CUDA runtime", split.runtime_bytes, None),
    ]
    rows = [[name, size(total), "" if each is None else size(each), _SOURCES[plan.runtime][name]] for name, total, each in lines]
    rows.append([f"total for {slots}", size(split.total_bytes), "", ""])
    rows.append(["left free", size(plan.reserve_bytes), "", "--reserve"])
    if plan.limited_by is not LimitedBy.UNKNOWN_MEMORY:
        rows.append(["usable", size(plan.usable_bytes), "", ""])
    headings = ["memory", "bytes>", "a slot>", "where from"]
    keep = 4 if explain else 3
    return Table(headings[:keep], [row[:keep] for row in rows])
