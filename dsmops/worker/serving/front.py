"""A front process: sockets, messages, redaction and logging, for models that compute elsewhere.

It obeys the supervisor: `listen`, `lent` (the answer to a request for a slot), `lost` (a device),
`drain`, `end`, `quit`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from typing import Any

from dsmops.worker.runtime.collector import YOUNG_OBJECTS, Collector, FullCollections
from dsmops.worker.runtime.stt.lanes import SttLanes
from dsmops.worker.runtime.tts.rings import TtsRings
from dsmops.worker.serving.addresses import bind
from dsmops.worker.serving.channel import Channel, ChannelLog, Message, parse_error
from dsmops.worker.serving.desk import Place
from dsmops.worker.serving.lines import RemoteLine, RemoteSttLine, RemoteTtsLine, Shared
from dsmops.worker.serving.logs import ASR, BATCHED_ASR, MAIN, Level
from dsmops.worker.serving.metrics import Metrics
from dsmops.worker.serving.module import ModuleContext, Remote
from dsmops.worker.serving.observers import log_marker
from dsmops.worker.serving.processes import Plan, return_freed_memory
from dsmops.worker.serving.server import shutting_down
from dsmops.worker.serving.settings import ModuleSettings, SttSettings, TtsSettings
from dsmops.worker.serving.site import (
    Module,
    Site,
    access_of,
    log_failures,
    open_module,
    silence_libraries,
)
from dsmops.worker.serving.stt_connection import BATCHED

_REPORT_EVERY_S = 0.05
"""How often the supervisor learns during a drain whether clients are still served."""
_COLLECT_EVERY_S = 1.0
_FLUSH_EVERY_S = 0.01
_SWITCH_S = 0.001
"""After so long a thread that turns text into tokens lets the event loop go on. Python's own 5 ms
are a third of the lag of 64 streams on a card."""


def run_front(plan: Plan, number: int, channel: Channel, level: Level) -> None:
    """Serve clients until the supervisor says `quit`."""
    return_freed_memory()
    sys.setswitchinterval(_SWITCH_S)
    asyncio.run(_Front(plan, number, channel, level).run())


class RemoteLender:
    """Asks the supervisor for slots of one module."""

    def __init__(self, channel: Channel, module: int) -> None:
        self._channel, self._module = channel, module
        self._asked: dict[int, asyncio.Future[Place | None]] = {}
        self._number = 0

    def ask(self, *, post: bool) -> asyncio.Future[Place | None]:
        self._number = number = self._number + 1
        asked: asyncio.Future[Place | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        asked.add_done_callback(lambda done: self._forget(number) if done.cancelled() else None)
        self._channel.send({"lend": [self._module, number, post]})
        return asked

    def give_back(self, place: Place) -> None:
        self._channel.send({"back": [self._module, place.device, place.slot]})

    def answer(self, number: int, place: Place | None) -> None:
        """Take the supervisor's answer."""
        asked = self._asked.pop(number, None)
        if asked is not None and not asked.done():
            asked.set_result(place)
        elif place is not None:
            # The client has left meanwhile.
            self.give_back(place)

    def _forget(self, number: int) -> None:
        """Tell the supervisor that a post waits no more."""
        if self._asked.pop(number, None) is not None:
            self._channel.send({"leave": [self._module, number]})


