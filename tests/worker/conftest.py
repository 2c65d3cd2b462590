"""A real worker with the tiny model, shared by the tests that leave it as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dsmops.worker.tiny.stt import TinyStt, write_tiny_stt
from tests.support.served_tiny import write_config
from tests.support.workers import WorkerProcess


@pytest.fixture(scope="session")
def tiny_stt(tmp_path_factory: pytest.TempPathFactory) -> TinyStt:
    """The tiny model in a folder of its own."""
    return write_tiny_stt(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def worker(tiny_stt: TinyStt) -> Iterator[WorkerProcess]:
    """The worker, ready, with four slots."""
    folder: Path = tiny_stt.server_config.parent
    with WorkerProcess(folder, tiny_stt.server_config) as running:
        yield running


@pytest.fixture(scope="session")
def tiny_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker with the trained tiny models of both kinds, which tests leave as it was."""
    folder = tmp_path_factory.mktemp("tiny-worker")
    with WorkerProcess(folder, write_config(folder), "--log", "warn") as running:
        yield running
