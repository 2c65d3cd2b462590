"""Text of `publish-logs` and `pull-logs`: what needs action in full, then the rest in short."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dsmops.report import Block, Table, one_line
from dsmops.units import counted, size

if TYPE_CHECKING:
    from dsmops.operations.publishing import FileOutcome, PublishReport, PulledFile, PullReport
    from dsmops.publish.store import Usage

SHOWN = 20
"""Lines of one kind that are shown; the rest is only counted. `--json` has all."""


def show_publish(report: PublishReport) -> Iterator[Block]:
    """Yield files by outcome, totals, skipped files, requests, links and the pull command."""
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
            yield f"refused   {one_line(file.name)}: {hits}"
            yield f"          {one_line(file.hint or '')}"
        elif file.outcome == "failed":
            yield f"failed    {one_line(file.name)}: {one_line(file.reason or '')}"
            yield f"          {one_line(file.hint or '')}"
    for manifest, reason in report.damage.items():
        yield f"damaged   {manifest}: {one_line(_without(reason, manifest))}"
        yield "          It is ignored from now on. The objects in the store were listed instead."
    counts = report.counts
    sums = (
        f"{counted(counts['sent'], 'file')} {would}sent ({size(report.body_bytes)}), "
        f"{counts['unchanged']} unchanged"
    )
    sums += "".join(
        f", {counts[kind]} {kind}"
        for kind in ("renamed", "recovered", "refused", "failed")
        if counts[kind]
    )
    yield one_line(f"{report.source} → {report.store}: {sums}")
    if report.skipped:
        yield "skipped: " + ", ".join(
            f"{count} {reason}" for reason, count in report.skipped.items()
        )
    if not (any(counts.values()) or report.skipped):
        yield "The folder is empty. Format a raw log into it with `dsmops format-log`."
    yield _cost(report.usage)
    for link in report.links:
        yield f"{one_line(link.name)}: {link.url}"
    if report.links:
        expires = f"{report.links[0].expires:%Y-%m-%d %H:%M:%S} UTC"
        yield f"The links work until {expires}, at most as long as the credentials of this machine."
    if report.pull_arguments:
        command = shlex.join(["dsmops", *report.pull_arguments, "--output", "pulled"])
        yield f"Get them on another machine with: {command}"


def show_pull(report: PullReport) -> Iterator[Block]:
    """Yield the list of what is published, or what was fetched and kept, then totals."""
    if report.output is None:
        if report.files:
            yield Table(
                ("name", "size>", "written (UTC)", "passed rules>", "sha256"),
                [_row(file) for file in report.files],
            )
        total = size(sum(file.size_bytes or 0 for file in report.files))
        yield f"{report.store}: {counted(len(report.files), 'log')}, {total}"
    else:
        yield from _short([file for file in report.files if file.outcome == "fetched"], "fetched")
        for file in report.files:
            if file.outcome == "kept":
                yield (
                    f"kept      {one_line(file.name)}: the local file was never published; "
                    "--force replaces it"
                )
            elif file.outcome == "failed":
                yield f"failed    {one_line(file.name)}: {one_line(file.reason or '')}"
                yield f"          {one_line(file.hint or '')}"
        counts = report.counts
        sums = f"{counted(counts['fetched'], 'file')} fetched, {counts['same']} already there"
        sums += "".join(f", {counts[kind]} {kind}" for kind in ("kept", "failed") if counts[kind])
        compared = "" if counts["failed"] else "; every byte compared"
        yield one_line(f"{report.store} → {report.output}: {sums}{compared}")
    for manifest, reason in report.damage.items():
        yield f"damaged   {manifest}: {one_line(_without(reason, manifest))}"
        yield "          The objects were listed instead. `publish-logs --rebuild` repairs it."
    yield _cost(report.usage)


def _short(files: Sequence[FileOutcome] | Sequence[PulledFile], verb: str) -> Iterator[Block]:
    for file in files[:SHOWN]:
        yield f"{verb:9} {one_line(file.name)} ({size(file.size_bytes)})"
    if len(files) > SHOWN:
        yield f"{verb:9} ... and {len(files) - SHOWN:,} more"


def _row(file: PulledFile) -> tuple[str, ...]:
    written = f"{file.modified:%Y-%m-%d %H:%M:%S}" if file.modified else "n/a"
    rules = "unredacted" if file.passed_rules is None else str(file.passed_rules)
    return (file.name, size(file.size_bytes), written, rules, (file.sha256 or "")[:12])


def _cost(usage: Usage) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in usage.requests.items() if count)
    return (
        f"{counted(usage.total_requests, 'request')} ({kinds}), {size(usage.sent_bytes)} sent, "
        f"{size(usage.received_bytes)} received"
    )


def _without(reason: str, name: str) -> str:
    return reason.partition(name)[2].removeprefix(":").strip() or reason
