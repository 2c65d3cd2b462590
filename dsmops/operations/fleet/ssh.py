"""Hosts by ssh, the program, with the operator's own config, keys and agent."""

from __future__ import annotations

import math
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dsmops.errors import EnvironmentMissingError, InputError
from dsmops.files import open_regular, os_errors
from dsmops.operations.fleet.programs import run_programs
from dsmops.operations.fleet.verdicts import Answer

_HOST = re.compile(r"[^\s\-'\"\\;|&$`<>()][^\s'\"\\;|&$`<>()]*")
_SSH_FAILED = 255
_TIMED_OUT = 124
"""Exit code of `timeout`."""
_CONNECT_S = 10
_LIMITED = (
    'limit=$1; shift; command -v timeout >/dev/null && exec timeout -k 5 "$limit" "$@"; exec "$@"'
)
"""Runs a program on a host. `timeout` ends it there too where the connection is gone; macOS has
none."""


def read_hosts(path: Path) -> list[str]:
    """Return the hosts that a file names, one a line; `#` begins a comment.

    A host is what ssh takes: a name of its config, user@host or ssh://user@host:port.

    Raises:
        SourceError, FileAccessError, InputError: the file cannot be read, names no host, one twice,
            or something that is not a host.
    """
    with os_errors(path), open_regular(path, "hosts file") as file:
        text = file.read().decode(errors="replace")
    hosts: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        host = line.partition("#")[0].strip()
        if not host:
            continue
        if not _HOST.fullmatch(host):
            raise InputError(
                f"{path}, line {number}: {host!r} is not a host",
                hint="Write one a line: a name of ~/.ssh/config, user@host or ssh://host:port.",
                code="fleet.host",
            )
        if host in hosts:
            raise InputError(
                f"{path}, line {number}: {host} is there twice",
                hint="Name each host once.",
                code="fleet.host_twice",
            )
        hosts.append(host)
    if not hosts:
        raise InputError(
            f"{path} names no host", hint="Write one host a line.", code="fleet.no_host"
        )
    return hosts


class SshHosts:
    """Hosts that ssh reaches without asking for a password. `program` is dsmops there."""

    name = "ssh"

    def __init__(self, hosts: Sequence[str], program: Sequence[str]) -> None:
        self._hosts = tuple(hosts)
        self._program = tuple(program)

    def nodes(self) -> Sequence[str]:
        """Return the hosts."""
        return self._hosts

    def ask(
        self, arguments: Sequence[str], timeout_s: float, on_answer: Callable[[Answer], None]
    ) -> None:
        """Run dsmops on every host; see `Fleet`.

        Raises:
            EnvironmentMissingError: there is no ssh.
        """
        if shutil.which("ssh") is None:
            raise EnvironmentMissingError(
                "there is no ssh on this machine",
                hint="Install OpenSSH's client, for example `apt install openssh-client`.",
                code="fleet.no_ssh",
            )
        limit_s = math.ceil(timeout_s)
        command = ["sh", "-c", _LIMITED, "sh", str(limit_s), *self._program, *arguments]
        remote = shlex.join(command)
        options = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={min(_CONNECT_S, limit_s)}"]
        run_programs(
            {host: ["ssh", *options, "--", host, remote] for host in self._hosts},
            timeout_s,
            lambda answer: on_answer(_of_ssh(answer)),
        )


def _of_ssh(answer: Answer) -> Answer:
    if answer.exit_code == _TIMED_OUT:
        return replace(answer, exit_code=None, timed_out=True)
    if answer.exit_code == _SSH_FAILED:
        lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
        return replace(
            answer,
            exit_code=None,
            lost=lines[-1] if lines else "ssh failed",
            hint=f"`ssh {answer.node} true` must work without a password.",
        )
    return answer
