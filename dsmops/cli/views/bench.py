"""A load test as people read it: a row for each number of streams, and what it means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dsmops.dtypes import Quant
from dsmops.operations.bench import (
    Comparison,
    EngineRow,
    EngineTest,
    Level,
    LoadTest,
    Spread,
    SttFigures,
    TtsFigures,
    Verdict,
    describe_stored,
)
from dsmops.report import Block, Table
from dsmops.units import counted, size

MEANING = {
    "stt": (
        "N streams are N connections. Each sends 80 ms of audio every 80 ms, like N people who"
        " speak at the same time and never pause. Lag is from the moment a frame was due to its"
        " answer."
    ),
    "tts": (
        "N streams are N connections. Each has a text spoken, and the next one when it is over,"
        " like N people who listen all the time. An underrun is a gap in what a listener plays."
    ),
}
"""What "N streams" means, in every report."""


def show_bench(test: LoadTest, comparison: Comparison | None = None) -> Iterator[Block]:
    """Yield what was measured, a row a level, what failed, the knee, and what it all means."""
    yield " · ".join(facts(test))
    if test.levels:
        yield Table(*table(test))
    yield from failures(test)
    yield conclusion(test)
    if comparison is not None:
        yield from show_comparison(comparison, test)
    for note in test.notes:
        yield f"note: {note}"
    yield MEANING[test.kind]


def failures(test: LoadTest) -> list[str]:
    """Return each limit that was not held, in words."""
    return [
        f"{counted(level.streams, 'stream')}: {failure.text}"
        + (" (the client was late itself)" if failure.by_client else "")
        for level in test.levels
        for failure in level.failures
    ]


def facts(test: LoadTest) -> list[str]:
    """Return who measured what, in a few words each."""
    server, client = test.server, test.client
    about = ", ".join(
        filter(
            None,
            (
                server.module_type,
                server.build,
                None if server.slots is None else f"{server.slots} slots",
            ),
        )
    )
    where = "on the server's host" if client.is_same_host else "on another host"
    return [
        f"{server.url}{f' ({about})' if about else ''}",
        f"{counted(client.processes, 'client process', 'client processes')} {where}",
        ", ".join(test.material),
    ]


def table(test: LoadTest) -> tuple[Sequence[str], list[list[str]]]:
    """Return headings and rows."""
    if test.kind == "tts":
        headings = (
            *("streams>", "× real time>", "a stream>", "first audio p50>", "p95 ms>"),
            *("underruns>", "errors>", "step ms>", "jitter p99>", "verdict"),
        )
    else:
        headings = (
            *("streams>", "lag p50>", "p95>", "p99>", "max ms>", "kept>"),
            *("errors>", "step ms>", "jitter p99>", "verdict"),
        )
    return headings, [_row(level) for level in test.levels]


def _row(level: Level) -> list[str]:
    errors = sum(level.errors.values())
    ends = [
        str(errors) if errors else "–",
        _ms(level.server_step_ms, 1),
        _ms(level.jitter_ms.p99 if level.jitter_ms else None, 1),
        level.verdict.value,
    ]
    match level.figures:
        case TtsFigures() as speech:
            first, each = speech.first_audio_ms, speech.speedup_a_stream
            return [
                str(level.streams),
                f"{speech.speedup:.1f}",
                f"{each.p50:.1f}" if each else "–",
                _ms(first.p50 if first else None),
                _ms(first.p95 if first else None),
                str(speech.underruns) if speech.underruns else "–",
                *ends,
            ]
        case SttFigures() as lag:
            kept = "–" if lag.kept_share is None else f"{100 * lag.kept_share:.1f} %"
            return [str(level.streams), *_spread(lag.lag_ms), kept, *ends]


def _spread(spread: Spread | None) -> list[str]:
    if spread is None:
        return ["–"] * 4
    return [f"{value:.0f}" for value in (spread.p50, spread.p95, spread.p99, spread.max)]


def _ms(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def conclusion(test: LoadTest) -> str:
    """Return the answer: how many streams, and what ended the search."""
    last = test.levels[-1] if test.levels else None
    if last is None:
        return "Nothing was measured."
    held = (
        "No number of streams held every limit"
        if test.knee is None
        else f"{counted(test.knee, 'stream')} held every limit"
    )
    failed = [level.streams for level in test.levels if level.verdict is Verdict.FAILED]
    slow = [level for level in test.levels if level.verdict is Verdict.CLIENT_TOO_SLOW]
    if slow:
        return (
            f"{held}. At {slow[-1].streams} the client was too slow, which says nothing about the"
            " server: use more --processes, or another machine."
        )
    if failed and test.knee is not None:
        return f"{held}; {min(failed)} did not. The knee is between them."
    if failed:
        return f"{held}: {min(failed)} failed."
    if test.interrupted:
        return f"{held} before the run was stopped."
    return f"{held}; more were not tried."


def level_line(level: Level) -> str:
    """Return a level in one line, for a run that goes on."""
    match level.figures:
        case TtsFigures() as speech:
            first_ms = _ms(speech.first_audio_ms.p95 if speech.first_audio_ms else None)
            what = f"{speech.speedup:.1f} × real time, first audio p95 {first_ms} ms"
        case SttFigures() as lag:
            what = f"p99 lag {_ms(lag.lag_ms.p99 if lag.lag_ms else None)} ms"
    return f"{counted(level.streams, 'stream')}: {what}, {level.verdict.value}"


def show_comparison(comparison: Comparison, test: LoadTest) -> Iterator[Block]:
    """Yield the differences to an older run."""
    if comparison.changes:
        yield Table(*comparison_table(comparison))
    else:
        yield "No number of streams was measured in both runs."
    if comparison.old_knee != test.knee:
        yield f"Knee: {comparison.old_knee or 'none'} before, {test.knee or 'none'} now."
    for unlike in comparison.unlike:
        yield f"note: the runs differ in {unlike}"


def comparison_table(comparison: Comparison) -> tuple[Sequence[str], list[list[str]]]:
    """Return headings and rows of the differences to an older run."""
    rows = []
    for change in comparison.changes:
        difference = change.difference
        share = difference.share
        says = "too short to tell" if difference.beyond_noise is None else "within noise"
        if change.is_better is not None:
            says = "better" if change.is_better else "worse"
        rows.append(
            [
                str(change.streams),
                change.figure,
                f"{difference.old:.4g}",
                f"{difference.new:.4g}",
                "–" if share is None else f"{100 * share:+.1f} %",
                says,
            ]
        )
    return ("streams>", "figure", "old>", "new>", "change>", "verdict"), rows


def show_engine(test: EngineTest) -> Iterator[Block]:
    """Yield the whole step by variation and streams, the answers, and where the profiles are."""
    yield test.device
    if test.rows:
        yield Table(*engine_table(test))
    yield from engine_answers(test)
    for profile in test.profiles:
        yield f"Step profile for `dsmops plan --runtime embedded --profile`: {profile}"
    if test.interrupted:
        yield "The run was stopped; this is what was measured."


def engine_answers(test: EngineTest) -> Iterator[str]:
    """Yield a sentence for each model in one dtype and way of storing."""
    for rows in variations(test):
        most = max((row.streams for row in rows if row.keeps_up), default=None)
        says = "no number of streams" if most is None else counted(most, "stream")
        yield f"{variation(rows[0])}: {says} measured with p99 within 64 of 80 ms."


def variations(test: EngineTest) -> list[list[EngineRow]]:
    """Return the rows of a test by model, dtype and way of storing."""
    found: dict[object, list[EngineRow]] = {}
    for row in test.rows:
        found.setdefault(row.variation, []).append(row)
    return list(found.values())


def variation(row: EngineRow) -> str:
    """Return what a row measures, without its streams."""
    return f"{row.model} in {row.dtype}{describe_stored(row.weights, row.kv)}"


def engine_line(row: EngineRow) -> str:
    """Return a row in one line, for a run that goes on."""
    return (
        f"{variation(row)}, {counted(row.streams, 'stream')}: "
        f"step p50 {row.step_p50_ms:.2f} ms, p99 {row.step_p99_ms:.2f} ms"
    )


def engine_table(test: EngineTest) -> tuple[Sequence[str], list[list[str]]]:
    """Return headings and rows; the columns of quality only where it was measured."""
    has_quality = any(row.quality is not None for row in test.rows)
    headings = (
        *("model", "dtype", "weights", "KV", "streams>", "step p50>", "p99 ms>"),
        *("× real time>", "first audio ms>", "state>", "device>"),
        *(("logits off>", "same choice>", "WER>") if has_quality else ()),
    )
    rows = [[*_engine_row(row), *(_quality_cells(row) if has_quality else ())] for row in test.rows]
    return headings, rows


def _engine_row(row: EngineRow) -> list[str]:
    return [
        row.model,
        row.dtype,
        row.weights or "as stored",
        row.dtype if row.kv == Quant.NONE else row.kv,
        str(row.streams),
        *(f"{value:.2f}" for value in (row.step_p50_ms, row.step_p99_ms)),
        f"{row.speedup:.1f}",
        _ms(row.first_audio_ms),
        size(row.state_bytes),
        "–" if row.device_bytes is None else size(row.device_bytes),
    ]


def _quality_cells(row: EngineRow) -> list[str]:
    found = row.quality
    figures = (
        (None, None, None)
        if found is None
        else (found.logits_error, found.same_choice_share, found.wer)
    )
    return ["–" if figure is None else f"{figure:.2%}" for figure in figures]
