"""A server as a child process: started in a group of its own, its output kept as a raw log, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dsmops.errors import InputError, PortInUseError
from dsmops.files import os_errors

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_DIES_WITH_PARENT = 1
"""`PR_SET_PDEATHSIG` of Linux's prctl."""
_MOST_LINES = 200_000
"""An hour and more of steps; a smoke test is over long before."""
_PIECE_BYTES = 1 << 16
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a child ended: its exit code (negative: the signal's number), and whether it had to be killed."""

    code: int
    killed: bool


class Child:
    """A running command. Its stdout and stderr go to `raw_log`, byte for byte, and to `lines`, without colours."""

    def __init__(self, process: asyncio.subprocess.Process, raw_log: Path, file: BinaryIO) -> None:
        self.raw_log = raw_log
        self.lines: list[str] = []
        self._process, self._file = process, file
        self._rest = ""
        self._drain = asyncio.ensure_future(self._keep_output())

    @classmethod
    async def start(cls, command: Sequence[str], raw_log: Path, *, folder: Path | None = None) -> Child:
        """Start `command` in `folder`, its output going to a new file `raw_log`, which nobody else may read: raw logs hold keys.

        Raises:
            InputError: the command is none that this system can run.
            FileAccessError: the log cannot be written.
        """
        with os_errors(raw_log):
            raw_log.parent.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(os.open(raw_log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=folder,
                env=_environment(os.environ),
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
        except OSError as exc:
            file.close()
            raw_log.unlink()
            raise InputError(
                f"{command[0]} cannot be run: {exc.strerror}", hint="Name an executable file for this machine.", code="smoke.command"
            ) from exc
        return cls(process, raw_log, file)

    @property
    def pid(self) -> int:
        """Of the child, which leads its group."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.returncode

    @property
    def last_line(self) -> str:
        """The last thing it said that is not blank."""
        return next((line.strip() for line in reversed(self.lines) if line.strip()), "it said nothing")

    async def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        # asyncio's own wait also waits for the pipe, which a grandchild may hold open for ever.
        while (code := self.code) is None:
            await asyncio.sleep(_POLL_S)
        return code

    async def stop(self, grace_s: float) -> Stopped:
        """Ask it to end, and kill it if it has not after `grace_s`."""
        killed = False
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)  # asyncio's own way may take the exit code from under its watcher
            try:
                async with asyncio.timeout(grace_s):
                    await self.wait()
            except TimeoutError:
                killed = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
        return Stopped(await self.wait(), killed)

    def left_over(self) -> list[str]:
        """Return what still runs of its group, as text for people; call it after the end."""
        members = _members(self.pid)
        if members is None:
            return [f"something in process group {self.pid}"] if _group_lives(self.pid) else []
        return [f"{pid} ({name})" for pid, name in members]

    async def tear_down(self) -> None:
        """Kill what is left of the whole group, and close the log. To be called whatever happened, once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self.wait()
        try:
            # A grandchild that left the group may hold the pipe open for ever.
            async with asyncio.timeout(1):
                await self._drain
        except TimeoutError:
            pass
        finally:
            self._file.close()

    async def _keep_output(self) -> None:
        stream = self._process.stdout
        if stream is None:
            raise RuntimeError("the child was started without a pipe")
        while piece := await stream.read(_PIECE_BYTES):
            self._file.write(piece)
            *lines, self._rest = (self._rest + piece.decode(errors="replace")).split("\n")
            if len(self.lines) < _MOST_LINES:
                self.lines += [_ANSI.sub("", line) for line in lines]
        if self._rest:
            self.lines.append(_ANSI.sub("", self._rest))


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


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    # Without colours a log can be read by anything; what Python prints is to be in it before a kill.
    return {**environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}


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


def _members(group: int) -> list[tuple[int, str]] | None:
    """Return process ids and names of a group, without those that ended and that nobody asked about; None on a system without /proc."""
    processes = Path("/proc")
    if not (processes / "self" / "stat").exists():
        return None
    found = []
    for folder in processes.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            name, _, fields = (folder / "stat").read_text(errors="replace").partition("(")[2].rpartition(")")
            state, _, leader = fields.split()[:3]
            if int(leader) == group and state != "Z":
                found.append((int(folder.name), name))
    return found
