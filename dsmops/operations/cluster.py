"""A Ray cluster: its nodes, and actors and tasks on them.

All of Ray that is used is here: actors of plain classes and tasks of plain functions. Nothing is
started: a cluster must run already.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from dsmops.errors import (
    DeviceLostError,
    DsmopsError,
    ExtraMissingError,
    InputError,
    RemoteError,
)

AUTO = "auto"
"""The cluster of RAY_ADDRESS, else the one that runs on this machine."""
ADDRESS = re.compile(rf"{AUTO}|ray://\S+|(?:[\w.-]+|\[[0-9a-fA-F:]+\]):\d{{1,5}}", re.ASCII)
"""What an address of a cluster looks like."""
_CONNECT_S = 5.0
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""With 0, Ray takes 127.0.0.1 for this machine's address, on every system."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node that is alive: its id, the name of its host, and what it has of cards and CPUs."""

    node_id: str
    name: str
    cards: int
    processors: int


class Cluster:
    """An open connection to a cluster, from one of its nodes."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def own_node_id(self) -> str:
        """Return the id of the node on which this process runs."""
        return str(self._ray.get_runtime_context().get_node_id())

    def nodes(self) -> list[ClusterNode]:
        """Return the nodes that are alive; names that several have get a part of their id."""
        alive = [node for node in self._ray.nodes() if node["Alive"]]
        names = [node["NodeManagerHostname"] for node in alive]
        return [
            ClusterNode(
                node["NodeID"],
                name if names.count(name) == 1 else f"{name}-{node['NodeID'][:6]}",
                int(node["Resources"].get("GPU", 0)),
                int(node["Resources"].get("CPU", 0)),
            )
            for name, node in sorted(
                zip(names, alive, strict=True), key=lambda pair: (pair[0], pair[1]["NodeID"])
            )
        ]

    def start_actor(self, kind: type[Any], *arguments: object, processors: int, cards: int) -> Any:
        """Return an actor of the class `kind`, on any node that has these free, or soon will.

        Nothing restarts it: `result` of its calls says that it is lost.
        """
        options = self._ray.remote(kind).options(
            num_cpus=processors, num_gpus=cards, max_restarts=0, scheduling_strategy="SPREAD"
        )
        return options.remote(*arguments)

    def start_helper(self, kind: type[Any], *arguments: object, node_id: str) -> Any:
        """Return an actor of the class `kind` on one node, which takes none of what is free there.

        It may be handed to other actors, and ends with this process.
        """
        options = self._ray.remote(kind).options(num_cpus=0, scheduling_strategy=_on_node(node_id))
        return options.remote(*arguments)

    def start_task(
        self,
        function: Callable[..., object],
        *arguments: object,
        node_id: str,
        cards: int = 0,
    ) -> Any:
        """Return the future result of a call of `function` on one node."""
        options = self._ray.remote(function).options(
            num_cpus=0,
            num_gpus=cards,
            max_retries=0,
            scheduling_strategy=_on_node(node_id),
        )
        return options.remote(*arguments)

    def ready(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Return those that have a result, once one has, or after `timeout_s`."""
        found, _ = self._ray.wait(
            list(futures), num_returns=1, timeout=timeout_s, fetch_local=False
        )
        if not found:
            return []
        found, _ = self._ray.wait(
            list(futures), num_returns=len(futures), timeout=0, fetch_local=False
        )
        return list(found)

    def result(self, future: Any) -> Any:
        """Return a result.

        Raises:
            DeviceLostError: the process or the node that worked on it ended.
            RemoteError: the call failed there in a way that it should not.
        """
        from ray.exceptions import RayError, RayTaskError

        try:
            return self._ray.get(future)
        except RayTaskError as exc:
            raise RemoteError(
                f"a call failed on a node of the cluster: {_last_line(str(exc))}",
                hint="Every node needs the same versions of dsmops and its packages.",
                code="ray.failed",
            ) from exc
        except RayError as exc:
            if "ModuleNotFoundError" in str(exc):
                raise RemoteError(
                    f"a node of the cluster has no dsmops: {_last_line(str(exc))}",
                    hint="Install the same version of dsmops for Ray's Python on every node.",
                    code="ray.no_dsmops",
                ) from exc
            raise DeviceLostError(
                f"its process or its node ended: {type(exc).__name__}",
                hint="`ray status` lists the nodes that are alive.",
                code="ray.lost",
            ) from exc

    def kill(self, actor: Any) -> None:
        """End an actor at once, wherever it is."""
        with suppress(Exception):
            self._ray.kill(actor)

    def interrupt(self, future: Any) -> None:
        """Raise KeyboardInterrupt in the call behind a future, which can then end what it began."""
        with suppress(Exception):
            self._ray.cancel(future)

    def cancel(self, future: Any) -> None:
        """End the call behind a future at once."""
        with suppress(Exception):
            self._ray.cancel(future, force=True)


