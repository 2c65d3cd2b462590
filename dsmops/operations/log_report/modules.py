"""The modules of the servers: which module an event belongs to, and what each did."""

from __future__ import annotations

from datetime import datetime

from dsmops.operations.log_report.events import (
    KINDS,
    STT,
    TTS,
    Accepted,
    Engine,
    Full,
    Handled,
    LoopSize,
    Said,
    Silent,
    SlotTaken,
    TextFinished,
)
from dsmops.operations.log_report.steps import StepTally
from dsmops.operations.log_report.streams import StreamTally
from dsmops.operations.log_report.timeline import Timeline

_MOST_MODULES = 100
"""More names before a bar are not containers of one log."""
_TOGETHER_S = 0.1
"""A dropped client's connection ends right after its timeout is logged."""


class Module:
    """What one kind of module of one container did."""

    def __init__(self, name: str, kind: str, timeline: Timeline) -> None:
        self.name, self.kind = name, kind
        self.steps = StepTally(name, timeline)
        self.streams = StreamTally(name, timeline, ends_with_text=kind == TTS)
        self.batch_size: int | None = None


class Modules:
    """All modules by container and name, and the ends of their connections."""

    def __init__(self, timeline: Timeline) -> None:
        self.engines: dict[str, tuple[str, str]] = {}
        """Model and dtype by module, where the log has them."""
        self._timeline = timeline
        self._modules: dict[str, Module] = {}
        self._texts_due = 0
        """Connections of texts that are finished, which will be logged as ended."""
        self._silent_at: datetime | None = None

    def all(self, kind: str | None = None) -> list[Module]:
        """Return all modules, or those of a kind."""
        return [each for each in self._modules.values() if kind in (None, each.kind)]

    def of(self, service: str | None, name: str, kind: str = STT) -> Module:
        """Return a module of a container. `kind` is for names that are not known."""
        key = f"{service}/{name}" if service else name
        if key not in self._modules:
            if len(self._modules) >= _MOST_MODULES:
                key = name
            self._modules.setdefault(key, Module(key, KINDS.get(name, kind), self._timeline))
        return self._modules[key]

    def forget_streams(self) -> None:
        """Take a start of the server: all who were connected are gone."""
        for module in self._modules.values():
            module.streams.forget()
        self._texts_due = 0

    def take(self, said: Said, at: datetime | None, service: str | None) -> None:
        """Take what a module said, or what was said of one."""
        match said:
            case Handled(name, kind, tells_key):
                self.of(service, name).streams.handle(kind, tells_key=tells_key)
            case Accepted(name, kind):
                self.of(service, name).streams.accept(kind)
            case SlotTaken(name, slot):
                self.of(service, name, TTS).streams.take_slot(slot, at)
            case Full(name):
                self.of(service, name).streams.refuse(at)
            case LoopSize(name, slots):
                self.of(service, name).batch_size = slots
            case TextFinished():
                self._finish_text(said, at, service)
            case Silent(name, silent_slot):
                streams = self.of(service, name).streams
                streams.counts["silent"] += 1
                if streams.end(at, silent_slot):
                    self._silent_at = at
            case Engine(name, model, dtype, slots):
                module = self.of(service, name)
                self.engines[module.name] = (model, dtype)
                if module.kind == TTS:
                    module.batch_size = slots

    def _finish_text(self, said: TextFinished, at: datetime | None, service: str | None) -> None:
        streams = self.of(service, said.module, TTS).streams
        streams.counts["finished"] += 1
        streams.end(at, said.slot)
        if said.first_audio_ms is not None:
            streams.first_audio.add(float(said.first_audio_ms))
        self._texts_due += 1

    def end_connection(self, at: datetime | None, service: str | None) -> None:
        """Take the end of a connection. The log does not say of which module."""
        silent_at, self._silent_at = self._silent_at, None
        if silent_at and at and (at - silent_at).total_seconds() < _TOGETHER_S:
            return
        if self._texts_due:
            self._texts_due -= 1
            return
        for module in self._modules.values():
            same = not service or module.name.startswith(f"{service}/")
            if same and module.streams.end(at):
                return
