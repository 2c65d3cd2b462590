"""What every store promises, asked of the folder and of each S3 server alike."""

import hashlib
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dsmops.errors import InputError, IntegrityError, MissingObjectError
from dsmops.progress import SilentProgress
from dsmops.publish.names import body_key, parse_body_key
from dsmops.publish.store import ObjectStore
from tests.publish.conftest import SMALLEST_PART_BYTES, Place


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(store: ObjectStore, key: str, data: bytes) -> None:
    store.put(data, key, sha256=digest(data), size_bytes=len(data))


def got(store: ObjectStore, key: str, sha256: str | None = None) -> bytes:
    data = bytearray()
    store.get(key, data.extend, sha256=sha256)
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize(
    "data", [b"", b"x", b"a log line\n" * 1000], ids=["empty", "one byte", "11 kB"]
)
def test_bytes_come_back_as_they_went(store: ObjectStore, data: bytes) -> None:
    """What was put is what get hands over, empty objects included."""
    put(store, "bodies/a", data)
    assert got(store, "bodies/a", digest(data)) == data


def test_a_file_is_stored_up_to_the_length_named(store: ObjectStore, tmp_path: Path) -> None:
    """A source that has grown since it was measured is stored as it was measured."""
    source = tmp_path / "log.x"
    source.write_bytes(b"first part, and then more")
    store.put(source, "a", sha256=digest(b"first part"), size_bytes=10)
    assert got(store, "a") == b"first part"


@pytest.mark.slow
def test_put_replaces(store: ObjectStore) -> None:
    """The second put under a key wins."""
    put(store, "a", b"old")
    put(store, "a", b"new")
    assert got(store, "a") == b"new"


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, SMALLEST_PART_BYTES + 1], ids=["whole", "in parts"])
def test_a_source_that_changed_is_not_stored(place: Place, tmp_path: Path, size: int) -> None:
    """When the source no longer has the digest, nothing appears, nothing unfinished stays, and an
    old object survives.
    """
    source = tmp_path / "log.x"
    source.write_bytes(b"y" * size)
    store = place.open()
    put(store, "a", b"old")
    with pytest.raises(InputError, match="changed"):
        store.put(source, "a", sha256=digest(b"x" * size), size_bytes=size)
    assert got(store, "a") == b"old"
    assert [item.key for item in store.list("")] == ["a"]
    assert store.abort_unfinished(datetime.now(UTC) + timedelta(days=1)) == 0


def test_a_source_that_went_away_is_an_input_error(store: ObjectStore, tmp_path: Path) -> None:
    """A file rotated away before it was sent is reported as such."""
    with pytest.raises(InputError, match="No such file"):
        store.put(tmp_path / "gone", "a", sha256=digest(b""), size_bytes=0)


@pytest.mark.slow
def test_a_missing_object_is_told_from_other_trouble(store: ObjectStore) -> None:
    """Getting what is not there raises MissingObjectError, with the key in the message."""
    put(store, "bodies/here", b"x")
    with pytest.raises(MissingObjectError, match="bodies/gone"):
        got(store, "bodies/gone")


def test_wrong_bytes_are_noticed(store: ObjectStore) -> None:
    """Getting with another digest than the object has raises IntegrityError."""
    put(store, "a", b"these bytes")
    with pytest.raises(IntegrityError):
        got(store, "a", digest(b"other bytes"))


@pytest.mark.slow
def test_listing_is_by_prefix_and_in_order(store: ObjectStore) -> None:
    """A listing has exactly the keys with the prefix, sorted, with sizes and times."""
    for key in ("manifests/2", "bodies/b/log.x", "bodies/a", "bodies-not/a", "manifests/1"):
        put(store, key, key.encode())
    assert [item.key for item in store.list("")] == sorted(
        ["manifests/2", "bodies/b/log.x", "bodies/a", "bodies-not/a", "manifests/1"]
    )
    bodies = list(store.list("bodies/"))
    assert [(item.key, item.size_bytes) for item in bodies] == [
        ("bodies/a", 8),
        ("bodies/b/log.x", 14),
    ]
    assert all(abs(item.modified - datetime.now(UTC)) < timedelta(hours=1) for item in bodies)


