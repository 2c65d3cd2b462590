"""`format-log` on 220 MB of raw log, redaction on, beside the line-by-line script it replaces and
`sed` that only strips colours.

`sed` is 3 times slower in a UTF-8 locale than in the C locale, so it runs in both. CPU seconds
stand beside wall time: where other work shares the cores, only they can be compared.

Targets: at least 100 MB/s on two cores (stretch 300), in constant memory.
"""

from __future__ import annotations

import hashlib
import random
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.harness import ROOT, ChildRun, Contestant, race, record, run_child, show
from tests.logs.server_logs import CAUSES, START, ansi, other, step

LOG_BYTES = 220_000_000
SMALL_BYTES = 20_000_000
"""For the peak memory, which has to be the same as for the large log."""
JSONL, FILTER = "dsmops format-log --jsonl", "dsmops format-log, filtered"
OURS, SCRIPT = "dsmops format-log", "line-by-line script"
SED, SED_UTF8 = "sed, colours only", "sed, colours only, UTF-8"
ROUNDS = 3


def write_log(path: Path, size: int) -> int:
    """Write a raw log shaped like the real one, where 331 of 356 events are step lines; return its
    bytes.
    """
    rng = random.Random(2025)
    time, index, written = START.timestamp(), 0, 0
    with path.open("wb") as file:
        while written < size:
            lines = []
            for _ in range(1000):
                time += rng.uniform(0.02, 0.1)
                index += 1
                now = datetime.fromtimestamp(time, UTC)
                event = step(rng, now, index) if rng.random() < 331 / 356 else other(rng, now)
                lines.append(ansi(event))
                if event.level == "ERROR":
                    lines += CAUSES
            written += file.write(("\n".join(lines) + "\n").encode())
    return written


def line_by_line(source: Path, target: Path) -> None:
    """Format the way the replaced script does: one line after the other, a `datetime` for each,
    local time, no redaction.
    """
    colour = re.compile(r"\x1b\[[0-9;]*m")
    with (
        source.open(encoding="utf-8", errors="replace") as raw,
        target.open("w", encoding="utf-8") as out,
    ):
        for line in raw:
            text = colour.sub("", line).replace("\r", "").rstrip()
            text = "".join(char if char.isprintable() or char == "\t" else " " for char in text)
            parts = text.split(None, 3)
            try:
                time = datetime.fromisoformat(parts[0]).astimezone() if len(parts) > 2 else None
            except ValueError:
                time = None
            if time is None:
                out.write(text + "\n")
                continue
            stamp = (
                time.strftime("%Y-%m-%d %I:%M:%S.")
                + f"{time.microsecond // 1000:03d} "
                + time.strftime("%p %Z (%z)")
            )
            rest = parts[3] if len(parts) > 3 else ""
            out.write(f"[{stamp}] [{parts[1].upper()}] [{parts[2].rstrip(':')}] {rest}\n")


def _check(run: ChildRun) -> ChildRun:
    if run.code:
        raise RuntimeError(f"a contestant failed with exit code {run.code}")
    return run


def main() -> int:
    """Race the three on the same file, compare peak memory with that on a small file, and show
    both.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        big, small, target = folder / "log.big", folder / "log.small", folder / "out"
        size, _ = write_log(big, LOG_BYTES), write_log(small, SMALL_BYTES)
        env = {
            "DSMOPS_REDACTION_KEY": "a key for benchmarks",
            "PYTHONPATH": str(ROOT),
            "LC_ALL": "C",
        }

        cpu_s: dict[str, list[float]] = {}

        def command(*words: str | Path, name: str = "", **more: str) -> Callable[[], ChildRun]:
            def run() -> ChildRun:
                done = _check(run_child(words, env={**env, **more}))
                cpu_s.setdefault(name, []).append(done.cpu_s)
                return done

            return run

        def ours(source: Path, *options: str, name: str = "") -> Callable[[], ChildRun]:
            words = (sys.executable, "-m", "dsmops", "format-log", source, "-o", target, "--quiet")
            return command(*words, *options, name=name)

        script = (sys.executable, "-m", "tests.bench.format_log", big, target)
        sed = ("sh", "-c", f"sed 's/\x1b\\[[0-9;]*m//g' {big} > {target}")
        contestants = [
            Contestant(SCRIPT, command(*script, name=SCRIPT)),
            Contestant(SED, command(*sed, name=SED)),
            Contestant(SED_UTF8, command(*sed, name=SED_UTF8, LC_ALL="C.UTF-8")),
            Contestant(
                FILTER,
                ours(big, "--level", "info", "--since", "2025-11-15 09:00", name=FILTER),
            ),
            Contestant(JSONL, ours(big, "--jsonl", name=JSONL)),
            Contestant(OURS, ours(big, name=OURS)),
        ]
        figures = race(contestants, rounds=ROUNDS)
        show(f"format-log, {size / 1e6:.0f} MB", figures, baselines=[SCRIPT, SED, SED_UTF8])
        median_cpu_s = {
            name: round(statistics.median(cpu_s[name][-ROUNDS:]), 3) for name in figures.rounds_s
        }
        ratio = {
            name: round(
                statistics.median(
                    a / b for a, b in zip(cpu_s[name][-ROUNDS:], cpu_s[SED][-ROUNDS:], strict=True)
                ),
                2,
            )
            for name in figures.rounds_s
        }
        speed = {name: round(size / 1e6 / figures.median_s(name), 1) for name in figures.rounds_s}
        peak = {"small": ours(small)().peak_rss_bytes, "big": ours(big)().peak_rss_bytes}
        digest = hashlib.sha256(target.read_bytes()).hexdigest()
    print("CPU s: " + ", ".join(f"{name} {value}" for name, value in median_cpu_s.items()))
    print("MB/s: " + ", ".join(f"{name} {value}" for name, value in speed.items()))
    print(
        "peak RSS, MiB: "
        + ", ".join(f"{name} log {value / 2**20:.0f}" for name, value in peak.items())
    )
    record(
        "format_log",
        parameters={"log_bytes": size},
        figures=figures,
        mb_per_s=speed,
        cpu_s=median_cpu_s,
        cpu_ratio_to_sed=ratio,
        peak_rss_bytes=peak,
        output_sha256=digest,
    )
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 3:
        line_by_line(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        sys.exit(main())
