"""Whole step of speech-to-text on a CUDA card, Mimi and language model, beside the `moshi` package
with the same shapes on the same card.

Random weights: a step's time does not depend on their values. Every figure is taken after at least
`context` steps, in a process of its own, so that the memory figures are that run's. Targets (one
H200, f16): 1B at most 3 ms at batch 1 and 16 ms at 400; 2.6B at most 27 ms at
400. `python -m tests.bench.steps --help` has the choices; the peer is left out where `moshi` is not
     installed.
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
from dsmops.models import FRAME_MS, STT_MODELS

TARGETS_MS = {("stt-1b-en_fr", 1): 3.0, ("stt-1b-en_fr", 400): 16.0, ("stt-2.6b-en", 400): 27.0}
TIMED_STEPS = 100


def main(words: list[str] | None = None) -> int:
    """Measure every model and batch size asked for, ours and the peer, and record one line each."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.steps", description=__doc__)
    parser.add_argument("--model", nargs="+", default=["stt-1b-en_fr", "stt-2.6b-en"])
    parser.add_argument("--dtype", default="f16")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64, 400])
    parser.add_argument("--no-peer", action="store_true", help="leave `moshi` out")
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
    dtype = ComputeDType.parse(chosen.dtype)
    if chosen.one:
        who, model, batch = chosen.one
        print(json.dumps(_measure(who, model, int(batch), dtype, profile=chosen.profile)))
        return 0
    missed = []
    for model in chosen.model:
        for batch in chosen.batch:
            figures = {}
            for who in (
                "dsmops",
                *(() if chosen.no_peer or find_spec("moshi") is None else ("moshi",)),
            ):
                line = [
                    sys.executable,
                    "-m",
                    "tests.bench.steps",
                    "--dtype",
                    chosen.dtype,
                    "--one",
                    who,
                    model,
                    str(batch),
                ]
                found = subprocess.run(
                    [*line, *(["--profile"] if chosen.profile else [])],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if found.returncode:
                    print(f"{who} {model} batch {batch}: failed\n{found.stderr[-2000:]}")
                    continue
                *shown, last = found.stdout.strip().splitlines()
                print("\n".join(shown))
                figures[who] = json.loads(last)
                print(
                    f"{who:7} {model} {chosen.dtype} batch {batch:4}: {_words(figures[who])}",
                    flush=True,
                )
            _record(model, chosen.dtype, batch, figures)
            target_ms = TARGETS_MS.get((model, batch))
            if target_ms and "dsmops" in figures and figures["dsmops"]["step_p50_ms"] > target_ms:
                missed.append(
                    f"{model} at batch {batch}: {figures['dsmops']['step_p50_ms']} ms, target"
                    f" {target_ms}"
                )
    print("\n".join(missed) or "targets met")
    return 1 if missed else 0


def _words(figures: dict[str, Any]) -> str:
    return (
        f"step p50 {figures['step_p50_ms']} p99 {figures['step_p99_ms']} ms, {figures['speedup']} ×"
        f" real time a stream, Mimi alone {figures.get('mimi_p50_ms', '?')} ms,"
        f" {figures['peak_device_bytes'] / 2**20:,.0f} MiB on the device"
    )


def _record(model: str, dtype: str, batch: int, figures: dict[str, Any]) -> None:
    import torch

    from tests.bench.harness import record

    record(
        "steps",
        parameters={
            "model": model,
            "dtype": dtype,
            "batch": batch,
            "device": torch.cuda.get_device_name(),
        },
        **figures,
    )


def _measure(
    who: str, model: str, batch: int, dtype: ComputeDType, *, profile: bool
) -> dict[str, Any]:
    import torch

    shape = STT_MODELS[model].shape
    torch.cuda.init()  # type: ignore[no-untyped-call]
    before_bytes = torch.cuda.mem_get_info()[0]
    step, mimi_step, details = (_ours if who == "dsmops" else _moshi)(model, batch, dtype)
    for _ in range(shape.context + 10):
        step()
    if profile:
        _show_kernels(step)
    times = _times_ms(step)
    free, total = torch.cuda.mem_get_info()
    return {
        "step_p50_ms": round(statistics.median(times), 3),
        "step_p99_ms": round(sorted(times)[int(len(times) * 0.99) - 1], 3),
        "speedup": round(FRAME_MS / statistics.median(times), 1),
        **(
            {}
            if mimi_step is None
            else {"mimi_p50_ms": round(statistics.median(_times_ms(mimi_step)), 3)}
        ),
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
    model: str, batch: int, dtype: ComputeDType
) -> tuple[Callable[[], object], Callable[[], object] | None, dict[str, Any]]:
    """Return the step that `dsmops bench --engine` measures."""
    from dsmops.worker.runtime.measure import random_engine

    engine = random_engine(STT_MODELS[model].shape, dtype, device_name="cuda:0")(batch)
    return engine.step, None, {"state_bytes": engine.state_bytes}


def _moshi(
    model: str, batch: int, dtype: ComputeDType
) -> tuple[Callable[[], object], Callable[[], object] | None, dict[str, Any]]:
    import torch
    from moshi.models import LMGen, loaders  # type: ignore[import-not-found]

    from dsmops.worker.models.device import TORCH_DTYPES

    shape = STT_MODELS[model].shape
    heads = shape.extra_heads or (0, 6)
    kwargs = {
        "dim": shape.d_model, "num_heads": shape.num_heads, "num_layers": shape.num_layers, "hidden_scale": 4.125, "context": shape.context,
        "max_period": 100000, "text_card": shape.text_out_vocab_size, "card": shape.audio_vocab_size - 1, "n_q": shape.audio_codebooks,
        "dep_q": 0, "delays": [0] * (shape.audio_codebooks + 1), "causal": True, "layer_scale": None, "gating": "silu",
        "norm": "rms_norm_f32", "positional_embedding": "rope", "existing_text_padding_id": 3, "depformer_dim": 1024,
        "depformer_num_heads": 16, "depformer_num_layers": 6, "depformer_dim_feedforward": None, "depformer_multi_linear": True,
        "depformer_pos_emb": "none", "depformer_weights_per_step": True, "conditioners": {}, "fuser": None, "cross_attention": False,
        "extra_heads_num_heads": heads[0], "extra_heads_dim": heads[1],
    }  # fmt: skip
    lm = loaders.get_moshi_lm(None, lm_kwargs=kwargs, device="cuda", dtype=TORCH_DTYPES[dtype])
    mimi = loaders.get_mimi(None, device="cuda", num_codebooks=shape.audio_codebooks)
    generator = LMGen(lm, temp=0.0, temp_text=0.0)
    mimi.streaming_forever(batch)
    generator.streaming_forever(batch)
    pcm = torch.rand(batch, 1, 1920, device="cuda")

    def step() -> object:
        with torch.no_grad():
            tokens = generator.step(mimi.encode(pcm))
            return None if tokens is None else tokens.cpu()

    def mimi_step() -> object:
        with torch.no_grad():
            return mimi.encode(pcm)

    return step, mimi_step, {}


def _show_kernels(step: Callable[[], object]) -> None:
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(5):
            step()
        torch.cuda.synchronize()
    print(
        seen.key_averages().table(sort_by="cuda_time_total", row_limit=30, max_name_column_width=70)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
