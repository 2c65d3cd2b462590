"""`python -m tools.monitoring`: a real Prometheus scrapes a real worker, checks the alert rules,
and evaluates every expression of the dashboard and of the rules.

Needs `prometheus` and `promtool` (Debian: `apt install prometheus`), in the PATH or in the folder
given with --programs. The worker serves the tiny models on loopback; some speech goes through both
of them first, some requests come without a key, too often, and a front ends, so that every
series has samples.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
from websockets.exceptions import WebSocketException

from tests.bench.attacks import both_modules
from tests.bench.card import KEY
from tests.bench.serving import processes
from tests.support.attacks import ATTACKS, Attacker
from tests.support.stt_client import SttClient
from tests.support.tts_client import TtsClient
from tests.support.workers import PATH, WorkerProcess, request
from tests.worker.serving.test_monitoring import FOLDER, expressions

_SCRAPE_S = 1
_WINDOW = "20s"
"""In place of Grafana's `$__rate_interval`, and of the longer windows of the alerts."""
_ROUNDS, _PATIENCE_S = 2, 300.0
"""Conversations at least, one of them with a front that has taken another's place."""
_QUIET = {"DeviceLost", "Lost devices and restarted fronts (dsmops worker) A"}
"""Needs a second card."""


def use(worker: WorkerProcess, seconds: float) -> None:
    """Have every metric counted for a while, on a slow machine for as long as it takes."""
    begin_s = time.monotonic()
    front: int | None = processes(worker.process.pid)["front"][0]
    attacker = Attacker(worker.url, KEY)
    flood = threading.Thread(target=ATTACKS["flood on one connection"], args=(attacker,))
    flood.start()
    rounds = 0
    while rounds < _ROUNDS or time.monotonic() < begin_s + seconds:
        if time.monotonic() > begin_s + _PATIENCE_S:
            break
        with suppress(OSError, WebSocketException):
            _converse(worker.url)
            rounds += 1
        if rounds and front is not None:
            os.kill(front, signal.SIGKILL)
            front = None
    attacker.ended.set()
    flood.join()


def _converse(url: str) -> None:
    """Have a request refused, and speech go through both models."""
    request(url, "POST", PATH, body=b"")
    with SttClient(url, KEY) as stt:
        stt.transcribe((0.1 * np.random.default_rng(0).standard_normal(48_000)).astype("f4"))
    # One waits for words in the steps of the other: without a step nothing is counted.
    with TtsClient(url, KEY) as waiting, TtsClient(url, KEY) as speaking:
        waiting.send({"type": "Text", "text": "one two three four"})
        speaking.say("one two three four five six seven eight nine ten eleven twelve")
        speaking.rest()
        waiting.say("five")
        waiting.rest()


@contextmanager
def prometheus(programs: str, folder: Path, target: str) -> Iterator[str]:
    """Yield the address of a Prometheus that scrapes `target`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = {
        "global": {"scrape_interval": f"{_SCRAPE_S}s", "evaluation_interval": "2s"},
        "rule_files": [str(FOLDER / "alerts.yml")],
        "scrape_configs": [{"job_name": "dsmops", "static_configs": [{"targets": [target]}]}],
    }
    # JSON is YAML too.
    (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    command = [
        shutil.which("prometheus", path=programs) or "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with subprocess.Popen(command) as process:
        try:
            for _ in range(100):
                with suppress(OSError):
                    if ask(address, "/-/ready")[0] == 200:
                        break
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()


def ask(address: str, path: str, **query: str) -> tuple[int, bytes]:
    """Return status and body of a GET."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", f"{path}?{urlencode(query)}")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def evaluate(address: str, expression: str) -> tuple[str, list[Any]]:
    """Return an error, or none, and the series that an expression gives now."""
    for name, window in (("$__rate_interval", _WINDOW), ("[5m]", f"[{_WINDOW}]")):
        expression = expression.replace(name, window)
    expression = expression.replace("$instance", ".*")
    status, body = ask(address, "/api/v1/query", query=expression)
    answer = json.loads(body)
    if status != 200:
        return str(answer.get("error")), []
    return "", answer["data"]["result"]


def main(words: list[str] | None = None) -> int:
    """Print a line for each expression; the exit code says whether all can be evaluated."""
    parser = argparse.ArgumentParser(prog="python -m tools.monitoring", description=__doc__)
    parser.add_argument("--programs", default=os.environ.get("PATH", ""))
    parser.add_argument("--seconds", type=float, default=20)
    chosen = parser.parse_args(words)
    promtool = shutil.which("promtool", path=chosen.programs)
    if promtool is None:
        print("monitoring: promtool is not installed, nothing checked")
        return 1
    rules = [str(FOLDER / name) for name in ("alerts.yml", "alerts-test.yml")]
    subprocess.run([promtool, "check", "rules", rules[0]], check=True)
    subprocess.run([promtool, "test", "rules", rules[1]], check=True)
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = both_modules(folder, 4, tiny=True)
        with WorkerProcess(folder, config, "--silent", is_own=True) as worker:
            target = urlsplit(worker.url).netloc
            with prometheus(chosen.programs, folder, target) as address:
                use(worker, chosen.seconds)
                for where, expression in expressions().items():
                    error, series = evaluate(address, expression)
                    is_alert = " " not in where
                    is_empty = not series and not is_alert and where not in _QUIET
                    bad += bool(error) or is_empty
                    shown = error or f"{len(series)} series {[one['value'][1] for one in series]}"
                    print(f"{'BAD ' if error or is_empty else ''}{where}: {shown}")
                loaded = json.loads(ask(address, "/api/v1/rules")[1])["data"]["groups"]
                health = {rule["name"]: rule["health"] for rule in loaded[0]["rules"]}
                print(health)
                bad += sum(state != "ok" for state in health.values())
            worker.process.terminate()
            worker.end()
    print("all can be evaluated" if not bad else f"{bad} are bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
