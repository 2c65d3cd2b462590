"""Logs to a report, in one pass and in constant memory.

Lines of steps, of which there are millions, are read by one pattern where they are as the server
writes them. All others go through the reader that `format-log` uses, whatever their dialect.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

from dsmops.errors import InputError
from dsmops.findings import Severity
from dsmops.logs import Clock, LogRecord, logs_in, open_source
from dsmops.logs.blocks import cut_blocks, few_lines
from dsmops.logs.failures import FAILURES, find_failures
from dsmops.logs.reader import Grouping, Reader, records_of
from dsmops.logs.wrappers import Unwrapper
from dsmops.models import FRAME_MS
from dsmops.operations.log_report.capacity import capacity
from dsmops.operations.log_report.result import (
    Behind,
    FailureCount,
    LogReport,
    Moment,
    ServerRun,
    StepsAt,
    StreamCounts,
    TtsCounts,
)
from dsmops.operations.log_report.sketch import Sketch
from dsmops.progress import SILENT, Progress

_COLOUR = rb"(?:\x1b\[\d{1,2}m)*"
_STEP = re.compile(
    rb"^" + _COLOUR + rb"(20\d\d-\d\d-\d\d)T(\d\d:\d\d:\d\d\.\d{1,9})Z" + _COLOUR
    + rb" [^\"\n]{1,400}? (\d{1,9}(?:\.\d{1,6})?)ms " + _COLOUR + rb"step_idx" + _COLOUR + rb"="
    + _COLOUR + rb"\d{1,18} " + _COLOUR + rb"with_data" + _COLOUR + rb"=" + _COLOUR
    + rb"(\d{1,9})\s*$"
)  # fmt: skip
_STEP_MESSAGE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)ms step_idx=\d{1,18} with_data=(\d{1,9})\s*")
_LOOP = re.compile(r"starting asr loop (\d{1,6})")
_PY_SLOT = re.compile(r"batched-py channel (?:bidx|batch_idx)=(\d{1,6})")
_PY_END = re.compile(r"tts finished batch_idx=(\d{1,6})")
_STT_QUERIES = ("handling batched asr-streaming query", "handling asr-streaming query")
_MOST_STRETCHES = 20
_MOST_MOMENTS = 240
_MOST_PENDING = 20_000
_GAP_S = 2.0
"""Slow steps closer to each other are one stretch."""
_STREAM_STEPS = 1000
"""Larger numbers of streams count with this one."""


def read_logs(
    sources: Sequence[Path],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    on_note: Callable[[str], object] = lambda _: None,
    progress: Progress = SILENT,
) -> LogReport:
    """Read files, and the logs of folders, and return what they say together.

    Raises:
        SourceError, FileAccessError: one of them is not there, or cannot be read.
        InputError: a folder holds no log, or compressed data is damaged.
    """
    files: list[Path] = []
    for source in sources:
        found = logs_in(source) if source.is_dir() else [source]
        if not found:
            raise InputError(
                f"{source} holds no log",
                hint="Logs are called log.NAME.DATE or NAME.log; name the files otherwise.",
                code="log.none",
            )
        files += found
    sizes = [file.stat().st_size for file in files if file.is_file()]
    progress.start("Reading logs", sum(sizes) if len(sizes) == len(files) else None)
    collector = _Collector(since, until)
    try:
        for file in files:
            with open_source(str(file), progress=progress, on_note=on_note) as chunks:
                collector.read(file.name, chunks)
    finally:
        progress.finish()
    return collector.report(tuple(file.name for file in files))


@dataclass(slots=True)
class _Bucket:
    """Steps of a stretch of time, counted by their tenths of a millisecond."""

    tenths: Counter[int]
    max_ms: float
    most_streams: int

    @property
    def p50_ms(self) -> float:
        left = -(-self.tenths.total() // 2)
        for tenths, count in sorted(self.tenths.items()):
            left -= count
            if left <= 0:
                return tenths / 10
        return 0.0


@dataclass(slots=True)
class _Stretch:
    since: datetime
    until: datetime
    steps: int
    excess_ms: float
    most_streams: int


class _Collector:
    def __init__(self, since: datetime | None, until: datetime | None) -> None:
        self._since, self._until = since, until
        self._is_whole = since is None and until is None
        self._second, self._at = (b"", b""), datetime.min.replace(tzinfo=UTC)
        self._lines = self._text = 0
        self._events = 0
        """Records and steps."""
        self._runs: list[ServerRun] = []
        self._last_step: datetime | None = None
        self._bucket, self._bucket_at = _Bucket(Counter(), 0.0, 0), datetime.min
        self._pending: Counter[tuple[int, float]] = Counter()
        self._by_streams: dict[int, Sketch] = {}
        self._buckets: dict[int, _Bucket] = {}
        self._bucket_s = 1
        self._stretches: list[_Stretch] = []
        self._slow: _Stretch | None = None
        self._counts: Counter[str] = Counter()
        self._most_streams = 0
        self._texts = Sketch()
        self._py_open: dict[str, datetime] = {}
        self._failures: dict[str, FailureCount] = {}
        self._source = ""

    def read(self, source: str, chunks: Iterable[bytes]) -> None:
        """Take one log. A run goes on in the next file, which rotation has begun."""
        self._source = source
        unwrapper, reader, grouping = Unwrapper(), Reader(Clock()), Grouping()
        known: deque[tuple[bytes, int, int]] = deque(maxlen=4)
        for block in chain.from_iterable(map(few_lines, cut_blocks(chunks))):
            # What repeats for gigabytes, as in a decompression bomb, is looked at once.
            if again := next((found for found in known if found[0] == block), None):
                self._lines += again[1]
                self._text += again[2]
                continue
            before = self._lines, self._text, self._events, self._failures.copy()
            for raw in self._other_lines(_split(unwrapper.feed(block))):
                for record in records_of(grouping.add(reader.line(raw))):
                    self._record(record)
            stands_alone = not (unwrapper.active or reader.inside_event)
            if not stands_alone or (self._events, self._failures) != before[2:]:
                known.clear()
            else:
                known.append((block, self._lines - before[0], self._text - before[1]))
        for raw in self._other_lines(_split(unwrapper.flush())):
            for record in records_of(grouping.add(reader.line(raw))):
                self._record(record)
        for record in records_of(grouping.finish()):
            self._record(record)
        self._end_stretch()

    def _other_lines(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the lines that are not steps, and take those that are."""
        for raw in lines:
            self._lines += 1
            match = _STEP.match(raw) if b"step_idx" in raw else None
            if match is None:
                yield raw
                continue
            self._events += 1
            day, clock, ms, streams = match.groups()
            if (day, clock[:8]) != self._second:
                self._second = day, clock[:8]
                self._at = datetime.fromisoformat(f"{day.decode()}T{clock[:8].decode()}+00:00")
            at, step_ms = self._at, float(ms)
            if step_ms > FRAME_MS or not self._is_whole:
                # Elsewhere the second is enough.
                at += timedelta(microseconds=int(clock[9:15].ljust(6, b"0")))
            if self._is_whole or self._holds(at):
                self._step(at, step_ms, int(streams))

    def _holds(self, at: datetime | None) -> bool:
        if at is None:
            return self._since is None and self._until is None
        return (self._since is None or at >= self._since) and (
            self._until is None or at < self._until
        )

    def _step(self, at: datetime | None, ms: float, streams: int) -> None:
        self._most_streams = max(self._most_streams, streams)
        self._pending[min(streams, _STREAM_STEPS), ms] += 1
        if len(self._pending) > _MOST_PENDING:
            self._summarise()
        if at is None:
            return
        self._last_step = at
        bucket = self._bucket
        if at is not self._bucket_at:
            self._bucket_at = at
            bucket = self._bucket = self._bucket_of(int(at.timestamp()))
        bucket.tenths[int(10 * ms + 0.5)] += 1
        bucket.max_ms = max(bucket.max_ms, ms)
        bucket.most_streams = max(bucket.most_streams, streams)
        if ms > FRAME_MS:
            self._slow_step(at, ms, streams)

    def _bucket_of(self, second: int) -> _Bucket:
        """Return the stretch of time that holds a second; join others where there are too many."""
        if second // self._bucket_s not in self._buckets:
            self._buckets[second // self._bucket_s] = _Bucket(Counter(), 0.0, 0)
            while len(self._buckets) > 2 * _MOST_MOMENTS:
                self._widen()
        return self._buckets[second // self._bucket_s]

    def _note_last_step(self) -> None:
        """Steps are lines of the run, too."""
        self._seen(self._last_step)
        self._last_step = None

    def _summarise(self) -> None:
        """Put the steps that were only counted into their sketches."""
        for (streams, ms), count in self._pending.items():
            self._by_streams.setdefault(streams, Sketch()).add(ms, count)
        self._pending.clear()

    def _widen(self) -> None:
        """Join each two neighbouring buckets."""
        self._bucket_s *= 2
        wider: dict[int, _Bucket] = {}
        for place, bucket in self._buckets.items():
            joined = wider.setdefault(place // 2, _Bucket(Counter(), 0.0, 0))
            joined.tenths.update(bucket.tenths)
            joined.max_ms = max(joined.max_ms, bucket.max_ms)
            joined.most_streams = max(joined.most_streams, bucket.most_streams)
        self._buckets = wider

    def _slow_step(self, at: datetime, ms: float, streams: int) -> None:
        stretch = self._slow
        begun = at - timedelta(milliseconds=ms)  # a step is logged at its end
        if stretch is not None and (begun - stretch.until).total_seconds() <= _GAP_S:
            stretch.until = at
            stretch.steps += 1
            stretch.excess_ms += ms - FRAME_MS
            stretch.most_streams = max(stretch.most_streams, streams)
            return
        self._end_stretch()
        self._slow = _Stretch(begun, at, 1, ms - FRAME_MS, streams)

    def _end_stretch(self) -> None:
        if self._slow is None:
            return
        self._stretches.append(self._slow)
        self._slow = None
        # The worst are kept.
        self._stretches.sort(key=lambda stretch: -stretch.excess_ms)
        del self._stretches[_MOST_STRETCHES:]

    def _seen(self, at: datetime | None) -> None:
        """Note that the current run still wrote something."""
        if at is not None and self._runs:
            self._runs[-1] = replace(self._runs[-1], last_line=at)

    def _record(self, record: LogRecord) -> None:
        if record.format == "text":
            self._text += 1
        else:
            self._events += 1
        at = record.time
        if at is not None and not self._holds(at):
            return
        message = record.message
        if match := _STEP_MESSAGE.fullmatch(message):
            if self._holds(at):
                self._step(at, float(match[1]), int(match[2]))
            return
        runs = len(self._runs)
        self._run_event(message, at)
        if len(self._runs) == runs:
            self._seen(at)
        self._count(message, at, is_tts="py_module" in (record.target or ""))
        if record.level in ("ERROR", "WARN") or record.format == "text":
            self._look_for_failures(record)

    def _run_event(self, message: str, at: datetime | None) -> None:
        self._note_last_step()
        if message.startswith(("build_info=", "starting worker")):
            # Either may be the first line of a start.
            last = self._runs[-1] if self._runs else None
            has_begun = last is not None and last.started is not None and last.last_line is None
            if not (has_begun and message.startswith("starting worker")):
                self._runs.append(ServerRun(self._source, at, None, None, None, None, None))
                self._py_open.clear()
            return
        loop = _LOOP.match(message)
        is_ready = loop is not None or message.startswith("starting-up the py model loop")
        if not is_ready and not message.startswith("listening on "):
            return
        if not self._runs:
            # The log begins after the start of the server.
            self._runs.append(ServerRun(self._source, None, None, None, at, None, None))
        run = self._runs[-1]
        if is_ready:
            size = int(loop[1]) if loop else run.batch_size
            run = replace(run, ready=run.ready or at, batch_size=size)
        else:
            run = replace(run, listening=at)
        self._runs[-1] = run

    def _count(self, message: str, at: datetime | None, *, is_tts: bool) -> None:
        counts = self._counts
        if message.startswith(_STT_QUERIES):
            counts["stt asked"] += 1
        elif message.startswith("batched-asr channel"):
            counts["stt opened"] += 1
        elif message.startswith("handling asr post query"):
            counts["posts"] += 1
        elif message.startswith(("recv loop short timeout", "recv loop long timeout")):
            counts["silent"] += 1
        elif message.startswith(("handling py streaming query", "handling py query")):
            counts["tts asked"] += 1
        elif match := _PY_SLOT.match(message):
            counts["tts opened"] += 1
            if at is not None:
                self._py_open[match[1]] = at
        elif match := _PY_END.match(message):
            counts["tts finished"] += 1
            begun = self._py_open.pop(match[1], None)
            if begun is not None and at is not None:
                self._texts.add((at - begun).total_seconds() * 1000)
        elif message.startswith("no free channels"):
            counts["tts refused" if is_tts else "stt refused"] += 1

    def _look_for_failures(self, record: LogRecord) -> None:
        lines = [record.message, *record.continuation]
        for seen in find_failures(line.encode() for line in lines):
            known = FAILURES[seen.name]
            before = self._failures.get(seen.name)
            self._failures[seen.name] = FailureCount(
                seen.name,
                known.severity,
                (before.count if before else 0) + seen.count,
                before.first if before else record.time,
                record.time or (before.last if before else None),
                before.evidence if before else seen.evidence,
                known.meaning,
                known.fix,
                known.runbook,
            )
            if self._runs and _ends_service(record, known.severity):
                run = self._runs[-1]
                self._runs[-1] = replace(run, died_of=run.died_of or seen.name)

    def report(self, sources: tuple[str, ...]) -> LogReport:
        """Return the report of all that was read."""
        counts = self._counts
        self._summarise()
        self._note_last_step()
        whole = Sketch()
        for sketch in self._by_streams.values():
            whole.merge(sketch)
        by_streams = tuple(
            StepsAt(streams, times)
            for streams, sketch in sorted(self._by_streams.items())
            if (times := sketch.times()) is not None
        )
        moments = tuple(
            Moment(
                datetime.fromtimestamp(place * self._bucket_s, UTC),
                self._bucket_s,
                bucket.tenths.total(),
                bucket.p50_ms,
                bucket.max_ms,
                bucket.most_streams,
            )
            for place, bucket in sorted(self._buckets.items())
        )
        behind = tuple(
            Behind(
                stretch.since,
                stretch.until,
                stretch.steps,
                round(stretch.excess_ms / 1000, 2),
                stretch.most_streams,
            )
            for stretch in self._stretches
        )
        report = LogReport(
            sources,
            self._since,
            self._until,
            self._lines,
            self._text,
            tuple(self._runs),
            whole.times(),
            by_streams,
            moments,
            behind,
            StreamCounts(
                counts["stt asked"],
                counts["stt opened"],
                counts["stt refused"],
                counts["silent"],
                counts["posts"],
                self._most_streams,
            ),
            TtsCounts(
                counts["tts asked"],
                counts["tts opened"],
                counts["tts refused"],
                counts["tts finished"],
                self._texts.times(),
            ),
            tuple(self._failures.values()),
            (),
            (),
        )
        answer, unknown = capacity(report)
        return replace(report, capacity=answer, unknown=unknown)


def _ends_service(record: LogRecord, severity: Severity) -> bool:
    """Whether after this failure no stream is served: the model loop or the process has ended."""
    if severity is not Severity.ERROR:
        return False
    return 'name="model_loop"' in record.message or record.format in ("rust", "process", "python")


def _split(block: bytes) -> list[bytes]:
    """Return the lines of a block without line ends."""
    return block.removesuffix(b"\n").split(b"\n") if block else []
