"""Workers on a run folder: this process, or one for each device. `ray_actors` has those of Ray.

The folder is all that workers share, so any number of them may come, go and be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol, cast

from dsmops.errors import DeviceLostError, DsmopsError
from dsmops.operations.speech.many.run_folder import RunFolder
from dsmops.operations.speech.many.transcribing import Job, TranscriptionRun, transcribe_many
from dsmops.progress import Progress

POLL_S = 0.5
"""How often an executor looks at what is done."""

Outcomes = dict[str, TranscriptionRun | DsmopsError]
"""By the name of a worker: what it did, or why it ended."""


class Executor(Protocol):
    """Carries out a job with workers of one kind."""

    def run(self, job: Job, progress: Progress) -> TranscriptionRun:
        """Return what all workers did together. Raises as `transcribe_many`."""


class InProcess:
    """One worker: this process, on the device that torch prefers."""

    def run(self, job: Job, progress: Progress) -> TranscriptionRun:
        """Return what was done."""
        return transcribe_many(job, progress=progress)


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """Where one worker computes. `env` is set there before torch is loaded."""

    name: str
    env: Mapping[str, str]


class LocalProcesses:
    """A process for each device. What a lost device had in hand goes to the others."""

    def __init__(self, devices: Sequence[WorkerDevice]) -> None:
        self._devices = {device.name: device for device in devices}

    def run(self, job: Job, progress: Progress) -> TranscriptionRun:
        """Return what all processes did together.

        Raises:
            DsmopsError: the error of the first device, where all have failed.
        """

        def work(names: Sequence[str]) -> Outcomes:
            return _round(job, [self._devices[name] for name in names], progress)

        return in_rounds(job, list(self._devices), work, progress)


def in_rounds(
    job: Job,
    workers: Sequence[str],
    work: Callable[[Sequence[str]], Outcomes],
    progress: Progress,
) -> TranscriptionRun:
    """Let workers work until nothing is left, without those that fail; return what they did.

    `work` lets the workers of these names work until nothing is left for them. What a lost one had
    in hand is left for the next round.

    Raises:
        DsmopsError: the error of the first worker, where all have failed.
    """
    remaining, runs = list(workers), []
    progress.start(f"Transcribing into {job.target}", _left(job), "recordings")
    try:
        while True:
            outcomes = work(remaining)
            errors = {name: one for name, one in outcomes.items() if isinstance(one, DsmopsError)}
            runs += [one for one in outcomes.values() if isinstance(one, TranscriptionRun)]
            if len(errors) == len(remaining):
                raise next(iter(errors.values()))
            for name, error in errors.items():
                progress.announce([f"{name} is lost: {error.message}"])
            remaining = [name for name in remaining if name not in errors]
            if not errors or not _left(job):
                return _merged(runs)
    finally:
        progress.finish()


class Watch:
    """Moves a progress bar by what any worker notes in a run folder. It closes with the folder."""

    def __init__(self, run: RunFolder, progress: Progress) -> None:
        run.done()
        self._run, self._progress, self._seen = run, progress, run.noted

    def look(self) -> None:
        """Read what was noted since the last look."""
        self._run.done()
        self._progress.advance(self._run.noted - self._seen)
        self._seen = self._run.noted


def _left(job: Job) -> int:
    recordings = job.recordings()
    with job.open_folder() as run:
        done = run.done()
        return sum(one.key not in done for one in recordings)


def _round(job: Job, devices: Sequence[WorkerDevice], progress: Progress) -> Outcomes:
    """Let every device work until nothing is left for it; return what came of each."""
    context = multiprocessing.get_context("spawn")
    working: dict[Connection, tuple[str, BaseProcess, Connection]] = {}
    outcomes: Outcomes = {}
    with job.open_folder() as run:
        watch = Watch(run, progress)
        try:
            for device in devices:
                reader, writer = context.Pipe(duplex=False)
                alive, kept = context.Pipe(duplex=False)
                child: BaseProcess = context.Process(
                    target=_work, args=(job, dict(device.env), writer, alive)
                )
                child.start()
                writer.close()
                alive.close()
                working[reader] = device.name, child, kept
            while working:
                for ready in wait(list(working), POLL_S):
                    reader = cast("Connection", ready)
                    name, child, _ = working.pop(reader)
                    try:
                        outcomes[name] = reader.recv()
                    except EOFError:
                        outcomes[name] = _ended(name, child)
                    child.join()
                watch.look()
        finally:
            for _, child, _ in working.values():
                child.kill()
                child.join()
    return outcomes


def _ended(name: str, child: BaseProcess) -> DsmopsError:
    child.join()
    return DeviceLostError(
        f"the process on {name} ended with exit code {child.exitcode}",
        hint="`dmesg` says whether memory ran out; with a smaller --batch-size it needs less.",
    )


def _work(job: Job, env: Mapping[str, str], results: Connection, alive: Connection) -> None:
    """Be a worker: carry out the job and send what came of it."""
    os.environ.update(env)
    threading.Thread(target=_end_with_parent, args=[alive], daemon=True).start()
    try:
        results.send(transcribe_many(job))
    except DsmopsError as exc:
        results.send(exc)
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with_parent(alive: Connection) -> None:
    """Wait for the parent's end of a pipe to close, which it does however the parent ends."""
    try:
        alive.recv()
    except EOFError:
        os._exit(1)


def _merged(runs: Sequence[TranscriptionRun]) -> TranscriptionRun:
    """Return what all runs did; each lists the same recordings."""
    transcribed = sum(run.transcribed for run in runs)
    failures = {failure.file: failure for run in runs for failure in run.failures}
    audio_s, elapsed_s = sum(run.audio_s for run in runs), max(run.elapsed_s for run in runs)
    busy = [run for run in runs if run.device is not None]
    shares = [run.step_share for run in busy if run.step_share is not None]
    return replace(
        runs[0],
        done_before=runs[0].recordings - transcribed - len(failures),
        in_work_elsewhere=0,
        transcribed=transcribed,
        words=sum(run.words for run in runs),
        audio_s=audio_s,
        elapsed_s=elapsed_s,
        speedup=audio_s / elapsed_s if audio_s and elapsed_s else None,
        step_share=sum(shares) / len(shares) if shares else None,
        failures=tuple(failures[file] for file in sorted(failures)),
        device=", ".join(dict.fromkeys(str(run.device) for run in busy)) or None,
        dtype=busy[0].dtype if busy else None,
        batch_size=sum(run.batch_size or 0 for run in busy) or None,
    )
