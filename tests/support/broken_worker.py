"""The real worker with one broken part: `python broken_worker.py FAULT --config FILE ...`.

The faults are those of real servers: most of them are what moshi-server does on cards, or with
clients, that it cannot cope with.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from aiohttp import web
from torch import Tensor

from dsmops.cli.main import main
from dsmops.protocol import SttAnswer
from dsmops.worker.models import stt as stt_models
from dsmops.worker.models.backbone import Layer
from dsmops.worker.models.stt_lm import SttLm
from dsmops.worker.runtime.loop import Started
from dsmops.worker.runtime.stt.engine import Alignment, SttEngine
from dsmops.worker.runtime.stt.loop import SttLoop
from dsmops.worker.runtime.stt.stream import SttEvent, SttMarkerReached, SttStepped
from dsmops.worker.runtime.tts import engine as tts_engine
from dsmops.worker.runtime.tts.loop import TtsEnded
from dsmops.worker.serving import module, stt_connection
from dsmops.worker.serving.access import Access
from dsmops.worker.serving.desk import Desk, LocalLender, Turn
from dsmops.worker.serving.server import Server
from dsmops.worker.serving.tts_connection import TtsConnection, TtsWire

DEAD = (
    "2026-01-02T03:04:05.000006Z ERROR moshi_server::utils: src/utils.rs:188: "
    'task failed name="model_loop" err=DriverError(CUDA_ERROR_NOT_FOUND)\n'
)


def patch(owner: object, name: str, value: object) -> None:
    """Put `value` where the worker has something that works."""
    assert hasattr(owner, name)
    setattr(owner, name, value)


def dead_loop() -> None:
    """The model loop dies in its warm-up; the server listens and never sends `Ready`."""

    def run(self: SttLoop) -> None:
        self.slots = 4
        self.observer.started(4)
        print(DEAD, end="", flush=True)

    patch(SttLoop, "_run", run)


def loop_dies_later() -> None:
    """`Ready` comes, and the first frame kills the loop, which the server does not notice."""

    def step_for_ever(self: SttLoop, engine: Any, pcm: Any, lanes: Any) -> None:
        while (turn := self._await(self._next)) is not None:
            begun, opened, stepping = turn
            if len(stepping):
                return
            lanes.seen[begun] = opened
            self._on_news(begun)

    patch(SttLoop, "_step_for_ever", step_for_ever)


def swallow(kind: type[SttEvent]) -> Callable[[], None]:
    """Messages of one kind never leave the server."""

    def without() -> None:
        whole = stt_connection.stt_answer

        def answer(event: SttEvent, rules: stt_connection.SttRules) -> SttAnswer | None:
            return None if isinstance(event, kind) else whole(event, rules)

        patch(stt_connection, "stt_answer", answer)

    return without


def leaked_slot() -> None:
    """Slots of clients that leave are never free again."""
    patch(SttLoop, "close", lambda self, stream: None)
    patch(LocalLender, "give_back", lambda self, place: None)


def lies_about_slots() -> None:
    """They are lost, and /api/modules_info says that all are free."""
    leaked_slot()
    patch(module.LoopModule, "used_slots", property(lambda self: 0))


def ignores_sigterm() -> None:
    patch(Server, "stop", lambda self, by=None: None)


def dies_of_sigterm() -> None:
    def at_once(self: Server, by: object = None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    patch(Server, "stop", at_once)


def open_door() -> None:
    """Every key is as good as another."""
    patch(Access, "require", lambda self, request, *, query: None)


def slow() -> None:
    """Steps take longer than their frames."""
    whole = SttEngine.step

    def step(self: SttEngine, *args: Any, **more: Any) -> Any:
        output = whole(self, *args, **more)
        time.sleep(0.09)
        return replace(output, step_ms=output.step_ms + 90)

    patch(SttEngine, "step", step)


def no_goodbye() -> None:
    """Neither a Close frame nor a client too many is ever answered."""
    init = web.WebSocketResponse.__init__

    def stubborn(self: web.WebSocketResponse, *args: Any, **more: Any) -> None:
        init(self, *args, **more, autoclose=False)

    async def never(*args: Any) -> None:
        await asyncio.sleep(3600)

    patch(web.WebSocketResponse, "__init__", stubborn)
    patch(module, "close_socket", never)


def too_generous() -> None:
    """A client too many is taken in, and told nothing."""
    whole = Desk.lend

    def lend(self: Desk, turn: Turn) -> Any:
        while (place := whole(self, turn)) is None and self._held:
            self._held.popitem()
        return place

    patch(Desk, "lend", lend)


def leaves_a_child() -> None:
    """Something that the server started outlives it."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])


