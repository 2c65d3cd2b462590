"""Servers of buckets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dsmops.operations.speech.many import inputs
from tests.support.s3_servers import S3Server, moto_server, rclone_server, shared_sdk_data


@pytest.fixture(scope="module", params=["moto", "rclone"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3Server]:
    opened = (
        moto_server()
        if request.param == "moto"
        else rclone_server(tmp_path_factory.mktemp("rclone"))
    )
    with shared_sdk_data(), opened as server:
        yield server


@pytest.fixture
def new_bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket at the server that the environment names."""
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    inputs._bucket.cache_clear()
    yield server.new_bucket()
    inputs._bucket.cache_clear()
