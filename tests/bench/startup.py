"""How long `dsmops` takes to start, over `python -c pass` of the same interpreter.

Targets: `--help` at most 0.3 of `hf --help` in pairs, and at most 120 ms more; a command that does
nothing at most 100 ms more. Measured beside them, without a target of their own: the cheap commands
that people type often, doing their real work (`check-gpu` looks for a real driver).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from dsmops.shipped import shipped_folder
from tests.bench.harness import Contestant, Figures, race, record, show

PYTHON = "python -c pass"
HF = "hf --help"
MOST_OF_HF = 0.3
"""What `--help` may take of the time of `hf --help`."""
TARGETS_MS = {"--help": 120.0, "--version": 100.0}
COMMANDS = {
    "--help": ("--help",),
    "--version": ("--version",),
    "check-gpu": ("check-gpu",),
    "plan": ("plan", "--simulate", "t4"),
    "check-config": ("check-config", str(shipped_folder("configs") / "config-stt-en_fr-hf.toml")),
}
ROUNDS = 15


def over_python_ms(figures: Figures, name: str) -> float:
    """Return the median over rounds of what `name` took beyond the bare interpreter just
    before it.
    """
    pairs = zip(figures.rounds_s[name], figures.rounds_s[PYTHON], strict=True)
    return round(statistics.median(own - bare for own, bare in pairs) * 1000, 1)


def main() -> int:
    """Race them, show what each start costs, and fail where a target is missed."""
    lines = {PYTHON: [sys.executable, "-c", "pass"]}
    lines[HF] = [str(Path(sys.executable).with_name("hf")), "--help"]
    lines |= {name: [sys.executable, "-m", "dsmops", *words] for name, words in COMMANDS.items()}
    # The exit code is not looked at: that of check-gpu depends on the machine.
    contestants = [
        Contestant(
            name,
            lambda line=line: subprocess.run(  # type: ignore[misc]
                line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
            ),
        )
        for name, line in lines.items()
    ]
    figures = race(contestants, rounds=ROUNDS, warm_ups=2)
    show("Start-up", figures, baselines=[PYTHON])
    over_ms = {name: over_python_ms(figures, name) for name in COMMANDS}
    print(f"over {PYTHON}, ms:", json.dumps(over_ms))
    pairs = zip(figures.rounds_s["--help"], figures.rounds_s[HF], strict=True)
    of_hf = round(statistics.median(own / hf for own, hf in pairs), 3)
    print(f"--help takes {of_hf} of {HF}")
    record(
        "startup",
        parameters={"rounds": ROUNDS},
        figures=figures,
        over_python_ms=over_ms,
        help_of_hf=of_hf,
    )
    missed = [
        f"{name} takes {over_ms[name]} ms, target {target_ms:.0f}"
        for name, target_ms in TARGETS_MS.items()
        if over_ms[name] > target_ms
    ]
    if of_hf > MOST_OF_HF:
        missed.append(f"--help takes {of_hf} of {HF}, target {MOST_OF_HF}")
    print("\n".join(missed) or "targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
