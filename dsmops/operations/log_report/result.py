"""What logs say, as values: the document of `log-report --json`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

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
    """A stretch of `seconds` from `time` on: its steps, its streams, and how many were refused.

    `most_streams` had data in one step; `most_open` were connected at once. Times of steps are 0
    where there was no step.
    """

    time: datetime
    seconds: float
    steps: int
    p50_ms: float
    max_ms: float
    most_streams: int
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    over_80_ms: int = 0
    most_open: int = 0
    opened: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Behind:
    """A stretch in which the service was behind its audio, until it had caught up.

    `audio_s`: how far it was behind at most. `steps` are those of the stretch.
    """

    since: datetime
    until: datetime
    steps: int
    audio_s: float
    most_streams: int
    module: str = ""


@dataclass(frozen=True, slots=True)
class ServerRun:
    """One start of a server and what followed. A time that the log does not have is None.

    `ready` is when its first model loop ran. `batch_size` counts the slots of all its loops. It is
    None where the log does not say it, as for the original's text-to-speech. `died_of` names the
    failure that ended it or its model loop.
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

    `most_with_data` is the most streams that had data in one step, `most_open` the most that were
    connected at once. `wrong_keys` counts requests without a known key. `lengths_ms` are the times
    from slot to end of the streams that ended.
    """

    asked: int
    opened: int
    refused: int
    dropped_silent: int
    posts: int
    most_with_data: int
    most_open: int = 0
    wrong_keys: int = 0
    lengths_ms: Times | None = None


@dataclass(frozen=True, slots=True)
class TtsCounts:
    """Text-to-speech: asked for, given a slot, refused, ended; `texts_ms` from slot to end.

    `first_audio_ms` is the time from the first text to the first sound. The log of `dsmops worker`
    has it, that of moshi-server does not.
    """

    asked: int
    opened: int
    refused: int
    finished: int
    texts_ms: Times | None
    dropped_silent: int = 0
    posts: int = 0
    most_open: int = 0
    wrong_keys: int = 0
    first_audio_ms: Times | None = None


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """One kind of module of the server: its steps, streams, and stretches behind.

    `name` is as the log has it: `batched_asr`, `py_module`. Of a log of several containers, the
    container stands before it. The log does not distinguish modules of one kind. Exactly one of
    `streams` and `tts` is there.
    """

    name: str
    batch_size: int | None
    steps: Times | None
    steps_by_streams: tuple[StepsAt, ...]
    over_time: tuple[Moment, ...]
    behind: tuple[Behind, ...]
    streams: StreamCounts | None
    tts: TtsCounts | None


class Measure(StrEnum):
    """What two reports are compared by."""

    STEP_MEDIAN = "step-median"
    STEP_P99 = "step-p99"
    STEP_MEDIAN_AT_SAME_STREAMS = "step-median-at-same-streams"
    REFUSED = "refused"
    DROPPED_SILENT = "dropped-silent"
    WRONG_KEYS = "wrong-keys"
    STEPS_OVER_80_MS = "steps-over-80-ms"
    MOST_BEHIND = "most-behind"
    MOST_WITH_DATA = "most-with-data"
    MOST_CONNECTED = "most-connected"
    STARTS = "starts"
    DEATHS = "deaths"
    TEXT_MEDIAN = "text-median"
    FIRST_SOUND_MEDIAN = "first-sound-median"

    @property
    def is_step_time(self) -> bool:
        """Whether it is compared by a rank test, for which there may be too few steps."""
        return self in (self.STEP_MEDIAN, self.STEP_P99, self.STEP_MEDIAN_AT_SAME_STREAMS)


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of both reports, and whether it differs by more than noise.

    `key` is stable, for programs; `measure` is the same in words.
    `test` names the test, None where there is too little for any; `p` is how often chance alone
    makes such a difference. `is_real` is for p below 1 % and a difference that matters.
    """

    key: Measure
    measure: str
    old: float | None
    new: float | None
    unit: str
    test: str | None
    p: float | None
    is_real: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """A report beside an older one, or beside that of another server."""

    old: LogReport
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """What `dsmops plan` says of the card and the model that were named.

    `bytes_per_slot` is what a slot takes, used or not; `idle_bytes` what those take that were never
    in use. The largest batches are None where the card is not known. `planned_step_ms` is that of
    the batch in the log; `basis` says where the times come from.
    """

    model: str
    dtype: str
    runtime: str
    device: str | None
    batch_size: int | None
    bytes_per_slot: int
    idle_bytes: int | None
    memory_batch_size: int | None
    time_batch_size: int | None
    planned_step_ms: float | None
    basis: str | None


@dataclass(frozen=True, slots=True)
class LogReport:
    """A whole report. `capacity` is the answer in words, `unknown` what these logs cannot say.

    `lines_text` are lines of no dialect that stand alone. `based_on` says what the answer was
    computed from. `plan` is there where a card or a config
    was named, `comparison` where an older report was.
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
    modules: tuple[ModuleReport, ...] = ()
    based_on: tuple[str, ...] = ()
    plan: CapacityPlan | None = None
    comparison: Comparison | None = None
