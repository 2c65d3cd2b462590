"""A process in which models compute, and nothing else.

One thread steps each model's engine. The main thread waits for the supervisor.
"""

from __future__ import annotations

import gc
import os
import queue
import select
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmops.errors import DsmopsError
from dsmops.worker.runtime.collector import Collector
from dsmops.worker.runtime.loop import ModelLoop
from dsmops.worker.runtime.stt.lanes import SttLanes
from dsmops.worker.runtime.stt.loop import SttLoop
from dsmops.worker.runtime.tts.remote import TtsPorter
from dsmops.worker.runtime.tts.rings import TtsRings
from dsmops.worker.serving.channel import Channel, ChannelLog, describe_error
from dsmops.worker.serving.lines import Shared
from dsmops.worker.serving.logs import UTILS, Level, Shown, causes
from dsmops.worker.serving.metrics import Metrics
from dsmops.worker.serving.observers import open_tts_loop, stt_observer
from dsmops.worker.serving.processes import Plan
from dsmops.worker.serving.settings import ModuleSettings, SttSettings, TtsSettings

_STOP_S = 0.5
"""For the steps under way at the end; a step that hangs is left to the supervisor."""
_FLUSH_EVERY_S = 0.1


def run_models(plan: Plan, number: int, channel: Channel, level: Level) -> None:
    """Load the modules on device `number` and step them until the supervisor says `quit`."""
    os.environ |= plan.devices[number].env
    # What is loaded stays: looking for garbage in it costs a fifth of importing torch.
    gc.disable()
    process = _ModelProcess(plan, number, channel, level)
    loops: list[ModelLoop[Any]] = []
    for module, shared in zip(plan.settings.modules, plan.shared[number], strict=True):
        module.facts.row = number
        loop = process.load(module, shared)
        if loop is None:
            break
        loops.append(loop)
    else:
        channel.send({"ready": True})
    with process.collector.running():
        _obey(channel)
    for loop in loops:
        loop.stop(_STOP_S)


def _obey(channel: Channel) -> None:
    """Wait until the supervisor wants the end, or has ended."""
    while True:
        waits = not channel.flush()
        ready, _, _ = select.select([channel], [], [], _FLUSH_EVERY_S if waits else None)
        try:
            while ready and (message := channel.receive()) is not None:
                if "quit" in message:
                    channel.flush()
                    return
        except EOFError:
            os._exit(1)


class _ModelProcess:
    def __init__(self, plan: Plan, number: int, channel: Channel, level: Level) -> None:
        self._plan, self._number, self._channel = plan, number, channel
        self._log = ChannelLog(channel, level)
        self._metrics = Metrics(plan.metrics, plan.device_row(number))
        self.collector = Collector()

    def load(self, module: ModuleSettings, shared: Shared) -> ModelLoop[Any] | None:
        """Return the loop of a module once it steps, None where it cannot."""
        states: queue.Queue[bool] = queue.Queue()

        def died(exc: DsmopsError) -> None:
            self._log.error(
                UTILS, "task failed", causes(exc), name="model_loop", err=Shown(exc.message)
            )
            self._channel.send({"died": describe_error(exc)})
            states.put(False)

        loop = self._open(module, shared, lambda: states.put(True), died)
        loop.board = shared.board
        if isinstance(loop, SttLoop):
            loop.bell = shared.bell
        loop.collector = self.collector
        self.collector.loops.append(loop)
        loop.start()
        return loop if states.get() else None

    def _open(
        self,
        module: ModuleSettings,
        shared: Shared,
        started: Callable[[], None],
        died: Callable[[DsmopsError], None],
    ) -> ModelLoop[Any]:
        match module, shared.exchange:
            case SttSettings(), SttLanes() as lanes:

                def tell(slots: NDArray[np.int64]) -> None:
                    self._tell(set(lanes.owner[slots].tolist()))

                observer = stt_observer(
                    module,
                    self._log,
                    self._metrics,
                    started=started,
                    news=lambda _: None,
                    died=died,
                )
                return SttLoop(module.name, module.open_engine, observer, lanes=lanes, on_news=tell)
            case TtsSettings(), TtsRings() as rings:
                # The bell is the porter's, which wakes the loop.
                porter = TtsPorter(rings, shared.bell, self._tell)

                def serve() -> None:
                    porter.start(tts_loop)
                    started()

                tts_loop = open_tts_loop(
                    module,
                    self._log,
                    self._metrics,
                    started=serve,
                    news=porter.news,
                    died=died,
                )
                return tts_loop
        raise TypeError(type(module).__name__)

    def _tell(self, owners: set[int]) -> None:
        for owner in owners:
            self._plan.bells[owner].ring()
