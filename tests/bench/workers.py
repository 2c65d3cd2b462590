"""How the cost of many recordings grows with the workers: 1, 2 and 4, as processes and Ray actors.

Each row is a whole run over the same recordings into an empty folder, from the start of the workers
to their end, with one thread each. Its figures: processor seconds of all processes for an hour of
audio, in all and without those of a run of as many workers over one recording of 0.1 s; the time by
the clock; and × real time, which leaves out the loading of models. `python -m tests.bench workers`
takes the trained tiny model on the CPU. Without Ray there are rows of processes only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dsmops.audio import SAMPLE_RATE_HZ, write
from dsmops.cli.views.transcription_run import of_ending
from dsmops.operations.speech.many.executors import LocalProcesses, WorkerDevice
from dsmops.operations.speech.many.transcribing import Job
from dsmops.progress import SILENT
from tests.bench.harness import record
from tests.support.ray_cluster import ray_cluster

WORKERS = (1, 2, 4)
_ENV = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
_LOOK_EVERY_S = 0.1
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

Run = Callable[[str, Path, int], float]
"""Transcribes the recordings of a folder into another with so many workers; returns × real time."""


def main(words: list[str] | None = None) -> int:
    """Measure and record a line; there is no target."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.workers", description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--recordings", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each recording")
    chosen = parser.parse_args(words or [])
    audio_hours = chosen.recordings * chosen.seconds / 3600
    load = os.getloadavg()[0]
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _write_recordings(folder / "in", chosen.recordings, chosen.seconds)
        _write_recordings(folder / "nothing", 1, 0.1)
        runs: dict[str, Run] = {"processes": partial(_processes, chosen.model)}
        if find_spec("ray"):
            cluster = stack.enter_context(ray_cluster(processors=max(WORKERS) // 2))
            runs["Ray actors"] = partial(_actors, chosen.model, cluster)
        for way, run in runs.items():
            # The first run of a cluster is slower.
            run(str(folder / "nothing"), folder / way, 1)
            for workers in WORKERS:
                into = folder / f"{way}-{workers}"
                start = partial(run, str(folder / "nothing"), folder / f"{into}-nothing", workers)
                _, start_cpu_s, _ = _measured(start)
                speedup, cpu_s, wall_s = _measured(partial(run, str(folder / "in"), into, workers))
                row = {
                    "way": way,
                    "workers": workers,
                    "cpu_s_per_audio_hour": round(cpu_s / audio_hours, 1),
                    "without_start": round((cpu_s - start_cpu_s) / audio_hours, 1),
                    "start_cpu_s": round(start_cpu_s, 2),
                    "wall_s": round(wall_s, 2),
                    "times_real_time": round(speedup, 1),
                    "load": round(os.getloadavg()[0], 1),
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
    record(
        "workers",
        parameters={
            "command": "python -m tests.bench workers",
            "model": chosen.model,
            "recordings": chosen.recordings,
            "seconds": chosen.seconds,
            "load_before": round(load, 1),
        },
        rows=rows,
    )
    return 0


def _processes(model: str, inputs: str, into: Path, workers: int) -> float:
    devices = [WorkerDevice(f"cpu:{number}", _ENV) for number in range(workers)]
    render = partial(of_ending, timestamps=False, vad=False)
    job = Job((inputs,), into, model, ("txt",), render, cpu=True)
    done = LocalProcesses(devices).run(job, SILENT)
    if done.failures:
        raise SystemExit(f"failed: {done.failures[0]}")
    return done.speedup or 0.0


def _actors(model: str, cluster: Any, inputs: str, into: Path, workers: int) -> float:
    words = ("--output-dir", str(into), "--model", model, "--cpu", "--json")
    ray = ("--ray", cluster.address, "--workers", str(workers))
    done = cluster.python("-m", "dsmops", "transcribe", inputs, *words, *ray)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(json.loads(done.stdout)["speedup"] or 0.0)


def _measured(run: Callable[[], float]) -> tuple[float, float, float]:
    """Return what `run` returns, processor seconds of all processes below this one, and seconds."""
    watch = _ProcessorTime()
    begin_s = time.perf_counter()
    watch.start()
    try:
        speedup = run()
        wall_s = time.perf_counter() - begin_s
    finally:
        watch.stop()
    return speedup, watch.seconds, wall_s


class _ProcessorTime(threading.Thread):
    """Adds up the processor time of this process and all below it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()
        self._before = _ticks_below(os.getpid())
        self._last: dict[int, int] = {}

    def run(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            self._last |= _ticks_below(os.getpid())

    def stop(self) -> None:
        self._ended.set()
        self.join()
        self._last |= _ticks_below(os.getpid())

    @property
    def seconds(self) -> float:
        used = sum(ticks - self._before.get(pid, 0) for pid, ticks in self._last.items())
        return used / _TICKS_A_SECOND


def _ticks_below(root: int) -> dict[int, int]:
    """Return the own processor time of a process and of those below it, by their numbers."""
    parents, ticks = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:  # it has ended
                continue
            # The name before may hold anything.
            fields = text[text.rindex(")") + 2 :].split()
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = int(fields[11]) + int(fields[12])
    below = {root}
    while grown := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= grown
    return {pid: ticks[pid] for pid in below if pid in ticks}


def _write_recordings(folder: Path, count: int, seconds: float) -> None:
    folder.mkdir()
    rng = np.random.default_rng(5)
    for number in range(count):
        samples = rng.normal(0, 0.1, round(SAMPLE_RATE_HZ * seconds)).astype(np.float32)
        write(folder / f"{number}.flac", [samples], durable=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
