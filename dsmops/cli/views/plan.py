"""A serving plan as people read it: the answer first, then the split behind it."""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.config.memory import VOICE_POSITIONS
from dsmops.config.plan import AskedBatch, LimitedBy, ServingPlan, TimeBasis
from dsmops.devices import Runtime
from dsmops.report import Block, Table
from dsmops.units import counted, size

_ALIKE = {
    "weights": "parameters × bytes of the dtype",
    "KV cache": "2 × layers × context × width × bytes × slots, all allocated at load",
}
_STT = {
    Runtime.MOSHI_SERVER: {
        **_ALIKE,
        "Mimi weights": "114,040,673 floats, always F32",
        "Mimi state": "16.4 MB a slot, F32, both transformers",
        "step workspace": "estimate, 5 MiB a slot",
        "CUDA runtime": "estimate, 600 MiB: context, cuBLAS, kernels",
    },
    Runtime.EMBEDDED: {
        **_ALIKE,
        "KV cache": (
            "2 × layers × context rounded up to 8 × width × bytes × slots, all allocated at load"
        ),
        "Mimi weights": "56,234,272 floats of the encoder half, always F32",
        "Mimi state": "8.4 MB a slot, F32, encoder only",
        "step workspace": "measured, 3.6 MB a slot: activations of the captured step",
        "CUDA runtime": "measured on an H200, 960 MB: context, kernels, workspaces",
    },
}
_TTS_ALIKE = {
    **_ALIKE,
    "weights": "parameters of the backbone × bytes of the dtype; conditioners F32",
    "cross KV": f"2 × layers × {VOICE_POSITIONS} positions of voices × width × bytes × slots",
    "new voice": "as cross KV, once: made aside, then put into its slot",
}
_TTS = {
    Runtime.MOSHI_SERVER: {
        **_TTS_ALIKE,
        "depformer weights": "all weight sets and heads × bytes of the dtype",
        "depformer state": (
            "Q, K and V × layers × 32 codebooks × width × bytes × slots, kept for each step"
        ),
        "Mimi weights": "112,928,609 floats: both halves, centroids twice; always F32",
        "Mimi state": "16.5 MB a slot, F32, both halves",
        "step workspace": "estimate, 6 MB a slot",
        "CUDA runtime": "estimate, 1.1 GB: context, kernels, several graphs",
    },
    Runtime.EMBEDDED: {
        **_TTS_ALIKE,
        "KV cache": (
            "2 × layers × context rounded up to 8 × width × bytes × slots, all allocated at load"
        ),
        "depformer weights": (
            "the weight sets and heads of n_q codebooks, and their embeddings multiplied out ×"
            " bytes of the dtype"
        ),
        "depformer state": "Q, K and V × layers × n_q × width × bytes × slots, kept for each step",
        "Mimi weights": "57,284,129 floats of the decoder half, always F32",
        "Mimi state": "8.4 MB a slot, F32, decoder only",
        "step workspace": "measured, 4 MB a slot: activations of the captured steps",
        "CUDA runtime": "measured on an H200, 1.03 GB: context, kernels, workspaces, two graphs",
    },
}
"""Where each part comes from, by who serves and what is served."""


def show_plan(plan: ServingPlan, *, explain: bool = False) -> Iterator[Block]:
    """Yield the plan: a verdict line, both bounds, the memory table, alternatives and notes."""
    where = f"{plan.device.label}, {size(plan.device.memory_total_bytes)}"
    if plan.device.memory_free_bytes is not None:
        where += f" ({size(plan.device.memory_free_bytes)} free)"
    what = f"{plan.model} in {plan.dtype.candle_name}" + (
        f" with {plan.n_q} codebooks" if plan.n_q else ""
    )
    what += f", {in_int8} in int8" if (in_int8 := plan.quantised.in_int8) else ""
    served_by = "the embedded worker" if plan.runtime is Runtime.EMBEDDED else plan.runtime
    yield f"{what} on {where}, served by {served_by}"
    if plan.fits:
        yield f"batch_size = {plan.batch_size}, limited by {plan.limited_by.value}"
    else:
        yield (
            f"Does not fit: one slot needs {size(plan.memory.total_bytes)}, and"
            f" {size(plan.usable_bytes)} are usable."
        )
    if plan.asked is not None:
        yield _asked_line(plan, plan.asked)
    yield (
        f"  memory allows {_bound(plan.memory_batch_size)}; time allows"
        f" {_bound(plan.time_batch_size)} ({_time_words(plan)})"
    )
    yield ""
    yield _memory_table(plan, explain=explain)
    for alternative in plan.alternatives:
        yield (
            f"Would fit: {alternative.change}: batch_size {alternative.batch_size},"
            f" {size(alternative.total_bytes)}"
        )
    if explain:
        yield (
            "Usable memory is what is free now (the whole card when simulated) less what is left"
            " free."
        )
        yield (
            f"A step is planned to end within {plan.step_budget_ms:.0f} ms, 80 % of a frame; every"
            " step runs all slots, used or not."
        )
        yield (
            "An estimated step is kernel launches, and all weights and caches read once at 70 % of"
            " the card's bandwidth."
        )
        if plan.codebook_choices:
            yield from _codebook_lines(plan)
    for note in plan.notes:
        yield f"note: {note}"


