"""Plans a run: which contents to send, which to name, and which to refuse.

Content decides. A file whose name and digest the store knows costs nothing. A known digest under a
new name (rotation renames) costs a line in a manifest. Only new content is scanned for what
redaction should have removed, and sent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from io import RawIOBase
from itertools import chain
from pathlib import Path

from dsmops.errors import DsmopsError
from dsmops.publish.manifest import Catalogue, Entry
from dsmops.publish.names import MAX_NUMBER, NOT_VOUCHED, body_key, family
from dsmops.publish.source import Failure, Snapshot, SnapshotReader

Scan = Callable[[str, RawIOBase], Mapping[str, int]]
"""Searches a file's bytes for what should have been redacted; returns hits by rule.

It may raise an `InputError`."""

ScanName = Callable[[str], Mapping[str, int]]
"""Searches a name for the same, see `Scan`."""

EarlierContents = Mapping[str, Mapping[int, set[str]]]
"""Digests by the family of a log and the length that it had."""


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


def joined(plans: Iterable[UploadPlan]) -> UploadPlan:
    """Return one plan that holds what several say."""
    plans = tuple(plans)
    return UploadPlan(
        tuple(chain.from_iterable(plan.uploads for plan in plans)),
        tuple(chain.from_iterable(plan.renamed for plan in plans)),
        tuple(chain.from_iterable(plan.unchanged for plan in plans)),
        tuple(chain.from_iterable(plan.refused for plan in plans)),
        tuple(chain.from_iterable(plan.failed for plan in plans)),
    )


@dataclass(frozen=True, slots=True)
class Inspection:
    """What reading a new content found."""

    hits: dict[str, int]
    continues: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What reading some new files found."""

    contents: dict[str, Inspection] = field(default_factory=dict)
    """By digest."""
    name_hits: dict[str, dict[str, int]] = field(default_factory=dict)
    """By name."""
    failed: tuple[Failure, ...] = ()
    """Files that could not be read, or were rewritten meanwhile."""


_BATCH_FILES, _BATCH_BYTES = 64, 4 << 20


def inspect(
    snapshots: Iterable[Snapshot], earlier: EarlierContents, scan: Scan, scan_name: ScanName
) -> Findings:
    """Read new files once more: scan them, and find earlier contents that they begin with.

    Of equal contents one is read.
    """
    found: dict[str, Inspection] = {}
    failed: list[Failure] = []
    names: dict[str, dict[str, int]] = {}
    for snapshot in snapshots:
        names[snapshot.name] = dict(scan_name(snapshot.name))
        if snapshot.sha256 in found:
            continue
        try:
            with SnapshotReader(snapshot, earlier.get(family(snapshot.name))) as reader:
                hits = {rule: count for rule, count in scan(snapshot.name, reader).items() if count}
                reader.finish()
        except DsmopsError as exc:
            failed.append(Failure(snapshot.name, exc))
        else:
            found[snapshot.sha256] = Inspection(hits, reader.continues)
    return Findings(found, names, tuple(failed))


