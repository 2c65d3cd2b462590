"""What logs say, as values: the document of `log-report --json`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dsmops.findings import Severity


@dataclass(frozen=True, slots=True)
class Times:
    """How times are spread, in milliseconds. Percentiles are within 1 % of a measured value."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    over_80_ms: int

    @property
    def over_share(self) -> float:
        """Which part took longer than a frame."""
        return self.over_80_ms / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class StepsAt:
    """The steps in which so many streams had data."""

    streams: int
    times: Times


@dataclass(frozen=True, slots=True)
class Moment:
    """A stretch of `seconds` from `time` on: its steps, and the most streams with data in one."""

    time: datetime
    seconds: float
    steps: int
    p50_ms: float
    max_ms: float
    most_streams: int


@dataclass(frozen=True, slots=True)
class Behind:
    """A stretch of steps that took longer than their frames.

    `audio_s`: how far the service fell behind in it.
    """

    since: datetime
    until: datetime
    steps: int
    audio_s: float
    most_streams: int


@dataclass(frozen=True, slots=True)
class ServerRun:
    """One start of a server and what followed. A time that the log does not have is None.

    `ready` is when its model loop ran. `batch_size` is None for text-to-speech: the log lacks it.
    `died_of` names the failure that ended it or its model loop.
    """

    source: str
    started: datetime | None
    listening: datetime | None
    ready: datetime | None
    last_line: datetime | None
    batch_size: int | None
    died_of: str | None

    @property
    def start_s(self) -> float | None:
        """Seconds from the start to a model loop that runs."""
        if self.started is None or self.ready is None:
            return None
        return (self.ready - self.started).total_seconds()


@dataclass(frozen=True, slots=True)
class FailureCount:
    """A known failure: how often, when first and last, one line of it, redacted, and the fix."""

    name: str
    severity: Severity
    count: int
    first: datetime | None
    last: datetime | None
    evidence: str
    meaning: str
    fix: str
    runbook: str


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """Speech-to-text streams: asked for, given a slot, refused as full, dropped for silence; posts.

    `most_with_data` is the most streams that had data in one step.
    """

    asked: int
    opened: int
    refused: int
    dropped_silent: int
    posts: int
    most_with_data: int


@dataclass(frozen=True, slots=True)
class TtsCounts:
    """Text-to-speech: asked for, given a slot, refused, ended; `texts_ms` from slot to end."""

    asked: int
    opened: int
    refused: int
    finished: int
    texts_ms: Times | None


@dataclass(frozen=True, slots=True)
class LogReport:
    """A whole report. `capacity` is the answer in words, `unknown` what these logs cannot say.

    `lines_text` are lines of no dialect that stand alone.
    """

    sources: tuple[str, ...]
    since: datetime | None
    until: datetime | None
    lines: int
    lines_text: int
    runs: tuple[ServerRun, ...]
    steps: Times | None
    steps_by_streams: tuple[StepsAt, ...]
    over_time: tuple[Moment, ...]
    behind: tuple[Behind, ...]
    streams: StreamCounts
    tts: TtsCounts
    failures: tuple[FailureCount, ...]
    capacity: tuple[str, ...]
    unknown: tuple[str, ...]
