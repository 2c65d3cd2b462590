"""A server as a child process, in a group of its own: its output is kept, and it always ends."""

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
"""Set in the environment of the server, which all its child processes inherit."""
_LISTENS = "0A"
"""The state of a listening socket in /proc/net/tcp."""
_PROC = Path("/proc")
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a child ended: its exit code, negative for a signal, and whether it was killed."""

    code: int
    killed: bool


class Child:
    """A running command and all processes that it starts. `output` has its stdout and stderr."""

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
        """Start `command` in `folder`. Its output goes to a new file, `raw_log`.

        Only this user may read that file: raw logs hold keys.

        Raises:
            InputError: this system cannot run the command.
            FileAccessError: the log cannot be written.
        """
        with os_errors(raw_log):
            raw_log.parent.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(
                os.open(raw_log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0
            )
        mark = secrets.token_hex(16)
        # Not asyncio's pipe: that stays open as long as any grandchild holds its other end.
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
                hint="Give an executable file for this machine.",
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
        """Process id of the child, which leads its group."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait until it ends, and return its exit code."""
        # asyncio's own wait may also wait for pipes.
        while (code := self.code) is None:
            await asyncio.sleep(_POLL_S)
        return code

    async def stop(self, grace_s: float) -> Stopped:
        """Send SIGTERM, and SIGKILL if it still runs after `grace_s`."""
        killed = False
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                # asyncio's own method may take the exit code away from its watcher.
                os.kill(self.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(grace_s):
                    await self.wait()
            except TimeoutError:
                killed = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
        return Stopped(await self.wait(), killed)

    async def left_over(self, within_s: float = 0.0) -> list[str]:
        """Return the processes it started that still run, as text.

        They get `within_s` to notice that it has ended.
        """
        until_s = asyncio.get_running_loop().time() + within_s
        while (found := self._others()) and asyncio.get_running_loop().time() < until_s:
            await asyncio.sleep(_POLL_S)
        return found

    def listens(self, port: int) -> bool | None:
        """Return whether one of its processes listens on a TCP port, None if that is unknown."""
        sockets = _listeners(port)
        if sockets is None:
            return None
        return any(_holds(pid, sockets) for pid, _ in _processes(self.pid, self._mark) or ())

    async def tear_down(self) -> None:
        """Kill all its processes that still run, and close the log. Call it once, always."""
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
    """Reads a pipe as fast as it is filled: a server blocks on a full pipe."""

    def __init__(self, output: Output) -> None:
        self.ended = asyncio.Event()
        self._output = output

    def data_received(self, data: bytes) -> None:
        self._output.take(data)

    def connection_lost(self, _: Exception | None) -> None:
        self.ended.set()


def free_port(addr: str = "127.0.0.1") -> int:
    """Return a port that is free now."""
    with socket.create_server((addr, 0)) as listener:
        return int(listener.getsockname()[1])


def require_free(port: int, addr: str = "127.0.0.1") -> None:
    """Check that a server can listen there.

    Raises:
        PortInUseError: it cannot.
    """
    try:
        socket.create_server((addr, port)).close()
    except OSError as exc:
        raise PortInUseError(
            f"port {port} of {addr} is taken: {exc.strerror}",
            hint=f"`ss -ltnp 'sport = :{port}'` names the process; omit --port to use a free port.",
        ) from exc


def accepts(port: int, addr: str = "127.0.0.1") -> bool:
    """Return whether a server accepts connections there."""
    try:
        socket.create_connection((addr, port), timeout=1).close()
    except OSError:
        return False
    return True


def _environment(environ: Mapping[str, str], mark: str) -> dict[str, str]:
    # Colours make a log hard to read; unbuffered output is in it even after a kill.
    return {**environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", _MARK: mark}


def _die_with_parent() -> Callable[[], None] | None:
    """Return what a child calls to die when this process is killed, None if not supported."""
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
    """Return id and name of every process in a group or with the mark in its environment.

    Daemons leave the group and keep the mark. Zombies are omitted. None without /proc.
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
    """Return the sockets that listen on a TCP port, as in /proc/PID/fd; None without /proc."""
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
