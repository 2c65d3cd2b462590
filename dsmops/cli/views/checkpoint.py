"""Checkpoints as people read them: what is in one, what a conversion did, whether two agree."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from dsmops.checkpoint import ConversionReport, LossReport, ModelIdentity, VerifyReport
from dsmops.checkpoint.inspection import Inspection
from dsmops.checkpoint.result import ConversionResult, ConversionStatus
from dsmops.report import Block, Table
from dsmops.units import counted, duration, size

SHOWN_TENSORS = 12
SHOWN_LOSSES = 10
SHOWN_DIFFERENCES = 20


def show_inspection(found: Inspection, *, all_tensors: bool) -> Iterator[Block]:
    """Yield the model, dtypes, files, tensors and forecast of a checkpoint.

    Files are shown where there are several, the forecast where there is one.
    """
    yield f"{found.source}: {found.identity.description}"
    yield from _differences(found.identity)
    yield (
        f"{counted(len(found.tensors), 'tensor')}, {counted(found.parameters, 'parameter')},"
        f" {size(found.data_bytes)} of data in {counted(len(found.files), 'file')}"
    )
    yield Table(
        ["dtype", "tensors>", "parameters>", "size>"],
        [
            [share.dtype, f"{share.tensors:,}", f"{share.elements:,}", size(share.data_bytes)]
            for share in found.dtypes
        ],
    )
    if len(found.files) > 1:
        yield Table(["file", "size>"], [[file.name, size(file.size_bytes)] for file in found.files])
    if found.total_size_bytes is not None and found.total_size_bytes != found.data_bytes:
        yield (
            f"The index states {found.total_size_bytes:,} bytes of data, the shards hold"
            f" {found.data_bytes:,}."
        )
    if found.unlisted:
        yield (
            f"{counted(len(found.unlisted), 'tensor')} in the shards but not in the index:"
            f" {_some(found.unlisted)}"
        )
    lines = found.tensors if all_tensors else found.tensors[:SHOWN_TENSORS]
    yield Table(
        ["tensor", "dtype", "shape", "size>"],
        [
            [
                line.name,
                line.dtype,
                " × ".join(map(str, line.shape)) or "scalar",
                size(line.data_bytes),
            ]
            for line in lines
        ],
    )
    if len(lines) < len(found.tensors):
        yield f"... and {len(found.tensors) - len(lines):,} more; --tensors lists all."
    if found.metadata:
        yield Table(
            ["metadata", "value"],
            [
                [key, text if len(text) <= 120 else f"{text[:120]}…"]
                for key, text in found.metadata.items()
            ],
        )
    if found.forecast is not None:
        yield "Converting to F16 would give:"
        yield from _losses(found.forecast)


def show_conversion(result: ConversionResult) -> Iterator[Block]:
    """Yield what was or would be done and lost, the digests, the notes and the next command."""
    target_bytes = sum(file.size_bytes for file in result.files)
    if result.status is ConversionStatus.PLANNED:
        yield f"Would convert {result.source} ({result.identity.description}) to {result.dtype}:"
        yield Table(
            ["file", "converted>", "copied>", "size>"],
            [
                [str(file.path), str(file.cast), str(file.copied), size(file.size_bytes)]
                for file in result.files
            ],
        )
        yield f"{size(target_bytes)} in all. Nothing was written."
    elif result.status is ConversionStatus.UP_TO_DATE:
        yield (
            f"{result.target} is up to date: made from this source by this recipe. --force"
            " converts again."
        )
    elif result.conversion is not None:
        yield from _conversion(result, result.conversion)
    if result.verification is not None:
        yield from show_verification(result.verification)
    yield from result.notes
    if result.status is ConversionStatus.CONVERTED and result.verification is None:
        yield f"Next: {shlex.join(['dsmops', 'verify', str(result.source), str(result.target)])}"


def show_verification(found: VerifyReport) -> Iterator[Block]:
    """Yield the verdict, and the differences when there are any."""
    what = (
        f"{counted(found.converted, 'converted tensor')} and"
        f" {counted(found.untouched, 'untouched one')}, {size(found.compared_bytes)} read"
    )
    if found.same:
        yield (
            f"{found.target} is what converting {found.source} gives: {what}, every value compared."
        )
        return
    yield f"{found.target} differs from what converting {found.source} gives ({what}):"
    for difference in found.differences[:SHOWN_DIFFERENCES]:
        yield f"  {difference.tensor or 'file'}: {difference.message}"
    if len(found.differences) > SHOWN_DIFFERENCES:
        yield f"  ... and {len(found.differences) - SHOWN_DIFFERENCES:,} more; --json has all."


def _conversion(result: ConversionResult, done: ConversionReport) -> Iterator[Block]:
    rate = f" ({size(round(done.target_bytes / done.elapsed_s))}/s)" if done.elapsed_s > 0.5 else ""
    yield (
        f"Converted {result.source} to {result.target}: {counted(done.tensors, 'tensor')},"
        f" {size(done.target_bytes)} in {duration(done.elapsed_s)}{rate}."
    )
    yield from _losses(done.losses)
    for role, files in (("source", done.sources), ("target", done.targets)):
        for file in files:
            if file.sha256:
                yield f"sha256 of {role} {file.name}: {file.sha256}"


def _losses(report: LossReport) -> Iterator[Block]:
    totals = report.totals
    if totals.largest_magnitude is not None:
        yield (
            f"Of {counted(totals.elements, 'value')}: {totals.overflowed:,} beyond the range,"
            f" {totals.underflowed:,} to zero, {totals.rounded:,} rounded, the rest exact. Largest"
            f" magnitude: {totals.largest_magnitude:g}."
        )
    lossy = sorted(
        (loss for loss in report.tensors if not loss.lossless or loss.nan or loss.infinite),
        key=lambda loss: (
            -loss.overflowed,
            -loss.nan - loss.infinite,
            -loss.underflowed,
            -loss.rounded,
        ),
    )
    if not lossy:
        return
    yield Table(
        ["tensor", "values>", "overflow>", "to zero>", "rounded>", "inf>", "NaN>", "largest>"],
        [
            [
                loss.name,
                *(
                    f"{count:,}"
                    for count in (
                        loss.elements,
                        loss.overflowed,
                        loss.underflowed,
                        loss.rounded,
                        loss.infinite,
                        loss.nan,
                    )
                ),
                "n/a" if loss.largest_magnitude is None else f"{loss.largest_magnitude:g}",
            ]
            for loss in lossy[:SHOWN_LOSSES]
        ],
    )
    if len(lossy) > SHOWN_LOSSES:
        yield (
            f"... and {counted(len(lossy) - SHOWN_LOSSES, 'tensor')} more with losses; --json has"
            " all."
        )


def _differences(identity: ModelIdentity) -> Iterator[Block]:
    for difference in identity.differences:
        yield f"  {difference}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
