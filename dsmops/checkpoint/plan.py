"""Plan a conversion before a byte is written.

The plan says which tensor becomes what, where it goes, and what the headers contain.
"""

from __future__ import annotations

import fnmatch
import json
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from dsmops.checkpoint.header import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    TensorInfo,
    render_header,
)
from dsmops.checkpoint.identity import ModelIdentity, identify
from dsmops.checkpoint.shards import Checkpoint, Shard, open_checkpoint
from dsmops.dtypes import CONVERSION_TARGETS, StorageDType
from dsmops.errors import CheckpointError, InputError
from dsmops.files import is_same_file, os_errors, partial_path

RECIPE = 1
"""Increased when the same source and options begin to give other bytes. Targets of an older recipe
are then out of date."""

KYUTAI_LICENCE = "CC-BY-4.0"
"""The licence of every checkpoint that Kyutai publishes; converting does not change it.

It goes into the metadata of recognised models."""


CASTABLE = StorageDType.BF16
"""The one dtype that `convert` changes; tensors of every other dtype are copied unchanged."""

_Placed = tuple[Shard, TensorInfo, StorageDType, int]
"""A tensor of the source with the dtype and the bytes of its target."""


class OverflowPolicy(StrEnum):
    """What to do with finite values beyond the target's range.

    Stop, clamp them to the largest value, or keep the tensor as F32.
    """

    FAIL = "fail"
    CLAMP = "clamp"
    KEEP_F32 = "keep-f32"


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the target, made from `source` in `shard`.

    It is copied unchanged where the dtype stays, and cast otherwise.
    """

    shard: Shard
    source: TensorInfo
    target: TensorInfo

    @property
    def cast(self) -> bool:
        return self.source.dtype != self.target.dtype


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One file of the target: its name, all bytes before the data, and its tensors.

    The tensors are in the order of their data.
    """

    name: str
    path: Path
    head: bytes = field(repr=False)
    tensors: tuple[TensorPlan, ...] = field(repr=False)

    @property
    def nbytes(self) -> int:
        return len(self.head) + sum(tensor.target.nbytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """All that `convert` will do.

    `index` is the target's index file and its text, None for a single file.

    `kept_f32` are the BF16 tensors that become F32 although `dtype` is another; with
    `OverflowPolicy.KEEP_F32` more may join once the values have been looked at.
    """

    checkpoint: Checkpoint
    identity: ModelIdentity
    target: Path
    dtype: StorageDType
    on_overflow: OverflowPolicy
    keep_f32: tuple[str, ...]
    kept_f32: tuple[str, ...]
    files: tuple[FilePlan, ...]
    index: tuple[Path, str] | None

    @property
    def may_keep_f32(self) -> bool:
        """Whether the values decide which tensors become F32 instead of `dtype`."""
        return (
            self.on_overflow is OverflowPolicy.KEEP_F32 and CONVERSION_TARGETS[self.dtype].overflows
        )

    @property
    def tensors(self) -> tuple[TensorPlan, ...]:
        return tuple(tensor for file in self.files for tensor in file.tensors)

    @property
    def target_bytes(self) -> int:
        return sum(file.nbytes for file in self.files)

    @property
    def record_path(self) -> Path:
        """Where the record of this conversion is kept, beside the target (or beside its index)."""
        main = self.index[0] if self.index else self.target
        return main.with_name(f"{main.name}.dsmops.json")

    def written_paths(self) -> Iterator[Path]:
        """Yield every path that carrying this out writes to, on the way too."""
        for path in (
            *(file.path for file in self.files),
            *([self.index[0]] if self.index else []),
            self.record_path,
        ):
            yield from (path, partial_path(path))


def plan_conversion(
    source: Path,
    target: Path,
    dtype: StorageDType,
    *,
    on_overflow: OverflowPolicy = OverflowPolicy.FAIL,
    keep_f32: Sequence[str] = (),
) -> ConversionPlan:
    """Return the plan for converting the BF16 tensors of `source` to `dtype`.

    Reads headers only, writes nothing.

    A `target` ending in `.safetensors` is one file, whatever the source is; an existing folder, or
    any other name for a sharded source, is a folder that gets the source's own file names and
    index. `keep_f32` are shell patterns; BF16 tensors that match become F32.

    Raises:
        InputError: the target is the source, or no place for a checkpoint; `dtype` cannot be made;
            a pattern matches nothing.
        HeaderError, CheckpointError, SourceError: the source cannot be used.
    """
    _require_target(dtype)
    checkpoint = open_checkpoint(source)
    identity = identify(checkpoint.tensors)
    kept = _matching(checkpoint, keep_f32)
    plan = ConversionPlan(
        checkpoint, identity, target, dtype, on_overflow, tuple(keep_f32), (), (), None
    )
    plan = lay_out(replace(plan, target=_target_path(checkpoint, target)), kept)
    refuse_overwriting_source(plan)
    return plan


class _Writing(Protocol):
    """A plan that reads a checkpoint and writes files."""

    @property
    def checkpoint(self) -> Checkpoint: ...

    def written_paths(self) -> Iterator[Path]: ...


def require_apart(report: Path, plan: _Writing) -> None:
    """Check that `report`, a file to be written besides, is not a file that `plan` reads or writes.

    Raises:
        InputError: it is.
    """
    sources = (shard.path for shard in plan.checkpoint.shards)
    index = [plan.checkpoint.index.path] if plan.checkpoint.index else []
    for path in (*sources, *index, *plan.written_paths()):
        with os_errors(path):
            same = report.resolve() == path.resolve() or is_same_file(report, path)
        if same:
            raise InputError(
                f"the report would overwrite {path}",
                hint="Name another file for the report.",
                code="checkpoint.same",
            )


def refuse_overwriting_source(plan: _Writing) -> None:
    """Check that no file that `plan` writes is one that it reads, under any name.

    Raises:
        InputError: one is.
    """
    sources = {(shard.stamp.device, shard.stamp.inode) for shard in plan.checkpoint.shards}
    for path in plan.written_paths():
        with os_errors(path):
            status = path.stat() if path.exists() else None
        if status is not None and (status.st_dev, status.st_ino) in sources:
            raise InputError(
                f"{path} is the source itself",
                hint="Name another target: the source is never changed.",
                code="checkpoint.same",
            )


def lay_out(plan: ConversionPlan, kept_f32: Collection[str]) -> ConversionPlan:
    """Return `plan` with its files laid out again, the tensors named in `kept_f32` as F32."""
    checkpoint = plan.checkpoint
    if checkpoint.index is None or plan.target.suffix == ".safetensors":
        parts: list[tuple[str, Path, Sequence[Shard]]] = [
            (plan.target.name, plan.target, checkpoint.shards)
        ]
    else:
        parts = [(shard.name, plan.target / shard.name, (shard,)) for shard in checkpoint.shards]
    files = tuple(_lay_out_file(plan, *part, kept_f32) for part in parts)
    index = None
    if checkpoint.index is not None and plan.target.suffix != ".safetensors":
        total = sum(tensor.target.nbytes for file in files for tensor in file.tensors)
        body = {
            "metadata": {**checkpoint.index.metadata, "total_size": total},
            "weight_map": checkpoint.index.weight_map,
        }
        index = (
            plan.target / checkpoint.index.path.name,
            json.dumps(body, indent=2, ensure_ascii=False) + "\n",
        )
    cast = (tensor.source.name for file in files for tensor in file.tensors if tensor.cast)
    return replace(
        plan,
        files=files,
        index=index,
        kept_f32=tuple(name for name in dict.fromkeys(cast) if name in kept_f32),
    )


def _lay_out_file(
    plan: ConversionPlan, name: str, path: Path, shards: Sequence[Shard], kept_f32: Collection[str]
) -> FilePlan:
    found: dict[str, _Placed] = {}
    for shard in shards:
        for source in shard.header.in_data_order():
            if source.name in found:
                raise CheckpointError(
                    f"tensor {source.name!r} is in more than one shard of {plan.checkpoint.path}",
                    hint="Convert to a folder instead of one file.",
                )
            dtype, nbytes = source.storage_dtype, source.nbytes
            if dtype == CASTABLE:
                dtype = StorageDType.F32 if source.name in kept_f32 else plan.dtype
                nbytes = source.elements * dtype.bits // 8
            found[source.name] = (shard, source, dtype, nbytes)
    placed = {}
    reached = 0
    for shard, source, dtype, nbytes in _aligned(found.values()):
        target = TensorInfo(source.name, dtype, source.shape, reached, reached + nbytes)
        placed[source.name] = TensorPlan(shard, source, target)
        reached += nbytes
    in_header_order = (placed[name].target for shard in shards for name in shard.header.tensors)
    head = render_header(in_header_order, _metadata(plan, shards))
    if len(head) > LENGTH_BYTES + MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path} would have a header of {len(head) - LENGTH_BYTES} bytes; the format allows"
            f" {MAX_HEADER_BYTES}",
            hint=(
                "The names or the metadata of the source are too long. Convert a sharded source to"
                " a folder instead of one file."
            ),
        )
    return FilePlan(name, path, head, tuple(placed.values()))


