"""Stores to test against: a folder and real S3 servers, one server for all tests, a bucket or
folder of its own for each.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from dsmops.publish.store import ObjectStore, StoreOptions
from dsmops.publish.stores import open_store
from tests.support.s3_fronts import FRONTS, front
from tests.support.s3_servers import (
    EXTERNAL,
    S3Server,
    external_server,
    moto_server,
    rclone_server,
    shared_sdk_data,
)

S3_KINDS = ["moto", "rclone", *FRONTS, *(["external"] if EXTERNAL in os.environ else [])]
SMALLEST_PART_BYTES = 5 << 20
"""S3's own lower limit on a part."""


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused checksums are remembered in the state folder: each test has its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture(scope="session", autouse=True)
def _quick_clients() -> Iterator[None]:
    with shared_sdk_data():
        yield


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone_server(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def fronts(moto: S3Server) -> Iterator[dict[str, S3Server]]:
    with ExitStack() as stack:
        yield {kind: stack.enter_context(front(kind, moto)) for kind in FRONTS}


@pytest.fixture(scope="session")
def external() -> S3Server:
    return external_server()


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere to publish to."""

    kind: str
    url: str
    open: Callable[..., ObjectStore]
    server: S3Server | None = None

    @property
    def bucket(self) -> str:
        return self.url.removeprefix("s3://").partition("/")[0]

    @property
    def client(self) -> Any:
        assert self.server is not None
        return self.server.client


def s3_place(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A new bucket on `server`, with the server's credentials in the environment."""
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{server.new_bucket()}/some/prefix"

    def opened(**options: Any) -> ObjectStore:
        defaults = {
            "endpoint_url": server.url,
            "part_bytes": SMALLEST_PART_BYTES,
            "attempts": 2,
            "workers": 4,
        }
        return open_store(url, StoreOptions(**{**defaults, **options}))

    return Place(server.kind, url, opened, server)


@pytest.fixture(params=S3_KINDS)
def s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A new bucket on each S3 server in turn."""
    return s3_place(_server(request), monkeypatch)


def _server(request: pytest.FixtureRequest) -> S3Server:
    """Return the server of the parameter: a real one, or a front before moto."""
    if request.param in FRONTS:
        return cast(S3Server, request.getfixturevalue("fronts")[request.param])
    return cast(S3Server, request.getfixturevalue(request.param))


@pytest.fixture(params=["folder", *S3_KINDS])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Every kind of store in turn, empty."""
    if request.param != "folder":
        return s3_place(_server(request), monkeypatch)
    url = f"file:{tmp_path}/store"
    return Place(
        "folder",
        url,
        lambda **options: open_store(url, StoreOptions(workers=options.get("workers", 4))),
    )


@pytest.fixture
def store(place: Place) -> ObjectStore:
    return place.open()
