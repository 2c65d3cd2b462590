"""Nodes of a Ray cluster, each by a task of its own that only this node may run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

from dsmops.errors import DsmopsError
from dsmops.operations.cluster import Cluster, ClusterNode, connected
from dsmops.operations.fleet.verdicts import Answer

_POLL_S = 0.5
_END_S = 5.0
"""How long a check that took too long has to end after SIGTERM."""
_GRACE_S = 2 * _END_S
"""How much longer than a node to wait, as it ends its check itself."""


class RayNodes:
    """The nodes of the cluster at `address`, for as long as the `with` block is open.

    The Python of the cluster runs dsmops. A smoke test waits for a free card and reserves it.
    """

    name = "ray"

    def __init__(self, address: str) -> None:
        self._address = address
        self._open = ExitStack()
        self._cluster: Cluster | None = None
        self._nodes: list[ClusterNode] = []

    def __enter__(self) -> RayNodes:
        self._cluster = self._open.enter_context(connected(self._address))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def nodes(self) -> Sequence[str]:
        """Return the names of the nodes that are alive."""
        assert self._cluster is not None  # noqa: S101 within the block
        self._nodes = self._cluster.nodes()
        return [node.name for node in self._nodes]

    def ask(
        self, arguments: Sequence[str], timeout_s: float, on_answer: Callable[[Answer], None]
    ) -> None:
        """Run dsmops on every node; see `Fleet`."""
        cluster = self._cluster
        assert cluster is not None  # noqa: S101 within the block
        began_s = time.monotonic()
        until_s = began_s + timeout_s + _GRACE_S
        waiting = {
            cluster.start_task(
                run_here,
                tuple(arguments),
                timeout_s,
                node_id=node.node_id,
                cards=min(1, node.cards) if arguments[0] == "smoke-test" else 0,
            ): node.name
            for node in self._nodes
        }
        try:
            while waiting and (left_s := until_s - time.monotonic()) > 0:
                for future in cluster.ready(list(waiting), min(left_s, _POLL_S)):
                    name, seconds = waiting.pop(future), time.monotonic() - began_s
                    try:
                        code, stdout, stderr = cluster.result(future)
                    except DsmopsError as exc:
                        on_answer(Answer(name, seconds, lost=exc.message, hint=exc.hint))
                        continue
                    on_answer(Answer(name, seconds, code, stdout, stderr, timed_out=code is None))
        finally:
            _give_up(cluster, list(waiting))
        for name in waiting.values():
            on_answer(Answer(name, timeout_s, timed_out=True))


def run_here(arguments: Sequence[str], timeout_s: float) -> tuple[int | None, str, str]:
    """Run `dsmops ARGUMENTS`; return its exit code, None if it took too long, and its output.

    After `timeout_s` it gets SIGTERM, and SIGKILL soon after, as do the processes that it started.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "dsmops", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    until_s = time.monotonic() + timeout_s
    with process:
        try:
            while (left_s := until_s - time.monotonic()) > 0:
                # In pieces, as Ray interrupts nothing that waits.
                with suppress(subprocess.TimeoutExpired):
                    stdout, stderr = process.communicate(timeout=min(left_s, _POLL_S))
                    return process.returncode, stdout, stderr
        finally:
            _end(process)
    return None, "", ""


def _end(process: subprocess.Popen[str]) -> None:
    """End a process that still runs, and all of the group that it leads."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)


def _give_up(cluster: Cluster, futures: Sequence[Any]) -> None:
    """End calls of `run_here`, and with them the checks that they run."""
    left, until_s = list(futures), time.monotonic() + _END_S
    for future in left:
        cluster.interrupt(future)
    while left and (left_s := until_s - time.monotonic()) > 0:
        ended = cluster.ready(left, left_s)
        left = [future for future in left if future not in ended]
    for future in left:
        cluster.cancel(future)
