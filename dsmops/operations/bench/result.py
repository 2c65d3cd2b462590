"""What a load test found, as values: the document of `bench --json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from dsmops.operations.bench.statistics import Spread
from dsmops.operations.speech.incomplete import Incomplete

if TYPE_CHECKING:
    from dsmops.operations.bench.limits import Limits


class Verdict(StrEnum):
    """How a level ended."""

    HELD = "held"
    FAILED = "failed"
    CLIENT_TOO_SLOW = "client too slow"
    CUT = "cut short"


@dataclass(frozen=True, slots=True)
class Failure:
    """A limit that was not held. `by_client`: the client's own jitter explains it."""

    limit: str
    text: str
    by_client: bool


@dataclass(frozen=True, slots=True)
class Second:
    """One second of the measurement.

    `lag_*` are of frames that were due in it, `first_audio_p50_ms` of texts begun in it,
    `speedup` is the sound that came in it, × real time. Of the rest is None.
    """

    second: int
    lag_p50_ms: float | None = None
    lag_p99_ms: float | None = None
    kept_share: float | None = None
    first_audio_p50_ms: float | None = None
    speedup: float | None = None


@dataclass(frozen=True, slots=True)
class SttFigures:
    """Speech to text.

    `lag_ms`: from the moment a frame was due to its answer. A frame that was not answered counts
    with the time that it had waited at the end, so a percentile may be too small then, never too
    large. `lag_of` is `step`, or `word` for a model that sends no `Step`: then the lag is that of
    words, above the least lag of all, and `kept_share` is unknown.
    """

    lag_ms: Spread | None
    lag_of: str | None
    frames_due: int
    frames_answered: int
    kept_share: float | None
    surplus_steps: int


@dataclass(frozen=True, slots=True)
class TtsFigures:
    """Text to speech.

    `first_audio_ms`: from the text to its first sound. `speedup_a_stream` is of whole texts,
    `speedup` of all streams together, × real time. An underrun is a frame that came after its turn
    at a listener who starts one frame late.
    """

    first_audio_ms: Spread | None
    texts_begun: int
    texts_whole: int
    speedup: float
    speedup_a_stream: Spread | None
    slowest_speedup: float | None
    underruns: int
    texts_with_underruns: int
    longest_gap_ms: float | None


Figures = SttFigures | TtsFigures


@dataclass(frozen=True, slots=True)
class Level:
    """One number of streams, measured for `seconds`.

    `opened` may be fewer than `streams`. `jitter_ms` is how late the client itself was, and
    `client_core_share` what its busiest process took of a core. `server_step_ms` is the mean of the
    server's own histogram, with the steps of other clients; None where it has none.
    """

    streams: int
    opened: int
    seconds: float
    verdict: Verdict
    failures: tuple[Failure, ...]
    figures: Figures
    errors: Mapping[str, int]
    jitter_ms: Spread | None
    client_core_share: float
    server_step_ms: float | None
    series: tuple[Second, ...]


@dataclass(frozen=True, slots=True)
class ServerDescription:
    """What the server says about itself; None where it does not."""

    url: str
    build: str | None
    module_type: str | None
    slots: int | None
    slots_used_before: int | None


@dataclass(frozen=True, slots=True)
class ClientDescription:
    """Where the load came from. `is_same_host`: the server's address is of this machine."""

    processes: int
    cores: int
    is_same_host: bool
    dsmops: str


@dataclass(frozen=True, slots=True)
class LoadTest:
    """A whole run.

    `knee` is the largest number of streams that held, None where none did. `knee_is_bounded` says
    that a larger one failed by the server's fault, so that the knee is no more than a lower bound
    without it. `material` names the recordings or texts.
    """

    kind: str
    server: ServerDescription
    client: ClientDescription
    begun: datetime
    material: tuple[str, ...]
    seconds: float
    warm_up_s: float
    limits: Limits
    levels: tuple[Level, ...]
    knee: int | None
    knee_is_bounded: bool
    interrupted: bool
    incomplete: Incomplete | None
    notes: tuple[str, ...]
