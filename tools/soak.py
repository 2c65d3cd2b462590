"""`python -m tools.soak --minutes 30`: random clients against a real worker, on loopback.

The worker has the tiny models. Half of the clients behave, and must get exactly what each gets
alone. The others abort, stall, send garbage or broken Opus, flood, read nothing, post noise, leave
half a handshake, or come in storms. Beside them one attack of `tests.support.attacks` after another
runs in a process of its own. Two streams are held from the beginning to the end, at the pace of
speech; their lag is reported, and they must not lose their slots. At the end every slot must be
free, the memory of all the worker's processes flat, and the exit code 0. Bounded in time and in
connections.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import WebSocketException

from dsmops.client.address import STT_PATH
from dsmops.client.load.pool import LoadJob, Pool, Report, stt_frames
from dsmops.operations.bench import Spread, read_recordings
from dsmops.operations.bench.limits import GRACE_S
from dsmops.operations.smoke.family import main_memory
from tests.bench.attacks import both_modules
from tests.bench.card import KEY
from tests.support.attacks import ATTACKS
from tests.support.stt_client import FRAME, Message, SttClient, words
from tests.support.workers import PATH, WorkerProcess, request

CLIENTS, SLOTS = 6, 4
"""More clients than slots, so that the server is often full."""
HELD = 2
"""Streams that last as long as the soak, in slots of their own."""
ATTACK_S = 10.0
FREE_S = 10.0
"""Until all slots must be back at the end."""
SETTLE_S = 60.0
"""Memory is compared from here on: pools and caches have filled by then."""
ATTACKED_SETTLE_S = 300.0
"""The same with attackers: each has run once by then, and some hold thousands of connections.

In ten minutes: 281 MiB after 1, 319 after 3, 337 after 5, 338 after 7, 333 at the end.
"""
GROWTH_BYTES = 48 << 20
"""What the resident memory may move within a soak; a slot's state alone is under a megabyte."""

Clip = NDArray[np.float32]
Heard = list[tuple[str, float]]


@dataclass
class Tally:
    """What the clients met."""

    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self.lock:
            self.done[what] += 1

    def fail(self, what: str) -> None:
        with self.lock:
            self.wrong.append(what)


