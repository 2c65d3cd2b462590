"""Carry out a conversion plan as `dsmops convert` does.

It checks whether the target is up to date, converts if not, and verifies if asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dsmops.checkpoint import record
from dsmops.checkpoint.conversion import convert
from dsmops.checkpoint.identity import ModelIdentity
from dsmops.checkpoint.plan import CASTABLE, KYUTAI_LICENCE, ConversionPlan
from dsmops.checkpoint.record import ConversionReport, is_current, made_by_conversion
from dsmops.checkpoint.verification import VerifyReport, verify
from dsmops.dtypes import StorageDType
from dsmops.errors import InputError
from dsmops.progress import SILENT, Progress


class ConversionStatus(StrEnum):
    """What was done with a plan."""

    CONVERTED = "converted"
    UP_TO_DATE = "up to date"
    PLANNED = "planned"


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of the target, as planned."""

    path: Path
    size_bytes: int
    cast: int
    copied: int


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """What was done, or what a dry run would do.

    `conversion` is None for a dry run, `verification` where none was asked for. `notes` are what
    the user should know before serving the target.
    """

    status: ConversionStatus
    source: Path
    target: Path
    dtype: StorageDType
    identity: ModelIdentity
    files: tuple[PlannedFile, ...]
    conversion: ConversionReport | None
    verification: VerifyReport | None
    notes: tuple[str, ...]


def carry_out(
    plan: ConversionPlan,
    *,
    force: bool = False,
    dry_run: bool = False,
    check: bool = False,
    digest: bool = True,
    fsync: bool = True,
    progress: Progress = SILENT,
) -> ConversionResult:
    """Convert unless the target is up to date, or `force` says so regardless.

    Without `force` no file is replaced that `convert` did not make. With `check` the trust in an
    existing target rests on full digests instead of sizes and times, and a new one is read back and
    compared value by value.

    Raises:
        InputError: a file of another origin stands in the place of the target.
        The errors of `convert` and `verify`.
    """
    conversion = verification = None
    if not force and is_current(plan, full=check, progress=progress):
        status, conversion = ConversionStatus.UP_TO_DATE, record.load(plan.record_path)
    elif not force and (foreign := _foreign_file(plan)) is not None:
        raise InputError(
            f"{foreign} is there already, and dsmops did not make it",
            hint="Name another target, or replace it with --force.",
            code="checkpoint.foreign_target",
        )
    elif dry_run:
        status = ConversionStatus.PLANNED
    else:
        status, conversion = (
            ConversionStatus.CONVERTED,
            convert(plan, progress=progress, digest=digest, fsync=fsync),
        )
        if check:
            verification = verify(
                plan.checkpoint.path,
                plan.index[0] if plan.index else plan.target,
                progress=progress,
            )
    return ConversionResult(
        status=status,
        source=plan.checkpoint.path,
        target=plan.target,
        dtype=plan.dtype,
        identity=plan.identity,
        files=tuple(
            PlannedFile(
                file.path,
                file.nbytes,
                sum(tensor.cast for tensor in file.tensors),
                sum(not tensor.cast for tensor in file.tensors),
            )
            for file in plan.files
        ),
        conversion=conversion,
        verification=verification,
        # Said once, when the target is made.
        notes=(
            *_notes(plan, conversion),
            *([_licence(plan)] if status is ConversionStatus.CONVERTED else []),
        ),
    )


def _foreign_file(plan: ConversionPlan) -> Path | None:
    """Return a file that the plan would replace although no conversion made it.

    A record vouches for all files of its target.
    """
    if plan.record_path.is_file():
        return None
    return next(
        (
            file.path
            for file in plan.files
            if file.path.exists() and not made_by_conversion(file.path)
        ),
        None,
    )


def _notes(plan: ConversionPlan, conversion: ConversionReport | None) -> list[str]:
    notes = []
    if conversion is None and plan.may_keep_f32:
        notes.append(
            f"Not counted: tensors with values beyond the range of {plan.dtype}, which"
            f" --on-overflow keep-f32 stores in {StorageDType.F32.bits // plan.dtype.bits} times"
            " the size."
        )
    if not any(tensor.dtype == CASTABLE for tensor in plan.checkpoint.tensors.values()):
        notes.append(
            f"The source holds no {CASTABLE} tensor: the target is a copy with a new header."
        )
    if plan.checkpoint.unlisted:
        notes.append(
            f"In shards but not in the index: {len(plan.checkpoint.unlisted)} tensors. They stay"
            " with their shards."
        )
    kept = conversion.kept_f32 if conversion else plan.kept_f32
    if kept and plan.dtype is not StorageDType.F32:
        names = ", ".join(kept[:4]) + (f" and {len(kept) - 4} more" if len(kept) > 4 else "")
        notes.append(
            f"Kept as F32: {names}. That helps the embedded worker only: moshi-server casts every"
            " tensor to its dtype_override at load, back to infinity where values are too large."
        )
    totals = conversion.losses.totals if conversion else None
    if totals and (totals.nan or totals.infinite):
        notes.append(
            f"Not finite in the source itself, and kept so: {totals.nan:,} NaN, {totals.infinite:,}"
            " infinite."
        )
    return notes


def _licence(plan: ConversionPlan) -> str:
    known = f": {KYUTAI_LICENCE}, attribution to Kyutai" if plan.identity.name else ""
    return f"Converted weights keep the licence of their source{known}."
