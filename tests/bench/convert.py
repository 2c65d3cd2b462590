"""`dsmops convert` of the full-size STT 1B checkpoint against `cp`, `cp` then `sync`, its own two
digests, and the load-all way with torch.

Targets: with digests, report and fsync at most 1.2 × `cp` then `sync` (stretch 1.0); without digest
and fsync at most 1.5 × `cp` (1.2); at least 3 × faster than torch; at most 128 MiB of memory. Every
contestant is a process of its own, start-up included. The source is read once before each run, so
all find it in the page cache; torch is left out where it is not installed.
`DSMOPS_BENCH_DIR` names the folder to work in, which needs 10 GB.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from dsmops.files import remember_sha256, sha256
from tests.bench.harness import ChildRun, Contestant, race, record, run_child, show

ROUNDS = 5
DIGESTS = """
import sys, threading
from pathlib import Path
from dsmops.files import remember_sha256, sha256
threads = [threading.Thread(target=sha256, args=[Path(sys.argv[1])]) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
NAIVE = """
import sys, torch
from safetensors.torch import load_file, save_file
tensors = load_file(sys.argv[1])
for name, tensor in tensors.items():
    if tensor.dtype == torch.bfloat16:
        tensors[name] = tensor.to(torch.float16)
save_file(tensors, sys.argv[2])
"""


def main() -> int:
    """Generate the checkpoint, race, and show times, ratios and memory."""
    with tempfile.TemporaryDirectory(
        dir=os.environ.get("DSMOPS_BENCH_DIR"), prefix="dsmops-bench-"
    ) as name:
        folder = Path(name)
        source, target = folder / "model.safetensors", folder / "target.safetensors"
        # By a process of its own: a child's peak memory begins with what its parent holds, so this
        # one stays small.
        run_child(
            [sys.executable, "-m", "tools.make_checkpoint", source, "--model", "stt-1b-en_fr"]
        )
        # As a hub cache keeps it: the file is named by its digest, so that need not be computed.
        (folder / "blobs").mkdir()
        digest = sha256(source)
        blob = folder / "blobs" / digest
        source.rename(blob)
        remember_sha256(blob, digest, blob.stat())  # as our download does
        source.symlink_to(blob)
        local = folder / "local.safetensors"
        os.link(blob, local)
        runs: dict[str, list[ChildRun]] = {}
        convert = [sys.executable, "-m", "dsmops", "convert", "--quiet"]
        commands: dict[str, Sequence[str | Path]] = {
            "cp": ["cp", local, target],
            "cp + sync": ["sh", "-c", 'cp "$0" "$1" && sync', local, target],
            "two SHA-256 alone, one per core": [sys.executable, "-c", DIGESTS, local],
            "convert": [*convert, local, target],
            "convert from a hub cache": [*convert, source, target],
            "convert, no digest, no fsync": [*convert, "--no-digest", "--no-fsync", local, target],
        }
        if importlib.util.find_spec("torch") and importlib.util.find_spec("safetensors"):
            commands["torch, load all, cast, save"] = [sys.executable, "-c", NAIVE, local, target]
        figures = race(
            [
                Contestant(name, _runner(name, command, runs), lambda: _clear(local, target))
                for name, command in commands.items()
            ],
            rounds=ROUNDS,
        )
        size_bytes = local.stat().st_size
    show(f"Conversion of {size_bytes:,} bytes, BF16 to F16", figures, baselines=["cp", "cp + sync"])
    ratios = {
        "convert / cp + sync": figures.ratio("convert", "cp + sync"),
        "convert from a hub cache / cp + sync": figures.ratio(
            "convert from a hub cache", "cp + sync"
        ),
        "convert, no digest, no fsync / cp": figures.ratio("convert, no digest, no fsync", "cp"),
    }
    for ours in (
        ("convert", "convert, no digest, no fsync")
        if "torch, load all, cast, save" in commands
        else ()
    ):
        ratios[f"torch / {ours}"] = figures.ratio("torch, load all, cast, save", ours)
    for label, ratio in ratios.items():
        print(f"{label:44}{ratio:8.2f}")
    peaks = {label: max(run.peak_rss_bytes for run in runs[label]) for label in commands}
    cpu_s = {label: min(run.cpu_s for run in runs[label]) for label in commands}
    for label in commands:
        print(
            f"{label:44}{cpu_s[label]:8.2f} s of processor time"
            f"{peaks[label] / 2**20:8.0f} MiB at most"
        )
    record(
        "convert",
        parameters={"rounds": ROUNDS, "source_bytes": size_bytes, "load": list(os.getloadavg())},
        figures=figures,
        ratios={label: round(ratio, 3) for label, ratio in ratios.items()},
        cpu_s={label: round(seconds, 2) for label, seconds in cpu_s.items()},
        peak_rss_bytes=peaks,
    )
    return 0


def _runner(
    name: str, command: Sequence[str | Path], runs: dict[str, list[ChildRun]]
) -> Callable[[], None]:
    def run() -> None:
        done = run_child(command)
        if done.code:
            raise SystemExit(f"{name} ended with exit code {done.code}")
        runs.setdefault(name, []).append(done)

    return run


def _clear(source: Path, target: Path) -> None:
    """Remove the last target, let the disk settle, and bring the source into the page cache."""
    for path in (target, target.with_name(f"{target.name}.dsmops.json")):
        path.unlink(missing_ok=True)
    os.sync()
    sha256(source)


if __name__ == "__main__":
    sys.exit(main())
