"""How long a CPU step takes alone and beside a busy process, by how OpenMP's threads wait.

One child per setting runs a full-size Mimi encoder and two layers of the 1B model in f32, with one
slot. All are pinned to the same two cores. In every round each setting takes a few steps alone and
a few beside a process that only computes, so that other work on the machine hits all alike.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from dataclasses import replace
from typing import IO

from dsmops.models import STT_MODELS
from dsmops.worker.openmp import SPIN_ROUNDS
from tests.bench.harness import record

SETTINGS = {
    "libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "10,000 rounds": {"GOMP_SPINCOUNT": "10000"},
    "3,000 rounds": {"GOMP_SPINCOUNT": "3000"},
    "1,000 rounds": {"GOMP_SPINCOUNT": "1000"},
    f"dsmops ({SPIN_ROUNDS:,} rounds)": {"GOMP_SPINCOUNT": str(SPIN_ROUNDS)},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": str(SPIN_ROUNDS)},
}
ROUNDS, STEPS = 9, 12
CORES = 2


class Stepper:
    """A child that steps an engine when told to."""

    def __init__(self, settings: dict[str, str]) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.spinning", "child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**clean, "OMP_NUM_THREADS": str(CORES), **settings},
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._stdin: IO[str] = self._child.stdin
        self._stdout: IO[str] = self._child.stdout
        self._stdout.readline()

    def step_ms(self) -> float:
        """Return the median of a few steps."""
        self._stdin.write("step\n")
        self._stdin.flush()
        return float(self._stdout.readline())

    def close(self) -> None:
        self._stdin.close()
        self._child.wait()


def child() -> int:
    """Step for every line on standard input, and write the median milliseconds."""
    import numpy as np
    import torch

    from dsmops.dtypes import ComputeDType
    from dsmops.worker.models.random import random_stt
    from dsmops.worker.runtime.stt.engine import SttEngine

    shape = STT_MODELS["stt-1b-en_fr"].shape
    model = random_stt(replace(shape, num_layers=2), torch.device("cpu"), ComputeDType.F32)
    engine = SttEngine(model, 1)
    pcm, exec_mask = engine.new_frames(), np.ones(1, np.bool_)
    for _ in range(3):
        engine.step(pcm, exec_mask)
    print("ready", flush=True)
    for _ in sys.stdin:
        times_ms = [engine.step(pcm, exec_mask).step_ms for _ in range(STEPS)]
        print(statistics.median(times_ms), flush=True)
    return 0


def main() -> int:
    """Measure every setting in turn, and print and record the medians."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    steppers = {name: Stepper(settings) for name, settings in SETTINGS.items()}
    quiet: dict[str, list[float]] = {name: [] for name in SETTINGS}
    busy: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(ROUNDS):
        for name, stepper in steppers.items():
            quiet[name].append(stepper.step_ms())
            with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
                busy[name].append(stepper.step_ms())
                neighbour.kill()
    for stepper in steppers.values():
        stepper.close()
    base = next(iter(SETTINGS))
    results = {
        name: {
            "quiet_ms": round(statistics.median(quiet[name]), 1),
            "busy_ms": round(statistics.median(busy[name]), 1),
            "quiet_ratio": round(_ratio(quiet[name], quiet[base]), 2),
            "busy_ratio": round(_ratio(busy[name], busy[base]), 2),
        }
        for name in SETTINGS
    }
    print(f"{'':26}{'quiet ms':>10}{'busy ms':>10}{'÷ default':>12}{'÷ default':>12}")
    for name, figures in results.items():
        print(
            f"{name:26}{figures['quiet_ms']:>10}{figures['busy_ms']:>10}"
            f"{figures['quiet_ratio']:>12}{figures['busy_ratio']:>12}"
        )
    parameters = {"rounds": ROUNDS, "steps": STEPS, "cores": CORES, "load": list(os.getloadavg())}
    record("spinning", parameters=parameters, step_ms=results)
    return 0


def _ratio(own: list[float], base: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(own, base, strict=True))


if __name__ == "__main__":
    sys.exit(child() if sys.argv[1:] == ["child"] else main())
