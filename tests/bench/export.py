"""`dsmops export` of a full-width STT checkpoint to other programs' files, against `cp`.

Targets: Q8_0 at least 500 MB/s of source on two cores, so 8 ns of processor time a value without
the start; at most 256 MiB of memory. The error report is part of every run; digests and fsync are
left out, as `cp` has none. Takes about 20 s of processor time.
"""

from __future__ import annotations

import sys

from tests.bench.pairs import START, Command, Job, measure, scene

EXPORTS = {
    "GGUF, Q8_0": ("gguf", "q8_0", "model.gguf"),
    "GGUF, Q4_0": ("gguf", "q4_0", "model.gguf"),
    "GGUF, Q4_K": ("gguf", "q4_k", "model.gguf"),
    "MLX, 8 bits": ("mlx", "q8", "model.q8.safetensors"),
    "moshi, int8": ("moshi", "int8", "model.safetensors"),
}


def main() -> int:
    """Generate the checkpoint, run the pairs, and show times, ratios and memory."""
    with scene() as place:
        jobs: list[Job] = []
        for label, (runtime, quant, file) in EXPORTS.items():
            command: Command = [
                *(sys.executable, "-m", "dsmops", "export", "--quiet", "--no-digest", "--no-fsync"),
                *(place.source, place.out / file, "--to", runtime, "--quant", quant),
            ]
            if not jobs:
                jobs.append(Job(START, [*command, "--dry-run"], rounds=3))
            jobs.append(Job(label, command, rounds=3 if quant == "q8_0" else 1))
        measure("export", place, jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