def _aligned(tensors: Iterable[_Placed]) -> list[_Placed]:
    """Return the tensors in an order in which each begins at a multiple of its item size.

    Readers map the file and take the data in place: an F32 tensor behind an F16 one of odd length
    would be misaligned. The order of the source stays where it serves.
    """
    kept, reached = list(tensors), 0
    for _, _, dtype, nbytes in kept:
        if reached * 8 % dtype.bits:
            return sorted(kept, key=lambda tensor: -tensor[2].bits)
        reached += nbytes
    return kept


def _metadata(plan: ConversionPlan, shards: Sequence[Shard]) -> dict[str, str]:
    """Return the source's metadata and where the target came from.

    Nothing that differs between two runs: no time, path or digest.
    """
    merged = {
        key: text for shard in reversed(shards) for key, text in shard.header.metadata.items()
    }
    licence = KYUTAI_LICENCE if plan.identity.name else "that of the source"
    return {
        **{key: text for key, text in merged.items() if not key.startswith("dsmops.")},
        # A file name need not be text; a header must be.
        "dsmops.source": (
            ", ".join(Path(shard.name).name for shard in shards).encode(errors="replace").decode()
        ),
        "dsmops.dtype": plan.dtype.value,
        "dsmops.on_overflow": plan.on_overflow.value,
        "dsmops.recipe": str(RECIPE),
        "dsmops.licence": licence,
    }


