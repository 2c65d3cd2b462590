"""A report on logs as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence

from dsmops.cli.views.log_report import (
    behind,
    differences,
    failures,
    findings,
    lines_read,
    modules,
    moment,
    runs,
    steps,
    streams,
)
from dsmops.operations.log_report import LogReport, Moment
from dsmops.publish.names import REPORT_NAME
from dsmops.report.charts import Chart, Line
from dsmops.report.page import answer, bullets, details, figures, heading, page, paragraph, table

_GAP = 10
"""Times the length of a moment."""
_MOST_TABLE_ROWS = 60


def html(report: LogReport) -> str:
    """Return the page: the answer, charts, and a table for each question."""
    sections = [
        answer(" ".join(report.capacity)),
        paragraph(f"Logs: {', '.join(report.sources)}. {lines_read(report)}."),
        paragraph(f"Computed from: {'; '.join(report.based_on)}."),
    ]
    drawn = charts(report)
    if drawn:
        sections += [heading("Over time"), figures(drawn)]
    if report.comparison is not None:
        sections += [
            heading("Compared with older logs"),
            paragraph(f"Older logs: {', '.join(report.comparison.old.sources)}."),
            bullets(list(findings(report.comparison))),
            table("What was compared", *differences(report.comparison)),
        ]
    sections += [heading("Streams"), bullets(list(streams(report)))]
    tables = (
        ("Up and down", "Starts of the server", runs(report)),
        ("Steps", "Times by streams with data", steps(report)),
        ("Modules", "Steps and streams by module", modules(report)),
        ("Behind", "Stretches in which the service was behind, the worst first", behind(report)),
        ("Failures", "Known failures", failures(report)),
    )
    for title, caption, (headings, rows) in tables:
        if rows:
            sections += [heading(title), table(caption, headings, rows)]
    if report.failures:
        sections.append(
            bullets(
                [
                    f"{each.name}: {each.fix} See runbooks/{each.runbook}. Line: {each.evidence}"
                    for each in report.failures
                ]
            )
        )
    if report.over_time:
        sections += [
            heading("Figures of the charts"),
            details("Steps and streams over time, as a table", table(*_over_time(report))),
        ]
    if report.unknown:
        sections += [heading("What these logs cannot say"), bullets(report.unknown)]
    return page("Server log report", sections, generator=REPORT_NAME)


def _over_time(report: LogReport) -> tuple[str, Sequence[str], list[list[str]]]:
    """Return caption, headings and rows of what the charts show, for who cannot see them."""
    found = report.over_time
    size = -(-len(found) // _MOST_TABLE_ROWS)
    rows = []
    for start in range(0, len(found), size):
        some = found[start : start + size]
        with_steps = [each for each in some if each.steps]
        rows.append(
            [
                moment(some[0].time),
                str(sum(each.steps for each in some)),
                f"{max(each.p50_ms for each in with_steps):.1f}" if with_steps else "–",
                f"{max(each.max_ms for each in with_steps):.1f}" if with_steps else "–",
                str(max(each.most_streams for each in some)),
                str(max(each.most_open for each in some)),
                str(sum(each.refused for each in some)),
            ]
        )
    headings = (
        *("from", "steps>", "median ms>", "largest ms>"),
        *("with data>", "connected>", "refused>"),
    )
    return "Steps and streams over time, the worst of each stretch", headings, rows


def charts(report: LogReport) -> list[Chart]:
    """Return the charts: step times over time and by streams, and streams over time."""
    found = []
    over_time = [each for each in report.over_time if each.steps]
    if len(over_time) > 1:
        begun = over_time[0].time
        minutes, kept = _with_gaps(over_time)
        since = f"minutes since {moment(begun)}"
        most_ms = max(each.max_ms for each in over_time)
        found.append(
            Chart(
                "Steps over time",
                since,
                "ms",
                [
                    Line("median", minutes, [each.p50_ms if each else None for each in kept]),
                    Line("largest", minutes, [each.max_ms if each else None for each in kept]),
                ],
                f"Median and largest of {minutes[-1]:.1f} minutes; at most {most_ms:.0f} ms.",
                ("a frame, 80 ms", 80.0),
            )
        )
    found += _streams_chart(report)
    by_streams = report.steps_by_streams
    if len(by_streams) > 1:
        xs = [float(each.streams) for each in by_streams]
        found.append(
            Chart(
                "Steps by streams with data",
                "streams with data",
                "ms",
                [
                    Line("p50", xs, [each.times.p50_ms for each in by_streams]),
                    Line("p99", xs, [each.times.p99_ms for each in by_streams]),
                ],
                "; ".join(
                    f"{each.streams} streams: p50 {each.times.p50_ms:.1f} ms, "
                    f"p99 {each.times.p99_ms:.1f} ms"
                    for each in by_streams[:20]
                )
                + ".",
                ("a frame, 80 ms", 80.0),
            )
        )
    return found


def _streams_chart(report: LogReport) -> list[Chart]:
    """Return the chart of streams over time, none where nothing happened over time."""
    over_time = report.over_time
    if len(over_time) < 2:
        return []
    minutes, kept = _with_gaps(over_time)
    series = (
        ("with data", [each.most_streams if each else None for each in kept]),
        ("connected", [each.most_open if each else None for each in kept]),
    )
    lines = [Line(label, minutes, counts) for label, counts in series if any(counts)]
    batch = max((run.batch_size for run in report.runs if run.batch_size), default=None)
    most = max(max(each.most_streams, each.most_open) for each in over_time)
    return [
        Chart(
            "Streams over time",
            f"minutes since {moment(over_time[0].time)}",
            "streams",
            lines,
            f"At most {most} at once"
            + (f" of {batch} slots." if batch else "; the log does not say how many slots."),
            None if batch is None else (f"batch size, {batch}", float(batch)),
        )
    ]


def _with_gaps(moments: Sequence[Moment]) -> tuple[list[float], list[Moment | None]]:
    """Return minutes since the first moment, and the moments.

    None stands where there was no step for a while, so that no line is drawn through it.
    """
    minutes: list[float] = []
    kept: list[Moment | None] = []
    for before, each in zip([None, *moments], moments, strict=False):
        at = (each.time - moments[0].time).total_seconds() / 60
        if before is not None and at - minutes[-1] > _GAP * each.seconds / 60:
            minutes.append(at)
            kept.append(None)
        minutes.append(at)
        kept.append(each)
    return minutes, kept
