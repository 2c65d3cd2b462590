"""`dsmops export` of the full-size STT 1B checkpoint to other programs' files, against `cp`.

Targets: Q8_0 at least 500 MB/s of source on two cores, at most 256 MiB of memory. The error report
is part of every run; digests and fsync are left out, as `cp` has none. The source is read once
before each run, so all find it in the page cache. `DSMOPS_BENCH_DIR` names the folder to work in,
which needs 5 GB.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from dsmops.files import sha256
from tests.bench.harness import ChildRun, Contestant, race, record, run_child, show

ROUNDS = 3
EXPORTS = {
    "GGUF, Q8_0": ("gguf", "q8_0", "model.gguf"),
    "GGUF, Q4_0": ("gguf", "q4_0", "model.gguf"),
    "GGUF, Q4_K": ("gguf", "q4_k", "model.gguf"),
    "MLX, 8 bits": ("mlx", "q8", "model.q8.safetensors"),
    "moshi, int8": ("moshi", "int8", "model.safetensors"),
}


def main() -> int:
    """Generate the checkpoint, race, and show times, ratios, processor time and memory."""
    runs: dict[str, list[ChildRun]] = {}
    with tempfile.TemporaryDirectory(
        dir=os.environ.get("DSMOPS_BENCH_DIR"), prefix="dsmops-bench-"
    ) as name:
        folder = Path(name)
        source, copy = folder / "model.safetensors", folder / "copy.safetensors"
        run_child(
            [sys.executable, "-m", "tools.make_checkpoint", source, "--model", "stt-1b-en_fr"]
        )
        commands: dict[str, Sequence[str | Path]] = {"cp": ["cp", source, copy]}
        for label, (runtime, quant, file) in EXPORTS.items():
            target = folder / runtime / file
            target.parent.mkdir(exist_ok=True)
            command = [sys.executable, "-m", "dsmops", "export", "--quiet", "--no-digest"]
            commands[label] = [
                *command, "--no-fsync", source, target, "--to", runtime, "--quant", quant
            ]  # fmt: skip
        figures = race(
            [
                Contestant(label, _runner(label, command, runs), lambda: _clear(folder, source))
                for label, command in commands.items()
            ],
            rounds=ROUNDS,
        )
        size_bytes = source.stat().st_size
    show(f"Export of {size_bytes:,} bytes of BF16", figures, baselines=["cp"])
    speed = {label: size_bytes / figures.median_s(label) / 1e6 for label in commands}
    cpu_s = {label: min(run.cpu_s for run in runs[label]) for label in commands}
    peaks = {label: max(run.peak_rss_bytes for run in runs[label]) for label in commands}
    for label in commands:
        print(
            f"{label:20}{speed[label]:8.0f} MB/s{cpu_s[label]:8.2f} s of processor time"
            f"{peaks[label] / 2**20:8.0f} MiB at most"
        )
    record(
        "export",
        parameters={"rounds": ROUNDS, "source_bytes": size_bytes, "load": list(os.getloadavg())},
        figures=figures,
        ratios={label: round(figures.ratio(label, "cp"), 3) for label in EXPORTS},
        cpu_s={label: round(seconds, 2) for label, seconds in cpu_s.items()},
        peak_rss_bytes=peaks,
    )
    return 0


def _runner(
    label: str, command: Sequence[str | Path], runs: dict[str, list[ChildRun]]
) -> Callable[[], None]:
    def run() -> None:
        done = run_child(command)
        if done.code:
            raise SystemExit(f"{label} ended with exit code {done.code}")
        runs.setdefault(label, []).append(done)

    return run


def _clear(folder: Path, source: Path) -> None:
    """Remove earlier targets, let the disk settle, and bring the source into the page cache."""
    for path in folder.rglob("*"):
        if path.is_file() and path != source:
            path.unlink()
    os.sync()
    sha256(source)


if __name__ == "__main__":
    sys.exit(main())
