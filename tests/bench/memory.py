"""What the embedded worker takes of a CUDA card, beside what `plan --runtime embedded` says, over
model, dtype, codebooks and batch size.

Target: within 3 % or 150 MiB, whichever is larger. Counted is the memory that the card lost, from
before CUDA was started.
`python -m tests.bench.memory tts-1.6b-en_fr` measures one model alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from dsmops.config.memory import MIB, ServedModel, serving_memory
from dsmops.devices import Runtime
from dsmops.dtypes import ComputeDType
from dsmops.models import MODELS, TTS_MODELS, TtsShape

TOLERANCE_SHARE, TOLERANCE_BYTES = 0.03, 150 * MIB
BATCHES = (1, 8, 64, 200, 400)
CODEBOOKS = (32, 24, 8)


def main(words: list[str] | None = None) -> int:
    """Measure the grid, each model, dtype and number of codebooks in a process of its own, and fail
    where the plan is off.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory", description=__doc__)
    parser.add_argument("model", nargs="*", help="models to measure; default: all")
    parser.add_argument(
        "--one",
        nargs=3,
        metavar=("MODEL", "DTYPE", "N_Q"),
        help="one row of the grid in this process, as JSON lines",
    )
    chosen = parser.parse_args(words or [])
    if chosen.one:
        model, dtype, n_q = chosen.one
        for measured in _measure(model, ComputeDType(dtype), int(n_q) or None):
            print(json.dumps(measured), flush=True)
        return 0
    import torch

    if not torch.cuda.is_available():
        print("memory: no CUDA device, nothing measured")
        return 0
    from tests.bench.harness import record

    rows = []
    for model, dtype, n_q in _grid(chosen.model or list(MODELS)):
        line = [sys.executable, "-m", "tests.bench.memory", "--one", model, dtype, str(n_q)]
        output = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False).stdout
        rows += [json.loads(row) for row in output.splitlines()]
    print(
        f"{'model':16}{'dtype':6}{'n_q':>4}{'batch':>6}"
        f"{'measured MiB':>14}{'planned MiB':>13}{'off':>9}"
    )
    worst = 0.0
    for row in rows:
        off = row["planned_bytes"] - row["measured_bytes"]
        worst = max(worst, abs(off) / max(TOLERANCE_SHARE * row["measured_bytes"], TOLERANCE_BYTES))
        measured, planned = row["measured_bytes"] / MIB, row["planned_bytes"] / MIB
        what = f"{row['model']:16}{row['dtype']:6}{row['n_q'] or '':>4}{row['batch']:6}"
        print(f"{what}{measured:14,.0f}{planned:13,.0f}{off / MIB:+9,.0f}")
    record(
        "memory",
        parameters={"device": torch.cuda.get_device_name()},
        rows=rows,
        worst_share_of_tolerance=round(worst, 3),
    )
    print("target met" if rows and worst <= 1 else "target missed")
    return 0 if rows and worst <= 1 else 1


def _grid(models: list[str]) -> Iterator[tuple[str, ComputeDType, int]]:
    for model in models:
        for dtype in ComputeDType:
            for n_q in CODEBOOKS if model in TTS_MODELS else (0,):
                yield model, dtype, n_q


def _measure(model: str, dtype: ComputeDType, n_q: int | None) -> Iterator[dict[str, Any]]:
    import pynvml  # type: ignore[import-not-found,unused-ignore]

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    before_bytes = pynvml.nvmlDeviceGetMemoryInfo(handle).free

    import torch

    from dsmops.errors import GpuMemoryError

    shape = MODELS[model].shape
    serve = _server(model, dtype, n_q)
    gc.collect()
    torch.cuda.empty_cache()
    for batch in BATCHES:
        try:
            engine = serve(batch)
        except GpuMemoryError:
            return
        measured = before_bytes - pynvml.nvmlDeviceGetMemoryInfo(handle).free
        planned = serving_memory(
            ServedModel(shape, dtype, runtime=Runtime.EMBEDDED, n_q=n_q), batch
        )
        yield {
            "model": model,
            "dtype": dtype.value,
            "n_q": n_q,
            "batch": batch,
            "measured_bytes": measured,
            "planned_bytes": planned.total_bytes,
            "state_bytes": engine.state_bytes,
            "allocated_bytes": torch.cuda.memory_allocated(),
            "reserved_bytes": torch.cuda.memory_reserved(),
        }
        del engine
        gc.collect()
        torch.cuda.empty_cache()


def _server(model: str, dtype: ComputeDType, n_q: int | None) -> Callable[[int], Any]:
    """Load a model, and return what makes an engine of a batch size and has it serve a few
    steps.
    """
    import numpy as np
    import torch

    from dsmops.worker.models.random import random_stt, random_tts
    from dsmops.worker.runtime.stt.engine import SttEngine
    from dsmops.worker.runtime.tts.engine import TtsEngine
    from dsmops.worker.runtime.tts.interface import TtsRequest

    shape, device = MODELS[model].shape, torch.device("cuda:0")
    if not isinstance(shape, TtsShape):
        stt = random_stt(shape, device, dtype)

        def hear(batch: int) -> SttEngine:
            engine = SttEngine(stt, batch)
            for _ in range(3):
                engine.step(engine.new_frames(), np.ones(batch, np.bool_))
            return engine

        return hear
    tts = random_tts(shape, device, dtype, n_q=n_q)
    voice = np.random.default_rng(0).standard_normal(tts.config.voice_shape, dtype=np.float32)

    def speak(batch: int) -> TtsEngine:
        engine = TtsEngine(tts, batch)
        engine.reset([0], [TtsRequest(voices=(voice,))])
        for text_only in (True, False, False):
            engine.step(
                np.ones(batch, dtype=np.bool_), lambda predicted: predicted, text_only=text_only
            )
        return engine

    return speak


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