class _Front:
    def __init__(self, plan: Plan, number: int, channel: Channel, level: Level) -> None:
        self._plan, self._number, self._channel = plan, number, channel
        self._log = ChannelLog(channel, level)
        self._metrics = Metrics(plan.metrics, plan.front_row(number))
        self._lenders = [
            RemoteLender(channel, module) for module in range(len(plan.settings.modules))
        ]
        self._lines: list[list[Any]] = []
        """For each module, for each device."""
        self._modules: list[Module] = []
        self._over: asyncio.Future[None]
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        event_loop = asyncio.get_running_loop()
        self._over = event_loop.create_future()
        silence_libraries()
        log_failures(self._log)
        settings, plan = self._plan.settings, self._plan
        self._lines = [
            [
                self._line(module, device.name, plan.shared[place][number])
                for place, device in enumerate(plan.devices)
            ]
            for number, module in enumerate(settings.modules)
        ]
        access = access_of(settings, self._log, self._metrics)
        context = ModuleContext(
            access,
            self._log,
            self._metrics,
            settings.limits,
            remote={
                module.name: Remote(lines, lender)
                for module, lines, lender in zip(
                    settings.modules, self._lines, self._lenders, strict=True
                )
            },
        )
        self._modules = [open_module(module, context) for module in settings.modules]
        self._site = Site(settings, self._modules, access, self._log, self._metrics)
        event_loop.add_reader(plan.bells[self._number], self._on_bell)
        event_loop.add_reader(self._channel, self._on_message)
        self._start(self._collect())
        self._start(self._flush())
        self._channel.send({"ready": True})
        with Collector().running():
            await self._over
        event_loop.remove_reader(self._channel)
        for task in self._tasks:
            task.cancel()
        await self._site.cleanup()
        self._channel.flush()

    def _line(self, module: ModuleSettings, device: str, shared: Shared) -> RemoteLine:
        match module, shared.exchange:
            case SttSettings(open_tokenizer=open_stt_tokenizer), SttLanes() as lanes:
                if open_stt_tokenizer is None:
                    raise ValueError(f"{module.name} has no tokenizer for fronts")
                origin = BATCHED_ASR if module.module_type == BATCHED.module_type else ASR
                return RemoteSttLine(
                    device,
                    shared,
                    lanes,
                    self._number,
                    open_stt_tokenizer(),
                    lambda slot, marker_id: log_marker(self._log, origin, slot, marker_id),
                )
            case TtsSettings(open_tokenizer=open_tts_tokenizer), TtsRings() as rings:
                if open_tts_tokenizer is None:
                    raise ValueError(f"{module.name} has no tokenizer for fronts")
                return RemoteTtsLine(
                    device,
                    shared,
                    rings,
                    self._number,
                    open_tts_tokenizer(),
                    module.pacing.padding_between,
                )
        raise TypeError(type(module).__name__)

    def _start(self, work: Any) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(work))

    def _on_bell(self) -> None:
        self._plan.bells[self._number].clear()
        for lines in self._lines:
            for line in lines:
                line.read_news()

    def _on_message(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                self._obey(message)
        except EOFError:
            os._exit(1)

    def _obey(self, message: Message) -> None:
        match message:
            case {"lent": [module, number, place]}:
                self._lenders[module].answer(number, None if place is None else Place(*place))
            case {"listen": [addr, port]}:
                self._start(self._listen(addr, port))
            case {"lost": [device, described]}:
                exc = parse_error(described)
                for lines in self._lines:
                    lines[device].fail(exc)
            case {"drain": _}:
                self._site.part()
                self._start(self._report())
            case {"end": _}:
                for module in self._modules:
                    module.end(shutting_down())
            case {"quit": _} if not self._over.done():
                self._over.set_result(None)

    async def _listen(self, addr: str, port: int) -> None:
        # All fronts listen on the same port, and the system spreads connections over them.
        await self._site.listen(bind(addr, port, shared=True))
        self._channel.send({"listening": True})

    async def _report(self) -> None:
        """Tell the supervisor again and again whether anyone is served."""
        while True:
            self._channel.send({"idle": all(module.is_idle for module in self._modules)})
            await asyncio.sleep(_REPORT_EVERY_S)

    async def _flush(self) -> None:
        """Send what the supervisor had no space for."""
        while True:
            await asyncio.sleep(0.1 if self._channel.flush() else _FLUSH_EVERY_S)
            if self._channel.dropped:
                count, self._channel.dropped = self._channel.dropped, 0
                self._log.warn(MAIN, f"{count} log lines were dropped: too many came")

    async def _collect(self) -> None:
        """Collect garbage: young objects now and then, all objects once a minute."""
        full = FullCollections()
        while True:
            await asyncio.sleep(_COLLECT_EVERY_S)
            if not full.collect() and gc.get_count()[0] >= YOUNG_OBJECTS:
                gc.collect(1)