def _on_node(node_id: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=False)


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect to the cluster at `address`: HOST:PORT, or `AUTO`.

    Raises:
        ExtraMissingError: Ray is not installed.
        InputError: the address has another form.
        RemoteError: no cluster answers there, or one of another version.
    """
    _require_installed()
    address = os.environ.get("RAY_ADDRESS") or AUTO if address == AUTO else address
    _require_reachable(address)
    ray = _imported()
    # Ray prints what it reports of nodes to stdout, where the result goes; no option prevents it.
    ray._private.worker.print_to_stdstream = lambda *_args, **_options: None
    # Ray takes the signals for itself.
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as exc:
        raise _refused(address, exc) from exc
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        yield Cluster(ray)
    finally:
        ray.shutdown()


def own_cluster() -> Cluster:
    """Return the cluster of which this process is an actor or a task."""
    return Cluster(_imported())


def _require_installed() -> None:
    if find_spec("ray") is None:
        raise ExtraMissingError("working on a Ray cluster", "ray", extra="ray")


def _imported() -> Any:
    # Read when Ray is loaded.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    return ray


def _require_reachable(address: str) -> None:
    if address == AUTO:
        return
    if address.startswith("ray://"):
        raise InputError(
            f"{address} is an address of the Ray Client, which is not on a node of the cluster",
            hint="Run dsmops on a node, with --ray alone or --ray HOST:6379.",
            code="ray.client",
        )
    if not ADDRESS.fullmatch(address):
        raise InputError(
            f"{address!r} is not an address of a Ray cluster",
            hint="It is like 10.0.0.1:6379, as `ray start --head` prints it.",
            code="ray.address",
        )
    host, _, port = address.rpartition(":")
    try:
        _connect(host.strip("[]"), int(port))
    except (OSError, OverflowError) as exc:
        raise RemoteError(
            f"no Ray cluster answers at {address}: {exc}",
            hint="`ray start --head` prints the address; on a node of the cluster --ray alone will "
            "do.",
            code="ray.unreachable",
        ) from exc
    if host in ("127.0.0.1", "localhost"):
        # Ray replaces this address by that of the network, where a cluster that listens on the
        # loopback device alone does not answer.
        try:
            _connect(_network_address(), int(port))
        except OSError:
            os.environ[_LOOPBACK] = "0"


def _network_address() -> str:
    """Return this machine's address on the network, as Ray finds it; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect(("192.0.2.1", 1))
        return str(route.getsockname()[0])


def _connect(host: str, port: int) -> None:
    with socket.create_connection((host, port), _CONNECT_S):
        pass


def _refused(address: str, exc: Exception) -> DsmopsError:
    if address == AUTO and isinstance(exc, ConnectionError):
        return RemoteError(
            "no Ray cluster runs on this machine",
            hint="Start one with `ray start --head`, or name the address of one: --ray HOST:PORT.",
            code="ray.unreachable",
        )
    at = " of this machine" if address == AUTO else f" at {address}"
    return RemoteError(
        f"the Ray cluster{at} cannot be used: {_first_line(str(exc))}",
        hint="This machine must be a node of it (`ray start --address HOST:PORT`), with the same "
        "versions of Ray and Python.",
        code="ray.refused",
    )


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


def _last_line(text: str) -> str:
    return next(
        (line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given"
    )
