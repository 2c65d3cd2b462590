"""Whole step of text-to-speech on a CUDA card, language model, depformer and Mimi's decoder, beside
the `moshi` package on the same card.

Random weights: a step's time does not depend on their values. Every figure is taken after at least
`context` steps, in a process of its own, so that the memory figures are that run's. Targets (one
H200, f16, 32 codebooks): at most 10 ms at batch 1 and 14 ms at 64, first audio after at most 250 ms
at 64. `python -m tests.bench.tts_steps --help` has the choices; the peer is left out where `moshi`
is not installed.
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
from dsmops.models import FRAME_MS, TTS_MODELS, TtsShape

MODEL = "tts-1.6b-en_fr"
TARGETS_MS = {1: 10.0, 64: 14.0}
FIRST_AUDIO_TARGETS_MS = {64: 250.0}
TIMED_STEPS = 100


def main(words: list[str] | None = None) -> int:
    """Measure every batch size asked for, ours and the peer, and record one line each."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tts_steps", description=__doc__)
    parser.add_argument("--dtype", default="f16")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32, 64, 128])
    parser.add_argument("--n-q", type=int, default=32, help="codebooks generated")
    parser.add_argument("--no-peer", action="store_true", help="leave `moshi` out")
    parser.add_argument("--no-record", action="store_true", help="leave the history file alone")
    parser.add_argument("--profile", action="store_true", help="show the kernels that take longest")
    parser.add_argument(
        "--one", nargs=2, metavar=("WHO", "BATCH"), help="one measurement in this process, as JSON"
    )
    chosen = parser.parse_args(words or [])
    import torch

    if not torch.cuda.is_available():
        print("tts_steps: no CUDA device, nothing measured")
        return 0
    dtype = ComputeDType.parse(chosen.dtype)
    if chosen.one:
        who, batch = chosen.one
        print(json.dumps(_measure(who, int(batch), dtype, chosen.n_q, profile=chosen.profile)))
        return 0
    missed = []
    for batch in chosen.batch:
        figures = {}
        for who in (
            "dsmops",
            *(() if chosen.no_peer or find_spec("moshi") is None else ("moshi",)),
        ):
            line = [
                sys.executable,
                "-m",
                "tests.bench.tts_steps",
                "--dtype",
                chosen.dtype,
                "--n-q",
                str(chosen.n_q),
                "--one",
                who,
                str(batch),
            ]
            found = subprocess.run(
                [*line, *(["--profile"] if chosen.profile else [])],
                capture_output=True,
                text=True,
                check=False,
            )
            if found.returncode:
                print(f"{who} batch {batch}: failed\n{found.stderr[-2000:]}")
                continue
            *shown, last = found.stdout.strip().splitlines()
            print("\n".join(shown))
            figures[who] = json.loads(last)
            print(
                f"{who:7} {MODEL} {chosen.dtype} n_q {chosen.n_q} batch {batch:4}:"
                f" {_words(figures[who])}",
                flush=True,
            )
        if not chosen.no_record:
            from tests.bench.harness import record

            parameters = {
                "model": MODEL,
                "dtype": chosen.dtype,
                "n_q": chosen.n_q,
                "batch": batch,
                "device": torch.cuda.get_device_name(),
            }
            record("tts_steps", parameters=parameters, **figures)
        missed += (
            _missed(batch, figures.get("dsmops", {}))
            if chosen.n_q == len(_shape().depformer.schedule)
            else []
        )
    print("\n".join(missed) or "targets met")
    return 1 if missed else 0


def _shape() -> TtsShape:
    return TTS_MODELS[MODEL].shape


def _missed(batch: int, figures: dict[str, Any]) -> list[str]:
    checks = (("step_p50_ms", TARGETS_MS), ("first_audio_ms", FIRST_AUDIO_TARGETS_MS))
    return [
        f"batch {batch}: {key} {figures[key]}, target {targets[batch]}"
        for key, targets in checks
        if batch in targets and key in figures and figures[key] > targets[batch]
    ]


