"""Many transfers at a time: one that fails does not stop the rest, and a store that is gone is not tried ten thousand times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

from dsmops.errors import DsmopsError, EnvironmentMissingError, TransferError

Item = TypeVar("Item")

GIVE_UP_AFTER = 10
"""Transfers that failed in a row, each after its own retries."""


def transfer_each(
    items: Iterable[Item], act: Callable[[Item], None], workers: int
) -> Iterator[tuple[Item, DsmopsError | None]]:
    """Call `act` on every item from `workers` threads; yield each item, as it ends, with its error or None.

    After `GIVE_UP_AFTER` transfer errors in a row the items left come back as errors untried. When
    the caller is interrupted, what runs is waited for and the rest is dropped.

    Raises:
        CredentialsError: the store refused, and would refuse the rest.
    """
    in_a_row = 0
    with ThreadPoolExecutor(workers, thread_name_prefix="transfer") as pool:
        pending: dict[Future[None], Item] = {}
        try:
            for item in items:
                pending[pool.submit(act, item)] = item
            for future in as_completed(pending):
                item = pending[future]
                if future.cancelled():
                    yield (
                        item,
                        TransferError(
                            "not tried: the store no longer answers", hint="Run the command again."
                        ),
                    )
                    continue
                error = future.exception()
                if error is not None and (
                    not isinstance(error, DsmopsError) or isinstance(error, EnvironmentMissingError)
                ):
                    raise error
                in_a_row = in_a_row + 1 if isinstance(error, TransferError) else 0
                if in_a_row == GIVE_UP_AFTER:
                    for other in pending:
                        other.cancel()
                yield item, error
        finally:
            pool.shutdown(cancel_futures=True)
