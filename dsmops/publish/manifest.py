"""Manifests: the names and digests of the bodies in a store. Readers take the union of all.

A run with news writes one manifest, under a name that no other run can choose. It holds the union
of what the run read and its own entries. Then the run deletes the manifests it read. A manifest
that another run wrote meanwhile was not read, so it is neither deleted nor lost, and the next run
merges it. The union is a join (associative, commutative, idempotent): order and repetition do not
matter, and no step needs the store to compare and swap. Where deleting is forbidden, old manifests
stay, and `replaces` tells readers not to fetch them. The name ends in the digest of the bytes, so
readers notice damage.

Manifests are compressed: 10,000 entries take 0.6 MB instead of 4.8 MB. Older ones, without `.gz`,
are read as before.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
import secrets
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, NamedTuple

from dsmops.errors import (
    CredentialsError,
    InputError,
    IntegrityError,
    MissingObjectError,
    RemoteError,
)
from dsmops.publish.names import BODIES, MAX_NUMBER, NOT_VOUCHED, key_digest, parse_body_key
from dsmops.publish.store import ObjectStore
from dsmops.units import size

MANIFESTS = "manifests/"
SCHEMA = "dsmops.log-manifest/1"

MAX_MANIFEST_BYTES = 256 << 20
"""Larger manifests are not read, compressed or not: half a million entries have less."""

_NAME = re.compile(
    rf"{MANIFESTS}\d{{8}}T\d{{6}}Z-[0-9a-f]{{16}}-(?P<sha256>[0-9a-f]{{64}})\.json(?:\.gz)?"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RELIST_ATTEMPTS = 20
_RELIST_WAIT_S = 0.05

# Made once: `json.dumps` with separators makes an encoder for each row, at twice the time.
_ROWS = json.JSONEncoder(separators=(",", ":"))

_log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """One content under one name.

    A NamedTuple, because each start makes ten thousand: a frozen dataclass takes five times as
    long.
    """

    name: str
    sha256: str
    size_bytes: int
    mtime_ns: int
    named_ms: int
    """When a run last found this content under this name. The latest content has the name."""
    rules: int
    """Newest redaction rule set that found nothing; `names.NOT_VOUCHED` for none."""
    key: str
    """The body object, which may carry the name of an earlier file with the same content."""
    continues: str = ""
    """Digest of an earlier content that this one begins with: the same log when it was shorter."""


EntryKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a store is known to hold: the union of its manifests."""

    entries: dict[EntryKey, Entry] = field(default_factory=dict)
    """By name and digest."""
    read: tuple[str, ...] = ()
    """Keys of the manifests in this union."""
    replaced: tuple[str, ...] = ()
    """Keys of manifests that still exist, but are repeated by one that was read."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Why each manifest that cannot be read cannot, by its key."""

    def bodies(self) -> dict[str, str]:
        """Return the key of a body by its digest."""
        return {entry.sha256: entry.key for entry in self.entries.values()}

    def vouched(self) -> dict[str, int]:
        """Return the newest rule set that each content passed, by its digest."""
        newest: dict[str, int] = {}
        for entry in self.entries.values():
            newest[entry.sha256] = max(entry.rules, newest.get(entry.sha256, NOT_VOUCHED))
        return newest

    def superseded(self) -> set[str]:
        """Return the digests of contents that are the beginning of another content here."""
        return {entry.continues for entry in self.entries.values()} - {""}

    def holders(self) -> dict[str, Entry]:
        """Return the content that has each name: the one last published under it."""
        return {
            entry.name: entry
            for entry in sorted(
                self.entries.values(), key=lambda entry: (entry.named_ms, entry.sha256)
            )
        }

    def says(self, entry: Entry) -> bool:
        """Tell whether `entry` adds nothing but later times of the same bytes."""
        known = self.entries.get((entry.name, entry.sha256))
        return (
            known is not None
            and join(known, entry)._replace(mtime_ns=known.mtime_ns, named_ms=known.named_ms)
            == known
        )


