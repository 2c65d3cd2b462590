"""A report on logs as people read it on a terminal: the answer first, one screen in all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from dsmops.operations.log_report import Comparison, Difference, LogReport, Moment, Times
from dsmops.report import Block, Table, one_line
from dsmops.units import counted, duration

_MOST_ROWS = 8
_BARS = " ▁▂▃▄▅▆▇█"
_BAR_COLUMNS = 60


def show_log_report(report: LogReport) -> Iterator[Block]:
    """Yield the answer, runs, steps, streams, stretches behind, failures, and what is unknown."""
    yield from report.capacity
    yield f"computed from: {'; '.join(report.based_on)}"
    yield lines_read(report)
    yield ""
    headings, rows = runs(report)
    if rows:
        # On 80 columns there is no room for the one name.
        first = 0 if len(report.sources) > 1 else 1
        yield Table(headings[first:], [row[first:] for row in rows[-_MOST_ROWS:]])
    if report.steps is not None:
        yield Table(*steps(report))
        if sum(each.steps > 0 for each in report.over_time) > 1:
            yield f"steps over time, median: {bars(report.over_time)}"
    yield from streams(report)
    if len(report.modules) > 1:
        yield Table(*modules(report))
    if report.behind:
        headings, rows = behind(report)
        yield Table(headings, rows[:_MOST_ROWS])
    if report.failures:
        headings, rows = failures(report)
        yield Table(headings[:-1], [row[:-1] for row in rows])
        for failure in report.failures:
            told = f"{failure.meaning}. {failure.fix}"
            yield f"{failure.name}: {told} See runbooks/{failure.runbook}."
    if report.comparison is not None:
        yield Table(*differences(report.comparison))
        yield from findings(report.comparison)
    for unknown in report.unknown:
        yield f"unknown: {unknown}"


def lines_read(report: LogReport) -> str:
    """Return how much was read, and how much of it was of no known format."""
    return (
        f"{counted(report.lines, 'line')} of {counted(len(report.sources), 'log')} read,"
        f" {report.lines_text:,} of no known format"
    )


def modules(report: LogReport) -> tuple[Sequence[str], list[list[str]]]:
    """Return headings and rows of the modules, each with its steps and streams."""
    headings = (
        *("module", "batch>", "steps>", "p50>", "p99 ms>", "over 80 ms>"),
        *("asked for>", "refused>", "silent>", "posts>"),
    )
    rows = []
    for each in report.modules:
        times = each.steps
        counts = each.streams or each.tts
        shown = (
            ["–"] * 4
            if times is None
            else [
                f"{times.count:,}",
                f"{times.p50_ms:.1f}",
                f"{times.p99_ms:.1f}",
                f"{times.over_share:.1%}",
            ]
        )
        numbers = (
            (counts.asked, counts.refused, counts.dropped_silent, counts.posts) if counts else ()
        )
        batch = "–" if each.batch_size is None else str(each.batch_size)
        rows.append([each.name, batch, *shown, *(f"{number:,}" for number in numbers)])
    return headings, rows


def runs(report: LogReport) -> tuple[Sequence[str], list[list[str]]]:
    """Return headings and rows of the starts of servers."""
    return ("log", "started", "model ready after>", "batch>", "last line", "end"), [
        [
            run.source,
            moment(run.started),
            "–" if run.start_s is None else duration(run.start_s),
            "–" if run.batch_size is None else str(run.batch_size),
            moment(run.last_line),
            f"died: {run.died_of}" if run.died_of else "",
        ]
        for run in report.runs
    ]


def steps(report: LogReport) -> tuple[Sequence[str], list[list[str]]]:
    """Return headings and rows of step times, by streams with data; of many, those in between."""
    rows = []
    if report.steps is not None:
        rows.append(["all", *_times(report.steps)])
    found = report.steps_by_streams
    stride = -(-len(found) // _MOST_ROWS) or 1
    for place, each in enumerate(found):
        if place % stride == 0 or place == len(found) - 1:
            rows.append([str(each.streams), *_times(each.times)])
    return ("streams with data>", "steps>", "p50>", "p95>", "p99>", "max ms>", "over 80 ms>"), rows


def _times(times: Times) -> list[str]:
    return [
        f"{times.count:,}",
        *(f"{ms:.1f}" for ms in (times.p50_ms, times.p95_ms, times.p99_ms, times.max_ms)),
        f"{times.over_share:.1%}",
    ]


def streams(report: LogReport) -> Iterator[str]:
    """Yield what streams there were, in words."""
    found, tts = report.streams, report.tts
    if found.asked or found.posts or found.opened:
        at_once = f"at most {found.most_with_data} with data at once"
        if found.most_open:
            at_once += f" and {found.most_open} connected"
        yield (
            f"speech-to-text: {counted(found.asked, 'stream')} asked for, {found.opened} slots"
            f" given, {found.refused} refused as full, {found.dropped_silent} dropped for silence,"
            f" {counted(found.posts, 'post')}; {at_once}{_lengths(found.lengths_ms)}"
        )
    if tts.asked or tts.posts or tts.opened:
        first = "" if tts.first_audio_ms is None else _first_audio(tts.first_audio_ms)
        yield (
            f"text-to-speech: {counted(tts.asked, 'stream')} asked for, {tts.opened} slots given,"
            f" {tts.refused} refused as full, {tts.dropped_silent} dropped for silence,"
            f" {counted(tts.posts, 'post')}, {tts.finished} texts finished; at most"
            f" {tts.most_open} at once{_lengths(tts.texts_ms)}{first}"
        )
    if found.wrong_keys or tts.wrong_keys:
        yield f"wrong keys: {counted(found.wrong_keys + tts.wrong_keys, 'request')} refused"
    if not (found.asked or found.posts or found.opened or tts.asked or tts.posts or tts.opened):
        yield "no streams"


def _lengths(times: Times | None) -> str:
    if times is None:
        return ""
    median, longest = (duration(ms / 1000) for ms in (times.p50_ms, times.max_ms))
    return f"; {median} each (median), {longest} the longest"


def _first_audio(times: Times) -> str:
    return f"; first sound after {times.p50_ms:.0f} ms (median), {times.p95_ms:.0f} ms (p95)"


def behind(report: LogReport) -> tuple[Sequence[str], list[list[str]]]:
    """Return headings and rows of the stretches in which steps took longer than their frames."""
    return ("behind since", "until", "steps>", "audio behind>", "streams>"), [
        [
            moment(each.since),
            moment(each.until),
            str(each.steps),
            duration(each.audio_s),
            str(each.most_streams),
        ]
        for each in report.behind
    ]


def failures(report: LogReport) -> tuple[Sequence[str], list[list[str]]]:
    """Return headings and rows of the known failures."""
    return ("failure", "severity", "count>", "first", "last", "meaning"), [
        [
            each.name,
            each.severity.value,
            str(each.count),
            moment(each.first),
            moment(each.last),
            each.meaning,
        ]
        for each in report.failures
    ]


def differences(found: Comparison) -> tuple[Sequence[str], list[list[str]]]:
    """Return headings and rows of what was compared."""
    return ("compared", "old>", "new>", "unit", "p>", "verdict"), [
        [
            each.measure,
            _figure(each.old),
            _figure(each.new),
            each.unit,
            "–" if each.p is None else f"{each.p:.2g}",
            _difference_verdict(each),
        ]
        for each in found.differences
    ]


def _difference_verdict(found: Difference) -> str:
    if found.p is None:
        return "not tested"
    return "differs" if found.is_real else "within noise"


def findings(found: Comparison) -> Iterator[str]:
    """Yield, in words, the differences that are more than noise, and by which test."""
    real = [each for each in found.differences if each.is_real]
    for each in real:
        yield (
            f"more than noise: {each.measure} was {_figure(each.old)}, is {_figure(each.new)}"
            f" {each.unit} ({each.test}, p = {each.p:.2g})"
        )
    tested = [each for each in found.differences if each.p is not None]
    if tested and not real:
        yield f"no difference that was tested is more than noise ({len(tested)} were)"
    for each in found.differences:
        if each.p is None and each.key.is_step_time and each.new and each.old:
            yield (
                f"too little for a test: {each.measure} was {_figure(each.old)}, is"
                f" {_figure(each.new)} {each.unit}"
            )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}".removesuffix(".0")


def bars(moments: Sequence[Moment]) -> str:
    """Return the median step over time as small bars, scaled to the largest, with its value."""
    moments = [each for each in moments if each.steps]
    size = -(-len(moments) // _BAR_COLUMNS)
    values = [
        max(each.p50_ms for each in moments[start : start + size])
        for start in range(0, len(moments), size)
    ]
    most = max(values) or 1.0
    drawn = "".join(_BARS[max(1, round(value / most * (len(_BARS) - 1)))] for value in values)
    return f"{drawn} (largest {most:.0f} ms)"


def moment(at: datetime | None) -> str:
    """Return a time in UTC, to the second."""
    return "–" if at is None else one_line(at.strftime("%Y-%m-%d %H:%M:%SZ"))
