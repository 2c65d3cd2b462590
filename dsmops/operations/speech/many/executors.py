"""Who works on a run folder: this process, or one process for each device.

The folder is all that workers share, so any number of them may come, go and be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol, cast

from dsmops.errors import DeviceLostError, DsmopsError
from dsmops.operations.speech.many.transcribing import Job, TranscriptionRun, transcribe_many
from dsmops.progress import Progress

_POLL_S = 0.5


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
        self._devices = devices

    def run(self, job: Job, progress: Progress) -> TranscriptionRun:
        """Return what all processes did together.

        Raises:
            DsmopsError: the error of the first device, where all have failed.
        """
        devices, runs = list(self._devices), []
        progress.start(f"Transcribing into {job.folder}", _left(job), "recordings")
        try:
            while True:
                outcomes = _round(job, devices, progress)
                errors = {
                    name: one for name, one in outcomes.items() if isinstance(one, DsmopsError)
                }
                runs += [one for one in outcomes.values() if isinstance(one, TranscriptionRun)]
                if len(errors) == len(devices):
                    raise next(iter(errors.values()))
                for name, error in errors.items():
                    progress.announce([f"{name} is lost: {error.message}"])
                devices = [device for device in devices if device.name not in errors]
                if not errors or not _left(job):
                    return _merged(runs)
        finally:
            progress.finish()


def _left(job: Job) -> int:
    recordings = job.recordings()
    with job.open_folder() as run:
        done = run.done()
        return sum(one.key not in done for one in recordings)


def _round(
    job: Job, devices: Sequence[WorkerDevice], progress: Progress
) -> dict[str, TranscriptionRun | DsmopsError]:
    """Let every device work until nothing is left for it; return what came of each."""
    context = multiprocessing.get_context("spawn")
    working: dict[Connection, tuple[str, BaseProcess, Connection]] = {}
    outcomes: dict[str, TranscriptionRun | DsmopsError] = {}
    with job.open_folder() as run:
        run.done()
        seen = run.noted
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
                for ready in wait(list(working), _POLL_S):
                    reader = cast("Connection", ready)
                    name, child, _ = working.pop(reader)
                    try:
                        outcomes[name] = reader.recv()
                    except EOFError:
                        outcomes[name] = _ended(name, child)
                    child.join()
                run.done()
                progress.advance(run.noted - seen)
                seen = run.noted
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
    failures = {failure.audio: failure for run in runs for failure in run.failures}
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
        failures=tuple(failures[audio] for audio in sorted(failures)),
        device=", ".join(dict.fromkeys(str(run.device) for run in busy)) or None,
        dtype=busy[0].dtype if busy else None,
        batch_size=sum(run.batch_size or 0 for run in busy) or None,
    )
