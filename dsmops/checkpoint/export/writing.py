"""Carry out an export plan with a few threads, in bounded memory.

The target is written under a partial name and renamed when it is complete. A journal beside it
names the tensors that are on the disk, so that a killed run is taken up where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from dsmops.checkpoint.digests import SourceDigests
from dsmops.checkpoint.export.accuracy import Errors, TensorErrors, total
from dsmops.checkpoint.export.encodings import Bytes, Encoding, Items
from dsmops.checkpoint.export.plan import SOURCE_ITEM_BYTES, ExportPlan, ExportTensor
from dsmops.checkpoint.export.record import ExportReport, save
from dsmops.checkpoint.reading import ShardReader
from dsmops.checkpoint.record import FileRecord
from dsmops.errors import DsmopsError, TensorRangeError
from dsmops.files import (
    open_regular,
    partial_path,
    replace_atomically,
    require_free_space,
    sha256,
)
from dsmops.progress import SILENT, Progress

BLOCK_VALUES = 130_048
"""Values per block: large enough that numpy outweighs Python, small enough for a cache. Not a power
of two, so that the rows which encodings put above each other do not share a few lines of it."""
BLOCKS_PER_TASK = 8
"""Handing a task to a thread costs as much as a tenth of the work on a block."""
THREADS = min(4, os.cpu_count() or 1)
"""Blocks in work at once; each holds about 4 MiB."""
_LARGEST_KEPT_BYTES = 16 << 20
_JOURNAL_BYTES = 256 << 20
"""Target bytes after which finished tensors are noted in the journal."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def export(
    plan: ExportPlan, *, progress: Progress = SILENT, digest: bool = True, fsync: bool = True
) -> ExportReport:
    """Write the target that `plan` describes and a record beside it; return the errors made.

    The target is absent, the old one or complete at any moment. After a kill, a full disk aside,
    the next run keeps the tensors that were finished. `digest` adds the SHA-256 of every file.
    `fsync` waits until all is on the disk, also before tensors count as finished. Without it, a run
    that goes on after a disk was detached or failed keeps tensors which that disk lost.
    Peak memory does not depend on the size of files or tensors.

    Raises:
        TensorRangeError: values that the target's dtype cannot hold, or that are not finite.
        InputError: a source file changed while it was read.
        DiskFullError: checked before the first byte is written, and met while writing.
        TargetBusyError: another process is writing the same target.
    """
    start_s = time.monotonic()
    shards = plan.checkpoint.shards
    with (
        replace_atomically(plan.record_path, durable=fsync) as kept_record,
        ExitStack() as sources,
        SourceDigests(shards, wanted=digest) as digests,
    ):
        readers = {shard.name: sources.enter_context(ShardReader(shard)) for shard in shards}
        with replace_atomically(plan.target, durable=fsync, resume=True) as partial:
            journal = _Journal.open(plan, partial.fd, fsync=fsync)
            held = os.fstat(partial.fd).st_blocks * 512
            require_free_space(plan.target.parent, max(0, plan.target_bytes - held))
            progress.start("Exporting", plan.source_bytes)
            try:
                found = _fill(plan, partial.fd, readers, journal, progress)
                source_digests = digests.results()
                for reader in readers.values():
                    reader.confirm_unchanged()
            except DsmopsError:
                # What is wrong with the source stays wrong: nothing to take up again.
                os.ftruncate(partial.fd, 0)
                journal.remove()
                raise
            finally:
                progress.finish()
            target_digest = sha256(partial.path) if digest else None
        journal.remove()
        status = plan.target.stat()
        report = ExportReport(
            runtime=plan.runtime.value,
            quant=plan.quant,
            sources=tuple(map(FileRecord.of, shards, source_digests)),
            target=FileRecord(
                plan.target.name,
                status.st_size,
                status.st_mtime_ns,
                hashlib.sha256(plan.head).hexdigest(),
                target_digest,
            ),
            resumed_tensors=len(journal.known),
            tensors=found,
            totals=total(found),
            elapsed_s=time.monotonic() - start_s,
        )
        save(report, kept_record)
    return report


