"""The lag of paced speech-to-text streams through `worker`; server and clients share this host.

`python -m tests.bench.serving` compares one process (`--fronts 0`) with model and front processes,
in pairs, with a tiny model on the CPU; then again while a client floods `/metrics` on one
connection.

`python -m tests.bench.serving --device cuda --streams 64,256,400` measures a full-size 1B with
random weights.

The lag of a frame is from the moment at which it was due by the clock to its `Step`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from dsmops.client.load.pool import LoadJob, Pool, stt_frames
from dsmops.operations.bench.limits import GRACE_S
from dsmops.operations.bench.statistics import Spread
from tests.bench.harness import record

KEY, PATH = "a key of the benchmark", "/api/asr-streaming"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def serve(device: str, slots: int, fronts: int) -> None:
    """Serve a model until SIGTERM; print the address once it listens."""
    from dsmops.worker.serving.addresses import Listening
    from dsmops.worker.serving.logs import Level, ServerLog
    from dsmops.worker.serving.processes import Device
    from dsmops.worker.serving.server import serve as serve_alone
    from dsmops.worker.serving.settings import SttSettings, WorkerSettings
    from dsmops.worker.serving.supervisor import serve_split

    module = SttSettings(
        "asr", "BatchedAsr", PATH, slots, "", "", lambda: _engine(device, slots), _tokenizer
    )
    settings = WorkerSettings("127.0.0.1", 0, Path("/nonexistent"), [KEY], [module])
    log = ServerLog(Level.INFO, None, None, no_color=True)

    def on_ready(listening: Listening) -> None:
        print(listening.url, flush=True)

    if fronts:
        serve_split(settings, log, on_ready, devices=[Device(device)], fronts=fronts)
    else:
        serve_alone(settings, log, on_ready)
    log.close()


def _engine(device: str, slots: int) -> Any:
    from dsmops.worker.models.driver import prepare_device

    if device != "cpu":
        prepare_device().join()
    import torch

    from dsmops.dtypes import ComputeDType
    from dsmops.models import STT_MODELS
    from dsmops.operations.models.stt import find_stt, load_stt_source
    from dsmops.worker.models.random import random_stt
    from dsmops.worker.runtime.stt.engine import SttEngine
    from dsmops.worker.tiny.stt import write_tiny_stt

    if device == "cpu":
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            tiny = write_tiny_stt(Path(folder))
            model = load_stt_source(find_stt(str(tiny.server_config)), cpu=True)
    else:
        model = random_stt(
            STT_MODELS["stt-1b-en_fr"].shape, torch.device("cuda:0"), ComputeDType.F16
        )
    return SttEngine(model, slots)


def _tokenizer() -> Any:
    from dsmops.worker.models.random import NoText

    return NoText()


@contextmanager
def server(device: str, slots: int, fronts: int) -> Iterator[tuple[str, int, float]]:
    """Yield a running server's address, its process id, and the seconds until it listened."""
    begin_s = time.monotonic()
    words = ["--serve", json.dumps([device, slots, fronts])]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.serving", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError("the server did not start")
        try:
            yield url, process.pid, time.monotonic() - begin_s
        finally:
            process.send_signal(signal.SIGINT)


