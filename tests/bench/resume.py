"""The same `transcribe --output-dir` again, where all of 100,000 recordings are done.

In turn, each a process of its own: the whole command, and a `find` that looks at the size and the
time of every recording and at the name of every transcript, which is what has to be looked at. The
figures are the command's processor seconds, and their ratio to those of `find`.

The recordings hold no audio and the model does not exist: the command fails if it opens any of
them. `python -m tests.bench resume`; `--flat` puts all of them into one folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dsmops.operations.speech.many.run_folder import Note
from dsmops.operations.speech.many.transcribing import Job
from tests.bench.harness import ChildRun, record, run_child

TARGET_CPU_S = 2.0
_OF_EACH_FOLDER = 1000


@dataclass(frozen=True, slots=True)
class _Round:
    ours: ChildRun
    find: ChildRun

    @property
    def ratio(self) -> float:
        return self.ours.cpu_s / self.find.cpu_s


def main(words: list[str] | None = None) -> int:
    """Measure, record a line, and return 1 where the target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.resume", description=__doc__)
    parser.add_argument("--recordings", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flat", action="store_true")
    chosen = parser.parse_args(words or [])
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _write_done_run(folder, chosen.recordings, flat=chosen.flat)
        # The first round reads all notes, and leaves the index that later runs read.
        rounds = [_round(folder, chosen.recordings) for _ in range(chosen.rounds + 1)][1:]
    cpu_s = [one.ours.cpu_s for one in rounds]
    median_s = statistics.median(cpu_s)
    ratio = statistics.median(one.ratio for one in rounds)
    print(
        f"{chosen.recordings:,} recordings that are done: {median_s:.2f} s of processor time "
        f"({min(cpu_s):.2f} to {max(cpu_s):.2f}), {ratio:.2f} of find's, "
        f"{statistics.median(one.ours.seconds for one in rounds):.2f} s by the clock"
    )
    record(
        "resume",
        parameters={
            "command": "python -m tests.bench resume",
            "recordings": chosen.recordings,
            "rounds": chosen.rounds,
            "flat": chosen.flat,
        },
        cpu_s=round(median_s, 3),
        cpu_spread_s=[round(min(cpu_s), 3), round(max(cpu_s), 3)],
        find_cpu_s=round(statistics.median(one.find.cpu_s for one in rounds), 3),
        ratio_to_find=round(ratio, 3),
        wall_s=round(statistics.median(one.ours.seconds for one in rounds), 3),
    )
    return 0 if median_s <= TARGET_CPU_S else 1


def _write_done_run(folder: Path, count: int, *, flat: bool) -> None:
    """Make files that stand for recordings, and a run that has transcribed all of them."""
    of_each = count if flat else _OF_EACH_FOLDER
    for first in range(0, count, of_each):
        for side in ("in", "out"):
            (folder / side / f"{first // of_each:03}").mkdir(parents=True)
        for number in range(first, min(first + of_each, count)):
            name = f"{number // of_each:03}/call-{number:06}"
            (folder / "in" / f"{name}.flac").write_bytes(b"x" * (number % 97 + 1))
            (folder / "out" / f"{name}.txt").touch()
    # A run begins in an empty folder.
    results = folder / "results"
    (folder / "out").rename(results)
    job = Job((str(folder / "in"),), folder / "out", "no-model", ("txt",), lambda *_: "")
    with job.open_folder() as run:
        for one in job.recordings():
            run.note(Note(one.key, one.name, one.file, 1.0, 2))
        (folder / "out" / ".dsmops-run" / "index.json").unlink(missing_ok=True)
    for sub in results.iterdir():
        shutil.move(sub, folder / "out" / sub.name)


def _round(folder: Path, count: int) -> _Round:
    options = ("--model", "no-model", "--output-dir", folder / "out", "--json")
    ours = run_child([sys.executable, "-m", "dsmops", "transcribe", folder / "in", *options])
    done = json.loads(ours.stdout)
    if (ours.code, done["done_before"], done["transcribed"]) != (0, count, 0):
        raise SystemExit(f"not all was done: exit code {ours.code}, {done}")
    form = ("-type", "f", "-printf", "%s %T@ %p\n")
    return _Round(ours, run_child(["find", folder / "in", folder / "out", *form]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
