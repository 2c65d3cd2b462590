"""From names on the hub to files on this machine: plan with sizes, fetch, reuse.

The cache comes first. When all files of a plan are in it, for a pinned commit or for a branch that
was resolved before, no request is made at all: a second run works offline and at once. The price is
that a branch which has moved on the hub is not noticed; `refresh` asks again. When anything is
missing, the revision is resolved again and all files of it come from that one commit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dsmops import files
from dsmops.errors import SourceError, TargetBusyError
from dsmops.hub import cache
from dsmops.hub.settings import HubSettings, read_settings
from dsmops.hub.source import DEFAULT_REVISION, FileVersion, HubFile
from dsmops.progress import SILENT, Progress
from dsmops.units import counted, size

_BUSY_POLL_S = 0.2
_STILL_S = 120.0
"""How long another process may hold a file to which it adds nothing."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of a plan, and the version of it that will be used.

    `path` is where the cache has it, None when there is something to do. `fetch_bytes` counts what
    is still to come over the network: nothing for content that is already there, less than the
    whole for a download that was interrupted.
    """

    file: HubFile
    version: FileVersion
    path: Path | None
    fetch_bytes: int


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """What `fetch` would do: the files in the order of the request, the hub and the cache."""

    files: tuple[PlannedFile, ...]
    settings: HubSettings

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(planned.version.size_bytes for planned in self.files)

    @property
    def fetch_bytes(self) -> int:
        """What has to come over the network, and onto the disk."""
        return sum(planned.fetch_bytes for planned in self.files)

    def lines(self) -> Iterator[str]:
        """Yield what a download costs, for people: the total, then one line per file.

        Nothing when every file is in the cache.
        """
        lacking = [planned for planned in self.files if planned.path is None]
        if not lacking:
            return
        what = f"{counted(len(lacking), 'file')}, {size(self.fetch_bytes)}"
        yield f"Downloading {what}, into {self.settings.cache}"
        for planned in lacking:
            whole, rest = planned.version.size_bytes, planned.fetch_bytes
            had = "" if rest == whole else f", of which {size(whole - rest)} are here already"
            yield f"  {planned.file}  {size(whole)}{had}"

    def path_of(self, planned: PlannedFile) -> Path:
        """Return where the cache has a file of this plan, or will have it once it was fetched."""
        return planned.path or cache.snapshot_path(
            self.settings.cache, planned.file, planned.version.commit
        )


def in_cache(file: HubFile) -> Path | None:
    """Return where the cache has `file`, or None.

    No network, no huggingface_hub; well under a millisecond.
    """
    return cache.find(read_settings().cache, file)


def plan_download(wanted: Iterable[HubFile], *, refresh: bool = False) -> DownloadPlan:
    """Return what it takes to have the wanted files here.

    Nothing is downloaded; duplicates count once.

    `refresh` asks the hub even where the cache has everything, unless `HF_HUB_OFFLINE` forbids it.

    Raises:
        SourceError: a file, revision or repository is not there; offline, and something is not in
            the cache.
        CredentialsError: the repository is gated, or the hub refused the token.
        TransferError: the hub cannot be reached, or fails.
    """
    settings = read_settings()
    wanted = tuple(dict.fromkeys(wanted))
    here = {file: cache.find(settings.cache, file) for file in wanted}
    missing = [file for file, path in here.items() if path is None]
    if settings.offline and missing:
        raise _not_staged(missing, settings)
    stale = wanted if refresh and not settings.offline else missing
    unresolved = {(file.repo, file.revision) for file in stale}
    commits: dict[tuple[str, str], str] = {}
    planned = []
    for file in wanted:
        path, snapshot = here[file], (file.repo, file.revision)
        if path is not None and snapshot not in unresolved:
            planned.append(
                PlannedFile(file, cache.read_version(settings.cache, file, path), path, 0)
            )
            continue
        planned.append(_plan_from_hub(file, commits.get(snapshot), settings))
        commits[snapshot] = planned[-1].version.commit
    return DownloadPlan(tuple(planned), settings)


def fetch(plan: DownloadPlan, *, progress: Progress = SILENT) -> dict[HubFile, Path]:
    """Bring what the plan lacks into the cache and return where every file of it is.

    An interrupted download goes on where it stopped. Waits for a file that another process
    downloads. Large files are compared with their SHA-256. A branch is recorded as standing at the
    new commit only once all files are there, so that a failure leaves the old ones usable.

    Raises:
        DiskFullError: the cache's disk has no room; checked before the first byte, and noticed
            later too.
        TransferError, CredentialsError, SourceError: the network or the hub failed.
        IntegrityError: what arrived is not what the hub promised; it was removed.
        TargetBusyError: another process holds a file and adds nothing to it.
    """
    paths = {planned.file: planned.path for planned in plan.files if planned.path is not None}
    lacking = [planned for planned in plan.files if planned.path is None]
    if lacking:
        # What there is to do now: another process may have begun since the plan was made.
        files.require_free_space(
            plan.settings.cache, sum(_missing_bytes(one, plan.settings) for one in lacking)
        )
        progress.start(
            f"Downloading from {', '.join(sorted({planned.file.repo for planned in lacking}))}",
            plan.fetch_bytes,
        )
        try:
            for planned in lacking:
                paths[planned.file] = _fetch_one(planned, plan.settings, progress)
        finally:
            progress.finish()
    for planned in plan.files:
        cache.remember_commit(plan.settings.cache, planned.file, planned.version.commit)
    return {planned.file: paths[planned.file] for planned in plan.files}


def list_files(file: HubFile) -> list[str]:
    """Return the sorted names of all files of the repository and revision of `file`.

    It takes one request. Offline it lists the files in the cache.

    Raises as `plan_download` does.
    """
    settings = read_settings()
    if settings.offline:
        return sorted(cache.list_files(settings.cache, file))
    from dsmops.hub import transfer

    return sorted(transfer.list_files(file, settings))


def read_head(file: HubFile, size: int) -> tuple[bytes, int]:
    """Return the first `size` bytes of `file` and its whole size, without downloading the rest.

    A shorter file gives fewer bytes.

    From the cache where it has the file, else by one range request. Raises as `plan_download` does.
    """
    settings = read_settings()
    path = cache.find(settings.cache, file)
    if path is not None:
        with files.os_errors(path), path.open("rb") as opened:
            return opened.read(size), path.stat().st_size
    if settings.offline:
        raise _not_staged([file], settings)
    from dsmops.hub import transfer

    version = transfer.ask_version(file, settings)
    # No range fits an empty file.
    head = (
        transfer.read_head(file, version.commit, min(size, version.size_bytes), settings)
        if version.size_bytes
        else b""
    )
    return head, version.size_bytes


def ask_once(file: HubFile, *, timeout_s: int) -> FileVersion:
    """Ask the hub once, with a short time-out, which version of `file` it has.

    The cache is not used.

    Raises:
        SourceError: the file, revision or repository is not there.
        CredentialsError: the repository is gated, or the hub refused the token or the machine.
        TransferError: the hub cannot be reached within `timeout_s`, or fails.
    """
    from dsmops.hub import client

    return client.read_version(file, replace(read_settings(), timeout_s=timeout_s))


def _plan_from_hub(file: HubFile, commit: str | None, settings: HubSettings) -> PlannedFile:
    """Ask the hub about `file`.

    `commit` is where another file of the same revision was found before.
    """
    from dsmops.hub import transfer

    version = transfer.ask_version(file, settings, commit)
    path = cache.find(settings.cache, replace(file, revision=version.commit))
    planned = PlannedFile(file, version, path, 0)
    return replace(planned, fetch_bytes=_missing_bytes(planned, settings))


def _missing_bytes(planned: PlannedFile, settings: HubSettings) -> int:
    """Return what of a file is not here now."""
    file, version = planned.file, planned.version
    if cache.is_there(settings.cache, file, version):
        return 0
    partial = files.partial_path(cache.blob_path(settings.cache, file, version.etag))
    try:
        left = partial.stat().st_size
    except OSError:
        left = 0
    return version.size_bytes - (left if version.sha256 and left <= version.size_bytes else 0)


def _fetch_one(planned: PlannedFile, settings: HubSettings, progress: Progress) -> Path:
    from dsmops.hub import transfer

    file, version = planned.file, planned.version
    waited = _Wait(planned, settings, progress)
    while not cache.is_there(settings.cache, file, version):
        try:
            transfer.download(file, version, settings, progress)
            break
        except TargetBusyError as exc:
            # When its network fails it gives up, and this one goes on from there.
            waited.for_a_moment(exc)
    else:
        waited.end()
    if cache.blob_path(settings.cache, file, version.etag).exists():
        return cache.link(settings.cache, file, version)
    return cache.snapshot_path(settings.cache, file, version.commit)


class _Wait:
    """Waits for another process that downloads a file, and shows how far it is."""

    def __init__(self, planned: PlannedFile, settings: HubSettings, progress: Progress) -> None:
        self._planned, self._settings, self._progress = planned, settings, progress
        self._missing_bytes = planned.fetch_bytes
        self._changed_at_s: float | None = None

    def for_a_moment(self, busy: TargetBusyError) -> None:
        """Wait before the next look.

        Raises:
            TargetBusyError: the file has not changed for too long.
        """
        now_s, file = time.monotonic(), self._planned.file
        if self._changed_at_s is None:
            self._progress.announce([f"Waiting for another process that downloads {file}"])
            self._changed_at_s = now_s
        missing_bytes = _missing_bytes(self._planned, self._settings)
        if missing_bytes != self._missing_bytes:
            self._show(missing_bytes)
            self._changed_at_s = now_s
        elif now_s - self._changed_at_s >= _STILL_S:
            partial = files.partial_path(
                cache.blob_path(self._settings.cache, file, self._planned.version.etag)
            )
            raise TargetBusyError(
                f"another process holds {partial} and has added nothing to it for {_STILL_S:g} s",
                hint=f"End that process (`fuser {partial}` shows it). If it ran on a machine that"
                " is gone, remove this file.",
            ) from busy
        time.sleep(_BUSY_POLL_S)

    def end(self) -> None:
        """Show that the file is there."""
        self._show(0)

    def _show(self, missing_bytes: int) -> None:
        self._progress.advance(self._missing_bytes - missing_bytes)
        self._missing_bytes = missing_bytes


def _not_staged(missing: list[HubFile], settings: HubSettings) -> SourceError:
    first = missing[0]
    revision = "" if first.revision == DEFAULT_REVISION else f" --revision {first.revision}"
    names = " ".join(
        file.filename
        for file in missing
        if (file.repo, file.revision) == (first.repo, first.revision)
    )
    return SourceError(
        f"offline, and not in the cache {settings.cache}: {', '.join(map(str, missing))}",
        hint=(
            f"With a network run `hf download {first.repo} {names}{revision}`, or copy that cache"
            " folder from a machine that has it."
        ),
        code="hub.offline",
    )
