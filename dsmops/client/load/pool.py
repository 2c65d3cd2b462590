"""The processes of a load test, as the command that runs it sees them.

They share the clock and the streams: each opens every n-th stream, and all measure the same window.
A process ends when its stdin does, so none outlives the command.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, cast

import numpy as np

from dsmops.audio import FRAME_SAMPLES, Samples
from dsmops.client.load.tts import Utterance
from dsmops.client.load.websocket import BINARY, client_frame, clock
from dsmops.protocol import Audio, encode

_END_S = 10.0
_SLACK_S = 30.0
"""A process that says nothing for so much longer than its work takes has hung."""
_LEAD_S = 0.2
"""The window begins this much later than the processes get to know."""


@dataclass(frozen=True, slots=True)
class LoadJob:
    """What to send, and where: `frames` for speech-to-text, or `texts`. `open_s`: for one stream.

    `url` is a WebSocket address, `query` what is asked for in it.
    """

    url: str
    api_key: str | None
    frames: Sequence[bytes] = ()
    texts: Sequence[Utterance] = ()
    query: Mapping[str, str] = field(default_factory=dict)
    open_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Report:
    """What all processes measured in one window: counts, and one value for each frame or text.

    `seconds` is how long was measured, `cpu_shares` what each process took of a core. `arrays` are
    those of `SttRecord` or `TtsRecord`, and `jitter_ms`. `numbers` are the other figures of each
    process.
    """

    seconds: float
    errors: Counter[str]
    cpu_shares: tuple[float, ...]
    arrays: dict[str, array[float]]
    numbers: tuple[dict[str, float], ...]

    def total(self, name: str) -> float:
        """Return the sum of a figure over all processes."""
        return sum(numbers.get(name, 0) for numbers in self.numbers)

    def most(self, name: str) -> float:
        """Return the largest of a figure over all processes."""
        return max(numbers.get(name, 0) for numbers in self.numbers)


def stt_frames(blocks: Sequence[Samples]) -> list[bytes]:
    """Return 24 kHz mono samples as the WebSocket frames that carry them, the last one padded."""
    pcm = np.concatenate(blocks)
    padded = np.pad(pcm, (0, -len(pcm) % FRAME_SAMPLES))
    return [
        client_frame(BINARY, encode(Audio(frame))) for frame in padded.reshape(-1, FRAME_SAMPLES)
    ]


class Pool:
    """Client processes that run. `interrupt` is what stopped a measurement early, None for nothing.

    One level at a time: `open`, `measure`, `close`.
    """

    def __init__(self, job: LoadJob, processes: int) -> None:
        self.interrupt: BaseException | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 closed in __exit__
        self._open_s = job.open_s
        self._found: list[dict[str, Any]] = []
        self._answers: list[queue.SimpleQueue[dict[str, Any] | None]] = [
            queue.SimpleQueue() for _ in range(processes)
        ]
        command = [sys.executable, "-m", "dsmops.client.load"]
        self._processes = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
            for _ in range(processes)
        ]
        head, blobs = _written(job)
        for number, process in enumerate(self._processes):
            stdin = _stdin(process)
            with suppress(BrokenPipeError):  # `_collect` says what became of it
                stdin.write(head)
                stdin.write(blobs)
                stdin.flush()
            threading.Thread(target=self._read, args=(number,), daemon=True).start()

    @property
    def processes(self) -> int:
        return len(self._processes)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            with suppress(OSError):
                _stdin(process).close()
        for process in self._processes:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _stdout(process).close()
        self._errors.close()

    def open(self, streams: int, *, once: bool = False) -> tuple[int, Counter[str]]:
        """Open `streams`; return how many are open, and why others are not.

        With `once` each says one text.
        """
        numbers = [list(range(streams))[start :: self.processes] for start in range(self.processes)]
        for process, share in enumerate(numbers):
            self._tell(process, {"do": "level", "numbers": share, "once": once})
        # Each process opens 16 at once.
        rounds = -(-max(map(len, numbers)) // 16)
        answers = self._collect(rounds * 2 * self._open_s + _SLACK_S)
        errors: Counter[str] = Counter()
        for answer in answers:
            errors.update(answer["errors"])
        return sum(answer["opened"] for answer in answers), errors

    def measure(
        self,
        warm_up_s: float,
        seconds: float,
        grace_s: float,
        on_second: Callable[[], object] = lambda: None,
    ) -> Report:
        """Measure from `warm_up_s` from now for `seconds`, and then wait `grace_s` for answers.

        Ctrl-C and SIGTERM cut it short; `interrupt` then holds them. `on_second` is called once a
        second.
        """
        from_s = clock() + max(warm_up_s, _LEAD_S)
        until_s = from_s + seconds
        for process in range(self.processes):
            self._tell(
                process, {"do": "measure", "from_s": from_s, "until_s": until_s, "grace_s": grace_s}
            )
        left_s = until_s + grace_s - clock() + _SLACK_S
        try:
            answers = self._collect(left_s, on_second)
        except (KeyboardInterrupt, SystemExit) as exc:
            self.interrupt = exc
            self.stop()
            answers = self._collect(_SLACK_S)
        return _joined(answers)

    def close(self) -> None:
        """End the level: return when its connections are closed."""
        self._collect(_SLACK_S)

    def stop(self) -> None:
        """Cut short what runs."""
        for process in range(self.processes):
            self._tell(process, {"do": "stop"})

    def _tell(self, number: int, command: dict[str, Any]) -> None:
        stdin = _stdin(self._processes[number])
        with suppress(BrokenPipeError):  # `_collect` says what became of it
            stdin.write(json.dumps(command).encode() + b"\n")
            stdin.flush()

    def _collect(
        self, within_s: float, on_second: Callable[[], object] = lambda: None
    ) -> list[dict[str, Any]]:
        """Return the next answer of each process. What an exception interrupts can be resumed."""
        deadline_s = clock() + within_s
        while len(self._found) < self.processes:
            try:
                answer = self._answers[len(self._found)].get(timeout=1.0)
            except queue.Empty:
                on_second()
                if clock() > deadline_s:
                    raise RuntimeError(f"a client process hangs: {self._said()}") from None
                continue
            if answer is None:
                raise RuntimeError(f"a client process ended: {self._said()}")
            self._found.append(answer)
        found, self._found = self._found, []
        return found

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-2000:].decode(errors="replace")

    def _read(self, number: int) -> None:
        """Put the answers of a process into the queue until it ends, and None then."""
        stdout = _stdout(self._processes[number])
        while line := stdout.readline():
            answer = json.loads(line)
            answer["values"] = {}
            for name, count in answer.pop("arrays").items():
                values = array("f")
                values.frombytes(stdout.read(count * values.itemsize))
                answer["values"][name] = values
            self._answers[number].put(answer)
        self._answers[number].put(None)


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    return cast(IO[bytes], process.stdin)


def _stdout(process: subprocess.Popen[bytes]) -> IO[bytes]:
    return cast(IO[bytes], process.stdout)


def _written(job: LoadJob) -> tuple[bytes, bytes]:
    """Return a job as a process reads it: a line of JSON, and the frames that it announces."""
    head = {
        "url": job.url,
        "api_key": job.api_key,
        "query": dict(job.query),
        "is_tts": bool(job.texts),
        "open_s": job.open_s,
        "frames": [len(frame) for frame in job.frames],
        "texts": [
            {"frames": [len(frame) for frame in text.frames], "words": text.words}
            for text in job.texts
        ],
    }
    blobs = (*job.frames, *(frame for text in job.texts for frame in text.frames))
    return json.dumps(head).encode() + b"\n", b"".join(blobs)


def _joined(answers: Sequence[dict[str, Any]]) -> Report:
    """Return the reports of all processes as one."""
    errors: Counter[str] = Counter()
    arrays: dict[str, array[float]] = {}
    for answer in answers:
        errors.update(answer.pop("errors"))
        for name, values in answer.pop("values").items():
            arrays.setdefault(name, array("f")).extend(values)
    seconds = max(answer.pop("seconds") for answer in answers)
    cpu_shares = tuple(answer.pop("cpu_share") for answer in answers)
    return Report(seconds, errors, cpu_shares, arrays, tuple(answers))