def _asked_line(plan: ServingPlan, asked: AskedBatch) -> str:
    answer = {True: "Yes", False: "No", None: "Unknown"}[asked.fits]
    usable = "" if plan.usable_bytes is None else f" of {size(plan.usable_bytes)} usable"
    step = "unknown" if asked.step_ms is None else f"{asked.step_ms:.0f}"
    if asked.step_ms and asked.slow_host_step_ms and asked.slow_host_step_ms > asked.step_ms:
        step += f" (with a slow host {asked.slow_host_step_ms:.0f})"
    streams = counted(asked.batch_size, "stream")
    return (
        f"{answer}, {streams}: {size(asked.memory.total_bytes)}{usable};"
        f" {step} of {plan.step_budget_ms:.0f} ms a step"
    )


def _bound(batch_size: int | None) -> str:
    return "unknown" if batch_size is None else str(batch_size)


def _time_words(plan: ServingPlan) -> str:
    if plan.step_ms is None:
        return (
            "the card's bandwidth is unknown"
            if plan.time_basis is TimeBasis.UNKNOWN
            else "beyond what was measured"
        )
    kind = (
        "measured, 99th percentile"
        if plan.time_basis is TimeBasis.MEASURED
        else "estimated from bandwidth, not measured"
    )
    return (
        f"{plan.step_ms:.0f} of {plan.step_budget_ms:.0f} ms a step at {max(1, plan.batch_size)};"
        f" {kind}"
    )


def _codebook_lines(plan: ServingPlan) -> Iterator[Block]:
    yield (
        "The depformer runs once for each of n_q codebooks, one after the other, and reads its"
        " weight set each time. As estimated:"
    )
    yield Table(
        ["n_q>", f"step at {max(1, plan.batch_size)}>", "memory>"],
        [
            [
                str(choice.n_q),
                "unknown" if choice.step_ms is None else f"{choice.step_ms:.0f} ms",
                size(choice.total_bytes),
            ]
            for choice in plan.codebook_choices
        ],
    )


def _memory_table(plan: ServingPlan, *, explain: bool) -> Table:
    slots = max(1, plan.batch_size)
    split = plan.memory
    sources = (_STT if plan.n_q is None else _TTS)[plan.runtime]
    lines = [
        ("weights", split.weights_bytes, None),
        ("depformer weights", split.depformer_weights_bytes, None),
        ("KV cache", split.kv_bytes, split.kv_bytes // slots),
        ("cross KV", split.cross_kv_bytes, split.cross_kv_bytes // slots),
        ("depformer state", split.depformer_state_bytes, split.depformer_state_bytes // slots),
        ("new voice", split.new_voice_bytes, None),
        ("Mimi weights", split.mimi_weights_bytes, None),
        ("Mimi state", split.mimi_state_bytes, split.mimi_state_bytes // slots),
        ("step workspace", split.workspace_bytes, split.workspace_bytes // slots),
        ("CUDA runtime", split.runtime_bytes, None),
    ]
    rows = [
        [name, size(total), "" if each is None else size(each), sources[name]]
        for name, total, each in lines
        if name in sources
    ]
    rows.append([f"total for {slots}", size(split.total_bytes), "", ""])
    rows.append(["left free", size(plan.reserve_bytes), "", "--reserve"])
    if plan.limited_by is not LimitedBy.UNKNOWN_MEMORY:
        rows.append(["usable", size(plan.usable_bytes), "", ""])
    headings = ["memory", "bytes>", "a slot>", "where from"]
    keep = 4 if explain else 3
    return Table(headings[:keep], [row[:keep] for row in rows])
