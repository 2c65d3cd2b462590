"""Whole steps on a CUDA card, Mimi, language model and depformer, beside the `moshi` package with
the same shapes on the same card.

Random weights: a step's time does not depend on their values. Every figure is taken after at least
`context` steps, in a process of its own, so that the memory figures are that run's. `TARGETS_MS`
are for one H200 in f16, with all codebooks. `python -m tests.bench.steps --help` has the choices;
the peer is left out where `moshi` is not installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from dsmops.dtypes import ComputeDType
from dsmops.models import FRAME_MS, MODELS, STT_MODELS, TTS_MODELS

MODEL_NAMES = [*STT_MODELS, *TTS_MODELS]
TARGETS_MS = {
    ("stt-1b-en_fr", 1): 2.0,
    ("stt-1b-en_fr", 64): 4.5,
    ("stt-1b-en_fr", 400): 14.5,
    ("stt-1b-en_fr", 1000): 36.0,
    ("stt-2.6b-en", 400): 25.0,
    ("tts-1.6b-en_fr", 1): 8.0,
    ("tts-1.6b-en_fr", 64): 12.0,
    ("tts-1.6b-en_fr", 128): 16.0,
}
TIMED_STEPS = 100
SHOWN_KERNELS = 30


def main(words: list[str] | None = None) -> int:
    """Measure every model and batch size asked for, ours and the peer, and record one line each."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.steps", description=__doc__)
    parser.add_argument("--model", nargs="+", choices=MODEL_NAMES, default=MODEL_NAMES)
    parser.add_argument("--dtype", default="f16")
    parser.add_argument("--batch", nargs="+", type=int, help="default: those that have a target")
    parser.add_argument("--n-q", type=int, help="codebooks that text-to-speech generates")
    parser.add_argument("--no-peer", action="store_true", help="leave `moshi` out")
    parser.add_argument("--no-record", action="store_true", help="leave the history file alone")
    parser.add_argument("--profile", action="store_true", help="show the kernels that take longest")
    parser.add_argument(
        "--one",
        nargs=3,
        metavar=("WHO", "MODEL", "BATCH"),
        help="one measurement in this process, as JSON",
    )
    chosen = parser.parse_args(words or [])
    import torch

    if not torch.cuda.is_available():
        print("steps: no CUDA device, nothing measured")
        return 0
    if chosen.one:
        who, model, batch = chosen.one
        print(json.dumps(_measure(who, model, int(batch), chosen)))
        return 0
    whom = ["dsmops", *(() if chosen.no_peer or find_spec("moshi") is None else ("moshi",))]
    missed = []
    for model in chosen.model:
        for batch in chosen.batch or [size for name, size in TARGETS_MS if name == model]:
            figures = {
                who: found
                for who in whom
                if (found := _measure_in_child(who, model, batch, chosen)) is not None
            }
            if not chosen.no_record:
                _record(model, batch, chosen, figures)
            missed += _missed(model, batch, chosen, figures)
    print("\n".join(missed) or "targets met")
    return 1 if missed else 0


def _measure_in_child(
    who: str, model: str, batch: int, chosen: argparse.Namespace
) -> dict[str, Any] | None:
    line = [sys.executable, "-m", "tests.bench.steps", "--dtype", chosen.dtype]
    line += [] if chosen.n_q is None else ["--n-q", str(chosen.n_q)]
    line += ["--profile"] if chosen.profile else []
    found = subprocess.run(
        [*line, "--one", who, model, str(batch)], capture_output=True, text=True, check=False
    )
    if found.returncode:
        print(f"{who} {model} batch {batch}: failed\n{found.stderr[-2000:]}")
        return None
    *shown, last = found.stdout.strip().splitlines()
    print("\n".join(shown))
    figures: dict[str, Any] = json.loads(last)
    print(f"{who:7} {model} {chosen.dtype} batch {batch:4}: {_words(batch, figures)}", flush=True)
    return figures


