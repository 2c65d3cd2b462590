"""The server in several processes: models compute in some, fronts talk to clients in others.

This process only supervises. It has the log, the desks that lend slots, and the children: a model
process for each device and some fronts. Nothing that a step waits for passes through it.

What ends, and what that means:

- A front: its connections are lost, its slots are free again, another takes its place.
- A model process: with one device, every client gets the reason and the worker ends with it. With
  several, the streams on that device end so, and the others go on.
- The supervisor: its children end at once.

runbooks/decisions/0018-models-and-sockets-in-processes-of-their-own.md says why it is so.
"""

from __future__ import annotations

import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from dsmops.errors import DsmopsError, ModelLoopError
from dsmops.worker.serving.addresses import Listening, reserve, where
from dsmops.worker.serving.channel import Message, describe_error, parse_error, parse_record
from dsmops.worker.serving.desk import Desk, Place, Turn
from dsmops.worker.serving.logs import MAIN, UTILS, ServerLog, Shown
from dsmops.worker.serving.metrics import Metrics
from dsmops.worker.serving.model_process import run_models
from dsmops.worker.serving.processes import Child, Device, Plan, start
from dsmops.worker.serving.settings import (
    PARTING_S,
    PATIENT_SIGNALS,
    Ended,
    WorkerSettings,
    build_info,
)

_TURN_S = 0.05
_RETRY_S = 0.002
"""While a child has no space for a message."""
_MOST_RESTARTS, _RESTARTS_WITHIN_S = 5, 30.0
"""Fronts that end more often than this end the worker: something is broken for all."""
_QUIT_S = 1.5
"""For the processes to end by themselves at the end."""


def serve_split(
    settings: WorkerSettings,
    log: ServerLog,
    on_ready: Callable[[Listening], None],
    *,
    devices: Sequence[Device],
    fronts: int,
) -> Ended:
    """Serve with processes of their own for models and for `fronts`, until a signal comes.

    `on_ready` is called once, when clients can connect. To be called on the main thread.

    Raises:
        PortInUseError: something else listens there.
        InputError: no such address on this machine.
        DsmopsError: a model cannot be loaded, or all model processes have died.
    """
    plan = Plan.of(settings, devices, fronts)
    with reserve(settings.addr, settings.port) as reserved:
        return _Supervisor(plan, log, on_ready, reserved).run()


@dataclass(slots=True, eq=False)
class _Front:
    """A front process. `turns` are posts that wait, by the number that the front gave them."""

    number: int
    child: Child
    is_idle: bool = False
    listens: bool = False
    turns: dict[tuple[int, int], Turn] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Model:
    """The model process of a device."""

    number: int
    child: Child
    is_ready: bool = False
    failure: DsmopsError | None = None


