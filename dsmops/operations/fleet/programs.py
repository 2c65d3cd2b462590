"""Run one program for each node, many at once, each with a time limit."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from dsmops.operations.fleet.verdicts import Answer

AT_ONCE = 128
"""How many programs run at a time: each has two pipes, and often only 1,024 files may be open."""
_MOST_BYTES = 16 << 20
"""What a program may print; the rest is read and dropped."""
_GRACE_S = 2.0
_LAST_OUTPUT_S = 1.0
"""How long to read on when a program has ended: what it left behind may hold its pipes open."""


def run_programs(
    commands: Mapping[str, Sequence[str]],
    timeout_s: float,
    on_answer: Callable[[Answer], None],
) -> None:
    """Run the command of every node, `AT_ONCE` at a time; give each answer as it comes.

    A program that takes longer than `timeout_s` gets SIGTERM, and SIGKILL soon after, as do the
    processes that it started. Ctrl-C ends all.
    """
    asyncio.run(_run(commands, timeout_s, on_answer))


async def _run(
    commands: Mapping[str, Sequence[str]],
    timeout_s: float,
    on_answer: Callable[[Answer], None],
) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(node: str, command: Sequence[str]) -> None:
        async with places:
            answer = await _answer(node, command, timeout_s)
        on_answer(answer)

    async with asyncio.TaskGroup() as group:
        for node, command in commands.items():
            group.create_task(one(node, command))


class _Program(asyncio.SubprocessProtocol):
    """What a program printed, by file descriptor, and whether it has ended."""

    def __init__(self) -> None:
        self._kept = {1: bytearray(), 2: bytearray()}
        self._open = set(self._kept)
        self.ended, self.all_read = asyncio.Event(), asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        kept = self._kept[fd]
        kept += data[: _MOST_BYTES - len(kept)]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        self._open.discard(fd)
        if not self._open:
            self.all_read.set()

    def process_exited(self) -> None:
        self.ended.set()

    def printed(self, fd: int) -> str:
        return self._kept[fd].decode(errors="replace")


async def _answer(node: str, command: Sequence[str], timeout_s: float) -> Answer:
    began_s = time.monotonic()
    try:
        transport, program = await asyncio.get_running_loop().subprocess_exec(
            _Program, *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
    except OSError as exc:
        return Answer(
            node,
            0.0,
            lost=f"{command[0]} cannot be run: {exc.strerror}",
            hint=f"See what `{command[0]}` does on this machine.",
        )
    try:
        if not await _within(timeout_s, program.ended):
            return Answer(node, time.monotonic() - began_s, timed_out=True)
        seconds = time.monotonic() - began_s
        await _within(_LAST_OUTPUT_S, program.all_read)
    finally:
        await _end(transport.get_pid(), program)
        transport.close()
    code = transport.get_returncode()
    return Answer(node, seconds, code, program.printed(1), program.printed(2))


async def _within(limit_s: float, event: asyncio.Event) -> bool:
    """Wait for an event; return whether it came within the limit."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()
    return event.is_set()


async def _end(group: int, program: _Program) -> None:
    """End a program that still runs, and all of the process group that it leads."""
    # One that waits for a dead disk ends at no signal, and is not waited for.
    if program.ended.is_set():
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(group, number)
        with suppress(asyncio.CancelledError):
            await _within(_GRACE_S, program.ended)
