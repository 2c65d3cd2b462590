"""Whole steps on a CUDA card, Mimi, language model and depformer, beside the `moshi` package with
the same shapes on the same card.

Random weights: a step's time does not depend on their values. Each contestant has a process of its
own, and they step in turn, a few steps a round. Our attention windows are full; `moshi` reads
its whole window at every step. `TARGETS_MS` are for one H200 with weights in f16 and all
codebooks. `python -m tests.bench.steps --help` has the choices; the peer is left out where `moshi`
is not installed.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import IO, Any

from dsmops.dtypes import ComputeDType, Quant, Quantised
from dsmops.models import FRAME_MS, MODELS, STT_MODELS, TTS_MODELS, TtsShape

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
OURS = {
    "dsmops": Quantised(Quant.NONE),
    "dsmops --kv int8": Quantised(Quant.NONE, Quant.INT8),
}
PEER = "moshi"
WARM_UP_STEPS, ROUNDS, STEPS = 20, 5, 20
SHOWN_KERNELS = 30
Step = Callable[[], object]


def main(words: list[str] | None = None) -> int:
    """Measure every model and batch size asked for, ours and the peer, and record one line each."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.steps", description=__doc__)
    parser.add_argument("--model", nargs="+", choices=MODEL_NAMES, default=MODEL_NAMES)
    parser.add_argument("--dtype", nargs="+", default=["f16"])
    parser.add_argument("--batch", nargs="+", type=int, help="default: those that have a target")
    parser.add_argument("--n-q", type=int, help="codebooks that text-to-speech generates")
    parser.add_argument("--no-peer", action="store_true", help="leave `moshi` out")
    parser.add_argument("--no-record", action="store_true", help="leave the history file alone")
    parser.add_argument("--profile", action="store_true", help="show the kernels that take longest")
    parser.add_argument("--one", nargs=3, metavar=("WHO", "MODEL", "DTYPE"), help="one contestant")
    chosen = parser.parse_args(words or [])
    import torch

    if not torch.cuda.is_available():
        print("steps: no CUDA device, nothing measured")
        return 0
    if chosen.one:
        who, model, dtype = chosen.one
        return _serve(_opener(who, model, ComputeDType.parse(dtype), chosen.n_q), chosen.profile)
    whom = [*OURS, *(() if chosen.no_peer or find_spec(PEER) is None else (PEER,))]
    missed: list[str] = []
    for model in chosen.model:
        for dtype in chosen.dtype:
            more = [] if chosen.n_q is None else ["--n-q", str(chosen.n_q)]
            more += ["--profile"] if chosen.profile else []
            contestants = [_Contestant(who, model, dtype, more) for who in whom]
            for batch in chosen.batch or [size for name, size in TARGETS_MS if name == model]:
                figures = _race(contestants, batch)
                for who, found in figures.items():
                    print(f"{who:17}{model} {dtype} batch {batch:4}: {_words(batch, found)}")
                sys.stdout.flush()
                if not chosen.no_record:
                    _record(model, dtype, batch, chosen.n_q, figures)
                if dtype == "f16" and chosen.n_q is None:
                    missed += _missed(model, batch, figures)
            for contestant in contestants:
                contestant.close()
    print("\n".join(missed) or "targets met")
    return 1 if missed else 0


class _Contestant:
    """A child process that opens streams and steps them when told to."""

    def __init__(self, who: str, model: str, dtype: str, more: list[str]) -> None:
        self.who, self.model = who, model
        line = [sys.executable, "-m", "tests.bench.steps", *more, "--one", who, model, dtype]
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._child = subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._stdin: IO[str] = self._child.stdin
        self._stdout: IO[str] = self._child.stdout
        self._lives = True

    def ask(self, question: str, number: int) -> Any:
        """Return the child's answer, None once it has failed; why is printed once."""
        if not self._lives:
            return None
        with suppress(BrokenPipeError):
            self._stdin.write(f"{question} {number}\n")
            self._stdin.flush()
        for line in self._stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
            print(line, end="")
        self._lives = False
        self._errors.seek(0)
        print(f"{self.who} {self.model}: failed\n{self._errors.read()[-2000:]}", flush=True)
        return None

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._child.wait()
        self._errors.close()


