"""The benchmarks' own tools; the benchmarks themselves are never part of a test verdict."""

import json
from pathlib import Path

from tests.bench.compare import compare


def line(commit: str, median_s: float, spread_s: list[float], **changed: object) -> str:
    run = {
        "bench": "b",
        "commit": commit,
        "date": "2026-01-02T03:04:05Z",
        "machine": {"cores": 2},
        "versions": {},
        "parameters": {},
    }
    return json.dumps(
        run
        | {
            "median_s": {"ours": median_s, "theirs": 1.0},
            "spread_s": {"ours": spread_s, "theirs": [0.9, 1.1]},
        }
        | changed
    )


def test_the_last_two_runs_stand_side_by_side(tmp_path: Path) -> None:
    """Medians with their change beside both spreads; a star where the ranges do not touch; older
    runs and other benches are left out.
    """
    history = tmp_path / "history.jsonl"
    runs = [
        line("old", 9.0, [9.0, 9.0]),
        line("one", 1.0, [0.9, 1.1]),
        line("x", 5.0, [5.0, 5.0], bench="other"),
        line("two", 0.5, [0.4, 0.6]),
    ]
    history.write_text("\n".join(runs) + "\n")
    title, _, ours, theirs = compare("b", history).splitlines()
    assert title == "b: one of 2026-01-02  ->  two of 2026-01-02"
    assert ours.split() == ["ours", "1.000s", "0.500s", "-50%", "20%", "40%", "*"]
    assert theirs.split() == ["theirs", "1.000s", "1.000s", "+0%", "20%", "20%"]
    history.write_text(
        "\n".join([runs[1], line("two", 1.0, [0.9, 1.1], machine={"cores": 64})]) + "\n"
    )
    assert "beware: other machine" in compare("b", history)


def test_one_run_has_nothing_to_compare_with(tmp_path: Path) -> None:
    """A bench that ran once or never is said to."""
    history = tmp_path / "history.jsonl"
    assert "no run" in compare("b", history)
    history.write_text(line("one", 1.0, [1.0, 1.0]) + "\n")
    assert "one run" in compare("b", history)
