"""The record of an export, kept beside its target, so that the next run can skip the work."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsmops.checkpoint.export.accuracy import Errors, TensorErrors
from dsmops.checkpoint.export.plan import RECIPE, ExportPlan
from dsmops.checkpoint.record import MAX_RECORD_BYTES, FileRecord
from dsmops.checkpoint.shards import compute_sha256
from dsmops.errors import DsmopsError
from dsmops.files import PartialFile, sha256
from dsmops.progress import SILENT, Progress

SCHEMA = "dsmops.export-record/1"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """How a target was made, and how far its values are from the source's.

    `resumed_tensors` were written by an earlier run that did not end. `elapsed_s` is this run's.
    """

    runtime: str
    quant: str
    sources: tuple[FileRecord, ...]
    target: FileRecord
    resumed_tensors: int
    tensors: tuple[TensorErrors, ...]
    totals: Errors
    elapsed_s: float
    recipe: int = RECIPE


def save(report: ExportReport, partial: PartialFile) -> None:
    """Write the record of an export that has just ended."""
    partial.write(json.dumps({"schema": SCHEMA, **asdict(report)}, indent=1).encode())


def load(path: Path) -> ExportReport | None:
    """Return the report that `save` wrote; None when there is none, or it is not of this schema."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_RECORD_BYTES:
            return None
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if body.pop("schema") != SCHEMA:
            return None
        body["sources"] = tuple(FileRecord(**file) for file in body["sources"])
        body["target"] = FileRecord(**body["target"])
        body["tensors"] = tuple(map(TensorErrors.from_json, body["tensors"]))
        body["totals"] = Errors(**body["totals"])
        return ExportReport(**body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def is_current(plan: ExportPlan, *, full: bool = False, progress: Progress = SILENT) -> bool:
    """Return whether the target is already what `plan` would make, by the record beside it.

    Compares sizes, times and headers. Only where a time differs, or with `full`, are whole files
    read and their digests compared; without recorded digests the answer is then no.
    """
    report = load(plan.record_path)
    if report is None or (report.recipe, report.runtime, report.quant) != (
        RECIPE,
        plan.runtime,
        plan.quant,
    ):
        return False
    shards = plan.checkpoint.shards
    if len(shards) != len(report.sources):
        return False
    try:
        status = plan.target.stat()
        with plan.target.open("rb") as file:
            head = hashlib.sha256(file.read(len(plan.head))).hexdigest()
        if head != hashlib.sha256(plan.head).hexdigest() or head != report.target.header_sha256:
            return False
        if status.st_size != report.target.size_bytes:
            return False
        for shard, was in zip(shards, report.sources, strict=True):
            stamp = (shard.stamp.size_bytes, shard.header.sha256)
            if stamp != (was.size_bytes, was.header_sha256):
                return False
            if (full or shard.stamp.mtime_ns != was.mtime_ns) and (
                was.sha256 is None or compute_sha256(shard, progress=progress) != was.sha256
            ):
                return False
        if full or status.st_mtime_ns != report.target.mtime_ns:
            wanted = report.target.sha256
            return wanted is not None and sha256(plan.target, progress=progress) == wanted
    except (DsmopsError, OSError):
        return False
    return True