def join(first: Entry, second: Entry) -> Entry:
    """Return the one entry that holds what two of the same name and digest hold."""
    return first._replace(
        mtime_ns=max(first.mtime_ns, second.mtime_ns),
        named_ms=max(first.named_ms, second.named_ms),
        rules=max(first.rules, second.rules),
        key=min(first.key, second.key),
        continues=max(first.continues, second.continues),
    )


def union(*groups: Iterable[Entry]) -> dict[EntryKey, Entry]:
    """Return the join of all entries, by name and digest."""
    merged: dict[EntryKey, Entry] = {}
    for group in groups:
        for entry in group:
            key = (entry.name, entry.sha256)
            other = merged.get(key)
            merged[key] = entry if other is None else join(other, entry)
    return merged


def encode(entries: Iterable[Entry], replaces: Iterable[str], now: datetime) -> bytes:
    """Return the bytes of a manifest: gzip, one entry a line, sorted, for people to compare."""
    head = {
        "schema": SCHEMA,
        "written": _stamp(now),
        "replaces": sorted(replaces),
        "columns": Entry._fields,
        "entries": [],
    }
    rows = ",\n".join(map(_ROWS.encode, sorted(entries)))
    text = f"{json.dumps(head)[:-2]}\n{rows}\n]}}\n"
    return gzip.compress(text.encode("ascii"), mtime=0)


def parse(data: bytes, key: str) -> tuple[list[Entry], list[str]]:
    """Return the entries of a manifest, compressed or not, and the manifests it replaces.

    Raises:
        IntegrityError: this is not a manifest, or one with impossible entries.
        InputError: a newer dsmops wrote it.
    """
    try:
        document = json.loads(_decompressed(data, key))
        schema, rows, replaces = document["schema"], document["entries"], document["replaces"]
        if schema == SCHEMA:
            return [_entry(row) for row in rows], [str(name) for name in replaces]
    except (ValueError, KeyError, TypeError, RecursionError, EOFError, OSError, zlib.error) as exc:
        raise IntegrityError(f"{key} is damaged: {exc}", hint=_REBUILD) from exc
    raise InputError(
        f"{key} has the schema {schema!r}",
        hint="A newer dsmops wrote it: upgrade this one.",
        code="publish.schema",
    )


def _decompressed(data: bytes, key: str) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        return data
    with gzip.GzipFile(fileobj=BytesIO(data)) as file:
        text = file.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise _too_large(key)
    return text


def _too_large(key: str) -> IntegrityError:
    return IntegrityError(
        f"{key} is larger than {size(MAX_MANIFEST_BYTES)}, so it is not a manifest", hint=_REBUILD
    )


def _entry(row: list[Any]) -> Entry:
    entry = Entry._make(row)
    name, sha256, size_bytes, mtime_ns, named_ms, rules, key, continues = entry
    if not (type(name) is type(sha256) is type(key) is type(continues) is str):
        raise ValueError(f"not text: {row!r:.200}")
    if not (type(size_bytes) is type(mtime_ns) is type(named_ms) is type(rules) is int):
        raise ValueError(f"not numbers: {row!r:.200}")
    if (
        min(size_bytes, mtime_ns, named_ms, rules) < 0
        or max(size_bytes, mtime_ns, named_ms, rules) > MAX_NUMBER
    ):
        raise ValueError(f"impossible numbers: {row!r:.200}")
    if key_digest(key) != sha256 or (continues and not _SHA256.fullmatch(continues)):
        raise ValueError(f"not the address of its content: {row!r:.200}")
    return entry


