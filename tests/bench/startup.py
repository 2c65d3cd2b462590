"""How long `dsmops` takes to start, over `python -c pass` of the same interpreter.

Targets: `--help` at most 120 ms more, a command that does nothing at most 100 ms more, `check-gpu` at most 150 ms before NVML starts.
"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.bench.harness import Contestant, race, record, show

NOTHING = [sys.executable, "-c", "pass"]
HELP = [sys.executable, "-m", "dsmops", "--help"]
VERSION = [sys.executable, "-m", "dsmops", "--version"]
CHECK_GPU = [sys.executable, "-m", "dsmops", "check-gpu", "--simulate", "t4", "--json"]


def main() -> int:
    """Race the four, and show what the start costs."""
    contestants = [
        Contestant(name, lambda command=command: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))  # type: ignore[misc]
        for name, command in (("python -c pass", NOTHING), ("--help", HELP), ("--version", VERSION), ("check-gpu", CHECK_GPU))
    ]
    figures = race(contestants, rounds=15, warm_ups=2)
    show("Start-up", figures, baselines=["python -c pass"])
    base_s = figures.median_s("python -c pass")
    over_ms = {name: round((figures.median_s(name) - base_s) * 1000, 1) for name in figures.rounds_s if name != "python -c pass"}
    print("over python -c pass, ms:", json.dumps(over_ms))
    record("startup", parameters={"rounds": 15}, figures=figures, over_python_ms=over_ms)
    return 0


if __name__ == "__main__":
    sys.exit(main())
