"""Checking a target against its source: every tensor, every pattern, by table look-up and not by the code that converted it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsmops.checkpoint.casts import BLOCK_ELEMENTS, OVERFLOWED, f16_patterns, pattern_kinds
from dsmops.checkpoint.dtypes import CASTABLE
from dsmops.checkpoint.header import TensorInfo
from dsmops.checkpoint.reading import ShardReader
from dsmops.checkpoint.shards import Checkpoint, Shard, open_checkpoint
from dsmops.errors import InputError
from dsmops.facts import DType
from dsmops.progress import SILENT, Progress

BLOCK_BYTES = 2 * BLOCK_ELEMENTS


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which the target is not what converting the source gives. `tensor` is None when it concerns the whole checkpoint.

    `elements` counts differing elements; None where shapes, dtypes or names already disagree.
    """

    tensor: str | None
    message: str
    elements: int | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was compared, and every difference found, in the source's order.

    `converted` tensors were compared value by value, `untouched` ones byte by byte; NaN matches NaN whatever its payload.
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

    Needs no record, so targets of other programs can be checked too. BF16 tensors may be BF16, F16 or F32 in the target; F16 is
    expected to be rounded to nearest even, with values beyond its range infinite, or ±65504 where the target's metadata says that they
    were clamped. Source bytes are read once; memory is bounded.

    Raises:
        HeaderError, CheckpointError, SourceError: one of the two cannot be read.
        InputError: they are the same file, or one changed meanwhile.
    """
    before, after = open_checkpoint(source), open_checkpoint(target)
    if {shard.stamp for shard in before.shards} & {shard.stamp for shard in after.shards}:
        raise InputError(f"{source} and {target} are the same file", hint="Name the source and what it was converted to.")
    differences = list(_layout_differences(before, after))
    comparable = [name for name, tensor in before.tensors.items() if name in after.tensors and _comparable(tensor, after.tensors[name])]
    progress.start("Verifying", sum(before.tensors[name].nbytes for name in comparable))
    try:
        with ExitStack() as stack:
            readers = {shard: stack.enter_context(ShardReader(shard)) for shard in {*before.shards, *after.shards}}
            for name in comparable:
                pair = _Pair(before, after, name, readers)
                found = pair.compare(progress)
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
        compared_bytes=sum(before.tensors[name].nbytes + after.tensors[name].nbytes for name in comparable),
        differences=tuple(differences),
    )


def _comparable(source: TensorInfo, target: TensorInfo) -> bool:
    castable = source.dtype == CASTABLE and target.dtype in (DType.F16, DType.F32)
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
    for name in after.tensors:
        if name not in before.tensors:
            yield Difference(name, "not in the source")
    kept = {key: text for shard in after.shards for key, text in shard.header.metadata.items()}
    for shard in before.shards:
        for key, text in shard.header.metadata.items():
            if not key.startswith("dsmops.") and kept.get(key) != text:
                yield Difference(None, f"metadata {key!r} is {'changed' if key in kept else 'missing'} in the target")


class _Pair:
    """One tensor in source and target."""

    def __init__(self, before: Checkpoint, after: Checkpoint, name: str, readers: dict[Shard, ShardReader]) -> None:
        self._source, self._target = before.tensors[name], after.tensors[name]
        self._source_shard, self._target_shard = before.shard_of[name], after.shard_of[name]
        self._readers = readers
        self._clamped = self._target_shard.header.metadata.get("dsmops.on_overflow") == "clamp"

    def compare(self, progress: Progress) -> Difference | None:
        """Return how the tensor's data differ, or None."""
        different, first = 0, ""
        cast = self._source.dtype != self._target.dtype
        for start, source, target in self._blocks():
            # What is copied is compared as bytes, what is cast as elements.
            expected = self._expected(source) if cast else source
            wrong = expected != target
            if cast and wrong.any():
                wrong &= ~(_is_nan(expected) & _is_nan(target))
            if wrong.any():
                if not different:
                    index = int(wrong.argmax())
                    unit = "element" if cast else "byte"
                    first = f"first at {unit} {start + index}: {source[index]:#06x} became {target[index]:#06x}, not {expected[index]:#06x}"
                different += int(np.count_nonzero(wrong))
            progress.advance(source.nbytes)
        if not different:
            return None
        what = f"{self._source.dtype} to {self._target.dtype}" if cast else f"{self._source.dtype}, not converted"
        return Difference(self._source.name, f"{different} of {self._source.elements} differ ({what}), {first}", different)

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]]:
        """Yield (number of the first item, source items, target items); items are bytes, or elements where the tensor was cast."""
        cast = self._source.dtype != self._target.dtype
        source_dtype, target_dtype = ("<u2", "<u4" if self._target.dtype == DType.F32 else "<u2") if cast else ("u1", "u1")
        count = self._source.elements if cast else self._source.nbytes
        size = BLOCK_ELEMENTS if cast else BLOCK_BYTES
        source, target = np.empty(min(size, count), source_dtype), np.empty(min(size, count), target_dtype)
        for start in range(0, count, size):
            here, there = source[: count - start], target[: count - start]
            self._readers[self._source_shard].read_into(here.data, self._source_shard.offset_of(self._source) + start * here.itemsize)
            self._readers[self._target_shard].read_into(there.data, self._target_shard.offset_of(self._target) + start * there.itemsize)
            yield start, here, there

    def _expected(self, source: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        if self._target.dtype == DType.F32:
            return source.astype(np.uint32) << np.uint32(16)
        expected: NDArray[np.uint16] = _table(self._clamped)[source]
        return expected


def _table(clamped: bool) -> NDArray[np.uint16]:
    table = f16_patterns()
    return np.where(pattern_kinds() == OVERFLOWED, table - np.uint16(1), table) if clamped else table


def _is_nan(patterns: NDArray[np.unsignedinteger]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.isnan(patterns.view(np.float16 if patterns.itemsize == 2 else np.float32))
    return found
