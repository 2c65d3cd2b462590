"""Whole steps and memory of the worker on a CUDA card: f16, keys and values in int8, weights too.

`python -m tests.bench.int8 stt-1b-en_fr:1,64,400 tts-1.6b-en_fr:1,64` measures each model at these
numbers of streams in each way of storing, each in a process of its own: the step with full and with
half-full attention windows, and the memory that the card lost beside what `plan` says. The windows
are filled with random values, without running as many steps. `--cap-gib 8` gives torch 8 GiB, less
what CUDA itself takes of this card with `--with-context`. `DSMOPS_REHEARSE=sm_75` before it: only
what a Turing card can do.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dsmops.config.memory import MIB, ServedModel, serving_memory
from dsmops.devices import Runtime
from dsmops.dtypes import ComputeDType, Quant, Quantised
from dsmops.models import MODELS, TtsShape

if TYPE_CHECKING:
    from dsmops.worker.models.attention import RingState

WAYS = {
    "f16": Quantised(Quant.NONE),
    "kv": Quantised(Quant.NONE, Quant.INT8),
    "weights": Quantised(Quant.INT8),
    "both": Quantised(Quant.INT8, Quant.INT8),
}
TIMED_STEPS = 60


def main(words: list[str] | None = None) -> int:
    """Measure what is asked for, print a table and record it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.int8", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="MODEL:STREAMS,...")
    parser.add_argument("--way", nargs="+", choices=WAYS, default=["f16", "kv", "both"])
    parser.add_argument("--dtype", default="f16")
    parser.add_argument("--cap-gib", type=float, help="memory that torch may take")
    parser.add_argument("--with-context", action="store_true", help="count CUDA's context in it")
    parser.add_argument(
        "--one", nargs=3, metavar=("MODEL", "STREAMS", "WAY"), help="in this process"
    )
    chosen = parser.parse_args(words or [])
    import torch

    if not torch.cuda.is_available():
        print("int8: no CUDA device, nothing measured")
        return 0
    if chosen.one:
        model, streams, way = chosen.one
        sizes = [int(size) for size in streams.split(",")]
        dtype = ComputeDType.parse(chosen.dtype)
        cap_bytes = chosen.cap_gib and chosen.cap_gib * 2**30
        for found in _measure(model, sizes, way, dtype, cap_bytes, chosen.with_context):
            print(json.dumps(found), flush=True)
        return 0
    from tests.bench.harness import record

    found_rows, failed = [], False
    for row in chosen.rows:
        model, _, streams = row.partition(":")
        for way in chosen.way:
            line = [sys.executable, "-m", "tests.bench.int8", "--dtype", chosen.dtype]
            line += ["--cap-gib", str(chosen.cap_gib)] if chosen.cap_gib else []
            line += ["--with-context"] if chosen.with_context else []
            done = subprocess.run(
                [*line, "--one", model, streams, way],
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            for text in done.stdout.splitlines():
                found_rows.append(json.loads(text))
                print(_shown(found_rows[-1]), flush=True)
            failed = failed or done.returncode != 0
    if not found_rows:
        print("int8: no rows are given, or none could be measured")
        return int(failed)
    parameters = {
        "device": torch.cuda.get_device_name(),
        "dtype": chosen.dtype,
        "cap_gib": chosen.cap_gib,
        "with_context": chosen.with_context,
        "rehearses": os.environ.get("DSMOPS_REHEARSE"),
    }
    record("int8", parameters=parameters, rows=found_rows)
    return int(failed)


def _shown(row: dict[str, Any]) -> str:
    planned, measured = row["planned_bytes"] / MIB, row["measured_bytes"] / MIB
    return (
        f"{row['model']:15}{row['way']:8}{row['streams']:5}: full {row['full_ms']} ms, half"
        f" {row['half_ms']} ms; {measured:,.0f} MiB, planned {planned - measured:+,.0f}"
    )


def _measure(
    model: str,
    sizes: list[int],
    way: str,
    dtype: ComputeDType,
    cap_bytes: float | None,
    with_context: bool,
) -> Iterator[dict[str, Any]]:
    import pynvml  # type: ignore[import-not-found,unused-ignore]

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    before_bytes = pynvml.nvmlDeviceGetMemoryInfo(handle).free

    def lost() -> int:
        return int(before_bytes - pynvml.nvmlDeviceGetMemoryInfo(handle).free)

    import torch

    from dsmops.errors import GpuMemoryError
    from dsmops.worker.runtime.measure import random_engine

    torch.zeros(1, device="cuda")
    context_bytes = lost()
    shape, quantised = MODELS[model].shape, WAYS[way]
    context = shape.lm.context if isinstance(shape, TtsShape) else shape.context
    open_engine = random_engine(shape, dtype, device_name="cuda:0", quantised=quantised)
    gc.collect()
    torch.cuda.empty_cache()
    if cap_bytes:
        # Only now: random weights are made in the compute dtype before they are int8.
        total_bytes = torch.cuda.get_device_properties(0).total_memory
        left_bytes = cap_bytes - (context_bytes if with_context else 0)
        torch.cuda.set_per_process_memory_fraction(left_bytes / total_bytes)
    for streams in sizes:
        try:
            engine = open_engine(streams)
            for _ in range(3):
                engine.step()
        except GpuMemoryError as exc:
            print(f"{model} {way} {streams}: {exc.message}", file=sys.stderr)
            return
        measured_bytes = lost()
        planned = serving_memory(
            ServedModel(shape, dtype, runtime=Runtime.EMBEDDED, quantised=quantised), streams
        )
        times = {}
        for name, position in (("full", context + 10), ("half", context // 2 - TIMED_STEPS // 2)):
            fill_windows(engine.ring, position)
            times[f"{name}_ms"] = _median_ms(engine.step)
        yield {
            "model": model,
            "way": way,
            "streams": streams,
            **times,
            "measured_bytes": measured_bytes,
            "planned_bytes": planned.total_bytes,
            "reserved_bytes": torch.cuda.memory_reserved(),
            "first_audio_ms": engine.first_audio_ms,
        }
        del engine
        gc.collect()
        torch.cuda.empty_cache()


def fill_windows(ring: RingState, position: int) -> None:
    """Let every stream have done `position` steps, with random keys and values."""
    import torch

    with torch.inference_mode():
        ring.offset.fill_(position)
        for entries in ring.entries:
            if entries.scales is None:
                entries.stored.normal_()
            else:
                entries.stored.random_(-127, 128)
                entries.scales.uniform_(0.5, 2)


def _median_ms(step: Any) -> float:
    import torch

    for _ in range(5):
        step()
    times: list[float] = []
    torch.cuda.synchronize()
    for _ in range(TIMED_STEPS):
        begin_s = time.perf_counter()
        step()
        times.append((time.perf_counter() - begin_s) * 1000)
    return round(statistics.median(times), 3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
