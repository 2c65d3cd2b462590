"""Run one program for each node at once, each with a time limit."""

from __future__ import annotations

import asyncio
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from dsmops.operations.fleet.verdicts import Answer

_AT_ONCE = 128
_MOST_BYTES = 16 << 20
"""What a program may print; the rest is read and dropped."""
_GRACE_S = 2.0


def run_programs(
    commands: Mapping[str, Sequence[str]],
    timeout_s: float,
    on_answer: Callable[[Answer], None],
) -> None:
    """Run the command of every node; give each answer as it comes.

    A program that takes longer gets SIGTERM, and SIGKILL soon after. Ctrl-C ends all.
    """
    asyncio.run(_run(commands, timeout_s, on_answer))


async def _run(
    commands: Mapping[str, Sequence[str]],
    timeout_s: float,
    on_answer: Callable[[Answer], None],
) -> None:
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(node: str, command: Sequence[str]) -> None:
        async with places:
            answer = await _answer(node, command, timeout_s)
        on_answer(answer)

    async with asyncio.TaskGroup() as group:
        for node, command in commands.items():
            group.create_task(one(node, command))


async def _answer(node: str, command: Sequence[str], timeout_s: float) -> Answer:
    began_s = time.monotonic()
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
        )
    except OSError as exc:
        return Answer(node, 0.0, lost=f"{command[0]} cannot be run: {exc.strerror}")
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await asyncio.gather(_read(process.stdout), _read(process.stderr))
            code = await process.wait()
    except TimeoutError:
        return Answer(node, time.monotonic() - began_s, timed_out=True)
    finally:
        await _end(process)
    return Answer(node, time.monotonic() - began_s, code, stdout, stderr)


async def _read(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None  # noqa: S101 it is a pipe
    kept = bytearray()
    while piece := await stream.read(1 << 16):
        kept += piece[: _MOST_BYTES - len(kept)]
    return kept.decode(errors="replace")


async def _end(process: Process) -> None:
    """End a process that still runs."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError):
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
