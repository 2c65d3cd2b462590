"""A Ray cluster of two nodes on this machine, on the loopback device.

`python -m tests.support.ray_cluster PROCESSORS` is its process: it prints the address, removes the
second node at the line "lose" on standard input, and ends the cluster where that ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).resolve().parents[2]
_STORE_BYTES = 80 << 20


@dataclass(frozen=True)
class RayCluster:
    """A running cluster: where it listens, and the environment of programs that use it."""

    address: str
    env: dict[str, str]
    _commands: IO[str]

    def lose_a_node(self) -> None:
        """Kill all processes of the second node, which is gone for good."""
        self._commands.write("lose\n")
        self._commands.flush()

    def python(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run Python with `args` to its end."""
        return subprocess.run(
            [sys.executable, *args],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@contextmanager
def ray_cluster(processors: int = 1) -> Iterator[RayCluster]:
    """Start a cluster, or skip the test where Ray is not installed.

    Each node offers so many processors, whatever the machine has.
    """
    pytest.importorskip("ray", reason="the ray extra is not installed")
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent / "quick_start")]),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Keeps the cluster on the loopback device.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.ray_cluster", str(processors)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            pytest.fail(f"the Ray cluster did not start: exit code {process.wait()}")
        yield RayCluster(address, env, process.stdin)
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _serve(processors: int) -> None:
    from ray.cluster_utils import Cluster

    node = {
        "num_cpus": processors,
        "object_store_memory": _STORE_BYTES,
        "include_dashboard": False,
        "node_ip_address": "127.0.0.1",
    }
    cluster = Cluster(initialize_head=True, head_node_args=node)
    second = cluster.add_node(**node)
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
    cluster.shutdown()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
