"""A load test as charts, and as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dsmops.cli.views.bench import (
    MEANING,
    comparison_table,
    conclusion,
    engine_answers,
    engine_table,
    facts,
    failures,
    table,
    variation,
    variations,
)
from dsmops.models import FRAME_MS
from dsmops.operations.bench import (
    Comparison,
    EngineRow,
    EngineTest,
    Level,
    LoadTest,
    Second,
    SttFigures,
    TtsFigures,
)
from dsmops.report.charts import Chart, Line, png_file, svg_file
from dsmops.report.page import answer, bullets, figures, heading, page, pairs, paragraph
from dsmops.report.page import table as page_table

_MOST_LINES = 4
_BY_STREAMS = "streams"


def render(test: LoadTest, comparison: Comparison | None, form: str) -> bytes:
    """Return a file of `form`: `.html`, `.svg` or `.png`."""
    if form == ".svg":
        return svg_file(charts(test))
    if form == ".png":
        return png_file(charts(test))
    return html(test, comparison).encode()


def html(test: LoadTest, comparison: Comparison | None = None) -> str:
    """Return the page."""
    speech = "Text-to-speech" if test.kind == "tts" else "Speech-to-text"
    headings, rows = table(test)
    server, client, material = facts(test)
    sections = [
        answer(conclusion(test)),
        figures(charts(test)),
        heading("Figures"),
        page_table("A row for each number of streams", headings, rows),
    ]
    if said := failures(test):
        sections += [heading("What failed"), bullets(said)]
    if comparison is not None:
        names, changes = comparison_table(comparison)
        sections.append(heading(f"Against {comparison.against}"))
        sections.append(page_table("Differences of medians, second by second", names, changes))
        if comparison.unlike:
            sections.append(bullets([f"The runs differ in {each}" for each in comparison.unlike]))
    sections += [
        heading("What was measured"),
        paragraph(MEANING[test.kind]),
        pairs(
            [
                ("Server", server),
                ("Client", f"{client}, dsmops {test.client.dsmops}"),
                ("Sent", material),
                ("Measured", f"{test.seconds:g} s each, after {test.warm_up_s:g} s of warm-up"),
                ("Begun", test.begun.isoformat(timespec="seconds")),
                ("Limits", limits(test)),
            ]
        ),
    ]
    if test.notes:
        sections.append(bullets(test.notes))
    return page(f"{speech} load test", sections)


def render_engine(test: EngineTest, form: str) -> bytes:
    """Return a file of `form` for a test of an engine: `.html`, `.svg` or `.png`."""
    drawn = engine_charts(test)
    if form == ".svg":
        return svg_file(drawn)
    if form == ".png":
        return png_file(drawn)
    headings, rows = engine_table(test)
    sections = [
        bullets(list(engine_answers(test))) if test.rows else answer("Nothing was measured."),
        figures(drawn),
        heading("Figures"),
        page_table("A row for each way of storing and number of streams", headings, rows),
        heading("What was measured"),
        pairs(
            [
                ("Device", test.device),
                ("Begun", test.begun.isoformat(timespec="seconds")),
                ("dsmops", test.dsmops),
            ]
        ),
        heading("Commands"),
        page_table(
            "What measures a row again",
            ("row", "seed", "command"),
            [
                [
                    f"{variation(row)}, {row.streams}",
                    "–" if row.seed is None else str(row.seed),
                    row.command,
                ]
                for row in test.rows
            ],
        ),
    ]
    return page("Steps of an engine", sections).encode()


def engine_charts(test: EngineTest) -> list[Chart]:
    """Return step time and memory of slots by streams, a line for each way of storing."""
    by_variation = [sorted(rows, key=lambda row: row.streams) for rows in variations(test)]

    def lines(value: Callable[[EngineRow], float | None]) -> list[Line]:
        return [
            Line(variation(rows[0]), [row.streams for row in rows], [value(row) for row in rows])
            for rows in by_variation
        ]

    drawn = [
        _chart(
            "Step by number of streams, p99",
            _BY_STREAMS,
            "ms",
            lines(lambda row: row.step_p99_ms),
            (f"a frame, {FRAME_MS:g} ms", FRAME_MS),
        ),
        _chart(
            "Memory of all streams", _BY_STREAMS, "MiB", lines(lambda row: row.state_bytes / 2**20)
        ),
    ]
    if any(row.first_audio_ms is not None for row in test.rows):
        drawn.append(
            _chart(
                "First audio of all streams",
                _BY_STREAMS,
                "ms",
                lines(lambda row: row.first_audio_ms),
            )
        )
    return drawn


def limits(test: LoadTest) -> str:
    """Return the limits in words."""
    limit = test.limits
    ends = f"at most {limit.errors} errors; client at most {limit.jitter_p99_ms:g} ms late (p99)"
    if test.kind == "tts":
        return (
            f"p95 first audio {limit.first_audio_p95_ms:g} ms, "
            f"at most {limit.underruns} underruns, {ends}"
        )
    return f"p99 lag {limit.lag_p99_ms:g} ms, {limit.kept_share:.1%} of frames answered, {ends}"


def charts(test: LoadTest) -> list[Chart]:
    """Return the charts of a test: by number of streams where there are several, and over time."""
    levels = sorted(test.levels, key=lambda level: level.streams)
    found = []
    if len(levels) > 1:
        found += _tts_by_streams(test, levels) if test.kind == "tts" else _by_streams(test, levels)
    key, title, unit = (
        ("speedup", "Sound over time", "× real time")
        if test.kind == "tts"
        else ("lag_p99_ms", "Lag over time, p99 of each second", "ms")
    )
    # Those around the knee are the ones to look at.
    shown = levels[-_MOST_LINES:]
    lines = [
        Line(
            f"{level.streams} streams",
            [second.second for second in level.series],
            [_value(second, key) for second in level.series],
        )
        for level in shown
    ]
    return [*found, _chart(title, "second", unit, lines)]


def _by_streams(test: LoadTest, levels: Sequence[Level]) -> list[Chart]:
    def lag(name: str) -> Callable[[Level], float | None]:
        def value(level: Level) -> float | None:
            spread = level.figures.lag_ms if isinstance(level.figures, SttFigures) else None
            return None if spread is None else float(getattr(spread, name))

        return value

    limit_ms = test.limits.lag_p99_ms
    lines = [_line(levels, name, lag(name)) for name in ("p50", "p95", "p99")]
    missed = _line(
        levels,
        "not answered",
        lambda level: (
            100 * (1 - level.figures.kept_share)
            if isinstance(level.figures, SttFigures) and level.figures.kept_share is not None
            else None
        ),
    )
    return [
        _chart(
            "Lag by number of streams",
            _BY_STREAMS,
            "ms",
            lines,
            (f"limit {limit_ms:g} ms (p99)", limit_ms),
        ),
        _chart(
            "Frames that were not answered",
            _BY_STREAMS,
            "%",
            [missed],
            (f"limit {1 - test.limits.kept_share:.1%}", 100 * (1 - test.limits.kept_share)),
        ),
    ]


def _tts_by_streams(test: LoadTest, levels: Sequence[Level]) -> list[Chart]:
    def first(name: str) -> Callable[[Level], float | None]:
        def value(level: Level) -> float | None:
            spread = level.figures.first_audio_ms if isinstance(level.figures, TtsFigures) else None
            return None if spread is None else float(getattr(spread, name))

        return value

    in_all = _line(
        levels,
        "in all",
        lambda level: level.figures.speedup if isinstance(level.figures, TtsFigures) else None,
    )
    limit_ms = test.limits.first_audio_p95_ms
    return [
        _chart("Sound of all streams", _BY_STREAMS, "× real time", [in_all]),
        _chart(
            "First audio by number of streams",
            _BY_STREAMS,
            "ms",
            [_line(levels, name, first(name)) for name in ("p50", "p95")],
            (f"limit {limit_ms:g} ms (p95)", limit_ms),
        ),
    ]


def _line(levels: Sequence[Level], label: str, value: Callable[[Level], float | None]) -> Line:
    return Line(label, [level.streams for level in levels], [value(level) for level in levels])


def _value(second: Second, key: str) -> float | None:
    found = getattr(second, key)
    return None if found is None else float(found)


def _chart(
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[Line],
    limit: tuple[str, float] | None = None,
) -> Chart:
    said = []
    for line in lines:
        known = [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if y is not None]
        if known:
            (x, y), (last_x, last_y) = known[0], known[-1]
            most = max(value for _, value in known)
            said.append(
                f"{line.label}: {y:.4g} {y_label} at {x_label} {x:g}, {last_y:.4g} at {last_x:g}, "
                f"at most {most:.4g}"
            )
    if limit is not None:
        said.append(limit[0])
    return Chart(
        title,
        x_label,
        y_label,
        lines,
        "; ".join(said) + "." if said else "No values.",
        limit,
        has_log_x=x_label == _BY_STREAMS,
    )