def _words(batch: int, figures: dict[str, Any]) -> str:
    first_audio_ms = figures.get("first_audio_ms")
    return (
        f"step p50 {figures['step_p50_ms']} p99 {figures['step_p99_ms']} ms,"
        f" {figures['speedup'] * batch:,.0f} × real time in all,"
        + ("" if first_audio_ms is None else f" first audio {first_audio_ms} ms,")
        + f" {figures['peak_device_bytes'] / 2**20:,.0f} MiB on the device"
    )


def _missed(
    model: str, batch: int, chosen: argparse.Namespace, figures: dict[str, Any]
) -> list[str]:
    target_ms = TARGETS_MS.get((model, batch))
    seen_ms = figures.get("dsmops", {}).get("step_p50_ms")
    if seen_ms is None:
        return [f"{model} at batch {batch}: not measured"]
    has_target = target_ms is not None and chosen.n_q is None and chosen.dtype == "f16"
    if not has_target or seen_ms <= target_ms:
        return []
    return [f"{model} at batch {batch}: {seen_ms} ms, target {target_ms}"]


def _record(model: str, batch: int, chosen: argparse.Namespace, figures: dict[str, Any]) -> None:
    import torch

    from tests.bench.harness import record

    parameters = {
        "model": model,
        "dtype": chosen.dtype,
        "n_q": chosen.n_q,
        "batch": batch,
        "device": torch.cuda.get_device_name(),
    }
    record("steps", parameters=parameters, **figures)


def _measure(who: str, model: str, batch: int, chosen: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.cuda.init()  # type: ignore[no-untyped-call]
    before_bytes = torch.cuda.mem_get_info()[0]
    dtype = ComputeDType.parse(chosen.dtype)
    step, details = (_ours if who == "dsmops" else _moshi)(model, batch, dtype, chosen.n_q)
    for _ in range(MODELS[model].shape.context + 10):
        step()
    if chosen.profile:
        _show_kernels(step)
    times_ms = _times_ms(step)
    free, total = torch.cuda.mem_get_info()
    return {
        "step_p50_ms": round(statistics.median(times_ms), 3),
        "step_p99_ms": round(sorted(times_ms)[int(len(times_ms) * 0.99) - 1], 3),
        "speedup": round(FRAME_MS / statistics.median(times_ms), 1),
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
        "peak_device_bytes": total - free,
        "device_bytes_before": total - before_bytes,
        "tf32": {
            "matmul": torch.backends.cuda.matmul.allow_tf32,
            "convolutions": torch.backends.cudnn.allow_tf32,
        },
        **details,
    }


def _times_ms(step: Callable[[], object]) -> list[float]:
    import torch

    times = []
    for _ in range(TIMED_STEPS):
        torch.cuda.synchronize()
        begin_s = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begin_s) * 1000)
    return times


def _ours(
    model: str, batch: int, dtype: ComputeDType, n_q: int | None
) -> tuple[Callable[[], object], dict[str, Any]]:
    """Return the step that `dsmops bench --engine` measures."""
    from dsmops.worker.runtime.measure import random_engine

    engine = random_engine(MODELS[model].shape, dtype, device_name="cuda:0", n_q=n_q)(batch)
    details: dict[str, Any] = {"state_bytes": engine.state_bytes}
    if engine.first_audio_ms is not None:
        details["first_audio_ms"] = round(engine.first_audio_ms, 1)
    return engine.step, details


def _moshi(
    model: str, batch: int, dtype: ComputeDType, n_q: int | None
) -> tuple[Callable[[], object], dict[str, Any]]:
    from tests.bench import moshi_peer

    if model in STT_MODELS:
        return moshi_peer.stt_step(model, batch, dtype), {}
    all_codebooks = len(TTS_MODELS[model].shape.depformer.schedule)
    return moshi_peer.tts_step(batch, dtype, n_q or all_codebooks), {}


def _show_kernels(step: Callable[[], object]) -> None:
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(5):
            step()
        torch.cuda.synchronize()
    table = seen.key_averages().table
    print(table(sort_by="cuda_time_total", row_limit=SHOWN_KERNELS, max_name_column_width=90))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
