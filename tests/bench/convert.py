"""`dsmops convert` of a full-width STT checkpoint against `cp`, `cp` then `sync`, and torch.

Targets: with digests, report and fsync at most 1.2 × `cp` then `sync` (stretch 1.0); without digest
and fsync at most 1.5 × `cp` (1.2); at least 3 × faster than loading all with torch, which is
left out where it is not installed; at most 128 MiB of memory. Takes about 15 s of processor time.
"""

from __future__ import annotations

import importlib.util
import os
import sys

from dsmops.files import remember_sha256, sha256
from tests.bench.pairs import START, Command, Job, measure, scene

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
    """Generate the checkpoint, run the pairs, and show times, ratios and memory."""
    with scene() as place:
        # As a hub cache keeps it: the file is named by its digest, so that need not be computed.
        digest = sha256(place.source)
        blob = place.source.parent / "blobs" / digest
        blob.parent.mkdir()
        os.link(place.source, blob)
        remember_sha256(blob, digest, blob.stat())  # as our download does
        cached = place.source.with_name("cached.safetensors")
        cached.symlink_to(blob)
        target = place.out / "target.safetensors"
        convert: Command = [sys.executable, "-m", "dsmops", "convert", "--quiet"]
        bare: Command = [*convert, "--no-digest", "--no-fsync", place.source, target]
        jobs = [
            Job(START, [*bare, "--dry-run"], rounds=3),
            Job("convert, no digest, no fsync", bare, rounds=5),
            Job("convert", [*convert, place.source, target], "cp + sync", rounds=3),
            Job("convert from a hub cache", [*convert, cached, target], "cp + sync", rounds=3),
        ]
        if importlib.util.find_spec("torch") and importlib.util.find_spec("safetensors"):
            naive: Command = [sys.executable, "-c", NAIVE, place.source, target]
            jobs.append(Job("torch, load all, cast, save", naive))
        measure("convert", place, jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
