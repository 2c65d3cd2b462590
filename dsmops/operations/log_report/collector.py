"""Events and steps of a server to the figures of a report, in constant memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from dsmops.findings import Severity
from dsmops.logs import LogRecord
from dsmops.logs.failures import FAILURES, FailureSeen, find_failures
from dsmops.logs.step_rows import StepRows
from dsmops.operations.log_report.events import (
    ACCEPTED,
    ANY_ENDS,
    ENGINE,
    FINISHED,
    HANDLED,
    KINDS,
    LOOP,
    RECV_ENDS,
    REFUSED_KEY,
    SILENT,
    SLOT,
    STT,
    TTS,
    Event,
    begins_run,
)
from dsmops.operations.log_report.result import (
    FailureCount,
    LogReport,
    ModuleReport,
    ServerRun,
)
from dsmops.operations.log_report.sketch import Sketch
from dsmops.operations.log_report.steps import StepTally, steps_at
from dsmops.operations.log_report.streams import StreamTally, stream_counts, tts_counts
from dsmops.operations.log_report.timeline import Timeline

_MOST_MODULES = 100
"""More names before a bar are not containers of one log."""
_MOST_RUNS = 1000
_MOST_KNOWN, _KNOWN_CHARS = 4096, 400
_TOGETHER_S = 0.1
"""A dropped client's connection ends right after its timeout is logged."""


class Module:
    """What one kind of module of one container did."""

    def __init__(self, name: str, kind: str, timeline: Timeline) -> None:
        self.name, self.kind = name, kind
        self.steps = StepTally(name, timeline)
        self.streams = StreamTally(name, timeline, ends_with_text=kind == TTS)
        self.batch_size: int | None = None


