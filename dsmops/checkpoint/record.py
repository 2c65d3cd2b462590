"""The record of a conversion, kept beside its target.

With it the next run finds within milliseconds that there is nothing to do. An up-to-date target is
trusted when size, mtime and header digest of every source and target file are those recorded. Where
only the mtime moved (a copy, a touch) the full digests decide.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsmops.checkpoint.losses import LossReport
from dsmops.checkpoint.plan import RECIPE, ConversionPlan, lay_out
from dsmops.checkpoint.shards import Shard, compute_sha256, open_shard
from dsmops.errors import DsmopsError
from dsmops.files import PartialFile
from dsmops.progress import SILENT, Progress

SCHEMA = "dsmops.conversion-record/1"
MAX_RECORD_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file as it was at conversion.

    `name` is relative to the checkpoint; `sha256` is None when digests were not wanted.
    """

    name: str
    size_bytes: int
    mtime_ns: int
    header_sha256: str
    sha256: str | None

    @classmethod
    def of(cls, shard: Shard, digest: str | None) -> FileRecord:
        """Describe an opened file."""
        return cls(
            shard.name, shard.stamp.size_bytes, shard.stamp.mtime_ns, shard.header.sha256, digest
        )


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """How a target was made from a source, and what was lost.

    The record beside the target holds this too. `kept_f32` are BF16 tensors stored as F32 because
    of a pattern or the overflow policy. `elapsed_s` is the time the conversion took.
    """

    dtype: str
    on_overflow: str
    keep_f32: tuple[str, ...]
    kept_f32: tuple[str, ...]
    sources: tuple[FileRecord, ...]
    targets: tuple[FileRecord, ...]
    tensors: int
    losses: LossReport
    elapsed_s: float
    recipe: int = RECIPE

    @property
    def target_bytes(self) -> int:
        return sum(file.size_bytes for file in self.targets)


def save(report: ConversionReport, partial: PartialFile) -> None:
    """Write the record of a conversion that has just ended."""
    # Escaped throughout, because names of files need not be text.
    partial.write(json.dumps({"schema": SCHEMA, **asdict(report)}, indent=1).encode())


def load(path: Path) -> ConversionReport | None:
    """Return the report that `save` wrote; None when there is none, or it is not of this schema."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_RECORD_BYTES:
            return None
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if body.pop("schema") != SCHEMA:
            return None
        body["losses"] = LossReport.from_json(body["losses"])
        for key in ("sources", "targets"):
            body[key] = tuple(FileRecord(**file) for file in body[key])
        for key in ("keep_f32", "kept_f32"):
            body[key] = tuple(body[key])
            if not all(isinstance(text, str) for text in body[key]):
                return None
        return ConversionReport(**body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def made_by_conversion(path: Path) -> bool:
    """Return whether `convert` wrote the file `path`, even if it was damaged since.

    The record beside the file or the file's own metadata shows it.
    """
    if path.with_name(f"{path.name}.dsmops.json").exists():
        return True
    try:
        return "dsmops.recipe" in open_shard(path, path.name).header.metadata
    except DsmopsError:
        return False


def is_current(plan: ConversionPlan, *, full: bool = False, progress: Progress = SILENT) -> bool:
    """Return whether the target is already what `plan` would make, by the record beside it.

    Costs a few file headers. Only where an mtime differs, or with `full`, are whole files read and
    their digests compared; without recorded digests the answer is then no.
    """
    report = load(plan.record_path)
    wanted = (RECIPE, plan.dtype.value, plan.on_overflow.value, plan.keep_f32)
    if (
        report is None
        or (report.recipe, report.dtype, report.on_overflow, report.keep_f32) != wanted
    ):
        return False
    made = lay_out(plan, set(report.kept_f32))
    if made.kept_f32 != report.kept_f32:
        return False
    try:
        if made.index is not None and not (
            made.index[0].is_file() and made.index[0].read_text(encoding="utf-8") == made.index[1]
        ):
            return False
        targets = [open_shard(file.path, file.name) for file in made.files]
        if [target.header.sha256 for target in targets] != [
            hashlib.sha256(file.head).hexdigest() for file in made.files
        ]:
            return False
        pairs = list(
            zip(
                (*plan.checkpoint.shards, *targets), (*report.sources, *report.targets), strict=True
            )
        )
    except (DsmopsError, OSError, ValueError):
        return False
    if any(
        (shard.stamp.size_bytes, shard.header.sha256) != (was.size_bytes, was.header_sha256)
        for shard, was in pairs
    ):
        return False
    doubtful = [
        (shard, was) for shard, was in pairs if full or shard.stamp.mtime_ns != was.mtime_ns
    ]
    if not doubtful or not all(was.sha256 for _, was in doubtful):
        return not doubtful
    progress.start("Comparing digests", sum(shard.stamp.size_bytes for shard, _ in doubtful))
    try:
        return all(
            ((not full and shard.known_sha256) or compute_sha256(shard, progress=progress))
            == was.sha256
            for shard, was in doubtful
        )
    finally:
        progress.finish()
