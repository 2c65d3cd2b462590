"""Many transfers at a time: taken as they are needed, and dropped when the caller stops."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from dsmops.errors import CredentialsError, TransferError
from dsmops.publish.manifest import Catalogue
from dsmops.publish.plan import Upload, UploadPlan
from dsmops.publish.transfer import GIVE_UP_AFTER, transfer_each
from dsmops.publish.upload import publish


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


STARTING = """
import threading
from dsmops.publish.transfer import transfer_each

start = threading.Thread.start

def interrupted(thread):
    start(thread)
    if thread.name == "transfer-1":
        raise KeyboardInterrupt

threading.Thread.start = interrupted
try:
    list(transfer_each(range(9), lambda _: None, 4))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
def test_ctrl_c_while_a_thread_starts_ends_the_process() -> None:
    """`Thread.start` waits for the new thread, and a signal can be raised there."""
    run = subprocess.run(
        [sys.executable, "-c", STARTING], capture_output=True, text=True, timeout=30, check=True
    )
    assert run.stdout == "interrupted\n"


def test_a_refusal_is_told_while_plans_have_nothing_to_send() -> None:
    """It is raised at the next plan, and not after all batches were searched."""
    searching, refused = threading.Event(), threading.Event()
    searched = 0

    def plans() -> Iterator[UploadPlan]:
        nonlocal searched
        yield UploadPlan((Upload("key", "", 1, Path(), ()),), (), (), (), ())
        searching.set()
        assert refused.wait(10)
        for _ in range(100):
            searched += 1
            threading.Event().wait(0.01)
            yield UploadPlan((), (), (), (), ())

    def put(*_: Any, **__: Any) -> None:
        assert searching.wait(10)
        refused.set()
        raise CredentialsError("refused", hint="renew")

    store: Any = SimpleNamespace(put=put, abort_unfinished=lambda _: 0, url="")
    with pytest.raises(CredentialsError):
        publish(store, plans(), Catalogue(), now=datetime.now(UTC), workers=2)
    assert searched < 100
