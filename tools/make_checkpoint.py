"""`python -m tools.make_checkpoint OUT`: a checkpoint like a published one.

It has the layout of a published model, and values like those of a trained one. For benchmarks and
for trying commands by hand. `--layers` cuts the model down; `--overflow` and `--nan` plant what a
check should find.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from dsmops.models import STT_MODELS
from tests.support.synthetic import write_checkpoint

BEYOND_F16 = 0x47C0  # 98304
NAN = 0x7FC0


def main(arguments: list[str] | None = None) -> int:
    """Write the file that the command line asks for."""
    models = sorted(STT_MODELS)
    parser = argparse.ArgumentParser(prog="python -m tools.make_checkpoint", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", choices=models, default=models[0])
    parser.add_argument("--dtype", default="BF16")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--overflow",
        metavar="TENSOR",
        action="append",
        default=[],
        help="plant a value beyond F16's range",
    )
    parser.add_argument("--nan", metavar="TENSOR", action="append", default=[], help="plant a NaN")
    chosen = parser.parse_args(arguments)
    shape = STT_MODELS[chosen.model].shape
    if chosen.layers is not None:
        shape = dataclasses.replace(shape, num_layers=chosen.layers)
    layout = {name: (chosen.dtype, dimensions) for name, dimensions in shape.tensors().items()}
    if unknown := {*chosen.overflow, *chosen.nan} - layout.keys():
        parser.error(f"no such tensor: {', '.join(sorted(unknown))}")
    plant = {name: {1: BEYOND_F16} for name in chosen.overflow} | {
        name: {2: NAN} for name in chosen.nan
    }
    write_checkpoint(chosen.out, layout, seed=chosen.seed, plant=plant)
    print(f"{chosen.out}: {chosen.out.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
