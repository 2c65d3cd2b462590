"""Nodes of a Ray cluster, each by a task of its own that only this node may run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType

from dsmops.errors import DsmopsError
from dsmops.operations.cluster import Cluster, ClusterNode, connected
from dsmops.operations.fleet.verdicts import Answer

_POLL_S = 0.5


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
            while waiting and (left_s := began_s + timeout_s - time.monotonic()) > 0:
                for future in cluster.ready(list(waiting), min(left_s, _POLL_S)):
                    name, seconds = waiting.pop(future), time.monotonic() - began_s
                    try:
                        code, stdout, stderr = cluster.result(future)
                    except DsmopsError as exc:
                        on_answer(Answer(name, seconds, lost=exc.message))
                        continue
                    on_answer(Answer(name, seconds, code, stdout, stderr, timed_out=code is None))
        finally:
            for future in waiting:
                cluster.cancel(future)
        for name in waiting.values():
            on_answer(Answer(name, timeout_s, timed_out=True))


def run_here(arguments: Sequence[str], timeout_s: float) -> tuple[int | None, str, str]:
    """Run `dsmops ARGUMENTS`; return its exit code, None if it took too long, and its output."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dsmops", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, "", ""
    return done.returncode, done.stdout, done.stderr
