"""A load test: levels of more and more streams, until a limit fails."""

from __future__ import annotations

import os
import resource
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from dsmops import __version__
from dsmops.client.address import STT_PATH, TTS_PATH, websocket_url
from dsmops.client.load.pool import LoadJob, Pool, Report, stt_frames
from dsmops.client.load.tts import utterance
from dsmops.client.tts import count_words
from dsmops.errors import ResourceError, TransferError
from dsmops.operations.bench.levels import Levels
from dsmops.operations.bench.limits import GRACE_S, Limits, judge
from dsmops.operations.bench.material import Recordings, Texts
from dsmops.operations.bench.result import (
    ClientDescription,
    Figures,
    Level,
    LoadTest,
    Second,
    ServerDescription,
    SttFigures,
    TtsFigures,
    Verdict,
)
from dsmops.operations.bench.server import Server, is_this_host
from dsmops.operations.bench.statistics import Spread, percentile
from dsmops.operations.speech.incomplete import Incomplete
from dsmops.progress import SILENT, Progress
from dsmops.protocol import TtsFormat

STREAMS_A_PROCESS = 100
"""Fewer streams than a core carries: a process with time to spare measures better."""
_ONE_TEXT_S = 600.0
"""Longest wait for the last text where each stream says one."""
_SPARE_FILES = 64
_SURPLUS_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What to measure. `material` are recordings for speech-to-text, else texts.

    With `seconds` 0 each text-to-speech stream says one text. `processes` None: as many as the
    streams need, at most half of the cores.
    """

    url: str
    levels: Levels
    material: Recordings | Texts
    limits: Limits = field(default_factory=Limits)
    api_key: str | None = None
    voice: str | None = None
    seconds: float = 20.0
    warm_up_s: float = 3.0
    processes: int | None = None


def run_load_test(
    request: LoadRequest,
    *,
    progress: Progress = SILENT,
    on_level: Callable[[Level], None] = lambda _: None,
) -> tuple[LoadTest, int | None]:
    """Run the levels; `on_level` is called after each. Return what was found.

    Ctrl-C and SIGTERM end the run: what was measured is in the result, which says `interrupted`,
    and beside it is the exit code, None for a run that was not. If the server stops answering, the
    result says why it is incomplete.

    Raises:
        InputError: the address or the material cannot be used.
        CredentialsError, TransferError: the server refused, cannot be reached, or does not work.
        ResourceError: this machine allows too few open connections.
    """
    return _Run(request, progress, on_level).run()


class _Run:
    def __init__(
        self, request: LoadRequest, progress: Progress, on_level: Callable[[Level], None]
    ) -> None:
        self._request, self._progress, self._on_level = request, progress, on_level
        self._is_tts = isinstance(request.material, Texts)
        self._kind = "tts" if self._is_tts else "stt"
        self._url = websocket_url(request.url, TTS_PATH if self._is_tts else STT_PATH)
        self._server = Server(self._url, self._kind, request.api_key)
        self._once = self._is_tts and request.seconds == 0
        most = max(request.levels.listed)
        wanted = -(-most // STREAMS_A_PROCESS)
        most_processes = max(1, (os.cpu_count() or 1) // 2)
        self._processes = min(request.processes or min(wanted, most_processes), most)
        _require_files(most // self._processes)
        self._levels: list[Level] = []
        self._incomplete: Incomplete | None = None
        self._exit_code: int | None = None
        self._word_delay_ms: float | None = None
        self._notes: list[str] = []

    def run(self) -> tuple[LoadTest, int | None]:
        request = self._request
        job = self._job()
        begun = datetime.now(UTC)
        server = self._server.describe()
        if server.slots is not None and server.slots < max(request.levels.listed):
            free = server.slots - (server.slots_used_before or 0)
            self._notes.append(
                f"the module has {server.slots} slots, {free} of them free: more are refused"
            )
        try:
            with Pool(job, self._processes) as pool:
                while (streams := request.levels.next(self._held())) is not None:
                    self._measure(pool, streams, server)
                    if self._exit_code is not None or self._incomplete or self._client_was_slow():
                        break
        except (KeyboardInterrupt, SystemExit) as exc:
            self._note_interrupt(exc)
        finally:
            self._progress.finish()
        return self._result(begun, server), self._exit_code

    def _note_interrupt(self, exc: BaseException) -> None:
        code = exc.code if isinstance(exc, SystemExit) else None
        self._exit_code = code if isinstance(code, int) else 130

    def _job(self) -> LoadJob:
        """Check the server with one stream, and return what to send."""
        request = self._request
        if isinstance(request.material, Texts):
            self._server.check_tts(request.voice)
            texts = [utterance(text, count_words(text)) for text in request.material.texts]
            query = {
                "format": TtsFormat.PCM_MESSAGE_PACK.value,
                **({"voice": request.voice} if request.voice is not None else {}),
            }
            return LoadJob(self._url, request.api_key, texts=texts, query=query)
        blocks = request.material.blocks
        if not self._server.check_stt(blocks):
            self._notes.append(
                "the model sends no Step: lag is that of words, above the least lag of all"
            )
        return LoadJob(self._url, request.api_key, frames=stt_frames(blocks))

    def _held(self) -> dict[int, bool]:
        return {level.streams: level.verdict is Verdict.HELD for level in self._levels}

    def _client_was_slow(self) -> bool:
        return bool(self._levels) and self._levels[-1].verdict is Verdict.CLIENT_TOO_SLOW

    def _measure(self, pool: Pool, streams: int, server: ServerDescription) -> None:
        request = self._request
        seconds = _ONE_TEXT_S if self._once else request.seconds
        self._progress.start(
            f"{streams} streams",
            None if self._once else round(seconds + request.warm_up_s + GRACE_S),
            "seconds",
        )
        opened, errors = pool.open(streams, once=self._once)
        before = self._server.step_times()
        report = pool.measure(
            0.0 if self._is_tts else request.warm_up_s,
            seconds,
            0.0 if self._is_tts else GRACE_S,
            on_second=lambda: self._progress.advance(1),
        )
        steps = self._server.step_times().since(before)
        pool.close()
        self._progress.finish()
        if self._is_tts:
            # A stream that did not open counts, although it said nothing later.
            report.errors.update(errors)
        figures, series = self._figures(report)
        level = Level(
            streams,
            opened,
            round(report.most("last_audio_s") if self._once else report.seconds, 3),
            Verdict.HELD,
            (),
            figures,
            dict(report.errors.most_common()),
            Spread.of(report.arrays.get("jitter_ms", ())),
            round(max(report.cpu_shares), 3),
            None if steps is None else round(steps.mean_ms, 2),
            series,
        )
        verdict, failures = judge(level, request.limits)
        if pool.interrupt is not None:
            self._note_interrupt(pool.interrupt)
            verdict = Verdict.CUT
        level = replace(level, verdict=verdict, failures=failures)
        if isinstance(figures, SttFigures) and figures.surplus_steps > (
            _SURPLUS_SHARE * max(1, figures.frames_answered)
        ):
            self._notes.append(
                "the server sends each stream the steps of all: lag and kept share are too good"
            )
        self._levels.append(level)
        self._on_level(level)
        if pool.interrupt is not None:
            return
        if verdict is Verdict.FAILED and level.errors and not self._server.is_there():
            error = TransferError(
                f"{self._url} stopped answering at {streams} streams",
                hint="Look at the server's log; `dsmops doctor --log FILE` knows its last words.",
                code="server.ended",
            )
            self._incomplete = Incomplete.because(error)
            return
        self._server.await_free(server.slots_used_before)

    def _figures(self, report: Report) -> tuple[Figures, tuple[Second, ...]]:
        arrays = report.arrays
        if self._is_tts:
            return _tts_figures(report), _tts_series(report)
        due, lag = arrays["due_s"], arrays["lag_ms"]
        waiting_due, waiting = arrays["waiting_due_s"], arrays["waiting_ms"]
        answered, total = len(lag), len(lag) + len(waiting)
        lag_of: str | None = "step"
        if not lag and arrays["word_lag_ms"]:
            # The model's own delay is not the server's lag. The least of all stands for it.
            lag_of = "word"
            least_ms = min(arrays["word_lag_ms"])
            self._word_delay_ms = min(self._word_delay_ms or least_ms, least_ms)
            lag = array("f", (value - self._word_delay_ms for value in arrays["word_lag_ms"]))
            due, waiting_due, waiting = arrays["word_due_s"], array("f"), array("f")
        spread = Spread.of([*lag, *waiting])
        is_by_step = lag_of == "step"
        figures = SttFigures(
            spread,
            lag_of if spread is not None else None,
            total,
            answered if is_by_step else 0,
            round(answered / total, 5) if total and is_by_step else None,
            int(report.total("surplus_steps")),
        )
        return figures, _stt_series(due, lag, waiting_due, waiting, with_kept=is_by_step)

    def _result(self, begun: datetime, server: ServerDescription) -> LoadTest:
        request = self._request
        held = [level.streams for level in self._levels if level.verdict is Verdict.HELD]
        knee = max(held, default=None)
        return LoadTest(
            self._kind,
            server,
            ClientDescription(
                self._processes, os.cpu_count() or 1, is_this_host(self._url), __version__
            ),
            begun,
            request.material.names,
            request.seconds,
            request.warm_up_s,
            request.limits,
            tuple(self._levels),
            knee,
            any(level.verdict is Verdict.FAILED for level in self._levels),
            self._exit_code is not None,
            self._incomplete,
            tuple(dict.fromkeys(self._notes)),
        )


def _stt_series(
    due: Sequence[float],
    lag: Sequence[float],
    waiting_due: Sequence[float],
    waiting: Sequence[float],
    *,
    with_kept: bool,
) -> tuple[Second, ...]:
    seconds: dict[int, list[float]] = {}
    answered: Counter[int] = Counter(map(int, due))
    for at_s, value in (*zip(due, lag, strict=True), *zip(waiting_due, waiting, strict=True)):
        seconds.setdefault(int(at_s), []).append(value)
    found = []
    for second, values in sorted(seconds.items()):
        values.sort()
        kept = round(answered[second] / len(values), 5) if with_kept else None
        p50, p99 = (round(percentile(values, percent), 3) for percent in (50, 99))
        found.append(Second(second, p50, p99, kept))
    return tuple(found)


def _tts_figures(report: Report) -> TtsFigures:
    arrays = report.arrays
    speedups, gaps = arrays["speedup"], arrays["gap_ms"]
    last_s = report.most("last_audio_s")
    # Where texts end within the window, the time after the last sound is idle.
    span_s = min(report.seconds, last_s) if last_s else report.seconds
    audio_s = sum(arrays["audio_s"])
    return TtsFigures(
        Spread.of([*arrays["first_audio_ms"], *arrays["waiting_ms"]]),
        int(report.total("begun")),
        len(speedups),
        round(audio_s / span_s, 2) if span_s else 0.0,
        Spread.of(speedups),
        round(min(speedups), 3) if speedups else None,
        len(gaps),
        int(report.total("with_underruns")),
        round(max(gaps), 1) if gaps else None,
    )


def _tts_series(report: Report) -> tuple[Second, ...]:
    firsts: dict[int, list[float]] = {}
    for at_s, value in zip(report.arrays["due_s"], report.arrays["first_audio_ms"], strict=True):
        firsts.setdefault(int(at_s), []).append(value)
    made: dict[int, float] = {}
    for at_s, seconds in zip(report.arrays["audio_due_s"], report.arrays["audio_s"], strict=True):
        made[int(at_s)] = made.get(int(at_s), 0.0) + seconds
    return tuple(
        Second(
            second,
            first_audio_p50_ms=round(percentile(sorted(firsts[second]), 50), 3)
            if second in firsts
            else None,
            speedup=round(made.get(second, 0.0), 3),
        )
        for second in range(max([*firsts, *made], default=-1) + 1)
    )


def _require_files(streams_a_process: int) -> None:
    """Raise ResourceError where a process may not open that many connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = streams_a_process + _SPARE_FILES
    if hard not in (-1, resource.RLIM_INFINITY) and need > hard:
        raise ResourceError(
            f"a process may open {hard:,} files here, and {need:,} are needed",
            hint="Use more --processes, or raise the limit: `ulimit -Hn`.",
            code="client.files",
        )
