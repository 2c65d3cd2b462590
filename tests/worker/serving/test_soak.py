"""A short soak; `python -m tools.soak --minutes 30` is the long one."""

import pytest

from tools.soak import soak


@pytest.mark.fault
def test_random_clients_for_twenty_seconds() -> None:
    """No slot is lost, no neighbour's word changes, memory stays, the worker leaves with 0."""
    report, failures = soak(20)
    assert failures == [], report
