"""A report on logs as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence

from dsmops.cli.views.log_report import behind, failures, moment, runs, steps, streams
from dsmops.operations.log_report import LogReport, Moment
from dsmops.report.charts import Chart, Line
from dsmops.report.page import answer, bullets, figures, heading, page, paragraph, table

_GAP = 10
"""Times the length of a moment."""


def html(report: LogReport) -> str:
    """Return the page: the answer, charts, and a table for each question."""
    sections = [answer(" ".join(report.capacity)), paragraph(f"Logs: {', '.join(report.sources)}")]
    drawn = charts(report)
    if drawn:
        sections.append(figures(drawn))
    sections += [heading("Streams"), bullets(list(streams(report)))]
    tables = (
        ("Up and down", "Starts of the server", runs(report)),
        ("Steps", "Times by streams with data", steps(report)),
        ("Behind", "Stretches of steps longer than 80 ms, the worst first", behind(report)),
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
    sections += [heading("What these logs cannot say"), bullets(report.unknown)]
    return page("Server log report", sections)


def charts(report: LogReport) -> list[Chart]:
    """Return the charts: step times over time and by streams, and streams over time."""
    found = []
    over_time = report.over_time
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
        most = max(each.most_streams for each in over_time)
        most_streams = [each.most_streams if each else None for each in kept]
        found.append(
            Chart(
                "Streams with data over time",
                since,
                "streams",
                [Line("most at once", minutes, most_streams)],
                f"At most {most} streams had data in one step.",
            )
        )
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
