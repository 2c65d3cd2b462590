"""A check on many nodes: one verdict for each, within a time limit, whatever the others do."""

from dsmops.operations.fleet.fleet import CHECKS, Fleet, check_fleet
from dsmops.operations.fleet.ray_nodes import RayNodes
from dsmops.operations.fleet.slurm import SlurmNodes
from dsmops.operations.fleet.ssh import SshHosts, read_hosts
from dsmops.operations.fleet.verdicts import FleetReport, NodeStatus, NodeVerdict

__all__ = [
    "CHECKS",
    "Fleet",
    "FleetReport",
    "NodeStatus",
    "NodeVerdict",
    "RayNodes",
    "SlurmNodes",
    "SshHosts",
    "check_fleet",
    "read_hosts",
]
