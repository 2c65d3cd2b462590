"""What the embedded worker takes of a CUDA card, beside what `plan --runtime embedded` says, over model, dtype and batch size.

Target: within 3 % or 150 MiB, whichever is larger. Counted is the memory that the card lost, from before CUDA was started.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from typing import Any

from dsmops.config.memory import MIB, serving_memory
from dsmops.facts import DType, Runtime
from dsmops.models import MODELS

TOLERANCE_SHARE, TOLERANCE_BYTES = 0.03, 150 * MIB
GRID = [(model, dtype) for model in ("stt-1b-en_fr", "stt-2.6b-en") for dtype in DType]
BATCHES = (1, 8, 64, 200, 400)


def main(words: list[str] | None = None) -> int:
    """Measure the grid, each model and dtype in a process of its own, and fail where the plan is off."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory", description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "DTYPE"), help="one row of the grid in this process, as JSON lines")
    chosen = parser.parse_args(words or [])
    if chosen.one:
        for measured in _measure(chosen.one[0], DType(chosen.one[1])):
            print(json.dumps(measured), flush=True)
        return 0
    import torch

    if not torch.cuda.is_available():
        print("memory: no CUDA device, nothing measured")
        return 0
    from tests.bench.harness import record

    rows = []
    for model, dtype in GRID:
        line = [sys.executable, "-m", "tests.bench.memory", "--one", model, dtype]
        output = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False).stdout
        rows += [json.loads(row) for row in output.splitlines()]
    print(f"{'model':16}{'dtype':6}{'batch':>6}{'measured MiB':>14}{'planned MiB':>13}{'off':>9}")
    worst = 0.0
    for row in rows:
        off = row["planned_bytes"] - row["measured_bytes"]
        worst = max(worst, abs(off) / max(TOLERANCE_SHARE * row["measured_bytes"], TOLERANCE_BYTES))
        measured, planned = row["measured_bytes"] / MIB, row["planned_bytes"] / MIB
        print(f"{row['model']:16}{row['dtype']:6}{row['batch']:6}{measured:14,.0f}{planned:13,.0f}{off / MIB:+9,.0f}")
    record("memory", parameters={"device": torch.cuda.get_device_name()}, rows=rows, worst_share_of_tolerance=round(worst, 3))
    print("target met" if worst <= 1 else "target missed")
    return 0 if worst <= 1 else 1


def _measure(model: str, dtype: DType) -> Any:
    import pynvml  # type: ignore[import-not-found,unused-ignore]

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    before_bytes = pynvml.nvmlDeviceGetMemoryInfo(handle).free

    import torch

    from dsmops.errors import GpuMemoryError
    from dsmops.worker.models.random import random_stt
    from dsmops.worker.runtime.engine import SttEngine

    shape = MODELS[model].lm
    assert shape is not None
    stt = random_stt(shape, torch.device("cuda:0"), dtype)
    gc.collect()
    torch.cuda.empty_cache()
    for batch in BATCHES:
        try:
            engine = SttEngine(stt, batch)
        except GpuMemoryError:
            return
        for _ in range(3):
            engine.step(torch.rand(batch, 1, stt.frame_samples), torch.ones(batch, dtype=torch.bool))
        measured = before_bytes - pynvml.nvmlDeviceGetMemoryInfo(handle).free
        planned = serving_memory(shape, dtype, batch, runtime=Runtime.EMBEDDED).total_bytes
        yield {"model": model, "dtype": dtype.value, "batch": batch, "measured_bytes": measured, "planned_bytes": planned}
        del engine
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
