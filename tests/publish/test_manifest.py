"""Manifests: a union that only grows, with any writer, whatever is lost."""

import gzip
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.errors import CredentialsError, InputError, IntegrityError, MissingObjectError
from dsmops.publish.manifest import (
    MANIFESTS,
    Catalogue,
    Entry,
    encode,
    join,
    parse,
    read_catalogue,
    record,
    union,
    unnamed_bodies,
)
from dsmops.publish.names import body_key
from dsmops.publish.store import ObjectStore
from dsmops.publish.stores import open_store

NOW = datetime(2025, 11, 15, 8, 39, 3, tzinfo=UTC)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def entry(name: str, content: str, **changes: Any) -> Entry:
    made = Entry(
        name, digest(content), len(content), 1_000, 2_000, 1, body_key(name, digest(content), 1)
    )
    return made._replace(**changes)


def put_body(store: ObjectStore, made: Entry, content: str) -> None:
    store.put(content.encode(), made.key, sha256=made.sha256, size_bytes=made.size_bytes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> ObjectStore:
    return open_store(f"file:{folder}")


entries = st.builds(
    lambda name, content, mtime, rules, first, older: entry(
        name,
        content,
        mtime_ns=mtime,
        rules=rules,
        key=body_key(first, digest(content), rules),
        continues=digest(older) if older else "",
    ),
    st.sampled_from(["log.a", "log.a.1", "log.b"]),
    st.sampled_from(["x", "xy", "z"]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(["log.a", "log.old"]),
    st.sampled_from(["", "o"]),
)


@given(st.lists(entries), st.lists(entries), st.lists(entries))
def test_the_union_does_not_depend_on_order_or_repetition(
    a: list[Entry], b: list[Entry], c: list[Entry]
) -> None:
    """Merging is associative, commutative and idempotent, so racing writers and repeated merges
    change nothing.
    """
    assert (
        union(union(a, b).values(), c)
        == union(a, union(b, c).values())
        == union(c, b, a)
        == union(a, b, c, a, b)
    )


@given(st.lists(entries), st.lists(entries))
def test_the_union_loses_nothing(a: list[Entry], b: list[Entry]) -> None:
    """Every name and digest that went in is there, and says at least as much as it did."""
    merged = union(a, b)
    assert all(Catalogue(merged).says(one) for one in [*a, *b])


@given(st.lists(entries), st.lists(st.text()))
def test_a_manifest_comes_back_as_it_went(rows: list[Entry], replaces: list[str]) -> None:
    """Entries and replaced names survive the way through bytes; the same entries in any order give
    the same bytes.
    """
    data = encode(rows, replaces, NOW)
    assert parse(data, "m") == (sorted(rows), sorted(replaces))
    assert encode(reversed(rows), reversed(replaces), NOW) == data


def test_odd_names_survive_in_ascii() -> None:
    """Names with control characters, emoji or broken UTF-8 come back, and the text is ASCII."""
    rows = [entry(name, "x") for name in ("a\nb", "log.ü😀", "log.\udcff")]
    data = encode(rows, [], NOW)
    assert gzip.decompress(data).isascii()
    assert parse(data, "m")[0] == sorted(rows)


def test_manifests_without_compression_are_read_as_before(store: ObjectStore) -> None:
    """A store of an older dsmops: its plain manifest counts, and the next run replaces it."""
    old = gzip.decompress(encode([entry("log.old", "old")], [], NOW))
    sha256 = hashlib.sha256(old).hexdigest()
    key = f"{MANIFESTS}20251115T083903Z-{'0' * 16}-{sha256}.json"
    store.put(old, key, sha256=sha256, size_bytes=len(old))
    record(store, read_catalogue(store), [entry("log.new", "new")], NOW)
    assert {one.name for one in read_catalogue(store).entries.values()} == {"log.old", "log.new"}
    (kept,) = store.list(MANIFESTS)
    assert kept.key.endswith(".json.gz")


def test_an_entry_takes_few_bytes() -> None:
    """Ten thousand files cost less than a megabyte of manifest."""
    rows = [
        entry(f"log.stt.{index:05}", str(index), mtime_ns=1763195943595811000 + index * 12345)
        for index in range(10_000)
    ]
    assert len(encode(rows, [], NOW)) < 1_000_000


def put_manifest(store: ObjectStore, data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"{MANIFESTS}20251115T083903Z-{'0' * 16}-{sha256}.json.gz"
    store.put(data, key, sha256=sha256, size_bytes=len(data))
    return key


def test_a_huge_manifest_is_damaged_and_not_read(store: ObjectStore, folder: Path) -> None:
    """40 GiB by its size: nothing of it is read, and the others still count."""
    record(store, Catalogue(), [entry("log.a", "a")], NOW)
    key = put_manifest(store, b"x")
    with (folder / key).open("r+b") as file:
        file.truncate(40 << 30)
    before = store.meter.usage().received_bytes
    catalogue = read_catalogue(store)
    assert "larger than 256 MiB" in catalogue.damaged[key]
    assert [one.name for one in catalogue.entries.values()] == ["log.a"]
    assert store.meter.usage().received_bytes - before < 10_000


def test_a_manifest_that_unpacks_without_end_is_damaged(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decompression stops at the limit."""
    monkeypatch.setattr("dsmops.publish.manifest.MAX_MANIFEST_BYTES", 1 << 20)
    key = put_manifest(store, gzip.compress(b" " * (2 << 20)))
    assert "larger than 1.00 MiB" in read_catalogue(store).damaged[key]


def test_a_server_that_sends_without_end_is_stopped(store: ObjectStore) -> None:
    """More bytes than the listing promised are not collected."""
    key = put_manifest(store, b"x" * 100)
    endless = _Scripted(store)
    sent: list[int] = []

    def get(_key: str, write: Any, *, sha256: str | None) -> None:
        while True:
            sent.append(1)
            write(b"y" * 100)

    endless.get = get  # type: ignore[method-assign]
    assert key in read_catalogue(endless).damaged  # type: ignore[arg-type]
    assert len(sent) == 4


def row(**changes: Any) -> list[Any]:
    return list(entry("log.a", "x")._replace(**changes))


@pytest.mark.parametrize(
    "rows",
    [
        [row(size_bytes=-1)],
        [row(size_bytes=1.5)],
        [row(size_bytes=True)],
        [row(rules="1")],
        [row(mtime_ns=2**70)],
        [row(name=None)],
        [row(sha256=digest("other"))],
        [row(key="../../etc/passwd")],
        [row(key=f"bodies/rules-1/{digest('x')}/../../../x")],
        [row(continues="x")],
        [row()[:-2]],
        [[*row(), 1]],
        ["x"],
        [None],
        None,
        {"a": 1},
    ],
)
def test_impossible_entries_damage_a_manifest(rows: Any) -> None:
    """A manifest with entries of the wrong shape, or with keys that are not their content's
    address, is not used.
    """
    data = json.dumps({"schema": "dsmops.log-manifest/1", "replaces": [], "entries": rows}).encode()
    with pytest.raises(IntegrityError):
        parse(data, "m")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b'{"schema": 1}', b"[" * 100_000]
)
def test_what_is_no_manifest(data: bytes) -> None:
    """Bytes that are not a manifest at all are an IntegrityError, never another exception."""
    with pytest.raises(IntegrityError):
        parse(data, "m")


@given(st.binary())
def test_any_bytes_are_a_manifest_or_an_error(data: bytes) -> None:
    """Whatever a store hands over, parsing ends in entries or in an IntegrityError."""
    with pytest.raises(IntegrityError):
        parse(data, "m")


def test_a_newer_schema_asks_for_an_upgrade(store: ObjectStore) -> None:
    """A manifest of a later version is not called damaged: the error says to upgrade, and nothing
    is overwritten.
    """
    data = json.dumps({"schema": "dsmops.log-manifest/2", "replaces": [], "entries": []}).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    store.put(
        data,
        f"{MANIFESTS}20251115T083903Z-{'0' * 16}-{sha256}.json",
        sha256=sha256,
        size_bytes=len(data),
    )
    with pytest.raises(InputError, match="log-manifest/2"):
        read_catalogue(store)


def test_one_writer_after_another_leaves_one_manifest(store: ObjectStore) -> None:
    """Each run merges what it read, so a lone publisher's store has one manifest, and reading it
    takes two requests.
    """
    for name in ("log.a", "log.b", "log.c"):
        record(store, read_catalogue(store), [entry(name, name)], NOW)
    assert len(list(store.list(MANIFESTS))) == 1
    before = store.meter.usage()
    catalogue = read_catalogue(store)
    assert store.meter.usage().total_requests - before.total_requests == 2
    assert {one.name for one in catalogue.entries.values()} == {"log.a", "log.b", "log.c"}


def test_racing_writers_lose_nothing(store: ObjectStore) -> None:
    """Two runs that read the same state and both merge it: both manifests stay, their union has
    everything.
    """
    record(store, read_catalogue(store), [entry("log.old", "old")], NOW)
    seen_by_a, seen_by_b = read_catalogue(store), read_catalogue(store)
    record(store, seen_by_a, [entry("log.a", "a")], NOW)
    record(store, seen_by_b, [entry("log.b", "b")], NOW)
    catalogue = read_catalogue(store)
    assert len(catalogue.read) == 2
    assert {one.name for one in catalogue.entries.values()} == {"log.old", "log.a", "log.b"}
    record(store, catalogue, [entry("log.c", "c")], NOW)
    assert len(read_catalogue(store).read) == 1


class _Scripted:
    """A store whose methods can be made to do something first; the rest is the real one's."""

    def __init__(self, real: ObjectStore) -> None:
        self.real = real
        self.before_get: Any = lambda _key: None
        self.before_delete: Any = lambda _key: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def get(self, key: str, write: Any, *, sha256: str | None) -> None:
        self.before_get(key)
        self.real.get(key, write, sha256=sha256)

    def delete(self, key: str) -> None:
        self.before_delete(key)
        self.real.delete(key)


def test_a_manifest_merged_away_while_reading_is_found_in_its_successor(store: ObjectStore) -> None:
    """A reader whose listing is overtaken by a merge lists again and sees all entries."""
    record(store, Catalogue(), [entry("log.a", "a")], NOW)
    record(store, Catalogue(), [entry("log.b", "b")], NOW)
    overtaken = _Scripted(store)
    done: list[str] = []

    def merge_first(_key: str) -> None:
        if not done:
            done.append(record(store, read_catalogue(store), [entry("log.c", "c")], NOW))

    overtaken.before_get = merge_first
    catalogue = read_catalogue(overtaken)  # type: ignore[arg-type]
    assert {one.name for one in catalogue.entries.values()} == {"log.a", "log.b", "log.c"}
    assert catalogue.read == tuple(done)


def test_where_deleting_is_forbidden_old_manifests_are_not_fetched(store: ObjectStore) -> None:
    """Without the right to delete, replaced manifests pile up, and reading still takes one list and
    one get.
    """
    locked = _Scripted(store)

    def refuse(key: str) -> None:
        raise CredentialsError(f"{key}: AccessDenied")

    locked.before_delete = refuse
    for name in ("log.a", "log.b", "log.c"):
        record(
            locked,
            read_catalogue(locked),
            [entry(name, name)],
            NOW.replace(second=ord(name[-1]) % 60),
        )  # type: ignore[arg-type]
    assert len(list(store.list(MANIFESTS))) == 3
    before = store.meter.usage()
    catalogue = read_catalogue(store)
    assert store.meter.usage().total_requests - before.total_requests == 2
    assert {one.name for one in catalogue.entries.values()} == {"log.a", "log.b", "log.c"}


def test_damage_is_noticed_set_aside_and_survived(store: ObjectStore, folder: Path) -> None:
    """A flipped bit makes a manifest damaged; the others still count, its bodies are found again,
    its bytes are kept.
    """
    lost = entry("log.lost", "lost")
    put_body(store, lost, "lost")
    key = record(store, Catalogue(), [lost], NOW)
    record(store, Catalogue(), [entry("log.kept", "kept")], NOW)
    data = bytearray((folder / key).read_bytes())
    data[-10] ^= 1
    (folder / key).write_bytes(data)

    catalogue = read_catalogue(store)
    assert list(catalogue.damaged) == [key]
    assert {one.name for one in catalogue.entries.values()} == {"log.kept"}
    found = unnamed_bodies(store, catalogue)
    assert [(one.name, one.sha256, one.size_bytes, one.rules) for one in found] == [
        ("log.lost", lost.sha256, 4, 1)
    ]

    record(store, catalogue, found, NOW)
    after = read_catalogue(store)
    assert after.damaged == {}
    assert {one.name for one in after.entries.values()} == {"log.kept", "log.lost"}
    assert (folder / key).read_bytes() == data


def test_bytes_damaged_on_their_way_are_asked_for_again(store: ObjectStore) -> None:
    """One wrong answer does not make a manifest damaged."""
    record(store, Catalogue(), [entry("log.a", "a")], NOW)
    once = _Scripted(store)
    failures = [IntegrityError("wrong bytes arrived")]

    def fail_once(_key: str) -> None:
        if failures:
            raise failures.pop()

    once.before_get = fail_once
    assert len(read_catalogue(once).entries) == 1  # type: ignore[arg-type]


def test_strangers_among_the_manifests_are_ignored(store: ObjectStore) -> None:
    """A file that somebody put beside the manifests is neither read nor deleted."""
    store.put(b"hello", f"{MANIFESTS}README.txt", sha256=digest("hello"), size_bytes=5)
    record(store, read_catalogue(store), [entry("log.a", "a")], NOW)
    assert len(read_catalogue(store).entries) == 1
    assert [item.key for item in store.list(MANIFESTS + "README")] == [MANIFESTS + "README.txt"]


def test_manifests_that_never_stay_end_in_an_error(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store whose listing names manifests that are never there is given up, not waited for."""
    monkeypatch.setattr("dsmops.publish.manifest._RELIST_WAIT_S", 0.0)
    record(store, Catalogue(), [entry("log.a", "a")], NOW)
    broken = _Scripted(store)

    def gone(key: str) -> None:
        raise MissingObjectError(key)

    broken.before_get = gone
    with pytest.raises(Exception, match="keep changing"):
        read_catalogue(broken)  # type: ignore[arg-type]


def test_joining_keeps_the_newest_rules_and_time() -> None:
    """Of two entries for one name and content, the later mtime, the newer rules and one of the keys
    stay.
    """
    old, new = (
        entry("log.a", "x", rules=1, mtime_ns=5),
        entry("log.a", "x", rules=2, mtime_ns=3, continues=digest("o")),
    )
    assert (
        join(old, new)
        == join(new, old)
        == old._replace(rules=2, mtime_ns=5, continues=digest("o"), key=min(old.key, new.key))
    )