class _Supervisor:
    def __init__(
        self,
        plan: Plan,
        log: ServerLog,
        on_ready: Callable[[Listening], None],
        reserved: socket.socket,
    ) -> None:
        self._plan, self._log, self._on_ready, self._reserved = plan, log, on_ready, reserved
        self._metrics = Metrics(plan.metrics, 0)
        self._desks = [Desk() for _ in plan.settings.modules]
        self._selector = selectors.DefaultSelector()
        self._signals: list[signal.Signals] = []
        self._models: list[_Model] = []
        self._fronts: list[_Front] = []
        self._restarts: list[float] = []
        self._parting = False

    def run(self) -> Ended:
        self._log.info(MAIN, "", build_info=build_info())
        self._log.info(MAIN, "starting worker", num_workers=self._plan.fronts)
        with self._signal_handlers():
            try:
                for number in range(len(self._plan.devices)):
                    self._start_model(number)
                for number in range(self._plan.fronts):
                    self._start_front(number)
                if self._load():
                    self._serve()
                    self._part()
            finally:
                self._end_children()
        failures = [model.failure for model in self._models if model.failure is not None]
        if len(failures) == len(self._models) or (failures and not self._signals):
            raise failures[0]
        return Ended(self._signals[0], hangs=False)

    @contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        def note(number: int, _frame: object) -> None:
            self._signals.append(signal.Signals(number))

        read, write = socket.socketpair()
        write.setblocking(False)
        numbers = (*PATIENT_SIGNALS, signal.SIGINT)
        # What the caller wants ignored (nohup) stays ignored.
        before = {
            number: old
            for number in numbers
            if (old := signal.getsignal(number)) is not signal.SIG_IGN
        }
        wakeup = signal.set_wakeup_fd(write.fileno())
        self._selector.register(read, selectors.EVENT_READ, lambda: read.recv(4096))
        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)
            signal.set_wakeup_fd(wakeup)
            self._selector.close()
            read.close()
            write.close()

    # Children.

    def _channels(self) -> list[_Model | _Front]:
        return [*self._models, *self._fronts]

    def _start_model(self, number: int) -> None:
        others = [other.child.channel for other in self._channels()]
        child = start(
            "dsmops-model",
            lambda channel: run_models(self._plan, number, channel, self._log.level),
            others,
        )
        model = _Model(number, child)
        self._models.append(model)
        self._watch(model)

    def _start_front(self, number: int) -> _Front:
        # It takes half a second of imports. The model processes compute meanwhile.
        from dsmops.worker.serving.front import run_front

        others = [other.child.channel for other in self._channels()]
        child = start(
            "dsmops-front",
            lambda channel: run_front(self._plan, number, channel, self._log.level),
            others,
        )
        front = _Front(number, child)
        self._fronts.append(front)
        self._watch(front)
        return front

    def _watch(self, process: _Model | _Front) -> None:
        channel = process.child.channel
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._hear(process))

    def _turn(self, until_s: float | None = None) -> None:
        """Handle what has come; wait for it for a while."""
        waits_s = _TURN_S if until_s is None else max(0.0, min(_TURN_S, until_s - time.monotonic()))
        kept = [process for process in self._channels() if not process.child.channel.flush()]
        for key, _ in self._selector.select(_RETRY_S if kept else waits_s):
            key.data()

    def _hear(self, process: _Model | _Front) -> None:
        try:
            while (message := process.child.channel.receive()) is not None:
                if "log" in message:
                    self._log.put(parse_record(message["log"]))
                elif isinstance(process, _Model):
                    self._hear_model(process, message)
                else:
                    self._hear_front(process, message)
        except EOFError:
            self._selector.unregister(process.child.channel)
            how = _how_it_ended(process.child)
            process.child.channel.close()
            if isinstance(process, _Model):
                self._lose_model(process, how)
            else:
                self._lose_front(process, how)

    def _hear_model(self, model: _Model, message: Message) -> None:
        match message:
            case {"ready": _}:
                model.is_ready = True
                for desk, shared in zip(self._desks, self._plan.shared[model.number], strict=True):
                    desk.add_device(model.number, shared.exchange.slots)
            case {"died": described}:
                self._fail_device(model, parse_error(described))

    def _lose_model(self, model: _Model, how: str) -> None:
        if model.failure is None:
            name = self._plan.devices[model.number].name
            exc = ModelLoopError(
                f"the model process of {name} has ended: {how}",
                hint="Every stream on it is lost. `dmesg` shows whether the system killed it.",
            )
            self._log.error(UTILS, "task failed", name="model_loop", err=Shown(exc.message))
            self._fail_device(model, exc)

    def _fail_device(self, model: _Model, exc: DsmopsError) -> None:
        """Lend the device's slots no more, and have its streams ended with the reason."""
        model.failure = exc
        self._metrics.add("worker_devices_lost")
        for desk in self._desks:
            desk.remove_device(model.number)
        if len(self._models) > 1:
            name = self._plan.devices[model.number].name
            self._log.error(MAIN, "a device is lost", device=name, err=Shown(exc.message))
        for front in self._fronts:
            front.child.channel.send({"lost": [model.number, describe_error(exc)]})

    def _hear_front(self, front: _Front, message: Message) -> None:
        match message:
            case {"lend": [module, number, post]}:
                turn = Turn(front.number, post)
                place = self._desks[module].lend(turn)
                if place is None and post:
                    self._desks[module].wait(turn)
                    front.turns[module, number] = turn
                    self._serve_posts(module)
                else:
                    self._lend(front, module, number, place)
            case {"back": [module, device, slot]}:
                self._desks[module].give_back(Place(device, slot))
                self._serve_posts(module)
            case {"leave": [module, number]}:
                left = front.turns.pop((module, number), None)
                if left is not None:
                    self._desks[module].leave(left)
            case {"listening": _}:
                front.listens = True
            case {"idle": idle}:
                front.is_idle = idle

    def _lend(self, front: _Front, module: int, number: int, place: Place | None) -> None:
        given = None if place is None else [place.device, place.slot]
        front.child.channel.send({"lent": [module, number, given]})

    def _serve_posts(self, module: int) -> None:
        desk = self._desks[module]
        while (served := desk.next_served()) is not None:
            turn, place = served
            for front in self._fronts:
                for key, waiting in list(front.turns.items()):
                    if waiting is turn:
                        del front.turns[key]
                        self._lend(front, module, key[1], place)

    def _lose_front(self, front: _Front, how: str) -> None:
        """Take back what a front had, and start another in its place."""
        self._fronts.remove(front)
        for module, desk in enumerate(self._desks):
            for place in desk.drop_owner(front.number):
                self._plan.shared[place.device][module].release(place.slot)
            self._serve_posts(module)
        Metrics(self._plan.metrics, self._plan.front_row(front.number)).drop_gauges()
        if self._parting:
            return
        self._log.error(MAIN, "a front process has ended; its connections are lost", how=Shown(how))
        self._metrics.add("worker_front_restarts")
        now_s = time.monotonic()
        self._restarts = [
            at_s for at_s in (*self._restarts, now_s) if now_s - at_s < _RESTARTS_WITHIN_S
        ]
        if len(self._restarts) > _MOST_RESTARTS:
            raise ModelLoopError(
                f"front processes end again and again: {how}",
                hint="The lines above say why. `--fronts 0` serves in one process.",
            )
        another = self._start_front(front.number)
        for model in self._models:
            if model.failure is not None:
                another.child.channel.send({"lost": [model.number, describe_error(model.failure)]})
        if front.listens:
            self._listen(another)

    # The run.

    def _load(self) -> bool:
        """Wait for the models, and return False where a signal came first."""
        while not all(model.is_ready for model in self._models):
            self._turn()
            if self._signals or any(model.failure for model in self._models):
                return False
        return True

    def _listen(self, front: _Front) -> None:
        addr, port = self._reserved.getsockname()[:2]
        front.child.channel.send({"listen": [addr, port]})

    def _serve(self) -> None:
        """Have the fronts listen, until a signal comes or no device is left."""
        for front in self._fronts:
            self._listen(front)
        while not all(front.listens for front in self._fronts) and not self._signals:
            self._turn()
        if self._signals:
            return
        listening = where(self._reserved)
        self._log.info(MAIN, f"listening on {listening.url}")
        self._on_ready(listening)
        while not self._signals and any(model.failure is None for model in self._models):
            self._turn()

    def _part(self) -> None:
        """Let conversations end, as long as the signal allows; then end the others."""
        self._parting = True
        self._send_fronts({"drain": True})
        patient = bool(self._signals) and self._signals[0] in PATIENT_SIGNALS
        drain_s = self._plan.settings.drain_s if patient else 0.0
        count = len(self._signals)
        self._wait_for_idle(drain_s, lambda: len(self._signals) > count)
        if self._signals:
            self._log.info(MAIN, "shutting down", signal=Shown(self._signals[0].name))
            self._send_fronts({"end": True})
        self._wait_for_idle(PARTING_S, lambda: False)

    def _send_fronts(self, message: Message) -> None:
        for front in self._fronts:
            front.is_idle = False
            front.child.channel.send(message)

    def _wait_for_idle(self, seconds: float, is_hurried: Callable[[], bool]) -> None:
        until_s = time.monotonic() + seconds
        while (
            time.monotonic() < until_s
            and not all(front.is_idle for front in self._fronts)
            and not is_hurried()
        ):
            self._turn(until_s)

    def _end_children(self) -> None:
        """Ask all children to end, and kill those that do not."""
        self._parting = True
        for process in self._channels():
            process.child.channel.send({"quit": True})
        until_s = time.monotonic() + _QUIT_S
        running = self._channels()
        while running and time.monotonic() < until_s:
            running = [process for process in running if process.child.reap() is None]
            self._take_last_lines()
            time.sleep(0.005)
        for process in running:
            process.child.end()
            _how_it_ended(process.child)
        self._take_last_lines()

    def _take_last_lines(self) -> None:
        for process in self._channels():
            try:
                while (message := process.child.channel.receive()) is not None:
                    if "log" in message:
                        self._log.put(parse_record(message["log"]))
            except (EOFError, OSError):
                continue


def _how_it_ended(child: Child) -> str:
    """Wait for a child that has closed its channel, and return how it ended."""
    until_s = time.monotonic() + 1
    while (how := child.reap()) is None:
        if time.monotonic() > until_s:
            child.end()
        time.sleep(0.002)
    return how
