"""`log-report`: what the logs of a server say about how it did."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from dsmops.cli.arguments import FileCommand
from dsmops.cli.help import LOGS
from dsmops.cli.options import DebugOpt, JsonOpt, QuietOpt
from dsmops.report import Reporter


def log_report(
    source: Annotated[
        list[Path],
        typer.Argument(metavar="LOG...", help="Logs, or folders of them.", readable=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", readable=False, help="Write an .html or .json file."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="From this time on; -3h is back from now."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Before this time.")
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Report what logs say: starts, steps, streams, failures.

    Reads raw logs of moshi-server and of `dsmops worker`, compressed or in a collector's wrapper,
    in one pass and in constant memory. Says whether the server kept up, how many streams it had,
    who was refused, and when it died. Secrets are removed from the quoted lines. An HTML page needs
    pip install 'dsmops[plots]'.

    \b
    Examples:
      dsmops log-report logs/moshi-logs/raw
      dsmops log-report log.stt.2025-11-15 -o report.html
      dsmops log-report log.stt.2025-11-15 --since 08:00 --until 09:00 --json
    """
    if output is not None and output.suffix.lower() not in (".html", ".json"):
        raise typer.BadParameter(f"{output} must end in .html or .json", param_hint="--output")
    out = Reporter.open("log-report", json=json, quiet=quiet, debug=debug)
    from contextlib import ExitStack

    from dsmops.cli.views.log_report import show_log_report
    from dsmops.files import replace_atomically
    from dsmops.logs import parse_moment
    from dsmops.operations.log_report import read_logs

    now = datetime.now(UTC)
    begin, end = (parse_moment(text, now, None) if text else None for text in (since, until))
    is_page = output is not None and output.suffix.lower() == ".html"
    if is_page:
        from dsmops.report.charts import require_charts

        require_charts()
    with ExitStack() as stack:
        file = None if output is None else stack.enter_context(replace_atomically(output))
        report = read_logs(
            source, since=begin, until=end, on_note=out.note, progress=out.progress()
        )
        if file is not None:
            if is_page:
                from dsmops.cli.views.log_report_page import html

                file.write(html(report).encode())
            else:
                file.write(f"{out.document(report)}\n".encode())
    out.result(report, show_log_report(report))


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("log-report", cls=FileCommand, rich_help_panel=LOGS)(log_report)
