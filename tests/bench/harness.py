"""Side-by-side measurements: contestants in turn, round after round, ratios taken within a round,
and one JSON line of history.

Machines are shared and their speed drifts, so an absolute time says little. Two contestants that
ran one right after the other can be compared, and the median of such ratios over several rounds is
the figure to quote.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from dsmops.gpu import probe

HISTORY = Path(__file__).with_name("history.jsonl")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something to time: `run` does the work once, `prepare` (not timed) sets the scene before each
    run.
    """

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds of every round, by contestant."""

    rounds_s: dict[str, list[float]]

    def median_s(self, name: str) -> float:
        """Return the median time of one contestant."""
        return statistics.median(self.rounds_s[name])

    def spread_s(self, name: str) -> list[float]:
        """Return its fastest and slowest round."""
        return [round(min(self.rounds_s[name]), 4), round(max(self.rounds_s[name]), 4)]

    def ratio(self, name: str, to: str) -> float:
        """Return the median over rounds of `name`'s time divided by `to`'s."""
        return statistics.median(
            a / b for a, b in zip(self.rounds_s[name], self.rounds_s[to], strict=True)
        )


def race(contestants: Sequence[Contestant], *, rounds: int = 5, warm_ups: int = 1) -> Figures:
    """Run all contestants in turn, `warm_ups` + `rounds` times, and keep the last `rounds`."""
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for turn in range(warm_ups + rounds):
        for contestant in contestants:
            contestant.prepare()
            start_s = time.perf_counter()
            contestant.run()
            if turn >= warm_ups:
                seconds[contestant.name].append(time.perf_counter() - start_s)
    return Figures(seconds)


@dataclass(frozen=True, slots=True)
class ChildRun:
    """How a child process ended, and the most memory it held."""

    code: int
    seconds: float
    cpu_s: float
    """Of the child and of the children that it waited for."""
    peak_rss_bytes: int
    stdout: str


def run_child(command: Sequence[str | Path], *, env: dict[str, str] | None = None) -> ChildRun:
    """Run a command to its end and return its own peak memory, which `RUSAGE_CHILDREN` would mix
    with earlier children's.
    """
    start_s = time.perf_counter()
    with subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    ) as child:
        assert child.stdout is not None
        stdout = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    scale = 1 if sys.platform == "darwin" else 1024
    return ChildRun(
        child.returncode,
        time.perf_counter() - start_s,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * scale,
        stdout,
    )


def show(title: str, figures: Figures, *, baselines: Sequence[str]) -> None:
    """Print medians, spreads and ratios to each baseline as a table."""
    print(f"\n{title}")
    print(
        f"{'':34}{'median':>10}{'fastest':>10}{'slowest':>10}"
        + "".join(f"{'÷ ' + name:>22}" for name in baselines)
    )
    for name in figures.rounds_s:
        low, high = figures.spread_s(name)
        ratios = "".join(f"{figures.ratio(name, base):>22.2f}" for base in baselines)
        print(f"{name:34}{figures.median_s(name):>9.3f}s{low:>9.3f}s{high:>9.3f}s{ratios}")


def record(
    bench: str, *, parameters: dict[str, Any], figures: Figures | None = None, **results: Any
) -> None:
    """Print one JSON line with what was measured, on what and with which versions, and append it to
    the history.
    """
    line = {
        "bench": bench,
        "commit": _git("rev-parse", "--short", "HEAD")
        + ("+changes" if _git("status", "--porcelain", "-uno") else ""),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": {
            "system": platform.system(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "driver": probe().driver_version,
        },
        "versions": {
            "python": platform.python_version(),
            **_versions("numpy", "torch", "typer", "boto3"),
        },
        "parameters": parameters,
        **results,
    }
    if figures is not None:
        line["median_s"] = {name: round(figures.median_s(name), 4) for name in figures.rounds_s}
        line["spread_s"] = {name: figures.spread_s(name) for name in figures.rounds_s}
    text = json.dumps(line)
    print(text)
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    ).stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
