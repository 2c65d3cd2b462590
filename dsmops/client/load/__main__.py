"""One process of a load test: reads what to do on stdin, writes what it measured to stdout.

The first line on stdin is the `Job`, each further one a command, as JSON:

- `{"do": "level", "numbers": [...], "once": false}` opens a stream for each number, answered with
  how many are open;
- `{"do": "measure", "from_s": …, "until_s": …, "grace_s": …}` measures, answered with a report;
- `{"do": "stop"}` ends what runs at once, answered with what was measured until then.

The end of stdin ends the process. An answer is a line of JSON, and behind it the arrays that it
names. Numbers of streams count over all processes: they say when in the 80 ms a stream sends.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import resource
import signal
import ssl
import sys
import time
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dsmops.client.load.pacing import FRAME_S, Pacer, Window
from dsmops.client.load.stt import SttRecord, SttStream
from dsmops.client.load.tts import TtsRecord, TtsStream, Utterance
from dsmops.client.load.websocket import Address, LeanWebSocket, clock, parse_address

_GOLDEN = 0.6180339887498949
"""Multiples of it spread any number of streams evenly over a frame."""
_OPEN_AT_ONCE = 16
_READY_S = 2.0
"""A module of type `Asr` never sends `Ready`; that the server is not dead was checked before."""
_CLOSE_S = 0.5
_ENDED_S = 0.05

Command = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """What all processes do: `tts` or not, where, with what, and how long opening may take."""

    is_tts: bool
    address: Address
    frames: list[bytes]
    texts: list[Utterance]
    open_s: float


def main() -> int:
    """Serve the commands until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    job = _read_job()
    # What is loaded stays; connections make few cycles, and a collection would be our own jitter.
    gc.collect()
    gc.freeze()
    gc.disable()
    asyncio.run(_Process(job).run())
    return 0


def _read_job() -> Job:
    # Unbuffered: what comes after the job is for the event loop to read.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        body = json.loads(stdin.readline())
        frames = [_exactly(stdin, size) for size in body["frames"]]
        texts = [
            Utterance(tuple(_exactly(stdin, size) for size in text["frames"]), text["words"])
            for text in body["texts"]
        ]
    address = parse_address(body["url"], body["api_key"], body["query"])
    return Job(body["is_tts"], address, frames, texts, body["open_s"])


def _exactly(stdin: io.FileIO, size: int) -> bytes:
    parts = []
    while size:
        parts.append(stdin.read(size))
        if not parts[-1]:
            raise EOFError("the job is cut off")
        size -= len(parts[-1])
    return b"".join(parts)


def _answer(body: dict[str, Any], arrays: dict[str, array[float]] | None = None) -> None:
    named = arrays or {}
    body["arrays"] = {name: len(values) for name, values in named.items()}
    out = sys.stdout.buffer
    out.write(json.dumps(body).encode() + b"\n")
    for values in named.values():
        out.write(values.tobytes())
    out.flush()


