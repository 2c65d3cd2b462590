"""Publishing and pulling as people read it: what must be acted on in full, the rest in short, then the sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dsmops.report import Block, Table
from dsmops.units import counted, size

if TYPE_CHECKING:
    from dsmops.operations.publishing import FileOutcome, PublishReport, PulledFile, PullReport
    from dsmops.publish.store import Usage

SHOWN = 20
"""Lines of one kind before the rest is only counted; `--json` has them all."""


def show_publish(report: PublishReport) -> Iterator[Block]:
    """Yield files by outcome, then one line of sums, what was passed over, and what it cost."""
    would = "would be " if report.dry_run else ""
    for outcome in ("sent", "renamed", "recovered"):
        yield from _short(
            [file for file in report.files if file.outcome == outcome], f"{would}{outcome}"
        )
    for file in report.files:
        if file.outcome == "refused":
            hits = ", ".join(
                f"{count} × {rule}" for rule, count in sorted((file.hits or {}).items())
            )
            yield f"refused   {file.name}: {hits}"
            yield f"          {file.hint}"
        elif file.outcome == "failed":
            yield f"failed    {file.name}: {file.reason}"
            yield f"          {file.hint}"
    for manifest in report.damaged_manifests:
        yield f"damaged   {manifest}: set aside; its contents were looked up in the store"
    counts = report.counts
    sums = f"{counted(counts['sent'], 'file')} {would}sent ({size(report.body_bytes)}), {counts['unchanged']} unchanged"
    sums += "".join(
        f", {counts[kind]} {kind}"
        for kind in ("renamed", "recovered", "refused", "failed")
        if counts[kind]
    )
    yield f"{report.source} → {report.store}: {sums}"
    if report.skipped:
        yield "passed over: " + ", ".join(
            f"{count} {reason}" for reason, count in report.skipped.items()
        )
    if not (any(counts.values()) or report.skipped):
        yield "The folder is empty. Format a raw log into it with `dsmops format-log`."
    yield _cost(report.usage)


def show_pull(report: PullReport) -> Iterator[Block]:
    """Yield the list of what is published, or what was fetched and kept, then the sums."""
    if report.output is None:
        if report.files:
            yield Table(
                ("name", "size>", "written (UTC)", "passed rules>", "sha256"),
                [_row(file) for file in report.files],
            )
        yield f"{report.store}: {counted(len(report.files), 'log')}, {size(sum(file.size_bytes or 0 for file in report.files))}"
    else:
        yield from _short([file for file in report.files if file.outcome == "fetched"], "fetched")
        for file in report.files:
            if file.outcome == "kept":
                yield f"kept      {file.name}: the local file was never published; --force replaces it"
            elif file.outcome == "failed":
                yield f"failed    {file.name}: {file.reason}"
                yield f"          {file.hint}"
        counts = report.counts
        sums = f"{counted(counts['fetched'], 'file')} fetched, {counts['same']} already there"
        sums += "".join(f", {counts[kind]} {kind}" for kind in ("kept", "failed") if counts[kind])
        compared = "" if counts["failed"] else "; every byte compared"
        yield f"{report.store} → {report.output}: {sums}{compared}"
    for manifest in report.damaged_manifests:
        yield f"damaged   {manifest}: its contents were looked up in the store; `publish-logs --rebuild` repairs it"
    yield _cost(report.usage)


def _short(files: Sequence[FileOutcome] | Sequence[PulledFile], verb: str) -> Iterator[Block]:
    for file in files[:SHOWN]:
        yield f"{verb:9} {file.name} ({size(file.size_bytes)})"
    if len(files) > SHOWN:
        yield f"{verb:9} ... and {len(files) - SHOWN:,} more"


def _row(file: PulledFile) -> tuple[str, ...]:
    written = f"{file.modified:%Y-%m-%d %H:%M:%S}" if file.modified else "n/a"
    rules = "unredacted" if file.passed_rules is None else str(file.passed_rules)
    return (file.name, size(file.size_bytes), written, rules, (file.sha256 or "")[:12])


def _cost(usage: Usage) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in usage.requests.items() if count)
    return f"{counted(usage.total_requests, 'request')} ({kinds}), {size(usage.sent_bytes)} sent, {size(usage.received_bytes)} received"
