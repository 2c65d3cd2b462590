"""What is logged and counted of a model loop's work."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dsmops.errors import DsmopsError
from dsmops.worker.runtime.facts import FactsBoard
from dsmops.worker.runtime.stt.loop import SttObserver
from dsmops.worker.runtime.stt.stream import SttStream
from dsmops.worker.runtime.tts.loop import TtsLoop, TtsObserver, TtsStepped, TtsStream
from dsmops.worker.serving.logs import ASR, BATCHED_ASR, PY, Log, Origin, Shown
from dsmops.worker.serving.metrics import Metrics
from dsmops.worker.serving.settings import BATCHED_TYPE, SttSettings, TtsSettings


def stt_observer(
    settings: SttSettings,
    log: Log,
    metrics: Metrics,
    *,
    started: Callable[[], None],
    news: Callable[[Iterable[SttStream]], None],
    died: Callable[[DsmopsError], None],
) -> SttObserver:
    """Return what logs and counts the work of a loop, and passes the rest on."""
    is_batched = settings.module_type == BATCHED_TYPE
    origin = BATCHED_ASR if is_batched else ASR

    def on_started(slots: int) -> None:
        log_engine(log, origin, settings.model_name or settings.name, settings.facts, slots)
        log.info(origin, f"starting asr loop {slots}")
        started()

    def stepped(step_ms: float, step_idx: int, with_data: int) -> None:
        log.info(origin, f"{step_ms:.2f}ms", step_idx=step_idx, with_data=with_data)
        if is_batched:
            metrics.asr.stepped(step_ms / 1000)

    return SttObserver(
        warming_up=lambda: log.info(origin, "warming-up the asr"),
        started=on_started,
        stepped=stepped,
        marker=lambda slot, marker_id: log_marker(log, origin, slot, marker_id),
        news=news,
        died=died,
    )


def log_marker(log: Log, origin: Origin, slot: int, marker_id: int) -> None:
    """Log a marker as it comes."""
    log.info(origin, "received marker", bid=slot, id=marker_id)


def open_tts_loop(
    settings: TtsSettings,
    log: Log,
    metrics: Metrics,
    *,
    started: Callable[[], None],
    news: Callable[[Iterable[TtsStream]], None],
    died: Callable[[DsmopsError], None],
) -> TtsLoop:
    """Return a module's loop, whose work is logged and counted."""

    def on_started(slots: int) -> None:
        log_engine(log, PY, settings.model_name or settings.name, settings.facts, slots)
        log.info(PY, "starting-up the py model loop")
        started()

    def stepped(step: TtsStepped) -> None:
        metrics.py.stepped(step.step_ms / 1000, missing_words=step.starving, could_run=step.ready)

    return TtsLoop(
        settings.name,
        settings.open_engine,
        TtsObserver(
            warming_up=lambda: None, started=on_started, stepped=stepped, news=news, died=died
        ),
        pacing=settings.pacing,
        interleaved_text_only=settings.interleaved_text_only,
    )


def log_engine(log: Log, origin: Origin, model_name: str, board: FactsBoard, slots: int) -> None:
    """Log where the engine of this process computes; loudly where that is not what was wanted."""
    facts = board.own
    if facts is None:
        return
    memory = {} if facts.memory_bytes is None else {"memory_mib": facts.memory_bytes >> 20}
    log.info(
        origin,
        "engine is loaded",
        model=Shown(model_name),
        device=facts.device,
        name=facts.device_name,
        dtype=facts.dtype,
        streams=slots,
        **memory,
        attention="pytorch" if facts.no_kernels or facts.device == "cpu" else "kernels",
    )
    if facts.no_kernels:
        log.warn(
            origin,
            "attention is computed in PyTorch, which is slower and takes more memory for int8",
            reason=facts.no_kernels,
        )
    if facts.fallback:
        log.warn(
            origin,
            "computing on the CPU, which is slow: `dsmops check-gpu` shows what is wrong with the"
            " GPU, --require-gpu refuses to start so, and --cpu says that it is meant",
            reason=facts.fallback,
        )
