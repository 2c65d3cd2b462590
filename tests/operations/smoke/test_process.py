"""A server as a child process: its output kept, its group gone."""

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dsmops.errors import InputError, PortInUseError
from dsmops.operations.smoke.process import Child, accepts, free_port, require_free


def run(
    folder: Path, script: str, talk: Callable[[Child], Awaitable[object]]
) -> tuple[Child, object]:
    """Run a Python script as a child, talk to it, and tear it down."""

    async def main() -> tuple[Child, object]:
        child = await Child.start([sys.executable, "-c", script], folder / "raw" / "log.test")
        try:
            return child, await talk(child)
        finally:
            await child.tear_down()

    return asyncio.run(main())


async def ended(child: Child) -> int:
    return await child.wait()


def test_output_is_kept_as_it_is_and_as_lines(tmp_path: Path) -> None:
    """Both streams, bytes that are not text, colours, a last line without an end."""
    script = r"""
import sys, os
os.write(1, b'\x1b[2mone\x1b[0m\ntw')
os.write(2, b'o\n\xff\xfe')
os.write(1, b'\n' + b'x' * 300000 + b'\nend')
"""
    child, code = run(tmp_path, script, ended)
    assert code == 0
    raw = child.output.raw_log.read_bytes()
    assert raw == b"\x1b[2mone\x1b[0m\ntwo\n\xff\xfe\n" + b"x" * 300000 + b"\nend"
    assert child.output.lines >= 5
    assert child.output.last_words == "end"
    assert child.output.raw_log.stat().st_mode & 0o077 == 0


def test_a_talkative_child_is_never_blocked(tmp_path: Path) -> None:
    """Its pipe is read while it runs, whatever the test does."""
    _, code = run(
        tmp_path, "print('y' * 80, flush=True)\nfor _ in range(50000): print('z' * 80)", ended
    )
    assert code == 0


def test_a_child_that_ends_when_asked_is_not_killed(tmp_path: Path) -> None:
    """Its exit code is its own."""
    handler = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(9)); "
    script = f"{handler}print('up', flush=True); time.sleep(60)"

    async def stop(child: Child) -> object:
        while not child.output.lines:
            await asyncio.sleep(0.01)
        return await child.stop(10)

    _, stopped = run(tmp_path, script, stop)
    assert (stopped.code, stopped.killed) == (9, False)  # type: ignore[attr-defined]


def test_what_outlives_the_child_is_named_and_killed(tmp_path: Path) -> None:
    """Even where it holds the pipe open."""
    sleeper = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    script = f"import subprocess, sys; subprocess.Popen({sleeper})"

    async def leave(child: Child) -> list[str]:
        await child.wait()
        return await child.left_over()

    begin_s = time.monotonic()
    child, left = run(tmp_path, script, leave)
    assert len(left) == 1  # type: ignore[arg-type]
    assert "python" in left[0]  # type: ignore[index]
    assert asyncio.run(child.left_over()) == []
    assert time.monotonic() - begin_s < 30


def test_a_daemon_that_left_the_group_is_found_and_killed(tmp_path: Path) -> None:
    """It carries the mark of its server, in any session and under any parent."""
    script = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
os.wait()
"""

    async def leave(child: Child) -> list[str]:
        await child.wait()
        return await child.left_over()

    child, left = run(tmp_path, script, leave)
    assert len(left) == 1  # type: ignore[arg-type]
    assert asyncio.run(child.left_over(5)) == []


def test_a_helper_that_sees_the_end_is_no_orphan(tmp_path: Path) -> None:
    """It gets a moment."""
    sleeper = "[sys.executable, '-c', 'import time; time.sleep(0.3)']"
    script = f"import subprocess, sys; subprocess.Popen({sleeper})"

    async def leave(child: Child) -> list[str]:
        await child.wait()
        return await child.left_over(10)

    assert run(tmp_path, script, leave)[1] == []


def test_who_listens_is_told(tmp_path: Path) -> None:
    """The child itself, or somebody else."""
    port = free_port()
    listening = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); "
    script = f"{listening}print('up', flush=True); time.sleep(60)"

    async def look(child: Child) -> tuple[bool | None, bool | None]:
        while not child.output.lines:
            await asyncio.sleep(0.01)
        with socket.create_server(("127.0.0.1", 0)) as other:
            return child.listens(port), child.listens(other.getsockname()[1])

    assert run(tmp_path, script, look)[1] == (True, False)


def test_what_cannot_be_run_leaves_no_log(tmp_path: Path) -> None:
    """And says what to do."""

    async def start() -> None:
        await Child.start(["/nonexistent/server"], tmp_path / "log.test")

    with pytest.raises(InputError, match="/nonexistent/server cannot be run"):
        asyncio.run(start())
    assert list(tmp_path.iterdir()) == []


def test_ports_are_told_free_and_taken() -> None:
    """By listening, and by connecting."""
    port = free_port()
    require_free(port)
    assert not accepts(port)
    with socket.create_server(("127.0.0.1", port)):
        assert accepts(port)
        with pytest.raises(PortInUseError, match=f"port {port} of 127.0.0.1 is taken"):
            require_free(port)