def _require_target(dtype: StorageDType) -> None:
    if dtype not in CONVERSION_TARGETS:
        raise InputError(
            f"convert makes {' or '.join(CONVERSION_TARGETS)} from {CASTABLE}, not {dtype}",
            hint=f"Use --dtype {next(iter(CONVERSION_TARGETS)).option}.",
            code="checkpoint.dtype",
        )


def _matching(checkpoint: Checkpoint, patterns: Iterable[str]) -> set[str]:
    castable = [tensor.name for _, tensor in checkpoint.stored() if tensor.dtype == CASTABLE]
    kept: set[str] = set()
    for pattern in patterns:
        found = [name for name in castable if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise InputError(
                f"--keep-f32 {pattern!r} matches no {CASTABLE} tensor of {checkpoint.path}",
                hint="dsmops inspect --tensors lists the names.",
                code="checkpoint.no_match",
            )
        kept.update(found)
    return kept


def _target_path(checkpoint: Checkpoint, target: Path) -> Path:
    with os_errors(target):
        if target.is_dir():
            return target if checkpoint.index else target / checkpoint.shards[0].path.name
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            raise InputError(
                f"{target} is not a regular file",
                hint="Name a .safetensors file.",
                code="file.not_regular",
            )
    if target.suffix == ".safetensors" or (checkpoint.index is not None and not target.exists()):
        return target
    raise InputError(
        f"{target} is not a name for a checkpoint file",
        hint="End it in .safetensors, or name an existing folder.",
        code="checkpoint.target",
    )
