"""What the tests of the hub package share: a hub that this process uses, and no waiting between
attempts.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from dsmops.hub import transfer
from tests.support.hub_server import HubServer, Repo

StartHub = Callable[[Mapping[str, Repo | Mapping[str, bytes | Path]]], HubServer]


@pytest.fixture
def start_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartHub]:
    """Start a hub with the given repositories and make it the one of this process, with an empty
    cache.
    """
    monkeypatch.setattr(transfer, "ASK_WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(transfer, "CONTENT_WAITS_S", (0.0, 0.0, 0.0))
    with ExitStack() as stack:

        def start(repos: Mapping[str, Repo | Mapping[str, bytes | Path]]) -> HubServer:
            hub = stack.enter_context(HubServer(repos, tokens=frozenset({"hf_good"})))
            for name, value in hub.env(tmp_path / "home").items():
                monkeypatch.setenv(name, value)
            return hub

        yield start