def _words(figures: dict[str, Any]) -> str:
    batched = f"{figures['speedup'] * figures['batch']:,.0f} × in all"
    parts = ", ".join(
        f"{key.removesuffix('_p50_ms')} {value}" for key, value in figures["parts"].items()
    )
    return (
        f"step p50 {figures['step_p50_ms']} p99 {figures['step_p99_ms']} ms, {figures['speedup']} ×"
        f" real time a stream, {batched}; {parts} ms; first audio {figures.get('first_audio_ms')}"
        f" ms; {figures['peak_device_bytes'] / 2**20:,.0f} MiB on the device"
    )


def _measure(
    who: str, batch: int, dtype: ComputeDType, n_q: int, *, profile: bool
) -> dict[str, Any]:
    import torch

    torch.cuda.init()  # type: ignore[no-untyped-call]
    before_bytes = torch.cuda.mem_get_info()[0]
    step, parts, details = (_ours if who == "dsmops" else _moshi)(batch, dtype, n_q)
    for _ in range(_shape().lm.context + 10):
        step()
    if profile:
        _show_kernels(step)
    times = _times_ms(step)
    free, total = torch.cuda.mem_get_info()
    return {
        "batch": batch,
        "step_p50_ms": round(statistics.median(times), 3),
        "step_p99_ms": round(sorted(times)[int(len(times) * 0.99) - 1], 3),
        "speedup": round(FRAME_MS / statistics.median(times), 1),
        "parts": {
            f"{name}_p50_ms": round(statistics.median(_times_ms(run)), 3)
            for name, run in parts.items()
        },
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
    batch: int, dtype: ComputeDType, n_q: int
) -> tuple[Callable[[], object], dict[str, Callable[[], object]], dict[str, Any]]:
    """Return the step that `dsmops bench --engine` measures."""
    from dsmops.worker.runtime.measure import random_engine

    engine = random_engine(_shape(), dtype, device_name="cuda:0", n_q=n_q)(batch)
    first_audio_ms = round(engine.first_audio_ms or 0.0, 1)
    return engine.step, {}, {"state_bytes": engine.state_bytes, "first_audio_ms": first_audio_ms}


def _moshi(
    batch: int, dtype: ComputeDType, n_q: int
) -> tuple[Callable[[], object], dict[str, Callable[[], object]], dict[str, Any]]:
    import copy

    import torch
    from moshi.conditioners import ConditionAttributes, TensorCondition  # type: ignore[import-not-found]
    from moshi.models import LMGen, loaders  # type: ignore[import-not-found]

    from dsmops.worker.models.device import TORCH_DTYPES
    from tests.support.networks import FULL_TTS_CONFIG_BODY

    kwargs = {
        key: value
        for key, value in FULL_TTS_CONFIG_BODY.items()
        if key not in ("model_type", "tts_config", "model_id")
    }
    lm = loaders.get_moshi_lm(
        None, lm_kwargs=copy.deepcopy(kwargs), device="cuda", dtype=TORCH_DTYPES[dtype]
    )
    lm.dep_q = n_q
    mimi = loaders.get_mimi(None, device="cuda", num_codebooks=n_q)
    voice = TensorCondition(torch.randn(1, 625, 512), (torch.arange(625) < 125)[None])
    attributes = [
        ConditionAttributes({"control": "ok", "cfg": "2.0"}, {"speaker_wavs": voice})
    ] * batch
    conditions = lm.condition_provider.prepare_and_provide(attributes)

    def choose(tokens: torch.Tensor) -> None:
        tokens.tolist()
        tokens[:] = torch.tensor([3] * batch, device=tokens.device)

    generator = LMGen(
        lm, temp=0.6, temp_text=0.6, condition_tensors=conditions, on_text_hook=choose
    )
    mimi.streaming_forever(batch)
    generator.streaming_forever(batch)
    silent = torch.full((batch, lm.n_q - n_q, 1), -1, dtype=torch.int64, device="cuda")
    codes = torch.zeros(batch, n_q, 1, dtype=torch.int64, device="cuda")

    def step() -> object:
        with torch.no_grad():
            tokens = generator.step(silent)
            return None if tokens is None else mimi.decode(tokens[:, 1:].clamp(min=0)).cpu()

    def mimi_step() -> object:
        with torch.no_grad():
            return mimi.decode(codes)

    return step, {"mimi": mimi_step}, {}


def _show_kernels(step: Callable[[], object]) -> None:
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(5):
            step()
        torch.cuda.synchronize()
    print(
        seen.key_averages().table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=90)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
