"""The last two runs of a benchmark side by side: the change of each median beside the spread that
the runs themselves had.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.bench.harness import HISTORY


def compare(bench: str, history: Path = HISTORY) -> str:
    """Return a table of the last two history lines of `bench`.

    A change is marked when the two runs' ranges do not even touch.
    """
    lines = (
        [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
        if history.exists()
        else []
    )
    runs = [line for line in lines if line["bench"] == bench and "median_s" in line][-2:]
    if len(runs) < 2:
        return f"{bench}: {'one run' if runs else 'no run'} in {history.name}, nothing to compare"
    before, after = runs
    rows = [f"{bench}: {_named(before)}  ->  {_named(after)}"]
    rows += [
        f"  beware: other {key}"
        for key in ("machine", "versions", "parameters")
        if before[key] != after[key]
    ]
    rows.append(
        f"  {'':30}{'before':>10}{'after':>10}{'change':>10}{'spread before':>16}{'after':>8}"
    )
    shared = [name for name in after["median_s"] if name in before["median_s"]]
    rows += [
        _row(name, *((run["median_s"][name], run["spread_s"][name]) for run in runs))
        for name in shared
    ]
    return "\n".join(rows)


def _named(run: dict[str, Any]) -> str:
    return f"{run['commit']} of {run['date'][:10]}"


def _row(name: str, before: tuple[float, list[float]], after: tuple[float, list[float]]) -> str:
    (old_s, old_range), (new_s, new_range) = before, after
    apart = max(old_range[0], new_range[0]) > min(old_range[1], new_range[1])
    spreads = [(high - low) / median for median, (low, high) in (before, after)]
    change = f"{new_s / old_s - 1:+.0%}"
    mark = "  *" if apart else ""
    times = f"{old_s:>9.3f}s{new_s:>9.3f}s{change:>10}"
    return f"  {name:30}{times}{spreads[0]:>16.0%}{spreads[1]:>8.0%}{mark}"