class Collector:
    """Takes the events and steps of logs, in their order."""

    def __init__(self) -> None:
        self.lines = self.text_lines = 0
        self.source = ""
        self.changes = 0
        """How many events and failures it has taken."""
        self.engines: dict[str, tuple[str, str]] = {}
        """Model and dtype of modules of `dsmops worker`, which logs them."""
        self.is_worker = False
        """Whether `dsmops worker` wrote this: its lines name line 0 of the original's sources."""
        self._timeline = Timeline()
        self._modules: dict[str, Module] = {}
        self._runs: list[ServerRun] = []
        self._started: datetime | None = None
        self._last_line: datetime | None = None
        """Of the current run."""
        self._known: dict[str, tuple[FailureSeen, ...]] = {}
        """What failures there were in lines."""
        self._failures: dict[str, FailureCount] = {}
        self._wrong_keys = 0
        self._tts_due = 0
        """Connections of texts that are finished, which will be logged as ended."""
        self._silent_at: datetime | None = None

    def steps(self, service: str | None, rows: StepRows) -> None:
        """Take the steps of one module in a block."""
        if len(rows.lines):
            self.changes += 1
            self._module(service, rows.target.rpartition("::")[2], STT).steps.take(rows)
            self.seen(datetime.fromtimestamp(int(rows.at_us.max()) / 1e6, UTC))

    def seen(self, at: datetime | None) -> None:
        """Note that the current run still wrote something."""
        if at is None or not self._runs or (self._started is not None and at < self._started):
            return
        if self._last_line is None or at > self._last_line:
            self._last_line = at

    def event(self, service: str | None, event: Event) -> None:
        """Take an event of a server."""
        self.changes += 1
        self.is_worker |= event.line == 0
        if not self._run_event(event):
            self.seen(event.at)
        self._stream_event(service, event)

    def record(self, record: LogRecord) -> None:
        """Take an event that may tell of a failure."""
        if record.format == "text":
            self.text_lines += 1
        else:
            event = Event(record.time, record.target or "", record.line, record.message)
            self.event(record.service, event)
        for line in (record.message, *record.continuation):
            for seen in self.failures_in(line):
                self._failure(record, seen)

    def failures_in(self, line: str) -> tuple[FailureSeen, ...]:
        """Return the known failures that a line tells of. Causes and traces repeat."""
        known = self._known.get(line)
        if known is None:
            known = tuple(find_failures([line.encode("utf-8", "surrogatepass")]))
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            if len(line) <= _KNOWN_CHARS:
                self._known[line] = known
        return known

    def _failure(self, record: LogRecord, seen: FailureSeen) -> None:
        self.changes += 1
        known = FAILURES[seen.name]
        before = self._failures.get(seen.name)
        self._failures[seen.name] = FailureCount(
            seen.name,
            known.severity,
            (before.count if before else 0) + seen.count,
            before.first if before and before.first else record.time,
            record.time or (before.last if before else None),
            before.evidence if before else seen.evidence,
            known.meaning,
            known.fix,
            known.runbook,
        )
        if self._runs and _ends_service(record, known.severity):
            run = self._runs[-1]
            self._runs[-1] = replace(run, died_of=run.died_of or seen.name)

    def _module(self, service: str | None, name: str, kind: str) -> Module:
        key = f"{service}/{name}" if service else name
        if key not in self._modules:
            if len(self._modules) >= _MOST_MODULES:
                key = name
            self._modules.setdefault(key, Module(key, KINDS.get(name, kind), self._timeline))
        return self._modules[key]

    def _run_event(self, event: Event) -> bool:
        """Take an event of a start, and return whether it began one."""
        message, at = event.message, event.at
        if begins_run(message):
            # Either may be the first line of a start.
            last = self._runs[-1] if self._runs else None
            has_begun = last is not None and last.started is not None and not self._last_line
            if has_begun and message.startswith("starting worker"):
                return True
            self._end_run()
            del self._runs[: len(self._runs) - _MOST_RUNS + 1]
            self._runs.append(ServerRun(self.source, at, None, None, None, None, None))
            self._started, self._last_line = at, None
            for module in self._modules.values():
                module.streams.forget()
            self._tts_due = 0
            return True
        loop = LOOP.match(message)
        is_ready = loop is not None or message.startswith(
            ("starting-up the py model loop", "starting-up the py asr model loop")
        )
        if not is_ready and not message.startswith("listening on "):
            return False
        if not self._runs:
            # The log begins after the start of the server.
            self._runs.append(ServerRun(self.source, None, None, None, at, None, None))
            self._last_line = at
        run = self._runs[-1]
        if is_ready:
            size = (run.batch_size or 0) + int(loop[1]) if loop else run.batch_size
            run = replace(run, ready=run.ready or at, batch_size=size)
        else:
            run = replace(run, listening=run.listening or at)
        self._runs[-1] = run
        return False

    def _end_run(self) -> None:
        if self._runs:
            self._runs[-1] = replace(self._runs[-1], last_line=self._last_line)

    def _stream_event(self, service: str | None, event: Event) -> None:
        message = event.message
        if message.startswith("handling "):
            for begin, module, kind, tells_key in HANDLED:
                if message.startswith(begin):
                    self._module(service, module, STT).streams.handle(kind, tells_key=tells_key)
                    return
            return
        for begin, module, kind in ACCEPTED:
            if message.startswith(begin):
                self._module(service, module, STT).streams.accept(kind)
                return
        if found := REFUSED_KEY.match(message):
            self._wrong_keys += int(found[1])
        elif (ANY_ENDS if event.line == 0 else RECV_ENDS).match(message):
            self._connection_ended(service, event.at)
        else:
            self._module_event(service, event)

    def _module_event(self, service: str | None, event: Event) -> None:
        """Take what a module itself says of its slots."""
        message, at = event.message, event.at
        name = event.target.rpartition("::")[2]
        if found := SLOT.match(message):
            self._module(service, name, TTS).streams.take_slot(int(found[1]), at)
        elif found := FINISHED.match(message):
            streams = self._module(service, name, TTS).streams
            streams.counts["finished"] += 1
            streams.end(at, int(found[1]))
            if found[2]:
                streams.first_audio.add(float(found[2]))
            self._tts_due += 1
        elif message.startswith("no free channels"):
            self._module(service, name, STT).streams.refuse(at)
        elif found := SILENT.match(message):
            streams = self._module(service, name, STT).streams
            streams.counts["silent"] += 1
            if streams.end(at, int(found[1]) if found[1] else None):
                self._silent_at = at
        elif found := LOOP.match(message):
            self._module(service, name, STT).batch_size = int(found[1])
        elif found := ENGINE.match(message):
            module = self._module(service, name, STT)
            self.engines[module.name] = (found[1], found[2])
            if module.kind == TTS:
                module.batch_size = int(found[3])

    def _connection_ended(self, service: str | None, at: datetime | None) -> None:
        """Take the end of a connection. The log does not say of which module."""
        silent_at, self._silent_at = self._silent_at, None
        if silent_at and at and (at - silent_at).total_seconds() < _TOGETHER_S:
            return
        if self._tts_due:
            self._tts_due -= 1
            return
        for module in self._modules.values():
            same = not service or module.name.startswith(f"{service}/")
            if same and module.streams.end(at):
                return

    def report(self, sources: tuple[str, ...]) -> LogReport:
        """Return the report of all that was taken."""
        self._end_run()
        whole = Sketch()
        by_streams: dict[int, Sketch] = {}
        modules = []
        for module in self._modules.values():
            sketches = module.steps.by_streams()
            modules.append(self._module_report(module, sketches))
            for streams, sketch in sketches.items():
                by_streams.setdefault(streams, Sketch()).merge(sketch)
                whole.merge(sketch)
        stt = [module for module in self._modules.values() if module.kind == STT]
        tts = [module for module in self._modules.values() if module.kind == TTS]
        behind = sorted(
            (each for module in modules for each in module.behind), key=lambda each: -each.audio_s
        )
        return LogReport(
            sources,
            None,
            None,
            self.lines,
            self.text_lines,
            tuple(self._runs),
            whole.times(),
            steps_at(by_streams),
            self._timeline.together([module.over_time for module in modules]),
            tuple(behind[:20]),
            stream_counts(
                [module.streams for module in stt],
                max((max(0, module.steps.most_streams) for module in stt), default=0),
                self._wrong_keys,
            ),
            tts_counts([module.streams for module in tts]),
            tuple(self._failures.values()),
            (),
            (),
            tuple(modules),
        )

    def _module_report(self, module: Module, by_streams: dict[int, Sketch]) -> ModuleReport:
        is_tts, whole = module.kind == TTS, Sketch()
        for sketch in by_streams.values():
            whole.merge(sketch)
        return ModuleReport(
            module.name,
            module.batch_size,
            whole.times(),
            steps_at(by_streams),
            self._timeline.moments(module.name),
            module.steps.behind(),
            None
            if is_tts
            else stream_counts([module.streams], max(0, module.steps.most_streams), 0),
            tts_counts([module.streams]) if is_tts else None,
        )


def _ends_service(record: LogRecord, severity: Severity) -> bool:
    """Whether after this failure no stream is served: the model loop or the process has ended."""
    if severity is not Severity.ERROR:
        return False
    return "model_loop" in record.message or record.format in ("rust", "process", "python", "cuda")
