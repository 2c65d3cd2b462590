"""Commands that make a file from a checkpoint, each in pairs with a plain copy of it.

Each run of a command comes right after one of its baseline, so both find the source in the page
cache and the machine equally busy. Processor time is reported beside wall time: on a machine with
other work it is the steadier of the two.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.harness import ChildRun, Figures, record, run_child

LAYERS = 2
"""Of the STT 1B checkpoint: 540 MB, of which two thirds are embeddings. All 16 are 1.98 GB."""
START = "start alone (--dry-run)"
"""Label of the command that does all but the work; its time is part of every other one."""
# As for a user: the compiled modules are kept, whatever this shell asks for.
_ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "", "OMP_NUM_THREADS": "1"}

Command = Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Job:
    """A command that writes into the scene's `out`, and the baseline to pair it with."""

    label: str
    command: Command
    baseline: str = "cp"
    rounds: int = 1


@dataclass(frozen=True, slots=True)
class Scene:
    """A folder with a checkpoint, and the empty folder that every command writes into."""

    source: Path
    out: Path


@contextmanager
def scene() -> Iterator[Scene]:
    """Make a checkpoint in a folder of its own, in `DSMOPS_BENCH_DIR` where that is set."""
    with TemporaryDirectory(dir=os.environ.get("DSMOPS_BENCH_DIR"), prefix="dsmops-bench-") as name:
        source, out = Path(name) / "model.safetensors", Path(name) / "out"
        out.mkdir()
        # By a process of its own: a child's peak memory begins with what its parent holds.
        made = run_child(
            [sys.executable, "-m", "tools.make_checkpoint", source, "--layers", str(LAYERS)]
        )
        if made.code:
            raise SystemExit("the checkpoint could not be made")
        yield Scene(source, out)


def measure(bench: str, place: Scene, jobs: Sequence[Job]) -> None:
    """Run every job in pairs with its baseline; print a table and add a line to the history."""
    baselines: dict[str, Command] = {
        "cp": ["cp", place.source, place.out / "copy"],
        "cp + sync": ["sh", "-c", 'cp "$0" "$1" && sync "$1"', place.source, place.out / "copy"],
    }
    runs: dict[str, list[tuple[ChildRun, ChildRun]]] = {job.label: [] for job in jobs}
    for turn in range(max(job.rounds for job in jobs)):
        for job in jobs:
            if turn < job.rounds:
                baseline = _run(job.baseline, baselines[job.baseline], place)
                runs[job.label].append((baseline, _run(job.label, job.command, place)))
    source_bytes = place.source.stat().st_size
    print(f"\n{bench} of {source_bytes:,} bytes; × is the median of pairs with the baseline")
    heads = f"{'wall':>8}{'×':>7}{'CPU':>8}{'×':>7}{'MB/s':>7}{'MiB':>6}{'pairs':>7}"
    print(f"{'':34}{heads}  baseline")
    ratios, cpu_ratios = {}, {}
    for job in jobs:
        pairs = runs[job.label]
        wall_s = statistics.median(run.seconds for _, run in pairs)
        cpu_s = statistics.median(run.cpu_s for _, run in pairs)
        ratios[job.label] = _ratio(pairs, lambda run: run.seconds)
        cpu_ratios[job.label] = _ratio(pairs, lambda run: run.cpu_s)
        peak_bytes = max(run.peak_rss_bytes for _, run in pairs)
        print(
            f"{job.label:34}{wall_s:7.2f}s{ratios[job.label]:7.2f}{cpu_s:7.2f}s"
            f"{cpu_ratios[job.label]:7.2f}{source_bytes / wall_s / 1e6:7.0f}"
            f"{peak_bytes / 2**20:6.0f}{len(pairs):7}  {job.baseline}"
        )
    baseline_runs = {
        name: [pair[0] for job in jobs if job.baseline == name for pair in runs[job.label]]
        for name in dict.fromkeys(job.baseline for job in jobs)
    }
    every = baseline_runs | {label: [run for _, run in pairs] for label, pairs in runs.items()}
    record(
        bench,
        parameters={
            "rounds": {job.label: job.rounds for job in jobs},
            "source_bytes": source_bytes,
            "load": list(os.getloadavg()),
            "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        },
        figures=Figures({label: [run.seconds for run in some] for label, some in every.items()}),
        ratios=ratios,
        cpu_ratios=cpu_ratios,
        cpu_s={
            label: round(statistics.median(run.cpu_s for run in some), 3)
            for label, some in every.items()
        },
        peak_rss_bytes={
            label: max(run.peak_rss_bytes for run in some) for label, some in every.items()
        },
    )


def _run(label: str, command: Command, place: Scene) -> ChildRun:
    done = run_child(command, env=_ENVIRONMENT)
    if done.code:
        raise SystemExit(f"{label} ended with exit code {done.code}")
    # At once, so that little of it is written back while the next command runs.
    for path in place.out.iterdir():
        path.unlink()
    return done


def _ratio(
    pairs: list[tuple[ChildRun, ChildRun]], seconds_of: Callable[[ChildRun], float]
) -> float:
    ratios = (seconds_of(run) / seconds_of(baseline) for baseline, run in pairs)
    return round(statistics.median(ratios), 3)
