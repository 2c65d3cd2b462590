"""`publish-logs` and `pull-logs`: joins `publish` (stores) and `logs` (what a secret is)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote_to_bytes

from dsmops.errors import DsmopsError, InputError, RemoteError, SourceError
from dsmops.operations.searching import Note, Search, Searchers
from dsmops.progress import SILENT, Progress
from dsmops.publish.folder import FolderStore
from dsmops.publish.manifest import Catalogue, Entry, read_catalogue, union, unnamed_bodies
from dsmops.publish.names import NOT_VOUCHED
from dsmops.publish.plan import (
    EarlierContents,
    Findings,
    Planner,
    Scan,
    ScanName,
    UploadPlan,
    earlier_contents,
    inspect,
    joined,
)
from dsmops.publish.pull import PublishedLog, plan_pull, published_logs, pull
from dsmops.publish.source import Failure, Selection, Snapshot, find_logs, take_snapshots
from dsmops.publish.store import ObjectStore, StoreOptions, Usage
from dsmops.publish.stores import open_store
from dsmops.publish.upload import Published, publish, recover
from dsmops.versions import RULE_SET_VERSION


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """What `publish-logs` was asked to do."""

    store: str
    source: Path
    options: StoreOptions = field(default_factory=StoreOptions)
    include_raw: bool = False
    include_reports: bool = False
    """Whether pages, documents and series that `log-report` wrote are published, too."""
    include: Sequence[str] = ()
    """Shell patterns of file names to publish besides logs."""
    allow_unredacted: bool = False
    link_valid_s: int | None = None
    """How long a download link of each file is to work; None for no links."""
    force: bool = False
    rebuild: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """What became of one file.

    `outcome` is `sent`, `renamed`, `refused`, `failed` or `recovered`. `hits` counts by redaction
    rule.
    """

    name: str
    outcome: str
    size_bytes: int | None = None
    sha256: str | None = None
    hits: dict[str, int] | None = None
    reason: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A URL from which anyone can download a published file until `expires`."""

    name: str
    url: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What `publish-logs` did, or with `dry_run` would do.

    `files` are all but the unchanged ones, which are only counted.
    """

    store: str
    source: Path
    dry_run: bool
    rule_set_version: int
    counts: dict[str, int]
    skipped: dict[str, int]
    files: tuple[FileOutcome, ...]
    body_bytes: int
    """Content sent, or to be sent with `dry_run`. Manifests are not included."""
    manifest: str | None
    damaged_manifests: tuple[str, ...]
    damage: dict[str, str]
    """Why each damaged manifest cannot be read."""
    pull_arguments: tuple[str, ...]
    """Arguments of `dsmops` by which another machine gets these logs; none if none is published."""
    links: tuple[Link, ...]
    usage: Usage

    @property
    def exit_code(self) -> int:
        """6 when something failed, 1 when only content was refused."""
        return RemoteError.exit_code if self.counts["failed"] else int(self.counts["refused"] > 0)


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What `pull-logs` was asked to do. Without `output` it only lists."""

    store: str
    output: Path | None = None
    options: StoreOptions = field(default_factory=StoreOptions)
    names: Sequence[str] = ()
    since: datetime | None = None
    force: bool = False
    rebuild: bool = False


@dataclass(frozen=True, slots=True)
class PulledFile:
    """One published content.

    `outcome` is `listed`, `fetched`, `same`, `kept` or `failed`. `passed_rules` is None when it was
    published unredacted.
    """

    name: str
    outcome: str
    size_bytes: int | None = None
    modified: datetime | None = None
    sha256: str | None = None
    passed_rules: int | None = None
    reason: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class PullReport:
    """What `pull-logs` found and did."""

    store: str
    output: Path | None
    counts: dict[str, int]
    files: tuple[PulledFile, ...]
    damaged_manifests: tuple[str, ...]
    damage: dict[str, str]
    """Why each damaged manifest cannot be read."""
    usage: Usage

    @property
    def exit_code(self) -> int:
        """6 when something failed, 1 when local files that were never published were kept."""
        return RemoteError.exit_code if self.counts["failed"] else int(self.counts["kept"] > 0)


@dataclass(frozen=True, slots=True)
class RedactionCheck:
    """How content and names are searched for secrets, and the version of the rules."""

    version: int
    scan: Scan
    scan_name: ScanName = lambda _: {}


