"""How tests start Python processes: as a rule by forking from one that has imported torch."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENT = Path(__file__).with_name("fork_client.py")
START_LIMIT_S = 120


def python() -> list[str]:
    """Return the first words of a command that does what `python` does, without its start-up.

    It is a process like any other: arguments, streams, environment, folder, signals and exit code
    are its own. `fork_server` says what is different, and when to use `sys.executable`.
    """
    if sys.platform != "linux":
        # Elsewhere the system's own libraries do not survive a fork.
        return [sys.executable]
    return [sys.executable, "-IS", str(CLIENT), _server()]


@cache
def _server() -> str:
    """Return the socket of the server that all workers of this test run share, and hold it open."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
    folder = Path(tempfile.gettempdir()) / f"dsmops-forks-{run}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / "socket"
    held = socket.socket(socket.AF_UNIX)
    server = None
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            held.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            server = _start(path)
            held.connect(str(path))

    def let_go() -> None:
        held.close()
        if server is not None:
            # It ends when every worker of the run has let go.
            server.wait(START_LIMIT_S)
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(let_go)
    return str(path)


def _start(path: Path) -> subprocess.Popen[bytes]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.fork_server", str(path)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    until_s = time.monotonic() + START_LIMIT_S
    while not path.exists():
        if server.poll() is not None or time.monotonic() > until_s:
            raise RuntimeError(f"the fork server did not start: exit {server.poll()}")
        time.sleep(0.02)
    return server


def open_pipes() -> set[str]:
    """Return the pipes that this process has open, by the names that the system gives them."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # Closed meanwhile.
            found.add(os.readlink(entry))
    return {name for name in found if name.startswith("pipe:")}