def read_catalogue(store: ObjectStore) -> Catalogue:
    """Return the union of a store's manifests.

    It costs one list request, and one get for each manifest that no other replaces.

    Raises:
        InputError: a newer dsmops wrote one of them.
        RemoteError: manifests come and go faster than they can be read.
    """
    read: dict[str, list[Entry]] = {}
    damaged: dict[str, str] = {}
    replaced: set[str] = set()
    for attempt in range(_RELIST_ATTEMPTS):
        if attempt:
            time.sleep(_RELIST_WAIT_S * attempt)
        sizes = {
            item.key: item.size_bytes for item in store.list(MANIFESTS) if _NAME.fullmatch(item.key)
        }
        vanished = False
        for key in sorted(sizes, reverse=True):  # newest first: it may replace the others
            if key in read or key in replaced or key in damaged:
                continue
            try:
                read[key], replaces = _read(store, key, sizes[key])
            except MissingObjectError:
                vanished = True  # merged into a newer one since the listing
            except IntegrityError as exc:
                _log.debug("%s", exc)
                damaged[key] = exc.message
            else:
                replaced.update(replaces)
        if not vanished:
            here = sizes.keys()
            return Catalogue(
                union(*read.values()),
                read=tuple(sorted(here & read.keys())),
                replaced=tuple(sorted((here & replaced) - read.keys())),
                damaged={key: damaged[key] for key in sorted(damaged.keys() - replaced)},
            )
    raise RemoteError(
        f"{store.url}: the manifests keep changing", hint="Many publishers are at work. Try again."
    )


def _read(store: ObjectStore, key: str, size_bytes: int) -> tuple[list[Entry], list[str]]:
    if size_bytes > MAX_MANIFEST_BYTES:
        raise _too_large(key)
    name = _NAME.fullmatch(key)
    sha256 = name["sha256"] if name else None
    for is_last in (False, True):
        data = bytearray()

        def take(block: bytes, data: bytearray = data) -> None:
            data += block
            if len(data) > size_bytes:  # the listing said less; a server may send without end
                raise _too_large(key)

        try:
            store.get(key, take, sha256=sha256)
            break
        except IntegrityError:
            # Bytes damaged on their way are right the second time. Bytes damaged in the store
            # are not.
            if is_last:
                raise
    return parse(bytes(data), key)


def record(store: ObjectStore, catalogue: Catalogue, news: Iterable[Entry], now: datetime) -> str:
    """Write one manifest with the catalogue and `news`, then delete those it repeats.

    Returns its key.

    Raises:
        RemoteError: it could not be written. The bodies are in the store, but not yet named.
    """
    repeated = (*catalogue.read, *catalogue.replaced)
    # Damaged ones are kept: their bytes may still help a person.
    data = encode(
        union(catalogue.entries.values(), news).values(), (*repeated, *catalogue.damaged), now
    )
    digest = hashlib.sha256(data).hexdigest()
    key = f"{MANIFESTS}{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(8)}-{digest}.json.gz"
    store.put(data, key, sha256=digest, size_bytes=len(data))
    try:
        for old in repeated:
            store.delete(old)
    except (CredentialsError, RemoteError) as exc:
        _log.debug("%s: replaced manifests were not deleted: %s", store.url, exc)
    return key


def unnamed_bodies(store: ObjectStore, catalogue: Catalogue) -> list[Entry]:
    """Return an entry for each body that no manifest names, from a listing.

    This is how a lost manifest is rebuilt. The digests are what the keys claim; the caller that
    uses the bytes checks them. The times are when the store took the objects.
    """
    known = set(catalogue.bodies())
    found = []
    for item in store.list(BODIES):
        parsed = parse_body_key(item.key)
        if parsed is not None and parsed[1] not in known:
            name, sha256, rules = parsed
            stored_ms = max(0, int(item.modified.timestamp() * 1000))
            found.append(
                Entry(
                    name, sha256, item.size_bytes, stored_ms * 1_000_000, stored_ms, rules, item.key
                )
            )
    return found


def _stamp(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


_REBUILD = "Run `dsmops publish-logs --rebuild` once: it lists the store and writes a new one."
