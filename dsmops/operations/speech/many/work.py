"""What this process does of a run: it takes recordings or texts, and notes what became of each."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from dsmops.errors import InputError
from dsmops.operations.speech.many.ahead import opened_ahead
from dsmops.operations.speech.many.outputs import Outputs
from dsmops.operations.speech.many.run_folder import Note, RunFolder, number_of
from dsmops.progress import Progress
from dsmops.units import duration

if TYPE_CHECKING:
    from dsmops.worker.models.stt import LoadedStt
    from dsmops.worker.models.tts import LoadedTts

_SHOW_EVERY_S = 0.25


class Listed(Protocol):
    """A recording or a text of a run.

    `key` tells it from others. `file` is its path or address, or the list and line of a text.
    `name` is that of its outputs. `weight` is roughly its length, only to compare one with another.
    """

    @property
    def key(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> float: ...


_Listed = TypeVar("_Listed", bound=Listed)
_Opened = TypeVar("_Opened")


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `count` of all there is, counted from 1. Keys decide what belongs to it."""

    number: int = 1
    count: int = 1

    def of(self, listed: Sequence[_Listed]) -> list[_Listed]:
        """Return those that are of this part."""
        if self.count == 1:
            return list(listed)
        return [one for one in listed if number_of(one.key) % self.count == self.number - 1]


WHOLE = Shard()


@dataclass(frozen=True, slots=True)
class Failed:
    """What could not be done, or only in part, and why."""

    file: str
    error: str


class RunEngine(Protocol):
    """What a run computes with.

    `loaded` and `slots` are None where nothing was left to do. `step_s` of `elapsed_s`, the time
    without loading, it computed.
    """

    @property
    def loaded(self) -> LoadedStt | LoadedTts | None: ...
    @property
    def slots(self) -> int | None: ...
    @property
    def step_s(self) -> float: ...
    @property
    def elapsed_s(self) -> float: ...


class Work(Generic[_Listed]):
    """What of `listed` is still to be done, and what became of it.

    One is done where it is noted and all its outputs are there: its name with each of `endings`.
    """

    def __init__(
        self,
        run: RunFolder,
        outputs: Outputs,
        listed: Sequence[_Listed],
        endings: Sequence[str],
        progress: Progress,
    ) -> None:
        self._run = run
        self._outputs = outputs
        self._endings = endings
        self._progress = progress
        done = run.done()
        self._again = run.missing_outputs(endings, outputs.names(run.folders()))
        self.waiting = [one for one in listed if one.key in self._again or one.key not in done]
        self.done_before = len(listed) - len(self.waiting)
        self.in_work_elsewhere = self.finished = self.words = 0
        self.audio_s = 0.0
        self._failures: list[Failed] = []
        self._weight = sum(one.weight for one in self.waiting)
        self._weight_passed = 0.0
        self._begun_s = self._shown_s = 0.0

    def begin(self, label: str, unit: str) -> None:
        """Start the clock and the progress: the engine is ready. Time before does not count."""
        self._progress.start(label, len(self.waiting), unit)
        self._begun_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since `begin`, 0 before it."""
        return time.monotonic() - self._begun_s if self._begun_s else 0.0

    def show(self, audio_s: Callable[[], float], shares: Callable[[], Iterable[float]]) -> None:
        """Show how far the run is, a few times a second; to be called after every step.

        `audio_s` gives the seconds of audio so far. `shares` gives what is done of those in
        work, as parts of their weights.
        """
        now_s = time.monotonic()
        if now_s - self._shown_s < _SHOW_EVERY_S:
            return
        self._shown_s = now_s
        seconds = audio_s()
        share = (self._weight_passed + sum(shares())) / self._weight if self._weight else 0.0
        speed = seconds / self.elapsed_s if self.elapsed_s else 0.0
        self._progress.gauge(
            min(share, 1.0), f"{duration(seconds)} of audio, {speed:.3g} × real time"
        )

    def figures(self, engine: RunEngine) -> dict[str, Any]:
        """Return what runs over recordings and over texts both tell, by the names of its fields."""
        loaded, elapsed_s = engine.loaded, engine.elapsed_s
        return {
            "done_before": self.done_before,
            "in_work_elsewhere": self.in_work_elsewhere,
            "words": self.words,
            "audio_s": self.audio_s,
            "elapsed_s": elapsed_s,
            "speedup": self.audio_s / elapsed_s if self.audio_s and elapsed_s else None,
            "step_share": engine.step_s / elapsed_s if elapsed_s else None,
            "failures": tuple(self.failures),
            "device": str(loaded.device) if loaded else None,
            "dtype": loaded.dtype if loaded else None,
            "batch_size": engine.slots,
        }

    @property
    def failures(self) -> list[Failed]:
        """What failed, by its file's name."""
        return sorted(self._failures, key=lambda failure: failure.file)

    def require_no_output_of(self, model: Iterable[Path]) -> None:
        """Check that no file of the model would be written over.

        Raises:
            InputError: one would, or an output cannot have its name.
        """
        outputs = {
            self._outputs.place(f"{one.name}{ending}")
            for one in self.waiting
            for ending in self._endings
        }
        for path in model:
            if path in outputs:
                raise InputError(
                    f"{path} is a file of the model itself",
                    hint="Write to another folder.",
                    code="file.same",
                )

    def opened_ahead(
        self, listed: Iterable[_Listed], open_one: Callable[[_Listed], _Opened]
    ) -> Iterator[_Opened]:
        """Take each that is still to be done and yield it opened, some ahead of time."""
        return opened_ahead((one for one in listed if self._take(one)), open_one)

    def _take(self, one: _Listed) -> bool:
        """Take the lease of what is still to be done."""
        if not self._run.take(one.key):
            self.in_work_elsewhere += 1
        elif one.key in self._run.done() and self._has_outputs(one):
            self._run.give_back(one.key)
            self.done_before += 1
        else:
            return True
        self._pass(one)
        return False

    def _pass(self, one: _Listed) -> None:
        self._weight_passed += one.weight
        self._progress.advance(1)

    def _has_outputs(self, one: _Listed) -> bool:
        """Whether its outputs are there; another process may just have written them again."""
        return one.key not in self._again or all(
            self._outputs.has(f"{one.name}{ending}") for ending in self._endings
        )

    def finish(self, one: _Listed, *, audio_s: float, words: int, error: str | None) -> None:
        """Note how one ended, its outputs being there, and give back its lease."""
        self._run.note(Note(one.key, one.name, one.file, audio_s, words, error))
        self._run.give_back(one.key)
        self.audio_s += audio_s
        if error is None:
            self.finished += 1
            self.words += words
        else:
            self._failures.append(Failed(one.file, error))
        self._pass(one)


def allow_open_files(count: int) -> None:
    """Raise the limit of open files, as far as the system lets us; each slot has one or two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
