"""Brings published logs back: each content under a name, each byte compared.

Nothing is written outside the output folder. A name may have had many contents: logs grow, rotation
moves names on, hosts share names. The content last published under a name has it. A content that
lost all its names is omitted when a longer one begins with it. Otherwise it comes back as
`<name>.~<digest>`. So every published byte is restored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from dsmops.errors import DiskFullError, DsmopsError, InputError, IntegrityError
from dsmops.files import free_bytes, os_errors, replace_atomically, require_free_space, sha256
from dsmops.progress import SILENT, Progress
from dsmops.publish.manifest import Catalogue, Entry
from dsmops.publish.names import matches_any, require_safe, with_mark
from dsmops.publish.source import Failure
from dsmops.publish.store import ObjectStore
from dsmops.publish.transfer import transfer_each
from dsmops.units import size


@dataclass(frozen=True, slots=True)
class PublishedLog:
    """One content and the name it is restored under."""

    name: str
    entry: Entry


class Here(StrEnum):
    """What the output folder has under a name."""

    NOTHING = "nothing"
    SAME = "same"
    OLDER = "older"
    """A content that was published too; replacing it loses nothing."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What to fetch, and what not, and why."""

    output: Path
    fetch: tuple[PublishedLog, ...]
    same: tuple[PublishedLog, ...]
    kept: tuple[PublishedLog, ...]
    """Names under which the folder has a file that was never published. `force` replaces it."""
    failed: tuple[Failure, ...]

    @property
    def fetch_bytes(self) -> int:
        return sum(log.entry.size_bytes for log in self.fetch)


def published_logs(
    catalogue: Catalogue, *, names: Sequence[str] = (), since: datetime | None = None
) -> list[PublishedLog]:
    """Return what is published with the names it is restored under, by name.

    A content comes twice only if it was published under two names. `names` are shell patterns;
    `since` omits what was last written earlier.
    """
    superseded = catalogue.superseded()
    holder = catalogue.holders()
    placed = {entry.sha256 for entry in holder.values()}
    homeless = {
        entry.sha256: entry
        for entry in catalogue.entries.values()
        if entry.sha256 not in placed | superseded
    }
    logs = [PublishedLog(name, entry) for name, entry in holder.items()]
    logs += (
        PublishedLog(with_mark(entry.name, entry.sha256, holder), entry)
        for entry in homeless.values()
    )
    oldest_ns = int(since.timestamp() * 1e9) if since else 0
    wanted = (
        log
        for log in logs
        if log.entry.mtime_ns >= oldest_ns and (not names or matches_any(log.entry.name, names))
    )
    return sorted(wanted, key=lambda log: log.name)


def plan_pull(
    logs: Iterable[PublishedLog],
    catalogue: Catalogue,
    output: Path,
    *,
    force: bool = False,
    progress: Progress = SILENT,
) -> PullPlan:
    """Compare the folder with what is published. `progress` counts files. Nothing is written.

    Raises:
        InputError: `output` is a file.
    """
    if output.exists() and not output.is_dir():
        raise InputError(
            f"{output} is not a folder", hint="Name a folder with --output.", code="publish.output"
        )
    groups: dict[Here, list[PublishedLog]] = {state: [] for state in Here}
    failed: list[Failure] = []
    published = {entry.sha256 for entry in catalogue.entries.values()}
    for log in logs:
        try:
            groups[_look(_target(output, log.name), log.entry, published)].append(log)
        except DsmopsError as exc:
            failed.append(Failure(log.name, exc))
        progress.advance(1)
    fetch = groups[Here.NOTHING] + groups[Here.OLDER] + (groups[Here.OTHER] if force else [])
    kept = [] if force else groups[Here.OTHER]
    return PullPlan(output, tuple(fetch), tuple(groups[Here.SAME]), tuple(kept), tuple(failed))


def pull(
    store: ObjectStore, plan: PullPlan, *, workers: int, progress: Progress = SILENT
) -> tuple[list[PublishedLog], list[Failure]]:
    """Fetch what the plan says. Each file appears whole, with its time, after its digest was right.

    A file that is alone larger than the disk fails by itself: the number in its entry may be
    wrong. `progress` counts bytes.

    Raises:
        CredentialsError: the store refused.
        DiskFullError: there is no room for the rest; nothing was fetched.
    """
    free = free_bytes(plan.output)
    too_large = [] if free is None else [log for log in plan.fetch if log.entry.size_bytes > free]
    wanted = [log for log in plan.fetch if log not in too_large]
    require_free_space(plan.output, sum(log.entry.size_bytes for log in wanted))

    def fetch(log: PublishedLog) -> None:
        entry = log.entry
        target = _target(plan.output, log.name)
        left = entry.size_bytes
        with replace_atomically(target, durable=False) as partial:

            def write(block: bytes) -> None:
                nonlocal left
                left -= len(block)
                if left < 0:  # there may be no room for it
                    raise IntegrityError(
                        f"{entry.key} is larger than published",
                        hint="Find out who wrote it to the store.",
                    )
                partial.write(block)

            store.get(entry.key, write, sha256=entry.sha256, progress=progress)
            with os_errors(target):
                os.utime(partial.fd, ns=(entry.mtime_ns, entry.mtime_ns))

    fetched: list[PublishedLog] = []
    failed = [Failure(log.name, _no_room(log, plan.output, free)) for log in too_large]
    for log, error in transfer_each(wanted, fetch, workers):
        if error is None:
            fetched.append(log)
        else:
            failed.append(Failure(log.name, error))
    return fetched, failed


def _no_room(log: PublishedLog, output: Path, free: int | None) -> DiskFullError:
    return DiskFullError(
        f"the manifest says that {log.name} has {size(log.entry.size_bytes)}, and {output} has "
        f"{size(free)} free",
        need_bytes=log.entry.size_bytes,
        free_bytes=free,
        hint="Free some space. If the size cannot be right, find out who wrote the manifest.",
    )


def _target(output: Path, name: str) -> Path:
    """Return where a name is restored: never outside `output`, not even through a link."""
    target = output / require_safe(name)
    with os_errors(target):
        if not target.parent.resolve().is_relative_to(output.resolve()):
            raise InputError(
                f"{target.parent} leads out of {output}",
                hint="Remove the link, or name another --output.",
            )
    return target


def _look(target: Path, entry: Entry, published: set[str]) -> Here:
    with os_errors(target):
        if target.is_symlink():
            return Here.OTHER
        if not target.exists():
            return Here.NOTHING
    digest = sha256(target)
    return (
        Here.SAME if digest == entry.sha256 else Here.OLDER if digest in published else Here.OTHER
    )