def _fill(
    plan: ExportPlan,
    fd: int,
    readers: Mapping[str, ShardReader],
    journal: _Journal,
    progress: Progress,
) -> tuple[TensorErrors, ...]:
    data_start = len(plan.head)
    os.ftruncate(fd, plan.target_bytes)
    _write_at(fd, plan.head, 0)
    found = []
    _keep_freed_memory()
    pool = ThreadPoolExecutor(THREADS)
    try:
        for tensor in plan.tensors:
            known = journal.known.get(tensor.name)
            if known is None:
                known = TensorErrors(tensor.name, tensor.encoding.name, Errors())
                tasks = _tasks(tensor, readers[tensor.shard.name], fd, data_start)
                for task, errors in zip(tasks, pool.map(_Task.work, tasks), strict=True):
                    known.errors.add(errors)
                    progress.advance(task.source_bytes)
                _require_held(tensor, known.errors)
                journal.note(known, sum(piece.nbytes for piece in tensor.pieces))
            else:
                progress.advance(tensor.source_bytes)
            found.append(known)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return tuple(found)


def _keep_freed_memory() -> None:
    """Let glibc hand a block's arrays to the next block, and not back to the system.

    It maps large arrays page by page and unmaps them when they are freed, until it has seen a
    larger one freed (`M_MMAP_THRESHOLD` of mallopt(3)). Without this, page faults take as long as
    the work.
    """
    np.empty(_LARGEST_KEPT_BYTES, np.uint8)


@dataclass(frozen=True, slots=True)
class _Task:
    """Neighbouring blocks of a tensor, by first value and number of values, for one thread."""

    tensor: ExportTensor
    reader: ShardReader
    fd: int
    data_start: int
    blocks: tuple[tuple[int, int], ...]

    @property
    def source_bytes(self) -> int:
        return sum(count for _, count in self.blocks) * SOURCE_ITEM_BYTES[self.tensor.source.dtype]

    def work(self) -> Errors:
        """Read, encode and write the blocks; return the errors made."""
        errors = Errors()
        with np.errstate(all="ignore"):
            for first, count in self.blocks:
                self._export_block(first, count, errors)
        return errors

    def _export_block(self, first: int, count: int, errors: Errors) -> None:
        encoding = self.tensor.encoding
        items = read_items(self.tensor, self.reader, first, count)
        encoded = encoding.encode(encoding.arrange(items.reshape(-1, encoding.group)))
        errors.note(encoded.source, encoded.values)
        for piece, info, data in zip(
            encoding.pieces, self.tensor.pieces, encoded.pieces, strict=True
        ):
            offset = first // encoding.group * piece.group_bytes
            _write_at(self.fd, data, self.data_start + info.begin + offset)


def _tasks(tensor: ExportTensor, reader: ShardReader, fd: int, data_start: int) -> list[_Task]:
    ranges = block_ranges(tensor.source.elements, tensor.encoding)
    return [
        _Task(tensor, reader, fd, data_start, blocks)
        for blocks in iter(lambda: tuple(islice(ranges, BLOCKS_PER_TASK)), ())
    ]


