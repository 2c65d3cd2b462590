"""An export as people read it: what was written, and how far its values are from the source's."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator

from dsmops.checkpoint.export.accuracy import ErrorSummary
from dsmops.checkpoint.export.outcome import ExportOutcome, TensorSummary
from dsmops.cli.views.checkpoint import show_verification
from dsmops.report import Block, Table
from dsmops.units import counted, duration, size

SHOWN_TENSORS = 8


def show_export(outcome: ExportOutcome) -> Iterator[Block]:
    """Yield what was written or would be, the errors, the digests, and what to run next."""
    what = f"{outcome.runtime.value} {outcome.quant}"
    if outcome.status == "planned":
        yield (
            f"Would export {outcome.source} ({outcome.identity.description}) to {outcome.target}"
            f" as {what}: {size(outcome.target_bytes)}, the source has"
            f" {size(outcome.source_bytes)}. Nothing was written."
        )
        yield _encodings(outcome.tensors)
        return
    if outcome.status == "up to date":
        yield (
            f"{outcome.target} is up to date: made from this source as {what}. --force exports"
            " again."
        )
    else:
        taken = f" in {duration(outcome.elapsed_s)}" if outcome.elapsed_s else ""
        yield (
            f"Exported {outcome.source} to {outcome.target} as {what}:"
            f" {counted(len(outcome.tensors), 'tensor')}, {size(outcome.source_bytes)} to"
            f" {size(outcome.target_bytes)}{taken}."
        )
    if outcome.resumed_tensors:
        yield f"{counted(outcome.resumed_tensors, 'tensor')} were kept from an unfinished run."
    yield _encodings(outcome.tensors)
    if outcome.totals is not None:
        yield from _errors(outcome.totals, outcome.tensors)
    for role, files in (("source", outcome.sources), ("target", (outcome.written,))):
        for file in files:
            if file is not None and file.sha256:
                yield f"sha256 of {role} {file.name}: {file.sha256}"
    if outcome.status == "exported":
        yield f"Licence: {outcome.licence}."
    if outcome.verification is not None:
        yield from show_verification(outcome.verification)
    elif outcome.status == "exported":
        command = ["dsmops", "verify", str(outcome.source), str(outcome.target)]
        yield f"Next: {shlex.join(command)}"


def _encodings(tensors: tuple[TensorSummary, ...]) -> Table:
    counts = Counter(tensor.encoding for tensor in tensors)
    return Table(["stored as", "tensors>"], [[name, f"{n:,}"] for name, n in counts.most_common()])


def _errors(totals: ErrorSummary, tensors: tuple[TensorSummary, ...]) -> Iterator[Block]:
    yield (
        f"Error of {totals.elements:,} values: at most {totals.max_error:.3g}, mean"
        f" {totals.mean_error:.3g}, {totals.relative_rms_error:.3%} of their size (rms)."
    )
    yield Table(
        ["error", "share>"],
        [[label, f"{share:.2%}"] for label, share in totals.shares.items() if share],
    )
    rounded = sorted(
        (one for one in tensors if one.errors is not None and one.errors.max_error),
        key=lambda one: -one.errors.relative_rms_error if one.errors else 0.0,
    )
    rows = [
        [
            one.name,
            one.encoding,
            f"{one.errors.max_error:.3g}",
            f"{one.errors.mean_error:.3g}",
            f"{one.errors.relative_rms_error:.3%}",
        ]
        for one in rounded[:SHOWN_TENSORS]
        if one.errors is not None
    ]
    if rows:
        yield Table(["tensor", "stored as", "max>", "mean>", "rms of size>"], rows)
    if len(rounded) > SHOWN_TENSORS:
        more = counted(len(rounded) - SHOWN_TENSORS, "tensor")
        yield f"... and {more} more with smaller errors; --json has all."
