"""What `dsmops export` does with a plan: skip what is done already, or export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsmops.checkpoint.export import record
from dsmops.checkpoint.export.accuracy import ErrorSummary
from dsmops.checkpoint.export.plan import ExportPlan, Runtime
from dsmops.checkpoint.export.verification import verify_export
from dsmops.checkpoint.export.writing import export
from dsmops.checkpoint.gguf import is_gguf, read_gguf_header
from dsmops.checkpoint.identity import ModelIdentity
from dsmops.checkpoint.plan import KYUTAI_LICENCE
from dsmops.checkpoint.record import FileRecord
from dsmops.checkpoint.shards import read_header
from dsmops.checkpoint.verification import VerifyReport
from dsmops.errors import DsmopsError, InputError
from dsmops.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """One tensor of the target: how it is stored, and its errors; None before it is written."""

    name: str
    encoding: str
    errors: ErrorSummary | None


@dataclass(frozen=True, slots=True)
class ExportOutcome:
    """What was done, or with a dry run would be.

    status: "exported", "up to date" or "planned". `totals` and the digests are None when planned.
    resumed_tensors: tensors that an earlier, killed run had written already. `verification` is
    None where none was asked for, or nothing was written.
    """

    status: str
    source: Path
    target: Path
    runtime: Runtime
    quant: str
    identity: ModelIdentity
    source_bytes: int
    target_bytes: int
    totals: ErrorSummary | None
    tensors: tuple[TensorSummary, ...]
    sources: tuple[FileRecord, ...]
    written: FileRecord | None
    resumed_tensors: int
    elapsed_s: float | None
    licence: str
    verification: VerifyReport | None = None


def carry_out(
    plan: ExportPlan,
    *,
    force: bool = False,
    dry_run: bool = False,
    check: bool = False,
    digest: bool = True,
    fsync: bool = True,
    progress: Progress = SILENT,
) -> ExportOutcome:
    """Export unless the target is up to date, or `force` says so regardless.

    With `check` the trust in an existing target rests on full digests instead of sizes and times,
    and a new one is read back and compared.

    Raises:
        InputError: a file that dsmops did not make is where the target would be.
        The errors of `export` and `verify_export`.
    """
    report = verification = None
    if not force and record.is_current(plan, full=check, progress=progress):
        status, report = "up to date", record.load(plan.record_path)
    elif not force and plan.target.exists() and not _is_ours(plan):
        raise InputError(
            f"{plan.target} is there already, and dsmops did not make it",
            hint="Name another target, or replace it with --force.",
            code="checkpoint.foreign_target",
        )
    elif dry_run:
        status = "planned"
    else:
        status, report = "exported", export(plan, progress=progress, digest=digest, fsync=fsync)
        if check:
            verification = verify_export(plan.checkpoint.path, plan.target, progress=progress)
    tensors = (
        tuple(TensorSummary(one.name, one.encoding.name, None) for one in plan.tensors)
        if report is None
        else tuple(
            TensorSummary(one.name, one.encoding, one.errors.summary()) for one in report.tensors
        )
    )
    known = plan.identity.name is not None
    return ExportOutcome(
        status=status,
        source=plan.checkpoint.path,
        target=plan.target,
        runtime=plan.runtime,
        quant=plan.quant,
        identity=plan.identity,
        source_bytes=plan.checkpoint.nbytes,
        target_bytes=plan.target_bytes,
        totals=report.totals.summary() if report else None,
        tensors=tensors,
        sources=report.sources if report else (),
        written=report.target if report else None,
        resumed_tensors=report.resumed_tensors if report else 0,
        elapsed_s=report.elapsed_s if report else None,
        licence=KYUTAI_LICENCE if known else "that of the source",
        verification=verification,
    )


def _is_ours(plan: ExportPlan) -> bool:
    """Return whether `export` wrote what is at the target, whole or damaged since."""
    if plan.record_path.is_file():
        return True
    try:
        header = (read_gguf_header if is_gguf(plan.target) else read_header)(plan.target)
    except DsmopsError:
        return False
    return "dsmops.export" in header.metadata