def test_an_empty_store_lists_nothing(store: ObjectStore) -> None:
    """A store that nothing was put into is empty, not an error."""
    assert list(store.list("manifests/")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["bodies/a b", "bodies/50%25.log", "bodies/a+b=c@d,(e)'!$&*;:", "bodies/%C3%BC.log"]
)
def test_keys_survive_unchanged(store: ObjectStore, key: str) -> None:
    """Keys with spaces, percent signs and punctuation come back from a listing as they were, and
    can be got.
    """
    put(store, key, b"x")
    assert [item.key for item in store.list("bodies/")] == [key]
    assert got(store, key) == b"x"


def test_delete_is_idempotent(store: ObjectStore) -> None:
    """Deleting removes the object; deleting again is not an error."""
    put(store, "a", b"x")
    store.delete("a")
    store.delete("a")
    assert list(store.list("")) == []


@pytest.mark.slow
def test_large_objects_go_in_parts_and_come_back_whole(place: Place, tmp_path: Path) -> None:
    """An object of several parts has the source's bytes, counts progress once per byte and leaves
    nothing unfinished.
    """
    data = random.Random(1).randbytes(2 * SMALLEST_PART_BYTES + 1000)
    source = tmp_path / "log.x"
    source.write_bytes(data)
    advanced: list[int] = []

    class Counting(SilentProgress):
        def start(self, label: str, total: int | None, unit: str = "bytes") -> None: ...
        def advance(self, amount: int) -> None:
            advanced.append(amount)

        def finish(self) -> None: ...

    store = place.open()
    store.put(source, "bodies/big", sha256=digest(data), size_bytes=len(data), progress=Counting())
    assert got(store, "bodies/big", digest(data)) == data
    assert sum(advanced) == len(data)
    assert store.abort_unfinished(datetime.now(UTC) + timedelta(days=1)) == 0


@pytest.mark.slow
def test_leftovers_of_killed_runs_are_cleared_by_age(place: Place) -> None:
    """What a killed run left half-sent goes when it is older than the time named."""
    store = place.open()
    put(store, "bodies/kept", b"x")
    if place.server is None:
        partial = Path(place.url.removeprefix("file:")) / "bodies" / ".b.dsmops-partial"
        partial.write_bytes(b"half")
    else:
        place.client.create_multipart_upload(Bucket=place.bucket, Key="some/prefix/bodies/b")
        place.client.create_multipart_upload(Bucket=place.bucket, Key="other/prefix/b")
    assert [item.key for item in store.list("")] == ["bodies/kept"]
    assert store.abort_unfinished(datetime(2009, 1, 1, tzinfo=UTC)) == 0
    assert store.abort_unfinished(datetime.now(UTC) + timedelta(days=1)) == 1
    assert store.abort_unfinished(datetime.now(UTC) + timedelta(days=1)) == 0
    assert got(store, "bodies/kept") == b"x"


def test_requests_and_bytes_are_counted(store: ObjectStore) -> None:
    """The meter knows each request by kind, and object bytes each way.

    A checksum that the server refuses costs a request only once.
    """
    put(store, "first", b"1")
    before = store.meter.usage()
    put(store, "a", b"12345")
    got(store, "a")
    list(store.list(""))
    store.delete("a")
    usage = store.meter.usage()
    counts = {kind: usage.requests[kind] - before.requests[kind] for kind in usage.requests}
    assert counts == {"list": 1, "get": 1, "head": 0, "put": 1, "multipart": 0, "delete": 1}
    assert usage.total_requests - before.total_requests == 4
    assert usage.sent_bytes - before.sent_bytes == 5
    assert usage.received_bytes - before.received_bytes == 5


LONG_NAMES = ["日志" * 39, "%" * 239, "a" * 239, "é" * 119, "x" * 230 + "üüüü"]


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG_NAMES, ids=["CJK", "percent", "ASCII", "accents", "mixed"])
def test_the_longest_names_are_kept(store: ObjectStore, name: str) -> None:
    """A name of as many bytes as a log may have is longer once encoded, and still comes back."""
    key = body_key(name, digest(b"x"), 1)
    put(store, key, b"x")
    assert [item.key for item in store.list("bodies/")] == [key]
    assert got(store, key, digest(b"x")) == b"x"
    assert parse_body_key(key) == (name, digest(b"x"), 1)


@pytest.mark.heavy
def test_listings_go_past_the_first_page(store: ObjectStore) -> None:
    """A thousand and one objects are listed whole; S3 pages end at a thousand."""
    keys = [f"bodies/{index:04}" for index in range(1001)]
    for key in keys:
        put(store, key, b"")
    assert [item.key for item in store.list("bodies/")] == keys
