"""A real worker with a full-size model, as its clients meet it: start-up, streams, the knee.

`python -m tests.bench.card FOLDER stt:64@60 stt:1000..2000@15 tts:64@0` makes what is missing in
FOLDER (`tools.full_size`), and starts one `dsmops worker` for each row, with as many slots as the
row has streams at most. A row has the streams of `dsmops bench --streams`, and behind @ the seconds
for which each number is measured; with 0 each stream says one text. `stt:64@ready` only times the
start. Server and clients share this host. `--tiny` takes the tiny models, on the CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from dsmops.client.address import KEY_HEADER, STT_PATH, TTS_PATH
from dsmops.operations.bench import (
    Level,
    Levels,
    Limits,
    TtsFigures,
    parse_levels,
    read_recordings,
    read_texts,
)
from dsmops.operations.bench.running import LoadRequest, run_load_test
from dsmops.worker.tiny.stt import write_tiny_stt
from dsmops.worker.tiny.tts import write_tiny_tts
from tests.bench.harness import record
from tools.full_size import write_stt, write_tts

KEY = "a made-up key"
_KEY_LINE = re.compile(r"(?m)^authorized_ids = .*$")
_SLOTS_LINE = re.compile(r"(?m)^batch_size = .*$")


@dataclass(frozen=True, slots=True)
class Row:
    """What to measure. `seconds` None: the start only."""

    kind: str
    levels: Levels
    seconds: float | None

    @classmethod
    def parse(cls, text: str) -> Row:
        kind, _, rest = text.partition(":")
        streams, _, seconds = rest.partition("@")
        if kind not in ("stt", "tts"):
            raise ValueError(f"{text!r} is neither stt:N@SECONDS nor tts:N@SECONDS")
        return cls(
            kind,
            parse_levels(streams),
            None if seconds == "ready" else float(seconds or 20),
        )

    @property
    def path(self) -> str:
        return STT_PATH if self.kind == "stt" else TTS_PATH


def config_for(row: Row, folder: Path, *, tiny: bool) -> Path:
    """Return a server config with as many slots as the row needs, its model written before."""
    slots = max(row.levels.listed)
    if not tiny:
        return (write_stt if row.kind == "stt" else write_tts)(folder, slots, api_key=KEY)
    own = folder / row.kind
    config = (write_tiny_stt if row.kind == "stt" else write_tiny_tts)(own).server_config
    text = _KEY_LINE.sub(f"authorized_ids = [{json.dumps(KEY)}]", config.read_text("utf-8"))
    config.write_text(_SLOTS_LINE.sub(f"batch_size = {slots}", text), encoding="utf-8")
    return config


@dataclass(frozen=True, slots=True)
class Running:
    """A worker: its WebSocket address, its process, and how long it took to listen and to send its
    first `Ready`.
    """

    url: str
    pid: int
    listens_s: float
    ready_s: float

    @property
    def http(self) -> str:
        """Its HTTP address."""
        return self.url.replace("ws", "http", 1)


@contextmanager
def worker(config: Path, row: Row, more: list[str]) -> Iterator[Running]:
    """Yield a worker that runs, and end it."""
    command = [sys.executable, "-m", "dsmops", "worker", "--config", str(config)]
    # The config of a tiny model names its files relative to itself.
    places = [str(Path.cwd()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    begin_s = time.monotonic()
    with subprocess.Popen(
        [*command, "--port", "0", "--silent", "--json", *more],
        stdout=subprocess.PIPE,
        text=True,
        cwd=config.parent,
        env=env,
    ) as process:
        try:
            document = ""
            assert process.stdout is not None
            while not document.endswith("}\n"):
                line = process.stdout.readline()
                if not line:
                    raise RuntimeError("the worker did not start")
                document += line
            listens_s = time.monotonic() - begin_s
            url = json.loads(document)["url"].replace("http", "ws", 1)
            query = "?format=PcmMessagePack" if row.kind == "tts" else ""
            with connect(
                url + row.path + query, additional_headers={KEY_HEADER: KEY}, proxy=None
            ) as client:
                if b"Ready" not in client.recv(timeout=30, decode=False):
                    raise RuntimeError("the first message is not Ready")
            ready_s = time.monotonic() - begin_s
            yield Running(url, process.pid, round(listens_s, 2), round(ready_s, 2))
        finally:
            process.send_signal(signal.SIGINT)


def run(row: Row, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one row, and return its figures."""
    config = config_for(row, folder, tiny=args.tiny)
    more = [*args.worker, *(["--cpu"] if args.tiny else [])]
    with worker(config, row, more) as running:
        times = {"listens_s": running.listens_s, "ready_s": running.ready_s}
        print(f"{row.kind} {max(row.levels.listed)} slots: {times}", flush=True)
        levels: list[dict[str, Any]] = []
        knee = None
        if row.seconds is not None:
            request = LoadRequest(
                running.url,
                row.levels,
                read_recordings(()) if row.kind == "stt" else read_texts(()),
                Limits(errors=0),
                KEY,
                seconds=row.seconds,
                processes=args.processes,
            )

            def show(level: Level) -> None:
                levels.append(_figures(level))
                print(json.dumps(levels[-1]), flush=True)

            result, _ = run_load_test(request, on_level=show)
            knee = result.knee
    return {"kind": row.kind, "seconds": row.seconds, **times, "knee": knee, "levels": levels}


def _figures(level: Level) -> dict[str, Any]:
    figures = dataclasses.asdict(level.figures)
    if isinstance(level.figures, TtsFigures):
        figures["speedup_a_stream"] = level.figures.speedup_a_stream
    return {
        "streams": level.opened,
        "verdict": level.verdict.value,
        **{
            name: _rounded(value)
            for name, value in figures.items()
            if name in _SHOWN and value is not None
        },
        "step_ms": level.server_step_ms,
        "jitter_p99_ms": level.jitter_ms and round(level.jitter_ms.p99, 2),
        "client_core_share": level.client_core_share,
        "errors": dict(level.errors),
    }


_SHOWN = ("lag_ms", "kept_share", "first_audio_ms", "speedup", "underruns", "longest_gap_ms")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main(words: list[str] | None = None) -> int:
    """Measure, and record one line for each row."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.card", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("rows", nargs="*", type=Row.parse, metavar="KIND:STREAMS[@SECONDS]")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--processes", type=int, help="client processes")
    parser.add_argument("--worker", action="append", default=[], help="an option for the worker")
    # Rows may follow options.
    args = parser.parse_intermixed_args(words or [])
    if args.folder is None:
        print("card: no folder is given, nothing measured")
        return 0
    for row in args.rows:
        figures = run(row, args.folder.absolute(), args)
        record("card", parameters={"tiny": args.tiny, "worker": args.worker}, **figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
