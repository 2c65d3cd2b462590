"""Whole steps on CPU cores: f32 beside int8, and beside an older state of the project.

`python -m tests.bench.cpu_steps --before FOLDER` steps a model with random weights, one stream, in
turn: FOLDER, a checkout of an older commit, in its dtype for a CPU; today's code in the same dtype;
and today's with `--weights int8`. Each has a process of its own, which waits while another steps.
Processor seconds are of all its threads. Ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
WARM_UP_STEPS, STEPS = 3, 5


class Stepper:
    """A child that steps an engine when told to, with the code of a checkout."""

    def __init__(self, checkout: Path, model: str, ways: list[str], threads: int) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
        self._child = subprocess.Popen(
            [sys.executable, __file__, "--child", model, *ways],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**clean, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(checkout)},
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._stdin: IO[str] = self._child.stdin
        self._stdout: IO[str] = self._child.stdout
        if self._stdout.readline() != "ready\n":
            raise RuntimeError(f"the code in {checkout} made no engine")

    def step(self) -> tuple[float, float]:
        """Return the wall and the processor seconds of a step, means of a few."""
        self._stdin.write("step\n")
        self._stdin.flush()
        wall_s, cpu_s = json.loads(self._stdout.readline())
        return wall_s, cpu_s

    def close(self) -> None:
        self._stdin.close()
        self._child.wait()


def child(model: str, ways: list[str]) -> int:
    """Step for every line on standard input, and write the seconds.

    Only what the oldest commits have is used, unless `ways` asks for more.
    """
    from dsmops.dtypes import ComputeDType
    from dsmops.models import MODELS
    from dsmops.worker.runtime.measure import random_engine

    more: dict[str, Any] = {}
    if ways:
        from dsmops.dtypes import Quant, Quantised

        more["quantised"] = Quantised(*(Quant(way) for way in ways))
    engine = random_engine(MODELS[model].shape, ComputeDType.F32, device_name="cpu", **more)(1)
    for _ in range(WARM_UP_STEPS):
        engine.step()
    print("ready", flush=True)
    for _ in sys.stdin:
        begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            engine.step()
        cpu_s = (time.process_time() - begin_cpu_s) / STEPS
        print(json.dumps([(time.perf_counter() - begin_s) / STEPS, cpu_s]), flush=True)
    return 0


def main(words: list[str] | None = None) -> int:
    """Measure, print a table and record it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cpu_steps", description=__doc__)
    parser.add_argument("--model", default="stt-1b-en_fr")
    parser.add_argument("--before", type=Path, help="a checkout of an older commit")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kv", action="store_true", help="both in int8 too")
    parser.add_argument("--no-record", action="store_true", help="leave the history file alone")
    chosen = parser.parse_args(words or [])
    wanted: dict[str, tuple[Path, list[str]]] = {}
    if chosen.before:
        wanted["before"] = (chosen.before.absolute(), [])
    wanted |= {"f32": (ROOT, []), "--weights int8": (ROOT, ["int8"])}
    if chosen.kv:
        wanted["both"] = (ROOT, ["int8", "int8"])
    steppers = {
        name: Stepper(checkout, chosen.model, ways, chosen.threads)
        for name, (checkout, ways) in wanted.items()
    }
    from tests.bench.harness import Figures, record, show

    wall: dict[str, list[float]] = {name: [] for name in steppers}
    cpu: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(chosen.rounds):
        for name, stepper in steppers.items():
            wall_s, cpu_s = stepper.step()
            wall[name].append(wall_s)
            cpu[name].append(cpu_s)
    for stepper in steppers.values():
        stepper.close()
    base = next(iter(steppers))
    figures = {"wall": Figures(wall), "processor": Figures(cpu)}
    for title, found in figures.items():
        show(f"{chosen.model}, one stream, {title} time of a step", found, baselines=[base])
    if not chosen.no_record:
        parameters = {
            "model": chosen.model,
            "threads": chosen.threads,
            "rounds": chosen.rounds,
            "before": chosen.before and _commit(chosen.before),
            "load": list(os.getloadavg()),
        }
        faster = {
            title: {name: round(found.ratio(base, name), 2) for name in steppers}
            for title, found in figures.items()
        }
        processor_s = {name: round(figures["processor"].median_s(name), 4) for name in steppers}
        record(
            "cpu_steps",
            parameters=parameters,
            figures=figures["wall"],
            processor_s=processor_s,
            times_as_fast_as=base,
            times_as_fast=faster,
        )
    return 0


def _commit(checkout: Path) -> str:
    return subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(sys.argv[2], sys.argv[3:]))
    sys.exit(main(sys.argv[1:]))
