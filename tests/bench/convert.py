"""Converting the published 1B layout (1.98 GB, bf16 to f16) beside `cp`, `cp` then `sync`, and torch: load all, cast, save all.

Warm cache, contestants in turn, ratios within a round. Targets: the whole conversion (digests, report, fsync) at most 1.2 × `cp` then
`sync`; without digests and fsync at most 2.0 × `cp`; at least three times faster than torch; at most 128 MiB of memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from dsmops.checkpoint import write_checkpoint
from dsmops.models import MODELS
from tests.bench.harness import ChildRun, Contestant, race, record, run_child, show

CP, CP_SYNC, NAIVE, FULL, BARE = "cp", "cp; sync", "torch: load, cast, save", "convert", "convert --no-digest --no-fsync"
MAX_RSS_BYTES = 128 * 2**20
TORCH = """
import sys
import torch
from safetensors.torch import load_file, save_file
tensors = load_file(sys.argv[1])
save_file({name: t.to(torch.float16) if t.dtype == torch.bfloat16 else t for name, t in tensors.items()}, sys.argv[2])
"""


def main() -> int:
    """Race them, show the table, and return 1 when a target is missed."""
    lm = MODELS["stt-1b-en_fr"].lm
    assert lm is not None
    with tempfile.TemporaryDirectory(prefix="dsmops-bench-", dir=os.environ.get("DSMOPS_BENCH_DIR")) as name:
        folder = Path(name)
        source, target = folder / "source.safetensors", folder / "target.safetensors"
        write_checkpoint(source, {tensor: ("BF16", shape) for tensor, shape in lm.tensors().items()}, seed=1)
        peaks: dict[str, int] = {}

        def fresh() -> None:
            """Start every run alike: no target, nothing waiting to be written back, the source in the page cache."""
            target.unlink(missing_ok=True)
            subprocess.run(["sync"], check=True)
            with source.open("rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass

        def child(contestant: str, *command: str | Path) -> ChildRun:
            done = run_child(command)
            if done.code:
                raise SystemExit(f"{contestant} failed")
            peaks[contestant] = max(peaks.get(contestant, 0), done.peak_rss_bytes)
            return done

        dsmops = (sys.executable, "-m", "dsmops", "convert", source, target, "--quiet", "--force")
        contestants = [
            Contestant(CP, lambda: child(CP, "cp", source, target), fresh),
            Contestant(CP_SYNC, lambda: child(CP_SYNC, "sh", "-c", f"cp {source} {target} && sync"), fresh),
            Contestant(FULL, lambda: child(FULL, *dsmops), fresh),
            Contestant(BARE, lambda: child(BARE, *dsmops, "--no-digest", "--no-fsync"), fresh),
        ]
        if _has_torch():
            contestants.append(Contestant(NAIVE, lambda: child(NAIVE, sys.executable, "-c", TORCH, source, target), fresh))
        figures = race(contestants, rounds=5, warm_ups=1)
    show("Converting 1.98 GB, bf16 to f16", figures, baselines=[CP, CP_SYNC])
    print("peak memory, MiB: " + ", ".join(f"{contestant} {peak / 2**20:.0f}" for contestant, peak in peaks.items()))
    full, bare = figures.ratio(FULL, CP_SYNC), figures.ratio(BARE, CP)
    peak = max(peaks[FULL], peaks[BARE])
    missed = full > 1.2 or bare > 2.0 or peak > MAX_RSS_BYTES
    results: dict[str, float] = {"full_to_cp_sync": round(full, 3), "bare_to_cp": round(bare, 3), "peak_rss_bytes": peak}
    if NAIVE in figures.rounds_s:
        results |= {"naive_to_full": round(figures.ratio(NAIVE, FULL), 2), "naive_to_bare": round(figures.ratio(NAIVE, BARE), 2)}
        missed = missed or results["naive_to_bare"] < 3
    print(results)
    record("convert", parameters={"bytes": 1_978_522_200, "rounds": 5}, figures=figures, **results)
    return int(missed)


def _has_torch() -> bool:
    return subprocess.run([sys.executable, "-c", "import torch, safetensors"], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