def clips() -> list[Clip]:
    """Return a few seconds of noise each, with the loudness of speech."""
    made = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        count = (12 + 6 * seed) * FRAME
        loudness = np.repeat(rng.random(count // 2400 + 1), 2400)[:count]
        made.append((0.2 * loudness * rng.standard_normal(count)).astype(np.float32))
    return made


def _connect(url: str) -> SttClient | None:
    """Return a client with a slot, None where the server is full."""
    client = SttClient(url, KEY)
    if client.hello is not None and client.hello["type"] == "Ready":
        return client
    with suppress(WebSocketException, OSError):
        client.ws.close()
    return None


def _behave(client: SttClient, clip: Clip, _: random.Random) -> list[Message]:
    with client:
        return client.transcribe(clip)


def _abort(client: SttClient, clip: Clip, dice: random.Random) -> None:
    client.audio(clip[: dice.randrange(len(clip))])
    client.vanish()


def _stall(client: SttClient, clip: Clip, dice: random.Random) -> None:
    client.audio(clip[: FRAME * 3])
    time.sleep(dice.uniform(0, 4))
    client.vanish()


def _garbage(client: SttClient, clip: Clip, dice: random.Random) -> None:
    client.audio(clip[: FRAME * dice.randrange(4)])
    client.send(dice.randbytes(dice.randrange(1, 400)))
    for _ in client.rest():
        pass


def _broken_opus(client: SttClient, _: Clip, dice: random.Random) -> None:
    client.send({"type": "OggOpus", "data": list(b"OggS" + dice.randbytes(300))})
    for _message in client.rest():
        pass


def _read_nothing(client: SttClient, clip: Clip, dice: random.Random) -> None:
    for _ in range(dice.randrange(1, 4)):
        client.audio(clip)
    time.sleep(dice.uniform(0, 2))
    client.vanish()


def _flood(client: SttClient, _: Clip, dice: random.Random) -> None:
    for _message in range(dice.randrange(1500)):
        client.send({"type": dice.choice(["Init", "Marker"]), "id": 1})
    client.vanish()


NUISANCES: list[Callable[[SttClient, Clip, random.Random], None]] = [
    _abort,
    _stall,
    _garbage,
    _broken_opus,
    _flood,
    _read_nothing,
]


def _storm(url: str, dice: random.Random) -> None:
    for _ in range(dice.randrange(5, 20)):
        with suppress(WebSocketException, OSError, TimeoutError):
            SttClient(url, KEY, ready=False).vanish()


def _half(url: str, dice: random.Random) -> None:
    host, port = url.removeprefix("http://").split(":")
    upgrade = (
        f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade:"
        " websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key:"
        f" dGhlIHNhbXBsZSBub25jZQ==\r\nkyutai-api-key: {KEY}\r\n\r\n"
    ).encode() + dice.randbytes(dice.randrange(100))
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(upgrade[: dice.randrange(len(upgrade))])


def _post(url: str, dice: random.Random) -> None:
    request(
        url,
        "POST",
        PATH,
        body=dice.randbytes(dice.randrange(5000)),
        headers={"kyutai-api-key": KEY},
    )


STRAYS: list[Callable[[str, random.Random], None]] = [_storm, _half, _post]
"""What comes without a slot."""


def _client(
    url: str, seed: int, until_s: float, alone: list[Heard], made: list[Clip], tally: Tally
) -> None:
    dice = random.Random(seed)
    while time.monotonic() < until_s and not tally.wrong:
        if dice.random() < 0.06:
            stray = dice.choice(STRAYS)
            stray(url, dice)
            tally.count(stray.__name__.strip("_"))
            continue
        number = dice.randrange(len(made))
        nuisance = None if dice.random() < 0.5 else dice.choice(NUISANCES)
        name = nuisance.__name__.strip("_") if nuisance else "behave"
        try:
            client = _connect(url)
            if client is None:
                tally.count("full")
                time.sleep(dice.uniform(0, 0.2))
            elif nuisance is not None:
                nuisance(client, made[number], dice)
                tally.count(name)
            elif (heard := words(_behave(client, made[number], dice))) != alone[number]:
                tally.fail(f"recording {number} came back as {heard}, alone it is {alone[number]}")
            else:
                tally.count(name)
        except (WebSocketException, OSError, TimeoutError) as exc:
            if nuisance is None:
                tally.fail(f"a client that behaved met {type(exc).__name__}: {exc}")
            tally.count(f"{name}: cut off")


def _used_slots(url: str) -> int:
    modules = json.loads(request(url, "GET", "/api/modules_info").body)
    return sum(int(module["used_slots"]) for module in modules)


def _attack(url: str, until_s: float, dice: random.Random, tally: Tally) -> None:
    """Run one attack after another, in any order."""
    while (left_s := until_s - time.monotonic()) > ATTACK_S and not tally.wrong:
        for name in dice.sample(sorted(ATTACKS), len(ATTACKS)):
            left_s = until_s - time.monotonic()
            if left_s < ATTACK_S or tally.wrong:
                return
            command = [sys.executable, "-m", "tests.support.attacks", name, url, KEY, str(ATTACK_S)]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            tally.count(f"attack: {name}")


class _Held:
    """Streams at the pace of speech, from the beginning of a soak to its end."""

    def __init__(self, url: str) -> None:
        job = LoadJob(
            url.replace("http", "ws", 1) + STT_PATH,
            KEY,
            frames=stt_frames(read_recordings(()).blocks),
        )
        self._pool = Pool(job, 1)
        self._opened, self._errors = self._pool.open(HELD)
        self._report: Report | None = None
        self._failure: Exception | None = None

    def run(self, seconds: float) -> None:
        """Hold the streams for so long, and close them."""
        try:
            with self._pool:
                self._report = self._pool.measure(0.0, seconds, GRACE_S)
                self._pool.close()
        except Exception as exc:  # noqa: BLE001 `report` tells it
            self._failure = exc

    def report(self, tally: Tally) -> str:
        """Return their lag, and count what they lost as failures."""
        if self._failure is not None:
            tally.fail(f"held streams failed: {self._failure!r}")
            return ""
        if self._report is None or self._opened < HELD:
            tally.fail(f"held streams did not open: {dict(self._errors)}")
            return ""
        if self._report.errors:
            tally.fail(f"held streams were ended: {dict(self._report.errors)}")
        lag = Spread.of(self._report.arrays["lag_ms"])
        return f"lag of {HELD} held streams: {lag}"


def _file_bytes(folder: Path) -> int:
    """Return the size of the worker's log files."""
    return sum(path.stat().st_size for path in folder.rglob("log.*"))


def _logs(folder: Path) -> list[tuple[str, str]]:
    """Return name and text of the worker's log files."""
    return [(path.name, path.read_text("utf-8", "replace")) for path in folder.rglob("log.*")]


def soak(
    seconds: float, *, seed: int = 0, clients: int = CLIENTS, attacks: bool = True
) -> tuple[str, list[str]]:
    """Run the soak, and return what happened and which promises did not hold.

    Prints a line each minute.
    """
    tally, made = Tally(), clips()
    resident: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        config = both_modules(Path(folder), SLOTS + HELD, tiny=True)
        with WorkerProcess(Path(folder), config, "--silent", is_own=True) as worker:
            alone = []
            for clip in made:
                with SttClient(worker.url, KEY) as client:
                    alone.append(words(client.transcribe(clip)))
            begin_s = time.monotonic()
            until_s = begin_s + seconds
            threads = [
                threading.Thread(
                    target=_client,
                    args=(worker.url, seed * 100 + number, until_s, alone, made, tally),
                )
                for number in range(clients)
            ]
            if attacks:
                dice = random.Random(seed)
                threads.append(
                    threading.Thread(target=_attack, args=(worker.url, until_s, dice, tally))
                )
            held = _Held(worker.url)
            threads.append(threading.Thread(target=held.run, args=(seconds,)))
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(1)
                found = main_memory(worker.process.pid)
                if found is not None:
                    resident.append((time.monotonic() - begin_s, found[0]))
                if len(resident) % 60 == 0:
                    print(
                        f"{resident[-1][0]:6.0f} s  {resident[-1][1] / 2**20:7.1f} MiB "
                        f" log {_file_bytes(Path(folder)) / 2**20:.1f} MiB  {dict(tally.done)}",
                        flush=True,
                    )
            for thread in threads:
                thread.join()
            lag = held.report(tally)
            try:
                free_by_s = time.monotonic() + FREE_S
                while (used := _used_slots(worker.url)) and time.monotonic() < free_by_s:
                    time.sleep(0.05)
                if used:
                    tally.fail(f"{used} slots are still taken")
            except OSError as exc:
                tally.fail(f"the worker does not answer: {exc}")
            worker.process.terminate()
            code = worker.end()
            log_bytes = _file_bytes(Path(folder))
            if code:
                tally.fail(f"the worker ended with {code}: {worker.errors[-2000:]}")
            for where, text in (("stderr", worker.errors), *_logs(Path(folder))):
                if "Traceback" in text:
                    tally.fail(f"a traceback in {where}: {text[text.index('Traceback') :][:2000]}")
    settle_s = min(ATTACKED_SETTLE_S if attacks else SETTLE_S, seconds / 2)
    settled = [size for at_s, size in resident if at_s >= settle_s]
    growth = settled[-1] - settled[0]
    if growth > GROWTH_BYTES:
        tally.fail(f"memory grew by {growth / 2**20:.1f} MiB")
    report = (
        f"{seconds:g} s: {dict(tally.done)}; memory {settled[0] / 2**20:.1f} →"
        f" {settled[-1] / 2**20:.1f} MiB, at most {max(settled) / 2**20:.1f}; {lag}; log"
        f" {log_bytes / 2**20:.1f} MiB"
    )
    return report, tally.wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    report, failures = soak(chosen.minutes * 60, seed=chosen.seed)
    print(report)
    print("\n".join(failures) or "all held: words unchanged, slots back, memory flat, exit 0")
    sys.exit(1 if failures else 0)
