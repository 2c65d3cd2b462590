"""A server as a child process: started in a group of its own, its output kept as a raw log, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsmops.errors import InputError, PortInUseError
from dsmops.files import os_errors
from dsmops.operations.smoke.output import Output

_DIES_WITH_PARENT = 1
"""`PR_SET_PDEATHSIG` of Linux's prctl."""
_MARK = "DSMOPS_SMOKE_TEST"
"""Set in the environment of the server, and so of all that it starts."""
_LISTENS = "0A"
"""The state of a listening socket in /proc/net/tcp."""
_PROC = Path("/proc")
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a child ended: its exit code (negative: the signal's number), and whether it had to be killed."""

    code: int
    killed: bool


class Child:
    """A running command, with all that it starts. `output` has its stdout and stderr."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        mark: str,
        output: Output,
        pipe: asyncio.ReadTransport,
        drain: _Drain,
    ) -> None:
        self.output = output
        self._process, self._mark, self._pipe, self._drain = process, mark, pipe, drain

    @classmethod
    async def start(
        cls, command: Sequence[str], raw_log: Path, *, folder: Path | None = None
    ) -> Child:
        """Start `command` in `folder`, its output going to a new file `raw_log`, which nobody else may read: raw logs hold keys.

        Raises:
            InputError: the command is none that this system can run.
            FileAccessError: the log cannot be written.
        """
        with os_errors(raw_log):
            raw_log.parent.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(
                os.open(raw_log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0
            )
        mark = secrets.token_hex(16)
        # A pipe of our own: that of asyncio stays open for as long as any grandchild holds its
        # other end.
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                cwd=folder,
                env=_environment(os.environ, mark),
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
        except OSError as exc:
            file.close()
            raw_log.unlink()
            os.close(reading)
            raise InputError(
                f"{command[0]} cannot be run: {exc.strerror}",
                hint="Name an executable file for this machine.",
                code="smoke.command",
            ) from exc
        finally:
            os.close(writing)
        output = Output(raw_log, file)
        pipe, drain = await asyncio.get_running_loop().connect_read_pipe(
            lambda: _Drain(output), os.fdopen(reading, "rb", buffering=0)
        )
        return cls(process, mark, output, pipe, drain)

    @property
    def pid(self) -> int:
        """Of the child, which leads its group."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        # asyncio's own wait may also wait for pipes.
        while (code := self.code) is None:
            await asyncio.sleep(_POLL_S)
        return code

    async def stop(self, grace_s: float) -> Stopped:
        """Ask it to end, and kill it if it has not after `grace_s`."""
        killed = False
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(
                    self.pid, signal.SIGTERM
                )  # asyncio's own way may take the exit code from under its watcher
            try:
                async with asyncio.timeout(grace_s):
                    await self.wait()
            except TimeoutError:
                killed = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
        return Stopped(await self.wait(), killed)

    async def left_over(self, within_s: float = 0.0) -> list[str]:
        """Return what still runs of all that it started, as text for people; helpers get `within_s` to see that it has ended."""
        until_s = asyncio.get_running_loop().time() + within_s
        while (found := self._others()) and asyncio.get_running_loop().time() < until_s:
            await asyncio.sleep(_POLL_S)
        return found

    def listens(self, port: int) -> bool | None:
        """Return whether the listener on a TCP port is one of its processes; None where the system does not tell."""
        sockets = _listeners(port)
        if sockets is None:
            return None
        return any(_holds(pid, sockets) for pid, _ in _processes(self.pid, self._mark) or ())

    async def tear_down(self) -> None:
        """Kill what is left of all that it started, and close the log. To be called whatever happened, once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid, _ in _processes(self.pid, self._mark) or ():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        await self.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._drain.ended.wait()
        self._pipe.close()
        self.output.end()

    def _others(self) -> list[str]:
        found = _processes(self.pid, self._mark)
        if found is None:
            return [f"something in process group {self.pid}"] if _group_lives(self.pid) else []
        return [f"{pid} ({name})" for pid, name in found if pid != self.pid]


class _Drain(asyncio.Protocol):
    """Reads a pipe as fast as it is filled: a server whose pipe is full stands still."""

    def __init__(self, output: Output) -> None:
        self.ended = asyncio.Event()
        self._output = output

    def data_received(self, data: bytes) -> None:
        self._output.take(data)

    def connection_lost(self, _: Exception | None) -> None:
        self.ended.set()


def free_port(addr: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server((addr, 0)) as listener:
        return int(listener.getsockname()[1])


def require_free(port: int, addr: str = "127.0.0.1") -> None:
    """Check that a server could listen there.

    Raises:
        PortInUseError: it could not.
    """
    try:
        socket.create_server((addr, port)).close()
    except OSError as exc:
        raise PortInUseError(
            f"port {port} of {addr} is taken: {exc.strerror}",
            hint=f"`ss -ltnp 'sport = :{port}'` names who listens there; leave --port away to use a free one.",
        ) from exc


def accepts(port: int, addr: str = "127.0.0.1") -> bool:
    """Return whether somebody takes connections there."""
    try:
        socket.create_connection((addr, port), timeout=1).close()
    except OSError:
        return False
    return True


def _environment(environ: Mapping[str, str], mark: str) -> dict[str, str]:
    # Without colours a log can be read by anything; what Python prints is to be in it before a
    # kill.
    return {**environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", _MARK: mark}


def _die_with_parent() -> Callable[[], None] | None:
    """Return what a child calls so that it dies when this process is killed outright; None where the system cannot do that."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_DIES_WITH_PARENT, signal.SIGKILL)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _processes(group: int, mark: str) -> list[tuple[int, str]] | None:
    """Return id and name of every process of a group, and of those that carry the mark in their environment, as daemons do that left it.

    Those that ended and that nobody asked about are left out. None on a system without /proc.
    """
    if not _PROC.joinpath("self", "stat").exists():
        return None
    wanted = f"{_MARK}={mark}".encode()
    found = []
    for folder in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            name, _, fields = (
                folder.joinpath("stat")
                .read_text(errors="replace")
                .partition("(")[2]
                .rpartition(")")
            )
            state, _, leader = fields.split()[:3]
            if state != "Z" and (
                int(leader) == group
                or wanted in folder.joinpath("environ").read_bytes().split(b"\0")
            ):
                found.append((int(folder.name), name))
    return found


def _listeners(port: int) -> set[str] | None:
    """Return the sockets that listen on a TCP port, as /proc/PID/fd names them; None on a system that does not tell."""
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = _PROC.joinpath("net", table).read_text().splitlines()[1:]
        except OSError:
            if table == "tcp":
                return None
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found


def _holds(pid: int, sockets: set[str]) -> bool:
    """Return whether a process has one of these sockets open."""
    with contextlib.suppress(OSError):
        for descriptor in _PROC.joinpath(str(pid), "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) in sockets:
                    return True
    return False