_NO_TEXT = bytes((*range(0x07), *range(0x0E, 0x1A)))
"""Control characters that no text has. Archives, UTF-16, audio and captures are full of them, and
no rule can read those."""


_MOST_HEADER_BYTES = 1 << 20
"""Of all headers of a compressed file. With more, it is refused unread: logs have a few bytes."""


class _NoText:
    """Counts bytes that no text in UTF-8 has: those of archives, audio, captures and UTF-16.

    Short data of some compressors has no control character, but hardly a character of UTF-8.
    """

    def __init__(self) -> None:
        self._control = self._undecodable = self._all = 0

    def take(self, chunk: bytes) -> None:
        self._control += len(chunk) - len(chunk.translate(None, _NO_TEXT))
        self._all += len(chunk)
        if not chunk.isascii():
            self._undecodable += len(chunk) - len(chunk.decode(errors="ignore").encode())

    @property
    def count(self) -> int:
        """How many there are; a few undecodable ones may be in a log."""
        is_foreign = self._undecodable > _FEW_BYTES + self._all // _MOST_UNDECODABLE
        return self._control + (self._undecodable if is_foreign else 0)


_FEW_BYTES, _MOST_UNDECODABLE = 6, 5


def _find_secrets(
    name: str, stream: RawIOBase, *, on_note: Callable[[str], object] = lambda _: None
) -> dict[str, int]:
    """Return how often each rule hits in a content and in headers of compressed data."""
    from dsmops.logs import decompressed, scan

    no_text = _NoText()
    headers = bytearray()

    def chunks() -> Iterator[bytes]:
        for chunk in decompressed(
            cast(BinaryIO, stream), name, on_header=on_header, on_note=on_note
        ):
            no_text.take(chunk)
            if no_text.count:
                return  # It stays here whatever else is in it.
            yield chunk

    def on_header(text: bytes) -> None:
        if len(headers) <= _MOST_HEADER_BYTES:
            headers.extend(text + b"\n")

    found = {**scan(chunks()), "no-text": no_text.count}
    if len(headers) > _MOST_HEADER_BYTES:
        found["header"] = 1
    else:
        found["header"] = sum(scan(bytes(headers).replace(b"\0", b"\n")).values())
    return found


_ADDRESS = re.compile(r"(?<!\d)(?<!\d\.)\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)")
"""What may be an address, in `log.203.0.113.9.gz`: in the text of a log, a rule wants space around
it."""


def _find_secrets_in_name(name: str) -> dict[str, int]:
    """Return hits in a path: a folder or a file may be named after a caller, a host or a token."""
    from dsmops.logs import scan

    # Each part by itself too: a rule that ends at a slash, or begins after one, sees it then. And
    # whole escapes: in a log, a rule sees through those of delimiters only.
    names = {name, os.fsdecode(unquote_to_bytes(os.fsencode(name)))}
    texts = {text for each in names for text in (each, *each.split("/"), *_ADDRESS.findall(each))}
    hits = max(sum(scan(os.fsencode(text)).values()) for text in texts)
    return {"file-name": hits} if hits else {}


LOG_RULES = RedactionCheck(RULE_SET_VERSION, _find_secrets, _find_secrets_in_name)
"""The rules of `format-log`, applied to names and to content, also inside gzip and zstd. Unreadable
content is refused."""


