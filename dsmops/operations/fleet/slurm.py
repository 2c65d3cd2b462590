"""Nodes of a Slurm cluster, by one `srun` for each, so that one that hangs holds up no other."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace

from dsmops.errors import EnvironmentMissingError, RemoteError
from dsmops.operations.fleet.programs import run_programs
from dsmops.operations.fleet.verdicts import Answer

_LIST_S = 30.0
_GONE = ("down", "drain", "fail", "maint", "powered", "power_down", "unknown", "inval")
"""States of sinfo in which a node starts nothing."""


_ENDED = re.compile(r"srun: error: \S+: tasks? \S+: (Exited with exit code|Terminated|Killed)")
"""What `srun` adds to the messages of a command that failed."""


class SlurmNodes:
    """The nodes of the allocation that this process is in, else all that `sinfo` lists.

    `srun` and `sinfo` take partition, account and the like from their variables, such as
    SLURM_PARTITION. `program` is dsmops on the nodes.
    """

    name = "slurm"

    def __init__(self, program: Sequence[str]) -> None:
        self._program = tuple(program)
        self._states: dict[str, str] = {}

    def nodes(self) -> Sequence[str]:
        """Return the names of the nodes.

        Raises:
            EnvironmentMissingError: Slurm's programs are not installed.
            RemoteError: Slurm does not answer, or has no nodes.
        """
        within = os.environ.get("SLURM_JOB_NODELIST")
        if within:
            listed = [
                f"{name} allocated" for name in _lines("scontrol", "show", "hostnames", within)
            ]
        else:
            listed = _lines("sinfo", "--noheader", "--Node", "--format=%N %T")
        for line in listed:
            name, _, state = line.partition(" ")
            self._states[name] = state.strip()
        if not self._states:
            raise RemoteError(
                "Slurm lists no nodes",
                hint="`sinfo` shows what it lists; SINFO_PARTITION may name another partition.",
                code="fleet.no_nodes",
            )
        return list(self._states)

    def ask(
        self, arguments: Sequence[str], timeout_s: float, on_answer: Callable[[Answer], None]
    ) -> None:
        """Run dsmops on every node; see `Fleet`."""
        up = []
        for node, state in self._states.items():
            if state.startswith(_GONE) or state.endswith("*"):
                reason = f"Slurm says that it is {state}"
                on_answer(Answer(node, 0.0, lost=reason, hint="`sinfo -R` says why."))
            else:
                up.append(node)
        overlap = ["--overlap"] if "SLURM_JOB_NODELIST" in os.environ else []
        run_programs(
            {
                node: [
                    *("srun", "--quiet", "--nodes=1", "--ntasks=1", f"--nodelist={node}"),
                    *(*overlap, *self._program, *arguments),
                ]
                for node in up
            },
            timeout_s,
            lambda answer: on_answer(replace(answer, stderr=_without_srun(answer.stderr))),
        )


def _without_srun(stderr: str) -> str:
    """Return what the command printed, without what `srun` adds where its exit code is not 0."""
    lines = stderr.splitlines()
    own = [line for line in lines if not _ENDED.match(line)]
    return "\n".join(own or lines)


def _lines(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIST_S, check=False)
    except FileNotFoundError as exc:
        raise EnvironmentMissingError(
            f"{command[0]} is not on this machine's PATH",
            hint="Run this on a login node of the cluster, or use --hosts.",
            code="fleet.no_slurm",
        ) from exc
    except subprocess.TimeoutExpired as exc:
        raise RemoteError(
            f"{command[0]} did not answer within {_LIST_S:.0f} s",
            hint="`scontrol ping` says whether Slurm's controller is up.",
            code="fleet.slurm",
        ) from exc
    if done.returncode:
        raise RemoteError(
            f"{command[0]} failed: {done.stderr.strip() or done.returncode}",
            hint="`scontrol ping` says whether Slurm's controller is up.",
            code="fleet.slurm",
        )
    return [line for line in done.stdout.splitlines() if line.strip()]
