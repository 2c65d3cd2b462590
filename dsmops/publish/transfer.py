"""Runs many transfers at a time.

One that fails does not stop the rest. A store that is gone is not tried ten thousand times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

from dsmops.errors import DsmopsError, EnvironmentMissingError, TransferError
from dsmops.publish.store import REFUSED

Item = TypeVar("Item")

GIVE_UP_AFTER = 10
"""Transfers in a row that failed after their retries, or that the store refused for good."""


def transfer_each(
    items: Iterable[Item], act: Callable[[Item], None], workers: int
) -> Iterator[tuple[Item, DsmopsError | None]]:
    """Call `act` on every item from `workers` threads; yield each item with its error or None.

    After `GIVE_UP_AFTER` errors of the store in a row the items left come back as errors, untried.
    When the caller is interrupted, running transfers are waited for and the rest is dropped.

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
                            "not tried: the store failed or refused again and again",
                            hint="See the errors before this one.",
                        ),
                    )
                    continue
                error = future.exception()
                if error is not None and (
                    not isinstance(error, DsmopsError) or isinstance(error, EnvironmentMissingError)
                ):
                    raise error
                in_a_row = in_a_row + 1 if _is_of_the_store(error) else 0
                if in_a_row == GIVE_UP_AFTER:
                    for other in pending:
                        other.cancel()
                yield item, error
        finally:
            pool.shutdown(cancel_futures=True)


def _is_of_the_store(error: BaseException | None) -> bool:
    return isinstance(error, TransferError) or (
        isinstance(error, DsmopsError) and error.code == REFUSED
    )