def publish_logs(
    request: PublishRequest,
    *,
    check: RedactionCheck = LOG_RULES,
    now: datetime | None = None,
    on_note: Callable[[str], object] = lambda _: None,
    progress: Progress = SILENT,
) -> PublishReport:
    """Publish the logs of a folder, once per content; with `dry_run` only report what would be.

    Content in which `check` finds something is refused, unless the request allows it.

    Raises:
        SourceError, InputError: the folder, the store's name or an option is wrong, or the store
        lies in the folder. CredentialsError, RemoteError: the store cannot be read, or the manifest
        cannot be written.
    """
    now = now or datetime.now(UTC)
    selection = find_logs(
        request.source,
        include_raw=request.include_raw,
        reports=request.include_reports,
        also=request.include,
    )
    store = open_store(request.store, request.options)
    if request.link_valid_s is not None:
        store.link("bodies/", valid_s=request.link_valid_s)  # a store without links: say so now
    if isinstance(store, FolderStore) and store.folder.resolve().is_relative_to(
        request.source.resolve()
    ):
        raise InputError(
            f"{store.folder} is inside {request.source}: it would be published into itself",
            hint="Name a folder outside --source.",
            code="publish.store",
        )
    catalogue = read_catalogue(store)
    recovered, damaged = _recover(store, catalogue, request, progress)
    known = (
        replace(catalogue, entries=union(catalogue.entries.values(), recovered))
        if recovered
        else catalogue
    )

    search = partial(_search, check, earlier_contents(known))
    with closing(
        _plans(request, selection, _planner(request, known, check, now), search, on_note, progress)
    ) as plans:
        if request.dry_run:
            plan = joined(plans)
            done = Published(plan, plan.uploads, (), None)
        else:
            done = publish(
                store,
                plans,
                catalogue,
                recovered=recovered,
                now=now,
                workers=request.options.workers,
                progress=progress,
            )
    progress.finish()
    report = _publish_report(
        request, store, selection, done, recovered, (*damaged, *done.failed), catalogue, check
    )
    if request.link_valid_s is None or request.dry_run:
        return report
    return replace(report, links=_links(store, done, known, request.link_valid_s, now))


def _links(
    store: ObjectStore,
    done: Published,
    known: Catalogue,
    valid_s: int,
    now: datetime,
) -> tuple[Link, ...]:
    """Return a link for each file of this run that is in the store now."""
    holders = known.holders()
    keys = {name: holders[name].key for name in done.plan.unchanged}
    keys |= {entry.name: entry.key for upload in done.sent for entry in upload.entries}
    keys |= {entry.name: entry.key for entry in done.plan.renamed}
    expires = now + timedelta(seconds=valid_s)
    return tuple(
        Link(name, store.link(key, valid_s=valid_s), expires) for name, key in sorted(keys.items())
    )


def _recover(
    store: ObjectStore, catalogue: Catalogue, request: PublishRequest, progress: Progress
) -> tuple[list[Entry], list[Failure]]:
    """Find contents that no manifest names.

    Done when a manifest is damaged, when there is none, or on request.
    """
    if not (request.rebuild or catalogue.damaged or not catalogue.read):
        return [], []
    if request.dry_run:
        return unnamed_bodies(store, catalogue), []
    return recover(store, catalogue, workers=request.options.workers, progress=progress)


def _planner(
    request: PublishRequest, known: Catalogue, check: RedactionCheck, now: datetime
) -> Planner:
    return Planner(
        known,
        rules=check.version,
        now=now,
        scan_name=check.scan_name,
        allow_unredacted=request.allow_unredacted,
        force=request.force,
    )


def _search(
    check: RedactionCheck, earlier: EarlierContents, batch: Sequence[Snapshot], note: Note
) -> Findings:
    scan = partial(_find_secrets, on_note=note) if check is LOG_RULES else check.scan
    return inspect(batch, earlier, scan, check.scan_name)


def _plans(
    request: PublishRequest,
    selection: Selection,
    planner: Planner,
    search: Search,
    note: Note,
    progress: Progress,
) -> Generator[UploadPlan]:
    """Yield a plan for the known files, then one for each batch of new ones that was searched.

    The next batches are searched while the caller sends the last.
    """
    progress.start("reading", sum(file.size_bytes for file in selection.files))
    snapshots, unreadable = take_snapshots(selection.files, progress)
    progress.finish()
    known, batches = planner.batches(snapshots)
    # Before the bar, which has a thread: to fork beside other threads could lock a child.
    with Searchers(batches, search, note) as searchers:
        progress.start(
            "looking for secrets" if request.dry_run else "looking for secrets, and sending",
            sum(snapshot.size_bytes for batch in batches for snapshot in batch),
        )
        yield replace(planner.plan(known, Findings()), failed=tuple(unreadable))
        for batch, findings in searchers.found():
            plan = planner.plan(batch, findings)
            to_send_bytes = 0 if request.dry_run else plan.send_bytes
            progress.advance(sum(snapshot.size_bytes for snapshot in batch) - to_send_bytes)
            yield plan


