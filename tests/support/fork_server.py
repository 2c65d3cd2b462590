"""Fork Python processes that have the heavy imports behind them.

Starting `dsmops` in a new interpreter takes 0.4 s of CPU time, and 2 s with torch. Tests start it
hundreds of times. This server imports once and forks for each start: the fork has its own memory,
arguments, environment, folder, pipes, signals and exit code. A test that needs a new interpreter
(imports, memory, PYTHON* variables, closed streams, process groups) uses `sys.executable`.

    python -m tests.support.fork_server SOCKET             # the server
    python -IS fork_client.py SOCKET -m dsmops --version   # what a test starts instead of python

The client sends its arguments and streams, then passes signals on and ends as the fork ends. The
server ends with the last process that holds an open connection.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import dsmops
from tests.support.documents import validate_documents

PRELOADED = (
    "jsonschema",
    "rich.console",
    "rich.progress",
    "rich.table",
    "soundfile",
    "soxr",
    "sphn",
)
"""Third-party modules that `dsmops` imports inside functions."""

NOT_PRELOADED = ("dsmops.__main__", "dsmops.hub.client", "dsmops.hub.transfer", "dsmops.publish.s3")
"""They import huggingface_hub and botocore, which read the environment when they are imported."""


@dataclass
class Connection:
    """A client: first its request, then its process."""

    socket: socket.socket
    received: bytes = b""
    fds: list[int] = field(default_factory=list)
    pid: int | None = None


@dataclass(frozen=True)
class Job:
    """What a fork runs."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]


class Forks:
    """The server's loop. It returns in the server at the end, and in each fork with its job."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._connections: dict[int, Connection] = {}
        self._selector = selectors.DefaultSelector()

    def serve(self) -> Job | None:
        """Return None at the end, or in a fork its job."""
        waking, waker = socket.socketpair()
        for each in (waking, waker):
            each.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(waking, selectors.EVENT_READ)
        served = False
        while not (served and not self._connections):
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    accepted, _ = self._listener.accept()
                    self._connections[accepted.fileno()] = Connection(accepted)
                    self._selector.register(accepted, selectors.EVENT_READ)
                    served = True
                elif key.fileobj is waking:
                    waking.recv(4096)
                    self._reap()
                elif (connection := self._connections.get(key.fd)) is not None:
                    job = self._read(connection)
                    if job is not None:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        for each in (waking, waker, self._listener):
                            each.close()
                        return job
        return None

    def _read(self, connection: Connection) -> Job | None:
        """Read from a client; when its request is complete, fork. Return the job in the fork."""
        try:
            data, fds, *_ = socket.recv_fds(connection.socket, 1 << 16, 3)
        except ConnectionError:
            data, fds = b"", []
        connection.fds += fds
        if not data:
            if connection.pid is not None:
                # The client was killed; what it stands for ends in the same way.
                os.kill(connection.pid, signal.SIGKILL)
            self._forget(connection)
            return None
        connection.received += data
        size = 4 + struct.unpack("!I", connection.received[:4])[0]
        if connection.pid is not None or len(connection.received) < size:
            return None
        pid = os.fork()
        if pid == 0:
            for number, fd in enumerate(connection.fds):
                os.dup2(fd, number)
                os.close(fd)
            for each in self._connections.values():
                each.socket.close()
            self._selector.close()
            return Job(**json.loads(connection.received[4:size]))
        for fd in connection.fds:
            os.close(fd)
        connection.fds, connection.pid = [], pid
        connection.socket.sendall(struct.pack("!i", pid))
        return None

    def _reap(self) -> None:
        """Tell each client whose process has ended how it ended."""
        for connection in list(self._connections.values()):
            if connection.pid is None:
                continue
            pid, status = os.waitpid(connection.pid, os.WNOHANG)
            if pid:
                with contextlib.suppress(OSError):
                    connection.socket.sendall(struct.pack("!i", os.waitstatus_to_exitcode(status)))
                self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        del self._connections[connection.socket.fileno()]
        connection.socket.close()


def run(job: Job) -> None:
    """Do what `python ARGUMENTS` does, in this process."""
    os.chdir(job.folder)
    os.environ.clear()
    os.environ.update(job.environment)
    time.tzset()
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    way, *rest = job.arguments
    if way == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif way == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *rest[1:]]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.path[0] = str(Path(way).parent)
        sys.argv = job.arguments
        runpy.run_path(way, run_name="__main__")


def preload() -> None:
    """Import all that commands import and that does not depend on the environment."""
    modules = [module.name for module in pkgutil.walk_packages(dsmops.__path__, "dsmops.")]
    for name in (*PRELOADED, *modules):
        if not name.startswith(NOT_PRELOADED):
            # Without the extra `worker` there is no torch, and less to import.
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    validate_documents()


def serve(path: str) -> Job | None:
    """Import what is preloaded and serve on the socket `path`; see `Forks.serve`."""
    preload()
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen(64)
        os.rename(f"{path}.new", path)
        job = Forks(listener).serve()
        if job is None:
            os.unlink(path)
        return job


def end(job: Job) -> NoReturn:
    """Run a job and end the process as Python does, except that no memory is freed: with torch
    that takes half a second.
    """
    code = 0
    try:
        run(job)
    except SystemExit as exc:
        if isinstance(exc.code, int) or exc.code is None:
            code = exc.code or 0
        else:
            code = 1
            print(exc.code, file=sys.stderr)
    except BaseException as exc:  # noqa: BLE001 as Python does at its end
        code = 1
        traceback.print_exc()
        if isinstance(exc, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError as exc:
        code = 120
        print(f"Exception ignored in: {sys.stdout!r}\n{exc}", file=sys.stderr)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if job := serve(sys.argv[1]):
        end(job)