def _race(contestants: list[_Contestant], batch: int) -> dict[str, dict[str, Any]]:
    """Return the figures of all that can open `batch` streams, stepped in turn."""
    details = {contestant: contestant.ask("open", batch) for contestant in contestants}
    times_ms: dict[_Contestant, list[float]] = {contestant: [] for contestant in contestants}
    for _ in range(ROUNDS):
        for contestant in contestants:
            times_ms[contestant] += contestant.ask("step", STEPS) or []
    return {
        contestant.who: {
            "step_p50_ms": round(statistics.median(times), 3),
            "step_p99_ms": round(sorted(times)[int(len(times) * 0.99) - 1], 3),
            "speedup": round(FRAME_MS / statistics.median(times), 1),
            **details[contestant],
        }
        for contestant, times in times_ms.items()
        if times
    }


def _words(batch: int, figures: dict[str, Any]) -> str:
    first_audio_ms = figures.get("first_audio_ms")
    return (
        f"step p50 {figures['step_p50_ms']} p99 {figures['step_p99_ms']} ms,"
        f" {figures['speedup'] * batch:,.0f} × real time in all,"
        + ("" if first_audio_ms is None else f" first audio {first_audio_ms} ms,")
        + f" {figures['peak_reserved_bytes'] / 2**20:,.0f} MiB reserved"
    )


def _missed(model: str, batch: int, figures: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line for each of our ways that is slower than the target."""
    target_ms = TARGETS_MS.get((model, batch))
    lines = []
    for who in OURS:
        seen_ms = figures.get(who, {}).get("step_p50_ms")
        if seen_ms is None:
            lines.append(f"{who}, {model} at batch {batch}: not measured")
        elif target_ms is not None and seen_ms > target_ms:
            lines.append(f"{who}, {model} at batch {batch}: {seen_ms} ms, target {target_ms}")
    return lines


def _record(
    model: str, dtype: str, batch: int, n_q: int | None, figures: dict[str, dict[str, Any]]
) -> None:
    import torch

    from tests.bench.harness import record

    parameters = {
        "model": model,
        "dtype": dtype,
        "n_q": n_q,
        "batch": batch,
        "device": torch.cuda.get_device_name(),
    }
    contestants: dict[str, Any] = dict(figures)
    record("steps", parameters=parameters, **contestants)


Open = Callable[[int], tuple[Step, dict[str, Any]]]


def _serve(open_streams: Open, profile: bool) -> int:
    """Answer `open N` and `step N` on standard input."""
    import torch

    step: Step | None = None
    for line in sys.stdin:
        question, _, number = line.partition(" ")
        answer: Any
        if question == "open":
            del step
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            step, details = open_streams(int(number))
            for _ in range(WARM_UP_STEPS):
                step()
            if profile:
                _show_kernels(step)
            answer = details | {
                "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
                "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
                "tf32": {
                    "matmul": torch.backends.cuda.matmul.allow_tf32,
                    "convolutions": torch.backends.cudnn.allow_tf32,
                },
            }
        else:
            assert step is not None
            answer = [_time_ms(step) for _ in range(int(number))]
        print("answer", json.dumps(answer), flush=True)
    return 0


def _time_ms(step: Step) -> float:
    import torch

    torch.cuda.synchronize()
    begin_s = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin_s) * 1000


def _opener(who: str, model: str, dtype: ComputeDType, n_q: int | None) -> Open:
    if who == PEER:
        from tests.bench import moshi_peer

        all_codebooks = (
            len(TTS_MODELS[model].shape.depformer.schedule) if model in TTS_MODELS else 0
        )
        peer = (
            moshi_peer.stt_steps(model, dtype)
            if model in STT_MODELS
            else moshi_peer.tts_steps(dtype, n_q or all_codebooks)
        )
        return lambda batch: (peer(batch), {})
    return _ours(OURS[who], model, dtype, n_q)


def _ours(quantised: Quantised, model: str, dtype: ComputeDType, n_q: int | None) -> Open:
    """Return what opens the engine that `dsmops bench --engine` measures, its windows full."""
    from dsmops.worker.runtime.measure import random_engine
    from tests.bench.int8 import fill_windows

    shape = MODELS[model].shape
    context = shape.lm.context if isinstance(shape, TtsShape) else shape.context
    open_engine = random_engine(shape, dtype, device_name="cuda:0", n_q=n_q, quantised=quantised)

    def open_streams(batch: int) -> tuple[Step, dict[str, Any]]:
        engine = open_engine(batch)
        fill_windows(engine.ring, context + 10)
        details: dict[str, Any] = {"state_bytes": engine.state_bytes}
        if engine.first_audio_ms is not None:
            details["first_audio_ms"] = round(engine.first_audio_ms, 1)
        return engine.step, details

    return open_streams


def _show_kernels(step: Step) -> None:
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(5):
            step()
        torch.cuda.synchronize()
    table = seen.key_averages().table
    print(table(sort_by="cuda_time_total", row_limit=SHOWN_KERNELS, max_name_column_width=90))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
