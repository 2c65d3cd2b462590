"""A short soak; `python -m tools.soak --minutes 30` is the long one."""

from types import SimpleNamespace
from typing import Any

import pytest

from tools import soak as soaking
from tools.soak import Tally, soak


@pytest.mark.fault
def test_random_clients_for_twenty_seconds() -> None:
    """No slot is lost, no neighbour's word changes, memory stays, the worker leaves with 0."""
    report, failures = soak(20)
    assert failures == [], report


def test_why_held_streams_failed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, *_: Any) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

        def open(self, count: int) -> tuple[int, dict[str, int]]:
            return count, {}

        def measure(self, *_: float) -> None:
            raise TimeoutError("no answer of a process")

    monkeypatch.setattr(soaking, "Pool", Broken)
    monkeypatch.setattr(soaking, "read_recordings", lambda _: SimpleNamespace(blocks=[]))
    monkeypatch.setattr(soaking, "stt_frames", lambda _: [])
    held, tally = soaking._Held("http://127.0.0.1:1"), Tally()
    held.run(1.0)
    held.report(tally)
    assert tally.wrong == ["held streams failed: TimeoutError('no answer of a process')"]
