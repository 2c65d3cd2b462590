"""Many transfers at a time: taken as they are needed, and dropped when the caller stops."""

import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from dsmops.errors import CredentialsError, TransferError
from dsmops.publish.transfer import GIVE_UP_AFTER, transfer_each


def test_items_are_taken_as_they_are_needed() -> None:
    """At no time are more items taken and not done than twice the threads, and one."""
    taken, done, most = 0, 0, 0

    def items() -> Iterator[int]:
        nonlocal taken, most
        for number in range(1000):
            taken += 1
            most = max(most, taken - acted.qsize())
            yield number

    acted: SimpleQueue[int] = SimpleQueue()
    for _, error in transfer_each(items(), acted.put, 3):
        assert error is None
        done += 1
    assert (taken, done) == (1000, 1000)
    assert 1 <= most <= 2 * 3 + 1


def test_a_refusal_of_the_account_stops_all() -> None:
    """After it, no item is tried, and the error is raised."""
    tried: list[int] = []

    def act(number: int) -> None:
        tried.append(number)
        raise CredentialsError("refused", hint="renew")

    with pytest.raises(CredentialsError):
        list(transfer_each(range(1000), act, 2))
    assert len(tried) <= 4


def test_a_store_that_is_gone_is_not_tried_for_each() -> None:
    """After ten errors in a row the rest is reported untried."""
    tried: list[int] = []

    def act(number: int) -> None:
        tried.append(number)
        raise TransferError("gone", hint="again")

    outcomes = list(transfer_each(range(1000), act, 3))
    assert len(outcomes) == 1000
    assert all(isinstance(error, TransferError) for _, error in outcomes)
    assert GIVE_UP_AFTER <= len(tried) < GIVE_UP_AFTER + 3


def test_when_items_fail_running_transfers_are_waited_for() -> None:
    """An error of what gives the items is raised when no transfer runs any more."""
    running, ended = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert running.wait(10)
        raise KeyboardInterrupt

    def act(_: int) -> None:
        running.set()
        threading.Event().wait(0.05)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        list(transfer_each(items(), act, 2))
    assert ended.is_set()
