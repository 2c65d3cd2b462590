"""Compare a target with its source: every tensor, every pattern.

The comparison uses tables, and not the code that converted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsmops.checkpoint.casts import BLOCK_ELEMENTS, disk_dtype, patterns_of
from dsmops.checkpoint.header import TensorInfo
from dsmops.checkpoint.plan import CASTABLE
from dsmops.checkpoint.reading import ShardReader
from dsmops.checkpoint.shards import Checkpoint, Shard, open_checkpoint
from dsmops.dtypes import CONVERSION_TARGETS, StorageDType
from dsmops.errors import InputError
from dsmops.progress import SILENT, Progress

Patterns = NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between the target and what converting the source gives.

    `tensor` is None when the difference concerns the whole checkpoint. `elements` counts what
    differs (bytes, in a copied tensor); None where shapes, dtypes or names already disagree.
    """

    tensor: str | None
    message: str
    elements: int | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was compared, and every difference found, in the source's order.

    `converted` tensors were compared value by value, `untouched` ones byte by byte; NaN matches NaN
    whatever its payload.
    """

    source: Path
    target: Path
    tensors: int
    converted: int
    untouched: int
    compared_bytes: int
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        return not self.differences


def verify(source: Path, target: Path, *, progress: Progress = SILENT) -> VerifyReport:
    """Compare every tensor of `target` with what converting `source` must give.

    Needs no record, so targets of other programs can be checked too. BF16 tensors may be BF16, F16
    or F32 in the target; F16 is expected to be rounded to nearest even, with values beyond its
    range infinite, or ±65504 where the target's metadata says that they were clamped. Source bytes
    are read once; memory is bounded.

    Raises:
        HeaderError, CheckpointError, SourceError: one of the two cannot be read.
        InputError: they are the same file, or one changed meanwhile.
    """
    before, after = open_checkpoint(source), open_checkpoint(target)
    if {shard.stamp for shard in before.shards} & {shard.stamp for shard in after.shards}:
        raise InputError(
            f"{source} and {target} are the same file",
            hint="Name the source and what it was converted to.",
        )
    differences = list(_layout_differences(before, after))
    comparable = [
        name
        for name, tensor in before.tensors.items()
        if name in after.tensors and _comparable(tensor, after.tensors[name])
    ]
    progress.start("Verifying", sum(before.tensors[name].nbytes for name in comparable))
    try:
        with ExitStack() as stack:
            readers = {
                shard: stack.enter_context(ShardReader(shard))
                for shard in {*before.shards, *after.shards}
            }
            for name in comparable:
                source_shard, target_shard = before.shard_of[name], after.shard_of[name]
                found = _compare_data(
                    _Located(before.tensors[name], source_shard, readers[source_shard]),
                    _Located(after.tensors[name], target_shard, readers[target_shard]),
                    progress,
                )
                if found is not None:
                    differences.append(found)
            for reader in readers.values():
                reader.confirm_unchanged()
    finally:
        progress.finish()
    converted = sum(before.tensors[name].dtype != after.tensors[name].dtype for name in comparable)
    return VerifyReport(
        source=source,
        target=target,
        tensors=len(before.tensors),
        converted=converted,
        untouched=len(comparable) - converted,
        compared_bytes=sum(
            before.tensors[name].nbytes + after.tensors[name].nbytes for name in comparable
        ),
        differences=tuple(differences),
    )


@dataclass(frozen=True, slots=True)
class _Located:
    """One tensor on one side, and the open file that it is in."""

    tensor: TensorInfo
    shard: Shard
    reader: ShardReader

    def read_into(self, items: Patterns, first: int) -> None:
        self.reader.read_into(
            items.data, self.shard.offset_of(self.tensor) + first * items.itemsize
        )


def _comparable(source: TensorInfo, target: TensorInfo) -> bool:
    castable = source.dtype == CASTABLE and target.dtype in CONVERSION_TARGETS
    return source.shape == target.shape and (source.dtype == target.dtype or castable)


def _layout_differences(before: Checkpoint, after: Checkpoint) -> Iterator[Difference]:
    for name, tensor in before.tensors.items():
        other = after.tensors.get(name)
        if other is None:
            yield Difference(name, "missing in the target")
        elif other.shape != tensor.shape:
            yield Difference(name, f"shape {list(tensor.shape)} became {list(other.shape)}")
        elif not _comparable(tensor, other):
            yield Difference(name, f"{tensor.dtype} became {other.dtype}, which no conversion does")
    known = {tensor.name for _, tensor in before.stored()}
    for name in after.tensors:
        if name not in known:
            yield Difference(name, "not in the source")
    kept = {key: text for shard in after.shards for key, text in shard.header.metadata.items()}
    for shard in before.shards:
        for key, text in shard.header.metadata.items():
            if not key.startswith("dsmops.") and kept.get(key) != text:
                yield Difference(
                    None,
                    f"metadata {key!r} is {'changed' if key in kept else 'missing'} in the target",
                )


def _compare_data(source: _Located, target: _Located, progress: Progress) -> Difference | None:
    """Return how the data of one tensor differ, or None.

    What was cast is compared by elements, what was copied by bytes.
    """
    was, became = source.tensor.storage_dtype, target.tensor.storage_dtype
    cast = was != became
    item, there_dtype = (
        (disk_dtype(was), disk_dtype(became)) if cast else (np.dtype("u1"), np.dtype("u1"))
    )
    clamped = target.shard.header.metadata.get("dsmops.on_overflow") == "clamp"
    count = source.tensor.elements if cast else source.tensor.nbytes
    here, there = (
        np.empty(min(count, BLOCK_ELEMENTS), item),
        np.empty(min(count, BLOCK_ELEMENTS), there_dtype),
    )
    different, first = 0, ""
    for start in range(0, count, BLOCK_ELEMENTS):
        before, after = here[: count - start], there[: count - start]
        source.read_into(before, start)
        target.read_into(after, start)
        wanted = before if not cast else _expected(before, became, clamped=clamped)
        wrong = wanted != after
        if cast and wrong.any():
            wrong &= ~(_is_nan(wanted, became) & _is_nan(after, became))
        if wrong.any():
            at = int(wrong.argmax())
            digits = 2 + 2 * wanted.itemsize
            first = first or (
                f"{start + at}: {before[at]:#0{2 + 2 * before.itemsize}x} became"
                f" {after[at]:#0{digits}x}" + (f", not {wanted[at]:#0{digits}x}" if cast else "")
            )
            different += int(np.count_nonzero(wrong))
        progress.advance(before.nbytes)
    if not different:
        return None
    unit, what = ("element", f"{was} to {became}") if cast else ("byte", f"{was}, copied")
    return Difference(
        source.tensor.name,
        f"{different} of {count} {unit}s differ ({what}), first {unit} {first}",
        different,
    )


def _expected(patterns: Patterns, dtype: StorageDType, *, clamped: bool) -> Patterns:
    """Return what casting a block of BF16 patterns to `dtype` must give."""
    target = CONVERSION_TARGETS[dtype]
    if target.overflows:
        return patterns_of(dtype, clamp=clamped).take(patterns, mode="clip")
    # Nothing to round: 0.07 ms a block of 2**18, and 5 ms by the table.
    expected: Patterns = target.encode((patterns.astype("<u4") << np.uint32(16)).view("<f4"))
    return expected


def _is_nan(patterns: Patterns, dtype: StorageDType) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.isnan(CONVERSION_TARGETS[dtype].decode(patterns))
    return found