class Planner:
    """Decides about snapshots, a batch at a time.

    The store vouches for a content without an inspection; `force` inspects and sends it all the
    same. A name that the store does not have for a content is scanned whatever the content.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        rules: int,
        now: datetime,
        scan_name: ScanName = lambda _: {},
        allow_unredacted: bool = False,
        force: bool = False,
    ) -> None:
        self._catalogue, self._rules, self._scan_name = catalogue, rules, scan_name
        self._now_ms = int(now.timestamp() * 1000)
        self._allow_unredacted, self._force = allow_unredacted, force
        self._bodies, self._vouched = catalogue.bodies(), catalogue.vouched()
        self._holders = catalogue.holders()

    def batches(
        self, snapshots: Iterable[Snapshot]
    ) -> tuple[list[Snapshot], list[Sequence[Snapshot]]]:
        """Return the files to plan without an inspection, and batches of those to inspect first.

        Equal contents are in one batch, so that each is read and sent once.
        """
        known: list[Snapshot] = []
        groups: dict[str, list[Snapshot]] = {}
        for snapshot in snapshots:
            if self._needs_inspection(snapshot):
                groups.setdefault(snapshot.sha256, []).append(snapshot)
            else:
                known.append(snapshot)
        batches: list[Sequence[Snapshot]] = []
        batch: list[Snapshot] = []
        size_bytes = 0
        for group in groups.values():
            batch += group
            size_bytes += group[0].size_bytes
            if len(batch) >= _BATCH_FILES or size_bytes >= _BATCH_BYTES:
                batches.append(batch)
                batch, size_bytes = [], 0
        return known, [*batches, batch] if batch else batches

    def _needs_inspection(self, snapshot: Snapshot) -> bool:
        """Tell whether a content must be scanned: it is new, or has not passed these rules yet.

        With `allow_unredacted` it is enough that the content was published once.
        """
        passed = self._vouched.get(snapshot.sha256)
        return (
            self._force
            or passed is None
            or (passed < self._rules and not (self._allow_unredacted and passed == NOT_VOUCHED))
        )

    def plan(self, snapshots: Iterable[Snapshot], findings: Findings) -> UploadPlan:
        """Decide about each snapshot of a batch."""
        uploads: dict[str, Upload] = {}
        renamed: list[Entry] = []
        unchanged: list[str] = []
        refused: list[Refusal] = []
        left_out = {failure.name for failure in findings.failed}
        for snapshot in snapshots:
            if snapshot.name in left_out:
                continue
            sha256 = snapshot.sha256
            inspection = findings.contents.get(sha256)
            holder = self._holders.get(snapshot.name)
            has_name = holder is not None and holder.sha256 == sha256
            if inspection is None and has_name:
                unchanged.append(snapshot.name)
                continue
            hits = dict(inspection.hits) if inspection else {}
            if snapshot.name in findings.name_hits:
                hits |= findings.name_hits[snapshot.name]
            else:
                hits |= self._scan_name(snapshot.name)
            if hits and not self._allow_unredacted:
                in_store = sha256 in self._bodies
                refused.append(Refusal(snapshot.name, hits, in_store=in_store))
                continue
            upload = uploads.get(sha256)
            entry = self._entry(snapshot, inspection, hits, upload)
            if self._force or sha256 not in self._bodies:
                others = upload.entries if upload else ()
                uploads[sha256] = Upload(
                    entry.key, sha256, entry.size_bytes, Path(snapshot.path), (*others, entry)
                )
            elif has_name and self._catalogue.says(entry):
                unchanged.append(snapshot.name)
            else:
                renamed.append(entry)
        return UploadPlan(
            tuple(uploads.values()),
            tuple(renamed),
            tuple(unchanged),
            tuple(refused),
            findings.failed,
        )

    def _entry(
        self,
        snapshot: Snapshot,
        inspection: Inspection | None,
        hits: Mapping[str, int],
        upload: Upload | None,
    ) -> Entry:
        """Return the line of the manifest; `upload` has the same content under other names."""
        sha256 = snapshot.sha256
        passed = NOT_VOUCHED if hits else self._rules if inspection else self._vouched[sha256]
        key = (
            upload.key
            if upload
            else self._bodies.get(sha256) or body_key(snapshot.name, sha256, passed)
        )
        # Later than any earlier entry of this name, by any clock: a host whose clock was ahead
        # must not keep a name forever.
        holder = self._holders.get(snapshot.name)
        named_ms = (
            self._now_ms
            if holder is None or holder.sha256 == sha256
            else min(max(self._now_ms, holder.named_ms + 1), MAX_NUMBER)
        )
        return Entry(
            snapshot.name,
            sha256,
            snapshot.size_bytes,
            snapshot.mtime_ns,
            named_ms,
            passed,
            key,
            inspection.continues if inspection else "",
        )


def earlier_contents(catalogue: Catalogue) -> EarlierContents:
    """Return the contents that a log may have had when it was shorter, by family and length."""
    known: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for entry in catalogue.entries.values():
        known[family(entry.name)][entry.size_bytes].add(entry.sha256)
    return known