def _publish_report(
    request: PublishRequest,
    store: ObjectStore,
    selection: Selection,
    done: Published,
    recovered: Sequence[Entry],
    failed: Sequence[Failure],
    catalogue: Catalogue,
    check: RedactionCheck,
) -> PublishReport:
    plan = done.plan
    sent = [entry for upload in done.sent for entry in upload.entries]
    files = [_file(entry, "sent") for entry in sent]
    files += (_file(entry, "renamed") for entry in plan.renamed)
    files += (_file(entry, "recovered") for entry in recovered)
    files += (
        FileOutcome(refusal.name, "refused", hits=refusal.hits, hint=refusal.hint)
        for refusal in plan.refused
    )
    files += (
        FileOutcome(failure.name, "failed", reason=failure.error.message, hint=failure.error.hint)
        for failure in (*plan.failed, *failed)
    )
    counts = dict.fromkeys(("sent", "renamed", "unchanged", "refused", "failed", "recovered"), 0)
    counts["unchanged"] = len(plan.unchanged)
    for file in files:
        counts[file.outcome] += 1
    published = counts["sent"] + counts["renamed"] + counts["unchanged"] + counts["recovered"]
    return PublishReport(
        store.url,
        request.source,
        request.dry_run,
        check.version,
        counts,
        selection.skipped,
        tuple(sorted(files, key=lambda file: file.name)),
        sum(upload.size_bytes for upload in done.sent),
        done.manifest,
        tuple(catalogue.damaged),
        catalogue.damaged,
        ("pull-logs", *store.options_to_reach()) if published and not request.dry_run else (),
        (),
        store.meter.usage(),
    )


def _file(entry: Entry, outcome: str) -> FileOutcome:
    return FileOutcome(entry.name, outcome, entry.size_bytes, entry.sha256)


def pull_logs(request: PullRequest, *, progress: Progress = SILENT) -> PullReport:
    """List what is published and, with an `output` folder, bring it there.

    Files that are there already are only compared. Where a manifest is damaged or missing, the
    objects themselves are listed.

    Raises:
        SourceError: nothing is published there.
        InputError: the store's name, an option or `output` is wrong.
        CredentialsError, RemoteError: the store cannot be read.
    """
    store = open_store(request.store, request.options)
    catalogue = read_catalogue(store)
    if request.rebuild or catalogue.damaged or not catalogue.read:
        catalogue = replace(
            catalogue, entries=union(catalogue.entries.values(), unnamed_bodies(store, catalogue))
        )
    if not catalogue.entries:
        raise SourceError(
            f"nothing is published under {store.url}",
            hint="Check --bucket and --prefix.",
            code="publish.empty",
        )
    logs = published_logs(catalogue, names=request.names, since=request.since)
    files: list[PulledFile] = []
    if request.output is None:
        files += (_pulled(log, "listed") for log in logs)
    else:
        progress.start("comparing", len(logs), "files")
        plan = plan_pull(logs, catalogue, request.output, force=request.force, progress=progress)
        progress.start("fetching", plan.fetch_bytes)
        fetched, failed = pull(store, plan, workers=request.options.workers, progress=progress)
        progress.finish()
        for outcome, group in (("fetched", fetched), ("same", plan.same), ("kept", plan.kept)):
            files += (_pulled(log, outcome) for log in group)
        files += (_failed_pull(failure.name, failure.error) for failure in (*plan.failed, *failed))
    counts = dict.fromkeys(("listed", "fetched", "same", "kept", "failed"), 0)
    for file in files:
        counts[file.outcome] += 1
    files.sort(key=lambda file: file.name)
    return PullReport(
        store.url,
        request.output,
        counts,
        tuple(files),
        tuple(catalogue.damaged),
        catalogue.damaged,
        store.meter.usage(),
    )


def _pulled(log: PublishedLog, outcome: str) -> PulledFile:
    entry = log.entry
    modified = datetime.fromtimestamp(entry.mtime_ns / 1e9, UTC)
    passed = None if entry.rules == NOT_VOUCHED else entry.rules
    return PulledFile(log.name, outcome, entry.size_bytes, modified, entry.sha256, passed)


def _failed_pull(name: str, error: DsmopsError) -> PulledFile:
    return PulledFile(name, "failed", reason=error.message, hint=error.hint)