class _Process:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._commands: asyncio.Queue[Command | None] = asyncio.Queue()
        self._tls = ssl.create_default_context() if job.address.has_tls else None

    async def run(self) -> None:
        """Read commands and do them, one level at a time."""
        reading = asyncio.create_task(self._read())
        while (command := await self._commands.get()) is not None:
            if command["do"] == "level":
                level = _TtsLevel if self._job.is_tts else _SttLevel
                await level(self._job, self._open, command).run(self._commands)
        reading.cancel()

    async def _read(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            self._commands.put_nowait(json.loads(line))
        self._commands.put_nowait(None)

    async def _open(self, factory: Callable[[], LeanWebSocket]) -> None:
        """Open a connection, and wait for its `Ready`. A failure is its `ended`."""
        address = self._job.address
        stream = factory()
        try:
            async with asyncio.timeout(self._job.open_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: stream,
                    address.host,
                    address.port,
                    ssl=self._tls,
                    server_hostname=address.host if self._tls else None,
                )
                await stream.opened
        except TimeoutError:
            stream.abort(f"no answer in {self._job.open_s:g} s")
        except ssl.SSLError:
            stream.abort("no TLS connection")
        except OSError as exc:
            stream.abort(f"not connected: {os.strerror(exc.errno) if exc.errno else exc}")
        with suppress(TimeoutError):
            async with asyncio.timeout(_READY_S if not self._job.is_tts else self._job.open_s):
                await asyncio.shield(stream.ready)


class _Level(ABC):
    """N streams of this process, opened, measured and closed."""

    def __init__(self, job: Job, open_: Callable[..., Any], command: Command) -> None:
        self.job, self.open = job, open_
        self.numbers: list[int] = command["numbers"]
        self.once: bool = command["once"]
        self.window = Window()
        self.pacer = Pacer(self.window)
        self.gate = asyncio.Semaphore(_OPEN_AT_ONCE)
        self.is_cut = False

    async def run(self, commands: asyncio.Queue[Command | None]) -> None:
        """Open, say how many are open, measure when told, report, close."""
        opened = asyncio.create_task(self.open_all())
        told = asyncio.create_task(commands.get())
        await asyncio.wait((opened, told), return_when=asyncio.FIRST_COMPLETED)
        if opened.done():
            _answer({"opened": opened.result(), "errors": dict(self.errors())})
        command = await told
        if command is not None and command["do"] == "measure":
            self.window.from_s, self.window.until_s = command["from_s"], command["until_s"]
            cpu_s, begin_s = time.process_time(), clock()
            told = asyncio.create_task(commands.get())
            await self.wait_for_end(command, told)
            self.is_cut = told.done()
            told.cancel()
            now_s = clock()
            # Of a measurement that is cut, the last frames had no time to be answered.
            cut_s = now_s - (command["grace_s"] if self.is_cut else 0.0)
            until_s = min(cut_s, self.window.until_s)
            body, arrays = self.report(now_s, until_s)
            body["cpu_share"] = (time.process_time() - cpu_s) / max(now_s - begin_s, 1e-9)
            body["seconds"] = max(0.0, until_s - self.window.from_s)
            arrays["jitter_ms"] = self.pacer.jitter_ms
            _answer(body, arrays)
        self.pacer.stop()
        opened.cancel()
        await self.close()
        _answer({"closed": True})
        if told.done() and not told.cancelled() and told.result() is None:
            commands.put_nowait(None)  # stdin has ended

    async def wait_for_end(self, command: Command, told: asyncio.Task[Any]) -> None:
        """Wait for the end of the window and its grace, a command, or the end of all streams.

        The grace ends when nothing is waited for.
        """
        end_s = command["until_s"] + command["grace_s"]
        while not told.done() and (left_s := end_s - clock()) > 0 and not self.is_over():
            if self.is_settled() and left_s < command["grace_s"]:
                break
            await asyncio.wait((told,), timeout=min(left_s, _ENDED_S))

    @abstractmethod
    async def open_all(self) -> int:
        """Open the streams and return how many are open."""

    @abstractmethod
    def errors(self) -> Counter[str]:
        """Return why streams ended, and how many for each reason."""

    @abstractmethod
    def is_over(self) -> bool:
        """Return whether no stream is left."""

    def is_settled(self) -> bool:
        """Whether no answer is to come."""
        return False

    @abstractmethod
    def report(
        self, now_s: float, until_s: float
    ) -> tuple[dict[str, Any], dict[str, array[float]]]:
        """Return the results of the window, as plain values and as arrays."""

    @abstractmethod
    async def close(self) -> None:
        """Close all streams."""


class _SttLevel(_Level):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.record = SttRecord(self.window)
        self.streams: list[SttStream] = []

    async def open_all(self) -> int:
        base_s = clock()

        async def one(number: int) -> None:
            # Streams that repeat one recording do not say the same at once.
            offset = number * 37 % len(self.job.frames)
            async with self.gate:
                stream = SttStream(self.job.address, self.job.frames, offset, self.record)
                self.streams.append(stream)
                await self.open(lambda: stream)
            if stream.ended:
                return
            phase_s = number * _GOLDEN % 1 * FRAME_S
            rounds = int((clock() - base_s - phase_s) / FRAME_S) + 1
            stream.start_s = base_s + phase_s + rounds * FRAME_S
            self.pacer.add(stream, stream.start_s)

        await asyncio.gather(*map(one, self.numbers))
        return sum(stream.start_s < float("inf") for stream in self.streams)

    def errors(self) -> Counter[str]:
        return Counter(stream.ended for stream in self.streams if stream.ended)

    def is_over(self) -> bool:
        return all(stream.ended for stream in self.streams)

    def is_settled(self) -> bool:
        return all(stream.is_answered for stream in self.streams)

    def report(
        self, now_s: float, until_s: float
    ) -> tuple[dict[str, Any], dict[str, array[float]]]:
        record = self.record
        for stream in self.streams:
            if stream.start_s < float("inf"):
                stream.finish(now_s, until_s)
        arrays = {
            name: getattr(record, name)
            for name in (
                *("due_s", "lag_ms", "waiting_due_s", "waiting_ms"),
                *("word_due_s", "word_lag_ms"),
            )
        }
        return {"errors": dict(self.errors()), "surplus_steps": record.surplus_steps}, arrays

    async def close(self) -> None:
        await _close(self.streams)


class _TtsLevel(_Level):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.record = TtsRecord(self.window)
        self.start = asyncio.Event()
        self.streams = [
            TtsStream(self.job.address, self.job.texts, number, self.record)
            for number in self.numbers
        ]
        self.tasks: list[asyncio.Task[None]] = []

    async def open_all(self) -> int:
        async def gated(factory: Callable[[], LeanWebSocket]) -> None:
            async with self.gate:
                await self.open(factory)

        self.tasks = [
            asyncio.create_task(stream.run(gated, self.start, once=self.once))
            for stream in self.streams
        ]
        return sum(await asyncio.gather(*(stream.opened for stream in self.streams)))

    async def wait_for_end(self, command: Command, told: asyncio.Task[Any]) -> None:
        await asyncio.wait((told,), timeout=max(0.0, self.window.from_s - clock()))
        self.start.set()
        await super().wait_for_end(command, told)

    def errors(self) -> Counter[str]:
        ended = Counter(
            stream.turn.ended for stream in self.streams if stream.turn and stream.turn.ended
        )
        return ended if not self.start.is_set() else self.record.errors

    def is_over(self) -> bool:
        return bool(self.tasks) and all(task.done() for task in self.tasks)

    def report(self, now_s: float, _: float) -> tuple[dict[str, Any], dict[str, array[float]]]:
        record = self.record
        for stream in self.streams:
            if stream.turn is not None and not stream.turn.ended:
                record.take(stream.turn, now_s)
        arrays = {
            name: getattr(record, name)
            for name in (
                *("due_s", "first_audio_ms", "waiting_due_s", "waiting_ms"),
                *("speedup", "gap_ms"),
            )
        }
        arrays["audio_due_s"] = array("f", record.audio_s.keys())
        arrays["audio_s"] = array("f", record.audio_s.values())
        body = {
            "errors": dict(record.errors),
            "begun": record.begun,
            "with_underruns": record.with_underruns,
            "last_audio_s": record.last_audio_s,
        }
        return body, arrays

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await _close([stream.turn for stream in self.streams if stream.turn is not None])


async def _close(streams: Sequence[LeanWebSocket]) -> None:
    """Close all connections, and give the server a moment to do the same."""
    for stream in streams:
        stream.close()
    deadline_s = clock() + _CLOSE_S
    while not all(stream.is_closed for stream in streams) and clock() < deadline_s:
        await asyncio.sleep(_ENDED_S)
    for stream in streams:
        stream.abort("closed by the client")
    await asyncio.sleep(0)


if __name__ == "__main__":
    sys.exit(main())