def block_ranges(elements: int, encoding: Encoding) -> Iterator[tuple[int, int]]:
    """Yield first value and number of values of each block; blocks hold whole groups."""
    step = max(1, BLOCK_VALUES // encoding.group) * encoding.group
    for first in range(0, elements, step):
        yield first, min(step, elements - first)


def read_items(tensor: ExportTensor, reader: ShardReader, first: int, count: int) -> Items:
    """Return `count` items of the source tensor from `first` on."""
    dtype = {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}[tensor.source.dtype]
    items: Items = np.empty(count, dtype)
    reader.read_into(items.data, tensor.source_offset(first))
    return items


def _require_held(tensor: ExportTensor, errors: Errors) -> None:
    if errors.not_finite and tensor.encoding.group > 1:
        raise TensorRangeError(
            f"{tensor.source.name} holds {errors.not_finite:,} values that are NaN or infinite;"
            f" {tensor.encoding.name} has no code for them",
            hint="Get an undamaged checkpoint: `dsmops inspect --scan` counts such values.",
        )
    if errors.overflowed:
        raise TensorRangeError(
            f"{tensor.source.name} holds {errors.overflowed:,} values that {tensor.encoding.name}"
            " cannot hold",
            hint="Export it to another program or quantisation, or convert it to F32.",
        )


def _write_at(fd: int, data: bytes | Bytes, at: int) -> None:
    contiguous = data if isinstance(data, bytes) else np.ascontiguousarray(data).data
    view = memoryview(contiguous).cast("B")
    while view:
        count = os.pwrite(fd, view, at)
        view, at = view[count:], at + count


class _Journal:
    """Notes which tensors of a partial target are complete, with their errors.

    Its first line is the plan's key: notes of another source or recipe are not used. The noted
    tensors are on the disk. Without `fsync` they may still be in memory only, so such a note counts
    until the machine is restarted. A disk that was detached or failed meanwhile is not seen: what
    it lost counts as finished.
    """

    def __init__(
        self, path: Path, key: str, fd: int, known: Mapping[str, TensorErrors], *, fsync: bool
    ) -> None:
        self.known = known
        self._path = path
        self._key = key
        self._fd = fd
        self._until_restart_of = None if fsync else _boot_id()
        self._waiting: list[TensorErrors] = []
        self._waiting_bytes = 0

    @classmethod
    def open(cls, plan: ExportPlan, fd: int, *, fsync: bool) -> _Journal:
        """Return the journal of a partial target, with what an earlier run left in it."""
        known = _kept(plan, os.fstat(fd).st_size)
        if not known:
            # Not a leftover of this plan.
            os.ftruncate(fd, 0)
        journal = cls(plan.journal_path, plan.key, fd, known, fsync=fsync)
        if not known:
            journal.remove()
        return journal

    def remove(self) -> None:
        """Remove the file: no run continues from it."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def note(self, tensor: TensorErrors, nbytes: int) -> None:
        """Note a finished tensor, once enough of them make it worth a write and perhaps a wait."""
        self._waiting.append(tensor)
        self._waiting_bytes += nbytes
        if self._waiting_bytes < _JOURNAL_BYTES:
            return
        validity = {"boot_id": self._until_restart_of}
        if self._until_restart_of is None:
            os.fdatasync(self._fd)
        new = not self._path.exists()
        with self._path.open("a", encoding="utf-8") as file:
            lines: Iterable[object] = (asdict(one) | validity for one in self._waiting)
            file.writelines(
                f"{json.dumps(line)}\n" for line in ([self._key, *lines] if new else lines)
            )
            file.flush()
            if self._until_restart_of is None:  # A note must not outlive its tensor.
                os.fsync(file.fileno())
        self._waiting, self._waiting_bytes = [], 0


def can_resume(plan: ExportPlan) -> bool:
    """Return whether the next `export` of this plan keeps tensors of one that was stopped."""
    try:
        return bool(_kept(plan, partial_path(plan.target).stat().st_size))
    except OSError:
        return False


def _kept(plan: ExportPlan, partial_bytes: int) -> dict[str, TensorErrors]:
    """Return the tensors that are complete in a partial target of this plan, by name."""
    if partial_bytes != plan.target_bytes:
        return {}
    return dict(_read_notes(plan.journal_path, plan.key))


def _read_notes(path: Path, key: str) -> Iterator[tuple[str, TensorErrors]]:
    try:
        with open_regular(path) as file:
            first, *lines = file.read().decode().splitlines()
        if json.loads(first) != key:
            return
    except (OSError, ValueError):
        return
    for line in lines:
        # The last line may be cut off.
        with suppress(ValueError, KeyError, TypeError):
            body = json.loads(line)
            if body["boot_id"] in (None, _boot_id()):
                tensor = TensorErrors.from_json(body)
                yield tensor.name, tensor


def _boot_id() -> str | None:
    """Return what names the time since the machine was started, None where no file tells it."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None
