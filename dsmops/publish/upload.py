"""Carries out plans: bodies first, many at a time, then one manifest that names those stored."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta

from dsmops.errors import CredentialsError, RemoteError
from dsmops.progress import SILENT, Progress
from dsmops.publish.manifest import Catalogue, Entry, record, unnamed_bodies
from dsmops.publish.plan import Upload, UploadPlan, joined
from dsmops.publish.source import Failure
from dsmops.publish.store import ObjectStore
from dsmops.publish.transfer import transfer_each

ABANDONED_AFTER = timedelta(days=1)
"""An upload unfinished for so long belongs to a killed run. S3's shortest lifecycle rule."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """What was planned and stored."""

    plan: UploadPlan
    sent: tuple[Upload, ...]
    failed: tuple[Failure, ...]
    manifest: str | None
    """Key of the manifest written; None when there was nothing new to say."""


def publish(
    store: ObjectStore,
    plans: Iterable[UploadPlan],
    catalogue: Catalogue,
    *,
    recovered: Sequence[Entry] = (),
    now: datetime,
    workers: int,
    progress: Progress = SILENT,
) -> Published:
    """Send what plans say, and write a manifest that names what was stored.

    The next plan is taken when the last one's bodies are on their way. The manifest is also
    written when an error or Ctrl-C ends the run early. One body that fails does not stop the rest.
    `progress` counts bytes. Bodies without a manifest (a killed run) do no harm: the next run sends
    them again to the same keys.

    Raises:
        CredentialsError: the store refused; nothing else would get through.
        RemoteError: the manifest could not be written.
    """
    taken: list[UploadPlan] = []
    sent: list[Upload] = []
    failed: list[Failure] = []

    def uploads() -> Iterator[Upload | None]:
        is_first = True
        for plan in plans:
            taken.append(plan)
            if plan.uploads and is_first:
                is_first = False
                _clear_abandoned(store, now)
            yield from plan.uploads or (None,)

    def send(upload: Upload) -> None:
        store.put(
            upload.path,
            upload.key,
            sha256=upload.sha256,
            size_bytes=upload.size_bytes,
            progress=progress,
        )
        sent.append(upload)  # here, so that Ctrl-C loses none that was stored

    manifest = None
    try:
        with closing(transfer_each(uploads(), send, workers)) as outcomes:
            for upload, error in outcomes:
                if error is not None:
                    failed += (Failure(entry.name, error) for entry in upload.entries)
    finally:
        news = [entry for upload in sent for entry in upload.entries]
        news += (entry for plan in taken for entry in plan.renamed)
        news += recovered
        if catalogue.damaged or news:
            manifest = record(store, catalogue, news, now)
    return Published(joined(taken), tuple(sent), tuple(failed), manifest)


def _clear_abandoned(store: ObjectStore, now: datetime) -> None:
    try:
        if count := store.abort_unfinished(now - ABANDONED_AFTER):
            _log.info("%s: cleared %d uploads that killed runs had left", store.url, count)
    except (CredentialsError, RemoteError) as exc:
        _log.debug("%s: could not list unfinished uploads: %s", store.url, exc)


def recover(
    store: ObjectStore, catalogue: Catalogue, *, workers: int, progress: Progress = SILENT
) -> tuple[list[Entry], list[Failure]]:
    """Return entries for the bodies that no manifest names, and the bodies that are damaged.

    Each body is read whole and compared with the digest in its key. `progress` counts objects.
    """
    lost = unnamed_bodies(store, catalogue)
    progress.start("reading unnamed objects", len(lost), "objects")

    def read(entry: Entry) -> None:
        store.get(entry.key, lambda _: None, sha256=entry.sha256)
        progress.advance(1)

    found: list[Entry] = []
    failed: list[Failure] = []
    for entry, error in transfer_each(lost, read, workers):
        if error is None:
            found.append(entry)
        else:
            failed.append(Failure(entry.name, error))
    progress.finish()
    return found, failed
