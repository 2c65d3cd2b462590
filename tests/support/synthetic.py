"""Checkpoints of any layout with values like a trained model's, for tests, benchmarks and
demonstrations. Streaming, deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsmops.checkpoint.header import TensorInfo, render_header
from dsmops.dtypes import StorageDType
from dsmops.files import replace_atomically
from dsmops.progress import SILENT, Progress

POOL_ELEMENTS = 1 << 20
OUTLIERS_PER_MILLION = 20
"""Weights far outside the bulk, as trained models have them; here ten times as large."""

Layout = Mapping[str, tuple[str, tuple[int, ...]]]


def write_checkpoint(
    path: Path,
    tensors: Layout,
    *,
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
    plant: Mapping[str, Mapping[int, int]] | None = None,
    progress: Progress = SILENT,
) -> None:
    """Write a safetensors file with tensors of the given names, dtypes and shapes, in the given
    order.

    Matrices are normally distributed with a deviation of 1/√(last dimension) and a few outliers;
    one-dimensional tensors and those named `alpha` lie around 1, as norms do. Integers and bytes
    are arbitrary. The same arguments give the same bytes with one numpy release. `plant` puts
    patterns at element numbers of 16-bit tensors: `{"emb.0.weight": {5: 0x7FC0}}` is a NaN. Memory
    is bounded at any size.

    Raises:
        KeyError: a dtype is not one of the format's.
    """
    entries = planned_tensors(tensors)
    rng = np.random.default_rng(seed)
    pool = rng.standard_normal(POOL_ELEMENTS, dtype=np.float32)
    pool[rng.integers(POOL_ELEMENTS, size=POOL_ELEMENTS * OUTLIERS_PER_MILLION // 1_000_000)] *= 10
    planted = plant or {}
    progress.start("Generating", sum(entry.nbytes for entry in entries))
    try:
        with replace_atomically(path, durable=False) as partial:
            partial.write(render_header(entries, metadata or {}))
            for entry in entries:
                first = 0
                for block in _blocks(entry, pool, rng):
                    for index, pattern in planted.get(entry.name, {}).items():
                        if first <= index < first + block.size:
                            block.view("<u2")[index - first] = pattern
                    partial.write(block.data)
                    progress.advance(block.nbytes)
                    first += block.size
    finally:
        progress.finish()


def planned_tensors(tensors: Layout) -> list[TensorInfo]:
    """Return the header entries of `tensors`, their data following each other in the given
    order.
    """
    entries, reached = [], 0
    for name, (dtype, shape) in tensors.items():
        stored = StorageDType[dtype]
        nbytes = math.prod(shape) * stored.bits // 8
        entries.append(TensorInfo(name, stored, shape, reached, reached + nbytes))
        reached += nbytes
    return entries


def _blocks(
    entry: TensorInfo, pool: NDArray[np.float32], rng: np.random.Generator
) -> Iterable[NDArray[np.generic]]:
    """Yield the tensor's data in blocks: stretches of the pool from random places, scaled."""
    if entry.dtype not in {"BF16", "F16", "F32"}:
        for start in range(0, entry.nbytes, POOL_ELEMENTS):
            yield rng.integers(
                2 if entry.dtype == "BOOL" else 256,
                size=min(POOL_ELEMENTS, entry.nbytes - start),
                dtype=np.uint8,
            )
        return
    is_norm = len(entry.shape) < 2 or entry.name.endswith("alpha")
    scale = np.float32(0.1 if is_norm else 1 / math.sqrt(max(entry.shape[-1], 1)))
    left = entry.elements
    while left:
        start = int(rng.integers(POOL_ELEMENTS))
        values = pool[start : start + left] * scale
        if is_norm:
            values += np.float32(1)
        yield _stored(values, entry.dtype)
        left -= values.size


def _stored(values: NDArray[np.float32], dtype: str) -> NDArray[np.generic]:
    if dtype == "F32":
        return values
    if dtype == "F16":
        return values.astype(np.float16)
    # The upper half of F32; truncating instead of rounding makes no difference to made-up values.
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
