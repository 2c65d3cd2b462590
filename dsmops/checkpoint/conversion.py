"""Carrying out a conversion plan: one pass over the source, in bounded memory, whole or not at all.

Four kinds of work run side by side: reading and casting (here, by a few threads), hashing the
source, hashing the target, writing it (`blocks`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from dsmops.checkpoint import record
from dsmops.checkpoint.blocks import BLOCK_BYTES, BLOCKS, BlockWriter
from dsmops.checkpoint.casts import BLOCK_ELEMENTS, Bits, Cast, make_cast
from dsmops.checkpoint.digests import SourceDigests
from dsmops.checkpoint.losses import LossCounts, LossReport, TensorLoss
from dsmops.checkpoint.plan import (
    CASTABLE,
    ConversionPlan,
    FilePlan,
    OverflowPolicy,
    TensorPlan,
    lay_out,
)
from dsmops.checkpoint.reading import ShardReader
from dsmops.checkpoint.record import ConversionReport, FileRecord
from dsmops.checkpoint.shards import Checkpoint, open_shard
from dsmops.dtypes import CONVERSION_TARGETS, StorageDType
from dsmops.errors import TensorRangeError
from dsmops.files import PartialFile, replace_atomically, require_free_space
from dsmops.progress import SILENT, Progress


def convert(
    plan: ConversionPlan, *, progress: Progress = SILENT, digest: bool = True, fsync: bool = True
) -> ConversionReport:
    """Write the target that `plan` describes, and a record beside it, and return what was lost.

    At any moment each target file is absent, the old one or complete. The index of a sharded target
    goes before its first shard is replaced and comes back last, so a folder with an index is of one
    conversion. On any error before that nothing new is left but empty folders. `digest` adds the
    SHA-256 of every source and target file. `fsync` waits until all is on the disk. Peak memory is
    about 60 MiB whatever the size of files and tensors; only many thousands of tensors take more.

    Raises:
        TensorRangeError: values beyond the target's range, under `OverflowPolicy.FAIL`; names the
            tensors.
        InputError: a source file changed while it was read.
        DiskFullError: checked before the first byte is written, and met while writing.
        TargetBusyError: another process is writing the same target.
    """
    start_s = time.monotonic()
    shards = plan.checkpoint.shards
    with (
        # Entered first, so renamed last. It keeps a second run off the whole target, and tells
        # before the work what cannot be written.
        replace_atomically(plan.record_path, durable=fsync) as kept_record,
        ExitStack() as sources,
        SourceDigests(shards, wanted=digest) as digests,
    ):
        readers = {shard.name: sources.enter_context(ShardReader(shard)) for shard in shards}
        if plan.may_keep_f32:
            forecast = _scan(plan.checkpoint, plan.dtype, readers, progress)
            plan = lay_out(plan, {*plan.kept_f32, *(loss.name for loss in forecast.overflowing)})
        with ExitStack() as targets:
            index = (
                targets.enter_context(replace_atomically(plan.index[0], durable=fsync))
                if plan.index
                else None
            )
            partials = [
                targets.enter_context(replace_atomically(file.path, durable=fsync))
                for file in plan.files
            ]
            # After a killed run's leftovers have been emptied.
            require_free_space(plan.files[0].path.parent, plan.target_bytes)
            progress.start("Converting", plan.target_bytes)
            try:
                losses, target_digests = _fill_all(
                    plan, partials, readers, progress, digest=digest, direct=fsync
                )
                source_digests = digests.results()
            finally:
                progress.finish()
            for reader in readers.values():
                reader.confirm_unchanged()
            if plan.on_overflow is not OverflowPolicy.CLAMP and losses.overflowing:
                raise _range_error(losses, plan.dtype)
            if index is not None and plan.index is not None:
                index.write(plan.index[1].encode())
                # From the first shard renamed to the last, the folder holds some of each: it must
                # not pass for either.
                plan.index[0].unlink(missing_ok=True)
        written = [open_shard(file.path, file.name) for file in plan.files]
        result = ConversionReport(
            dtype=plan.dtype.value,
            on_overflow=plan.on_overflow.value,
            keep_f32=plan.keep_f32,
            kept_f32=plan.kept_f32,
            sources=tuple(map(FileRecord.of, shards, source_digests)),
            targets=tuple(map(FileRecord.of, written, target_digests)),
            tensors=len(plan.tensors),
            losses=losses,
            elapsed_s=time.monotonic() - start_s,
        )
        record.save(result, kept_record)
    return result


def scan(checkpoint: Checkpoint, dtype: StorageDType, *, progress: Progress = SILENT) -> LossReport:
    """Return what converting `checkpoint` to `dtype` would lose, without writing anything.

    Raises:
        InputError: the source changed while it was read.
    """
    with ExitStack() as sources:
        readers = {
            shard.name: sources.enter_context(ShardReader(shard)) for shard in checkpoint.shards
        }
        report = _scan(checkpoint, dtype, readers, progress)
        for reader in readers.values():
            reader.confirm_unchanged()
    return report


def _scan(
    checkpoint: Checkpoint,
    dtype: StorageDType,
    readers: Mapping[str, ShardReader],
    progress: Progress,
) -> LossReport:
    casts = _Casts(clamp=False)
    cast, disk_dtype = casts[dtype]
    discarded = np.empty(BLOCK_ELEMENTS, disk_dtype)
    castable = [
        (shard, tensor) for shard, tensor in checkpoint.stored() if tensor.dtype == CASTABLE
    ]
    losses = []
    progress.start("Scanning", sum(tensor.nbytes for _, tensor in castable))
    try:
        for shard, tensor in castable:
            offset = shard.offset_of(tensor)
            for start in range(0, tensor.elements, BLOCK_ELEMENTS):
                bits = casts.scratch[: tensor.elements - start]
                readers[shard.name].read_into(bits.data, offset + 2 * start)
                cast(bits, discarded[: bits.size])
                progress.advance(bits.nbytes)
            losses.append(
                TensorLoss(**asdict(cast.take_counts()), name=tensor.name, target_dtype=dtype.value)
            )
    finally:
        progress.finish()
    return LossReport.of(losses)


class _Casts(threading.local):
    """The casts of one thread, made when first needed, and the block that they read."""

    def __init__(self, *, clamp: bool) -> None:
        self._clamp = clamp
        self._made: dict[StorageDType, tuple[Cast, np.dtype[Any]]] = {}
        self.scratch: Bits = np.empty(BLOCK_ELEMENTS, "<u2")

    def __getitem__(self, dtype: StorageDType) -> tuple[Cast, np.dtype[Any]]:
        if dtype not in self._made:
            self._made[dtype] = make_cast(dtype, clamp=self._clamp)
        return self._made[dtype]


def _fill_all(
    plan: ConversionPlan,
    partials: Iterable[PartialFile],
    readers: Mapping[str, ShardReader],
    progress: Progress,
    *,
    digest: bool,
    direct: bool,
) -> tuple[LossReport, list[str | None]]:
    """Write every target file; return what was lost, and the digest of each."""
    casts = _Casts(clamp=plan.on_overflow is OverflowPolicy.CLAMP)
    losses: list[TensorLoss] = []
    digests = []
    for file, kept in zip(plan.files, partials, strict=True):
        with BlockWriter(kept.fd, digest=digest, direct=direct) as writer:
            losses += _fill(file, writer, readers, casts, progress)
            digests.append(writer.finish())
    return LossReport.of(losses), digests


Counted = list[tuple[str, LossCounts]]
"""What was lost of parts of tensors, by the name of the tensor."""


def _fill(
    file: FilePlan,
    writer: BlockWriter,
    readers: Mapping[str, ShardReader],
    casts: _Casts,
    progress: Progress,
) -> list[TensorLoss]:
    """Write one target file; return the losses of each tensor that was cast."""
    counts: dict[str, list[LossCounts]] = {
        tensor.target.name: [] for tensor in file.tensors if tensor.cast
    }
    waiting: deque[tuple[int, Future[Counted]]] = deque()

    def take_oldest() -> None:
        nbytes, filled = waiting.popleft()
        for name, found in filled.result():
            counts[name].append(found)
        progress.advance(nbytes)

    for parts in _blocks(file, readers, casts):
        nbytes = sum(part.nbytes for part in parts)
        waiting.append((nbytes, writer.put(nbytes, partial(_fill_block, parts))))
        if len(waiting) == BLOCKS:
            take_oldest()
    while waiting:
        take_oldest()
    dtypes = {tensor.target.name: tensor.target.dtype for tensor in file.tensors}
    return [
        TensorLoss(**asdict(LossCounts.total(found)), name=name, target_dtype=dtypes[name])
        for name, found in counts.items()
    ]


@dataclass(frozen=True, slots=True)
class _Head:
    """Bytes before the data."""

    data: bytes

    @property
    def nbytes(self) -> int:
        return len(self.data)

    def fill(self, view: memoryview) -> Counted:
        view[:] = self.data
        return []


@dataclass(frozen=True, slots=True)
class _Data:
    """`nbytes` of a tensor of the target, from `skip` on: copied, or cast to its dtype."""

    tensor: TensorPlan
    reader: ShardReader
    casts: _Casts
    skip: int
    nbytes: int

    def fill(self, view: memoryview) -> Counted:
        start = self.tensor.shard.offset_of(self.tensor.source)
        if not self.tensor.cast:
            self.reader.read_into(view, start + self.skip)
            return []
        cast, disk_dtype = self.casts[self.tensor.target.storage_dtype]
        item_bytes = disk_dtype.itemsize
        element, begun = divmod(self.skip, item_bytes)
        if begun:
            # The rest of an element whose first bytes are in the block before; counted there.
            rest = self._single(start + 2 * element, cast, disk_dtype)[begun:][: len(view)]
            cast.take_counts()
            view[: len(rest)] = rest
            view = view[len(rest) :]
            element += 1
        while len(view) >= item_bytes:
            count = min(BLOCK_ELEMENTS, len(view) // item_bytes)
            bits = self.casts.scratch[:count]
            self.reader.read_into(bits.data, start + 2 * element)
            cast(bits, np.frombuffer(view, disk_dtype, count))
            view = view[count * item_bytes :]
            element += count
        if view:
            view[:] = self._single(start + 2 * element, cast, disk_dtype)[: len(view)]
        return [(self.tensor.target.name, cast.take_counts())]

    def _single(self, offset: int, cast: Cast, disk_dtype: np.dtype[Any]) -> bytes:
        """Return the bytes of one element, which lies across two blocks."""
        bits, out = self.casts.scratch[:1], np.empty(1, disk_dtype)
        self.reader.read_into(bits.data, offset)
        cast(bits, out)
        return out.tobytes()


_Part = _Head | _Data


def _blocks(
    file: FilePlan, readers: Mapping[str, ShardReader], casts: _Casts
) -> Iterator[list[_Part]]:
    """Yield the parts of each block of a target file; all blocks but the last are whole."""
    parts: list[_Part] = []
    free = BLOCK_BYTES
    wholes: tuple[bytes | TensorPlan, ...] = (file.head, *file.tensors)
    for whole in wholes:
        nbytes = len(whole) if isinstance(whole, bytes) else whole.target.nbytes
        at = 0
        while at < nbytes:
            count = min(free, nbytes - at)
            if isinstance(whole, bytes):
                parts.append(_Head(whole[at : at + count]))
            else:
                parts.append(_Data(whole, readers[whole.shard.name], casts, at, count))
            at += count
            free -= count
            if not free:
                yield parts
                parts, free = [], BLOCK_BYTES
    if parts:
        yield parts


def _fill_block(parts: list[_Part], block: memoryview) -> Counted:
    counted: Counted = []
    for part in parts:
        counted += part.fill(block[: part.nbytes])
        block = block[part.nbytes :]
    return counted


def _range_error(report: LossReport, dtype: StorageDType) -> TensorRangeError:
    worst = [
        f"{loss.name} ({loss.overflowed:,} of {loss.elements:,}, up to {loss.largest_magnitude:g})"
        for loss in report.overflowing[:8]
    ]
    count = len(report.overflowing)
    largest = f"{CONVERSION_TARGETS[dtype].largest:g}"
    return TensorRangeError(
        f"{count} {'tensor holds' if count == 1 else 'tensors hold'} finite values beyond the range"
        f" of {dtype}, {largest}: {', '.join(worst)}"
        + (f" and {count - len(worst)} more" if count > len(worst) else ""),
        hint=(
            f"Choose what becomes of them: --on-overflow clamp holds them at {largest}, keep-f32"
            " stores these tensors as F32."
        ),
    )
