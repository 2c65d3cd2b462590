"""Many recordings, from files on disk to files of text, beside the engine alone.

In turn, in one process: the engine steps with all slots full and nothing else to do; then
`transcribe_many` goes through a folder of FLAC files of different lengths. The figure is the rate
of the second by that of the first, in rows that a second steps: what reading, decoding, words,
writing and slots that are empty at the end cost. `python -m tests.bench.many` takes the trained
tiny model on the CPU; `--model` and `--slots` choose others, on the device that torch prefers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from dsmops.audio import SAMPLE_RATE_HZ, write
from dsmops.cli.views.transcription_run import of_ending
from dsmops.operations.models.stt import find_stt, load_stt_source
from dsmops.operations.speech.many.transcribing import Job, transcribe_many
from tests.bench.harness import record

TARGET = 0.9
_SECONDS = (2.0, 12.0)
"""Shortest and longest recording."""


def main(words: list[str] | None = None) -> int:
    """Measure, record a line, and return 1 where the target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.many", description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--recordings", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(words or [])
    ratios, engine_rates, run_rates, shares = [], [], [], []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _write_recordings(folder / "in", chosen.recordings)
        alone = _Engine(chosen.model, chosen.slots)
        for number in range(chosen.rounds + 1):
            before = alone.rows_a_second()
            rate, share = _run(folder, number, chosen.model, chosen.slots)
            # The machine's speed drifts: the engine is measured on both sides of the run.
            engine_rate = (before + alone.rows_a_second()) / 2
            if number:  # the first round warms up
                ratios.append(rate / engine_rate)
                engine_rates.append(engine_rate)
                run_rates.append(rate)
                shares.append(share)
    ratio = statistics.median(ratios)
    print(
        f"{chosen.model}, {chosen.slots} slots, {chosen.recordings} recordings: "
        f"{statistics.median(run_rates):.1f} rows a second, the engine alone "
        f"{statistics.median(engine_rates):.1f}: {ratio:.3f} of it "
        f"({min(ratios):.3f} to {max(ratios):.3f}); {statistics.median(shares):.0%} of the time "
        "in steps"
    )
    record(
        "many",
        parameters={
            "command": "python -m tests.bench.many",
            "model": chosen.model,
            "slots": chosen.slots,
            "recordings": chosen.recordings,
            "rounds": chosen.rounds,
        },
        ratio=round(ratio, 4),
        ratios=[round(one, 4) for one in ratios],
        rows_a_second=round(statistics.median(run_rates), 2),
        engine_rows_a_second=round(statistics.median(engine_rates), 2),
        step_share=round(statistics.median(shares), 4),
    )
    return 0 if ratio >= TARGET else 1


class _Engine:
    """The engine alone, all slots full of noise."""

    def __init__(self, model: str, slots: int) -> None:
        from dsmops.worker.runtime.stt.engine import SttEngine

        self._engine = SttEngine(load_stt_source(find_stt(model)), batch_size=slots)
        rng = np.random.default_rng(1)
        self._frames = self._engine.new_frames()
        self._frames[:] = rng.normal(0, 0.1, self._frames.shape)
        self._mask = np.ones(slots, np.bool_)
        self._forced = np.full(slots, -1, np.int64)

    def rows_a_second(self, steps: int = 60) -> float:
        """Return rows that were stepped a second, streams of a few seconds."""
        self._engine.reset(list(range(len(self._mask))))
        start_s = time.perf_counter()
        for _ in range(steps):
            self._engine.step(self._frames, self._mask, self._forced)
        return steps * len(self._mask) / (time.perf_counter() - start_s)


def _run(folder: Path, number: int, model: str, slots: int) -> tuple[float, float]:
    """Return the rows a second of a whole run without loading, and the share in steps."""
    into = folder / f"out-{number}"
    render = partial(of_ending, timestamps=False, vad=False)
    job = Job((str(folder / "in"),), into, model, ("json",), render, batch_size=slots)
    run = transcribe_many(job)
    rows = sum(json.loads(path.read_bytes())["steps"] for path in into.glob("*.json"))
    return rows / run.elapsed_s, run.step_share or 0.0


def _write_recordings(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(5)
    for number in range(count):
        samples = rng.normal(0, 0.1, round(SAMPLE_RATE_HZ * rng.uniform(*_SECONDS)))
        write(folder / f"{number}.flac", [samples.astype(np.float32)])


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
