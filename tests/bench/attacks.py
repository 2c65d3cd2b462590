"""The lag of honest streams while each known attack runs, beside their lag in peace.

`python -m tests.bench.attacks` serves the tiny models, both kinds, on this CPU;
`--full FOLDER` the full-size ones of `tools.full_size` on the first card. The quiet lag is measured
before and after each attack, for as long; the ratio is to the mean of these two. Target: p99 at
most twice the quiet p99, no honest stream loses its slot, and all slots come back. The attackers
run on the same cores, so they have the lowest priority, and what is left to see is the work that
they make for the worker. The first row, a process that computes and never connects, shows whether
that holds. The line says the priorities (nice) of worker and attackers and the load of the machine.
With `--seconds 3` all attacks take 200 s; `--only NAME`, repeated, runs some of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dsmops.client.address import STT_PATH
from dsmops.client.load.pool import LoadJob, Pool, stt_frames
from dsmops.operations.bench import read_recordings
from dsmops.operations.bench.limits import GRACE_S
from dsmops.operations.bench.statistics import Spread
from tests.bench.card import KEY, Row, config_for, worker
from tests.bench.harness import record
from tests.support.attacks import ATTACKS, SLOTS
from tests.support.workers import request

MOST_RATIO = 2.0
BUSY_NEIGHBOUR = "a busy process, no attack"
_COMPUTE = """
import sys, time
until_s = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until_s:
    pass
"""
_FREE_S = 10.0
_LEAD_S = 1.5
"""From an attack's start to the window: it opens its connections in this time."""
_WARM_UP_S = 0.5
_OPENING_S = 0.5
"""For which an attack lasts longer than the window: the honest streams open in this time."""
_LOWEST_NICE = 19


def both_modules(folder: Path, slots: int, *, tiny: bool) -> Path:
    """Return a config with a module of each kind."""
    parts = []
    for kind, count in (("stt", slots), ("tts", 4)):
        path = config_for(Row.parse(f"{kind}:{count}"), folder, tiny=tiny)
        text = path.read_text(encoding="utf-8")
        for name in sorted(path.parent.iterdir()):
            # Files of the tiny models are named relative to their own folder.
            text = text.replace(f'"{name.name}"', json.dumps(str(name)))
        parts.append(text if kind == "stt" else text[text.index("[modules.") :])
    config = folder / "both.toml"
    config.write_text("\n".join(parts), encoding="utf-8")
    return config


def lag(pool: Pool, streams: int, seconds: float) -> dict[str, Any]:
    """Return the figures of honest streams."""
    opened, refused = pool.open(streams)
    report = pool.measure(_WARM_UP_S, seconds, GRACE_S)
    pool.close()
    spread, waiting, jitter = (
        Spread.of(report.arrays[name]) for name in ("lag_ms", "waiting_ms", "jitter_ms")
    )
    return {
        "opened": opened,
        "p50_ms": spread and round(spread.p50, 1),
        "p99_ms": spread and round(spread.p99, 1),
        "unanswered": waiting.count if waiting else 0,
        "client_jitter_p99_ms": jitter and round(jitter.p99, 1),
        "lost": dict(refused + report.errors),
    }


def used_slots(url: str) -> int:
    """Return how many slots are taken, of both modules."""
    modules = json.loads(request(url, "GET", "/api/modules_info").body)
    return sum(int(module["used_slots"]) for module in modules)


def slots_left(url: str) -> int:
    """Return how many slots are still taken some seconds later."""
    until_s = time.monotonic() + _FREE_S
    while (used := used_slots(url)) and time.monotonic() < until_s:
        time.sleep(0.1)
    return used


def main(words: list[str] | None = None) -> int:
    """Measure each attack, and record one line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.attacks", description=__doc__)
    parser.add_argument("--full", type=Path, metavar="FOLDER")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", action="append", choices=[BUSY_NEIGHBOUR, *ATTACKS])
    parser.add_argument("--worker", action="append", default=[], help="an option for the worker")
    args = parser.parse_args(words or [])
    rows: list[dict[str, Any]] = []
    names = args.only or [BUSY_NEIGHBOUR, *ATTACKS]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.full.absolute() if args.full else Path(temporary)
        # Posts may hold three quarters of the slots.
        slots = max(args.streams + 2 * SLOTS, 4 * args.streams)
        config = both_modules(folder, slots, tiny=args.full is None)
        more = [*args.worker, *([] if args.full else ["--cpu"])]
        with worker(config, Row.parse(f"stt:{slots}"), more) as running:
            job = LoadJob(
                running.url + STT_PATH, KEY, frames=stt_frames(read_recordings(()).blocks)
            )
            with Pool(job, args.processes) as pool:
                quiet = [lag(pool, args.streams, args.seconds)]
                print(f"quiet: {json.dumps(quiet[-1])}", flush=True)
                for name in names:
                    rows.append(_attacked(name, running.http, pool, args, quiet))
                    print(f"{name}: {json.dumps(rows[-1])}", flush=True)
    record(
        "attacks",
        parameters={
            "full": args.full is not None,
            "streams": args.streams,
            "seconds": args.seconds,
            "nice": {"worker": os.nice(0), "attackers": _LOWEST_NICE},
            "command": shlex.join(["python", "-m", "tests.bench.attacks", *(words or [])]),
        },
        quiet=quiet,
        rows=rows,
    )
    missed = [row["attack"] for row in rows if row["ratio"] > MOST_RATIO or row["harm"]]
    print(f"missed: {', '.join(missed)}" if missed else "target met")
    return 1 if missed else 0


def _attacked(
    name: str, url: str, pool: Pool, args: argparse.Namespace, quiet: list[dict[str, Any]]
) -> dict[str, Any]:
    seconds = str(_LEAD_S + _OPENING_S + _WARM_UP_S + args.seconds)
    attack = ["-m", "tests.support.attacks", name, url, KEY, seconds]
    if name == BUSY_NEIGHBOUR:
        attack = ["-c", _COMPUTE, seconds]
    command = ["nice", "-n", str(_LOWEST_NICE - os.nice(0)), sys.executable, *attack]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attacker:
        time.sleep(_LEAD_S)
        figures = lag(pool, args.streams, args.seconds)
        load = os.getloadavg()[0]
        strikes, _ = attacker.communicate()
    harm = dict(figures["lost"])
    if figures["opened"] < args.streams:
        harm["streams refused"] = args.streams - figures["opened"]
    if left := slots_left(url):
        harm["slots not given back"] = left
    quiet.append(lag(pool, args.streams, args.seconds))
    if quiet[-1]["p99_ms"] is None:
        harm["no answers after it"] = args.streams
    quiet_ms = statistics.mean([row["p99_ms"] for row in quiet[-2:] if row["p99_ms"]] or [1e9])
    return {
        "attack": name,
        "strikes": int(strikes or 0),
        "load_1min": round(load, 1),
        "quiet_p99_ms": round(quiet_ms, 1),
        **figures,
        "ratio": round((figures["p99_ms"] or 1e9) / quiet_ms, 2),
        "harm": harm,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
