"""Plans a run: which contents to send, which to name, and which to refuse.

Content decides. A file whose name and digest the store knows costs nothing. A known digest under a
new name (rotation renames) costs a line in a manifest. Only new content is scanned for what
redaction should have removed, and sent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from io import RawIOBase
from pathlib import Path

from dsmops.errors import DsmopsError
from dsmops.progress import SILENT, Progress
from dsmops.publish.manifest import Catalogue, Entry
from dsmops.publish.names import MAX_NUMBER, NOT_VOUCHED, body_key, family
from dsmops.publish.source import Failure, Snapshot, SnapshotReader

Scan = Callable[[str, RawIOBase], Mapping[str, int]]
"""Searches a file's bytes for what should have been redacted; returns hits by rule.

It may raise an `InputError`."""

ScanName = Callable[[str], Mapping[str, int]]
"""Searches a name for the same, see `Scan`."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One content to send, and every name it has here."""

    key: str
    sha256: str
    size_bytes: int
    path: Path
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file that is not sent: how often each redaction rule found something, never what."""

    name: str
    hits: dict[str, int]
    in_store: bool
    """The same content was published before, under older rules or with the check off."""

    @property
    def hint(self) -> str:
        published = "It was published before: delete it there too. " if self.in_store else ""
        return (
            f"{published}Format the raw log, unpacked, with `dsmops format-log`, which redacts. "
            "Or add --allow-unredacted."
        )


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """What to send, what to name, what to leave."""

    uploads: tuple[Upload, ...]
    renamed: tuple[Entry, ...]
    """Contents that the store has, but not under this name or this rule set."""
    unchanged: tuple[str, ...]
    refused: tuple[Refusal, ...]
    failed: tuple[Failure, ...]

    @property
    def send_bytes(self) -> int:
        return sum(upload.size_bytes for upload in self.uploads)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What reading a new content found."""

    hits: dict[str, int]
    continues: str


def needs_inspection(
    snapshot: Snapshot, vouched: Mapping[str, int], rules: int, *, allow_unredacted: bool = False
) -> bool:
    """Tell whether a content must be scanned: it is new, or has not passed these rules yet.

    `vouched` is `Catalogue.vouched()`. With `allow_unredacted` it is enough that the content was
    published once.
    """
    passed = vouched.get(snapshot.sha256)
    return passed is None or (passed < rules and not (allow_unredacted and passed == NOT_VOUCHED))


def inspect(
    snapshots: Iterable[Snapshot], catalogue: Catalogue, scan: Scan, progress: Progress = SILENT
) -> tuple[dict[str, Inspection], list[Failure]]:
    """Read each content once more: scan it, and find an earlier content that it begins with.

    Returns the results by digest, and the files that could not be read or were rewritten
    meanwhile. `progress` counts bytes.
    """
    beginnings = _beginnings(catalogue)
    found: dict[str, Inspection] = {}
    failed: list[Failure] = []
    for snapshot in snapshots:
        if snapshot.sha256 not in found:
            try:
                with SnapshotReader(snapshot, beginnings.get(family(snapshot.name))) as reader:
                    hits = {
                        rule: count for rule, count in scan(snapshot.name, reader).items() if count
                    }
                    reader.finish()
                found[snapshot.sha256] = Inspection(hits, reader.continues)
            except DsmopsError as exc:
                failed.append(Failure(snapshot.name, exc))
        progress.advance(snapshot.size_bytes)
    return found, failed


def plan_upload(
    snapshots: Iterable[Snapshot],
    catalogue: Catalogue,
    inspections: Mapping[str, Inspection],
    failed: Iterable[Failure],
    *,
    rules: int,
    now: datetime,
    scan_name: ScanName = lambda _: {},
    allow_unredacted: bool = False,
    force: bool = False,
) -> UploadPlan:
    """Decide about each snapshot.

    The store vouches for a content without an inspection; `force` sends it all the same. A name
    that the store does not have for this content is looked at whatever the content.
    """
    failed = tuple(failed)
    now_ms = int(now.timestamp() * 1000)
    left_out = {failure.name for failure in failed}
    bodies, vouched, holders = catalogue.bodies(), catalogue.vouched(), catalogue.holders()
    uploads: dict[str, Upload] = {}
    renamed: list[Entry] = []
    unchanged: list[str] = []
    refused: list[Refusal] = []
    for snapshot in snapshots:
        if snapshot.name in left_out:
            continue
        sha256, size_bytes = snapshot.sha256, snapshot.size_bytes
        holder = holders.get(snapshot.name)
        has_name = holder is not None and holder.sha256 == sha256
        if sha256 not in inspections and has_name:
            unchanged.append(snapshot.name)
            continue
        inspection = inspections.get(sha256) or Inspection({}, "")
        hits = {**inspection.hits, **scan_name(snapshot.name)}
        if hits and not allow_unredacted:
            refused.append(Refusal(snapshot.name, hits, in_store=sha256 in bodies))
            continue
        passed = NOT_VOUCHED if hits else rules if sha256 in inspections else vouched[sha256]
        key = (
            uploads[sha256].key
            if sha256 in uploads
            else bodies.get(sha256) or body_key(snapshot.name, sha256, passed)
        )
        # Later than any earlier entry of this name, by any clock: a host whose clock was ahead
        # must not keep a name forever.
        named_ms = (
            now_ms
            if holder is None or has_name
            else min(max(now_ms, holder.named_ms + 1), MAX_NUMBER)
        )
        entry = Entry(
            snapshot.name,
            sha256,
            size_bytes,
            snapshot.mtime_ns,
            named_ms,
            passed,
            key,
            inspection.continues,
        )
        if force or sha256 not in bodies:
            others = uploads[sha256].entries if sha256 in uploads else ()
            uploads[sha256] = Upload(key, sha256, size_bytes, Path(snapshot.path), (*others, entry))
        elif has_name and catalogue.says(entry):
            unchanged.append(snapshot.name)
        else:
            renamed.append(entry)
    return UploadPlan(
        tuple(uploads.values()), tuple(renamed), tuple(unchanged), tuple(refused), failed
    )


def _beginnings(catalogue: Catalogue) -> dict[str, dict[int, set[str]]]:
    """Return the contents that a log may have had when it was shorter, by family and length."""
    known: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for entry in catalogue.entries.values():
        known[family(entry.name)][entry.size_bytes].add(entry.sha256)
    return known