def crashes_at_marker() -> None:
    """The process ends in the middle of a conversation."""
    whole = stt_connection.stt_answer
    patch(
        stt_connection,
        "stt_answer",
        lambda event, rules: (
            os._exit(7) if isinstance(event, SttMarkerReached) else whole(event, rules)
        ),
    )


def never_listens() -> None:
    print("loading", flush=True)
    time.sleep(300)


def ends_at_once() -> None:
    print("Error: tokenizer.model", flush=True)
    sys.exit(1)


def speech_becomes(change: Callable[[Any], Any], pause_s: float = 0.0) -> Callable[[], None]:
    """Sound is not what the model made."""

    def changed() -> None:
        launched_step = tts_engine._LaunchedStep
        whole = launched_step.wait

        def wait(self: Any) -> Any:
            if self._output is None:
                output = whole(self)
                time.sleep(pause_s)
                self._output = replace(
                    output, pcm=change(output.pcm), step_ms=output.step_ms + pause_s * 1000
                )
            return self._output

        patch(launched_step, "wait", wait)

    return changed


def loads_wrongly(change: Callable[[SttLm], None]) -> Callable[[], None]:
    """The weights in memory are not those of the file, as after a wrong conversion."""

    def changed() -> None:
        whole = stt_models.load_lm

        def load_lm(*args: Any, **more: Any) -> SttLm:
            lm = whole(*args, **more)
            with torch.no_grad():
                change(lm)
            return lm

        patch(stt_models, "load_lm", load_lm)

    return changed


def swap_heads(lm: SttLm) -> None:
    """Exchange the queries of two heads in every layer, as a wrong order of packed matrices
    does.
    """
    width = lm.shape.d_model // lm.shape.num_heads
    for layer in cast("list[Layer]", list(lm.layers)):
        packed = cast("Tensor", layer.self_attn.in_proj_weight)
        packed[: 2 * width] = packed[: 2 * width].roll(width, 0).clone()


def leave_out_a_layer(lm: SttLm) -> None:
    """Let the third layer add nothing."""
    third = cast("list[Layer]", list(lm.layers))[2]
    third.self_attn.out_proj.weight.zero_()
    third.gating.linear_out.weight.zero_()


def takes_frames_early() -> None:
    """Each step takes the frame of the next one."""
    whole = SttEngine.__init__

    def early(self: SttEngine, *args: Any, **more: Any) -> None:
        whole(self, *args, **more, alignment=Alignment.LMGEN)

    patch(SttEngine, "__init__", early)


def swallows_words() -> None:
    """The first word of a text is never told."""
    whole = TtsWire.word
    patch(TtsWire, "word", lambda self, word: None if word.text == "The" else whole(self, word))


def never_ends() -> None:
    """All is said, and the stream stays open."""
    whole = TtsConnection._messages_of

    def messages(self: TtsConnection, event: Any) -> Any:
        return () if isinstance(event, TtsEnded) else whole(self, event)

    patch(TtsConnection, "_messages_of", messages)


FAULTS: dict[str, Callable[[], None]] = {
    "dead-loop": dead_loop,
    "loop-dies-later": loop_dies_later,
    "no-ready": swallow(Started),
    "no-step": swallow(SttStepped),
    "no-marker": swallow(SttMarkerReached),
    "leaked-slot": leaked_slot,
    "lies-about-slots": lies_about_slots,
    "ignores-sigterm": ignores_sigterm,
    "dies-of-sigterm": dies_of_sigterm,
    "open-door": open_door,
    "slow": slow,
    "no-goodbye": no_goodbye,
    "too-generous": too_generous,
    "leaves-a-child": leaves_a_child,
    "crashes-at-marker": crashes_at_marker,
    "never-listens": never_listens,
    "ends-at-once": ends_at_once,
    "mute": speech_becomes(lambda pcm: pcm * 0),
    "shouting": speech_becomes(lambda pcm: pcm * 1000),
    "speaks-slowly": speech_becomes(lambda pcm: pcm, pause_s=0.1),
    "swallows-words": swallows_words,
    "never-ends": never_ends,
    "swaps-heads": loads_wrongly(swap_heads),
    "leaves-out-a-layer": loads_wrongly(leave_out_a_layer),
    "takes-frames-early": takes_frames_early,
}

if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    sys.argv[1] = "worker"
    # One process, so that each fault is in the one that is patched.
    sys.argv += ["--fronts", "0"]
    main()
