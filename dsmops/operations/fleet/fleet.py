"""Ask the nodes of a fleet and gather the verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from dsmops.operations.fleet.verdicts import Answer, FleetReport, NodeStatus, judge
from dsmops.progress import SILENT, Progress
from dsmops.units import counted

CHECKS = ("check-gpu", "doctor", "smoke-test")
"""Commands that run on nodes; each prints one JSON document."""


class Fleet(Protocol):
    """Nodes of one kind, and a way to run dsmops on them."""

    name: str

    def nodes(self) -> Sequence[str]:
        """Return the names of the nodes. Raises DsmopsError where they cannot be told."""

    def ask(
        self, arguments: Sequence[str], timeout_s: float, on_answer: Callable[[Answer], None]
    ) -> None:
        """Run `dsmops ARGUMENTS` on every node, many at a time; give each answer as it comes.

        Every node of `nodes` gives exactly one, at most about `timeout_s` after it was asked.
        """


def check_fleet(
    fleet: Fleet,
    check: str,
    options: Sequence[str],
    *,
    timeout_s: float,
    progress: Progress = SILENT,
) -> FleetReport:
    """Run one of `CHECKS` with `options` on every node and return what was found.

    Raises:
        DsmopsError: the nodes cannot be told, or nothing can be run on any of them.
    """
    began_s = time.monotonic()
    order = {node: place for place, node in enumerate(fleet.nodes())}
    verdicts = []

    def on_answer(answer: Answer) -> None:
        verdicts.append(judge(check, answer, timeout_s))
        progress.advance(1)

    progress.start(f"{check} on {counted(len(order), 'node')}", len(order), "nodes")
    try:
        fleet.ask([check, "--json", *options], timeout_s, on_answer)
    finally:
        progress.finish()
    verdicts.sort(key=lambda verdict: order[verdict.node])
    return FleetReport(
        check=check,
        engine=fleet.name,
        passed=all(verdict.status is NodeStatus.PASSED for verdict in verdicts),
        exit_code=max((verdict.exit_code for verdict in verdicts), default=0),
        seconds=round(time.monotonic() - began_s, 3),
        nodes=tuple(verdicts),
    )
