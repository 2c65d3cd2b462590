"""`log-report` beside `format-log` on the same raw log, and its peak memory by the length of a log.

The long logs come through a pipe: a piece of log, day after day. So nothing but the report's own
memory can grow.

Targets: at least half the speed of `format-log` in the same run; the same peak memory for 2 GB as
for 100 MB.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

from tests.bench.format_log import write_log
from tests.bench.harness import ROOT, ChildRun, Contestant, race, record, run_child, show

LOG_BYTES = 110_000_000
PIECE_BYTES = 20_000_000
STREAM_BYTES = (100_000_000, 2_000_000_000)
OURS, FORMAT = "dsmops log-report", "dsmops format-log"
ROUNDS = 3
_FIRST_DAY = date(2025, 11, 15)


def stream(piece: Path, size: int) -> None:
    """Write a log of at least `size` bytes to stdout: the piece again and again, a day later."""
    data, written, day = piece.read_bytes(), 0, _FIRST_DAY
    while written < size:
        written += sys.stdout.buffer.write(data.replace(b"2025-11-15T", f"{day}T".encode()))
        day += timedelta(days=1)


def main() -> int:
    """Race both on one file, then report on streams of growing length, and show the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        big, piece, target = folder / "log.big", folder / "log.piece", folder / "out"
        size, _ = write_log(big, LOG_BYTES), write_log(piece, PIECE_BYTES)
        env = {"DSMOPS_REDACTION_KEY": "a key for benchmarks", "PYTHONPATH": str(ROOT)}

        def command(*words: str | Path) -> Callable[[], ChildRun]:
            def run() -> ChildRun:
                done = run_child(words, env=env)
                if done.code:
                    raise RuntimeError(f"a contestant failed with exit code {done.code}")
                return done

            return run

        dsmops = (sys.executable, "-m", "dsmops")
        figures = race(
            [
                Contestant(FORMAT, command(*dsmops, "format-log", big, "-o", target, "--quiet")),
                Contestant(OURS, command(*dsmops, "log-report", big, "--quiet")),
            ],
            rounds=ROUNDS,
        )
        show(f"log-report, {size / 1e6:.0f} MB", figures, baselines=[FORMAT])
        peaks, speeds, shares = {}, {}, {}
        for length in STREAM_BYTES:
            pipe = f"{sys.executable} -m tests.bench.log_report {piece} {length}"

            def streamed(words: str, pipe: str = pipe) -> ChildRun:
                line = f"exec {' '.join(dsmops)} {words} < <({pipe})"
                return command("bash", "-c", line)()

            size_name = f"{length / 1e6:.0f} MB"
            formatted = streamed(f"format-log - --quiet -o {target}")
            run = streamed("log-report - --quiet")
            peaks[size_name] = run.peak_rss_bytes
            speeds[size_name] = round(length / 1e6 / run.seconds, 1)
            shares[size_name] = round(formatted.seconds / run.seconds, 2)
            print(f"{size_name}: {shares[size_name]} of the speed of format-log", flush=True)
    speed = {name: round(size / 1e6 / figures.median_s(name), 1) for name in figures.rounds_s}
    print("MB/s: " + ", ".join(f"{name} {value}" for name, value in (speed | speeds).items()))
    print("peak RSS, MiB: " + ", ".join(f"{n} {value / 2**20:.0f}" for n, value in peaks.items()))
    record(
        "log_report",
        parameters={"log_bytes": size, "stream_bytes": list(STREAM_BYTES)},
        figures=figures,
        mb_per_s=speed,
        speed_share_of_format_log=round(1 / figures.ratio(OURS, FORMAT), 2),
        stream_mb_per_s=speeds,
        stream_share_of_format_log=shares,
        stream_peak_rss_bytes=peaks,
    )
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 3:
        stream(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        sys.exit(main())
