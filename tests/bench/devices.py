"""Several cards behind one port: all of them serve, and one that dies takes its streams only.

`python -m tests.bench.devices FOLDER --devices 0,1` serves the full-size 1B of `tools.full_size` on
two cards with paced streams in every slot, and kills one model process. `--tiny --devices cpu,cpu`
rehearses it on a processor.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dsmops.client.address import STT_PATH
from dsmops.client.load.pool import LoadJob, Pool, Report, stt_frames
from dsmops.operations.bench import Spread, read_recordings
from dsmops.operations.bench.limits import GRACE_S
from tests.bench.card import KEY, Row, config_for, worker
from tests.bench.harness import record
from tests.bench.serving import processes
from tests.support.workers import request

_GONE_S = 2.0
"""After the kill, until the lag of the streams that are left is measured."""


def figures(report: Report) -> dict[str, Any]:
    """Return the lag of the streams, and why some ended."""
    lag, waiting = (Spread.of(report.arrays[name]) for name in ("lag_ms", "waiting_ms"))
    return {
        "frames": lag.count if lag else 0,
        "p50_ms": lag and round(lag.p50, 1),
        "p99_ms": lag and round(lag.p99, 1),
        "unanswered": waiting.count if waiting else 0,
        "ended": dict(report.errors),
    }


def kill_one(pid: int) -> int:
    """Kill the first model process of a worker, and return its process id."""
    victim = processes(pid)["model"][0]
    os.kill(victim, signal.SIGKILL)
    return victim


def module(url: str) -> dict[str, str]:
    """Return what the worker says of its slots."""
    found: dict[str, str] = json.loads(request(url, "GET", "/api/modules_info").body)[0]
    return {name: found[name] for name in ("total_slots", "used_slots")}


def after_death(url: str, folder: Path) -> dict[str, Any]:
    """Return where the device that died is named."""
    metrics = request(url, "GET", "/metrics").text.splitlines()
    logs = [path.read_text(encoding="utf-8", errors="replace") for path in folder.glob("log.*")]
    ready = request(url, "GET", "/readyz")
    return {
        "readyz": [ready.status, ready.text[:600]],
        "metrics": [line for line in metrics if line.startswith("worker_devices_lost")],
        "log": [
            line[line.index("a device is lost") :][:300]
            for text in logs
            for line in text.splitlines()
            if "a device is lost" in line
        ],
        "module": module(url),
    }


def main(words: list[str] | None = None) -> int:
    """Measure, and record one line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.devices", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--devices", default="0,1")
    parser.add_argument("--slots", type=int, default=64, help="of each device")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args(words or [])
    if args.folder is None:
        print("devices: no folder is given, nothing measured")
        return 0
    row, count = Row.parse(f"stt:{args.slots}"), len(args.devices.split(","))
    config = config_for(row, args.folder.absolute(), tiny=args.tiny)
    streams = args.slots * count
    with worker(config, row, ["--devices", args.devices]) as running:
        url = running.http
        job = LoadJob(running.url + STT_PATH, KEY, frames=stt_frames(read_recordings(()).blocks))
        with Pool(job, args.processes) as pool:
            opened, refused = pool.open(streams)
            both = {"opened": opened, "refused": dict(refused), "module": module(url)}
            both |= figures(pool.measure(2.0, args.seconds, GRACE_S))
            pool.close()
            print(json.dumps(both), flush=True)
            pool.open(streams)
            killing = threading.Timer(args.seconds / 2, kill_one, (running.pid,))
            killing.start()
            killed = figures(pool.measure(0.0, args.seconds, GRACE_S))
            pool.close()
            killed["streams_ended"] = sum(killed["ended"].values())
            print(json.dumps(killed), flush=True)
            time.sleep(_GONE_S)
            named = after_death(url, _log_folder(config))
            print(json.dumps(named), flush=True)
            opened, refused = pool.open(streams - args.slots)
            left = {"opened": opened, "refused": dict(refused)}
            left |= figures(pool.measure(2.0, args.seconds, GRACE_S))
            pool.close()
            print(json.dumps(left), flush=True)
    record(
        "devices",
        parameters={"devices": args.devices, "slots": args.slots, "tiny": args.tiny},
        start_s=running.ready_s,
        both=both,
        killed=killed,
        named=named,
        left=left,
    )
    has_held = (
        both["opened"] == streams
        and not both["ended"]
        and killed["streams_ended"] == args.slots
        and left["opened"] == streams - args.slots
        and not left["ended"]
        and named["metrics"]
        and named["log"]
    )
    print("all held" if has_held else "missed")
    return 0 if has_held else 1


def _log_folder(config: Path) -> Path:
    line = next(
        line
        for line in config.read_text(encoding="utf-8").splitlines()
        if line.startswith("log_dir")
    )
    return config.parent / str(json.loads(line.partition("=")[2]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
