"""What servers said to the figures of a report, in constant memory."""

from __future__ import annotations

from datetime import datetime

from dsmops.logs.failures import FAILURES
from dsmops.operations.log_report.events import (
    STT,
    TTS,
    Batch,
    Began,
    ConnectionEnded,
    Failed,
    KeysRefused,
    Listening,
    Ready,
    Said,
)
from dsmops.operations.log_report.modules import Module, Modules
from dsmops.operations.log_report.result import FailureCount, LogReport, ModuleReport
from dsmops.operations.log_report.runs import Runs
from dsmops.operations.log_report.sketch import Sketch
from dsmops.operations.log_report.steps import steps_at
from dsmops.operations.log_report.streams import stream_counts, tts_counts
from dsmops.operations.log_report.timeline import Timeline


class Collector:
    """Takes what logs tell, batch by batch, in their order."""

    def __init__(self) -> None:
        self.is_worker = False
        """Whether `dsmops worker` wrote a log."""
        self._lines = self._text_lines = 0
        self._runs = Runs()
        self._timeline = Timeline()
        self._modules = Modules(self._timeline)
        self._failures: dict[str, FailureCount] = {}
        self._wrong_keys = 0

    @property
    def engines(self) -> dict[str, tuple[str, str]]:
        """Model and dtype of modules of `dsmops worker`, which logs them."""
        return self._modules.engines

    def begin_log(self, source: str) -> None:
        """Take the name of the log that what follows is of.

        A run of the server goes on in the next log, which rotation has begun.
        """
        self._runs.source = source

    def take(self, batch: Batch) -> None:
        """Take a batch."""
        self._lines += batch.lines
        self._text_lines += batch.text_lines
        self.is_worker |= batch.is_worker
        for at, service, said in batch.said:
            for each in said:
                self._take(each, at, service)
            if not (said and isinstance(said[0], Began)):
                self._runs.seen(at)
        for service, rows in batch.steps:
            self._modules.of(service, rows.target.rpartition("::")[2]).steps.take(rows)

    def _take(self, said: Said, at: datetime | None, service: str | None) -> None:
        match said:
            case Began(is_second):
                if self._runs.begin(at, is_second=is_second):
                    self._modules.forget_streams()
            case Ready(slots):
                self._runs.ready(at, slots)
            case Listening():
                self._runs.listening(at)
            case Failed():
                self._fail(said, at)
            case KeysRefused(requests):
                self._wrong_keys += requests
            case ConnectionEnded():
                self._modules.end_connection(at, service)
            case _:
                self._modules.take(said, at, service)

    def _fail(self, said: Failed, at: datetime | None) -> None:
        name, known = said.seen.name, FAILURES[said.seen.name]
        before = self._failures.get(name)
        self._failures[name] = FailureCount(
            name,
            known.severity,
            (before.count if before else 0) + said.seen.count,
            before.first if before and before.first else at,
            at or (before.last if before else None),
            before.evidence if before else said.seen.evidence,
            known.meaning,
            known.fix,
            known.runbook,
        )
        if said.ends_service:
            self._runs.die(name)

    def report(self, sources: tuple[str, ...]) -> LogReport:
        """Return the report of all that was taken."""
        whole = Sketch()
        by_streams: dict[int, Sketch] = {}
        modules = []
        for module in self._modules.all():
            sketches = module.steps.by_streams()
            modules.append(self._module_report(module, sketches))
            for streams, sketch in sketches.items():
                by_streams.setdefault(streams, Sketch()).merge(sketch)
                whole.merge(sketch)
        stt = self._modules.all(STT)
        behind = sorted(
            (each for module in modules for each in module.behind), key=lambda each: -each.audio_s
        )
        return LogReport(
            sources,
            None,
            None,
            self._lines,
            self._text_lines,
            self._runs.all(),
            whole.times(),
            steps_at(by_streams),
            self._timeline.together([module.over_time for module in modules]),
            tuple(behind[:20]),
            stream_counts(
                [module.streams for module in stt],
                max((max(0, module.steps.most_streams) for module in stt), default=0),
                self._wrong_keys,
            ),
            tts_counts([module.streams for module in self._modules.all(TTS)]),
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