def processes(pid: int) -> dict[str, list[int]]:
    """Return the process ids of the server by name."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    found: dict[str, list[int]] = {"supervisor": [pid]}
    for child in map(int, children):
        name = Path(f"/proc/{child}/comm").read_text(encoding="utf-8").strip()
        found.setdefault(name.removeprefix("dsmops-"), []).append(child)
    return found


def _cpu_s(pid: int) -> float:
    values = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / _TICKS_PER_S


@contextmanager
def flood(url: str) -> Iterator[list[int]]:
    """Pipeline `/metrics` on one connection; yields how many answers came, in the end."""
    parts = urlsplit(url)
    raw = socket.create_connection((parts.hostname, parts.port))
    ended, answers = threading.Event(), [0]
    asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 200

    def send() -> None:
        try:
            while not ended.is_set():
                raw.sendall(asked)
        except OSError:
            return

    def read() -> None:
        try:
            while data := raw.recv(1 << 16):
                answers[0] += data.count(b"HTTP/1.1 ")
        except OSError:
            return

    threads = [threading.Thread(target=send), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    yield answers
    ended.set()
    raw.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    raw.close()


def measure(pool: Pool, pid: int, streams: int, warm_up_s: float, seconds: float) -> dict[str, Any]:
    """Return the figures of so many streams."""
    opened, errors = pool.open(streams)
    time.sleep(warm_up_s)
    found = processes(pid)
    before = {child: _cpu_s(child) for pids in found.values() for child in pids}
    begin_s = time.monotonic()
    report = pool.measure(0.0, seconds, GRACE_S)
    took_s = time.monotonic() - begin_s
    cores = {
        name: [round((_cpu_s(child) - before[child]) / took_s, 2) for child in pids]
        for name, pids in found.items()
    }
    pool.close()
    lag, jitter, waiting = (
        Spread.of(report.arrays[name]) for name in ("lag_ms", "jitter_ms", "waiting_ms")
    )
    answered = lag.count if lag else 0
    unanswered = waiting.count if waiting else 0
    return {
        "streams": opened,
        "lag_p50_ms": lag and lag.p50,
        "lag_p95_ms": lag and lag.p95,
        "lag_p99_ms": lag and lag.p99,
        "lag_max_ms": lag and lag.max,
        "kept_percent": round(100 * answered / max(1, answered + unanswered), 2),
        "client_jitter_p99_ms": jitter and jitter.p99,
        "errors": dict(errors + report.errors),
        "client_cores": [round(share, 2) for share in report.cpu_shares],
        "server_cores": cores,
    }


def _noise() -> list[bytes]:
    samples = np.random.default_rng(0).standard_normal(24_000 * 10).astype(np.float32)
    return stt_frames([samples * 0.1])


def on_device(device: str, slots: int, fronts: int, levels: Sequence[int], args: Any) -> None:
    """Measure one server at several numbers of streams."""
    rows = []
    with server(device, slots, fronts) as (url, pid, start_s):
        print(f"listens after {start_s:.1f} s", flush=True)
        job = LoadJob(url.replace("http", "ws", 1) + PATH, KEY, frames=_noise())
        with Pool(job, args.processes) as pool:
            for streams in levels:
                rows.append(measure(pool, pid, streams, args.warm_up, args.seconds))
                print(json.dumps(rows[-1]), flush=True)
    record(
        "serving",
        parameters={
            "device": device,
            "slots": slots,
            "fronts": fronts,
            "seconds": args.seconds,
            "client_processes": args.processes,
            "start_s": round(start_s, 2),
        },
        rows=rows,
    )


def in_pairs(streams: int, args: Any) -> None:
    """Compare one process with several on the CPU, quiet and under a flood."""
    results: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.rounds):
        for fronts in (0, 1):
            with server("cpu", streams, fronts) as (url, pid, start_s):
                job = LoadJob(url.replace("http", "ws", 1) + PATH, KEY, frames=_noise())
                with Pool(job, 1) as pool:
                    quiet = measure(pool, pid, streams, args.warm_up, args.seconds)
                    with flood(url) as answers:
                        attacked = measure(pool, pid, streams, args.warm_up, args.seconds)
            for name, row in (("quiet", quiet), ("flood", attacked)):
                row["start_s"] = round(start_s, 2)
                results.setdefault(f"fronts {fronts}, {name}", []).append(row)
                print(f"fronts {fronts}, {name}: {json.dumps(row)}", flush=True)
            print(f"the flood got {answers[0]:,} answers", flush=True)
    record(
        "serving",
        parameters={"device": "cpu", "streams": streams, "seconds": args.seconds},
        p99_ms={
            name: round(statistics.median(row["lag_p99_ms"] or 1e9 for row in rows), 1)
            for name, rows in results.items()
        },
        rows=results,
    )


def main(words: list[str] | None = None) -> int:
    """Measure, and record one line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serving", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--streams", default="64")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--fronts", type=int, default=4)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--warm-up", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args(words or [])
    levels = [int(word) for word in args.streams.split(",")]
    if args.device == "cpu":
        in_pairs(levels[0], args)
    else:
        on_device(args.device, args.slots or max(levels), args.fronts, levels, args)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*json.loads(sys.argv[2]))
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
