"""`log-report`: what the logs of a server say about how it did."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmops.cli import values
from dsmops.cli.arguments import FileCommand, require_other_file
from dsmops.cli.help import LOGS
from dsmops.cli.options import DebugOpt, JsonOpt, QuietOpt
from dsmops.cli.publish import EndpointOpt, ProfileOpt, RegionOpt, RequesterPaysOpt
from dsmops.report import Reporter

if TYPE_CHECKING:
    from dsmops.operations.log_report import LogReport

_ENDINGS = (".html", ".json")


def log_report(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="LOG...", help="Logs, folders of them, s3://BUCKET/PREFIX, or - for stdin."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", readable=False, help="Write an .html or .json file."
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", readable=False, help="Write steps and streams over time."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="From this time on; -3h is back from now."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Before this time.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="OLD", help="Compare with these logs. Repeatable."),
    ] = None,
    against_since: Annotated[
        str | None,
        typer.Option("--against-since", metavar="TIME", help="Of OLD, from this time on."),
    ] = None,
    against_until: Annotated[
        str | None,
        typer.Option("--against-until", metavar="TIME", help="Of OLD, before this time."),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="NAME",
            help="Card of the server, such as t4: plan what fits.",
            autocompletion=values.cards,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", readable=False, help="Config of the server: its model."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Model of the server, if not the config's.",
            autocompletion=values.models,
        ),
    ] = None,
    profile: ProfileOpt = None,
    region: RegionOpt = None,
    endpoint_url: EndpointOpt = None,
    requester_pays: RequesterPaysOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Report what logs say: starts, steps, streams, failures.

    Reads raw logs of moshi-server and of `dsmops worker`, compressed or in a collector's wrapper,
    and what `publish-logs` put into a bucket, in one pass and in constant memory. Says whether the
    server kept up, how many streams it had, who was refused, and when it died. Secrets are removed
    from the quoted lines.

    With --gpu or --config it also says how many streams would fit, and what idle slots cost.
    --against puts older logs, or those of another server, beside these and says which differences
    are more than noise. An HTML page needs pip install 'dsmops[plots]'.

    \b
    Examples:
      dsmops log-report logs/moshi-logs/raw
      dsmops log-report log.stt.2025-11-15 -o report.html --csv report.csv
      dsmops log-report log.stt.2025-11-15 --since 08:00 --until 09:00 --json
      dsmops log-report log.stt.2025-11-16 --against log.stt.2025-11-15
      dsmops log-report log.stt.2025-11-15 --gpu t4 --config config-stt.toml
      dsmops log-report s3://my-logs/stt/host-1
    """
    if output is not None and output.suffix.lower() not in _ENDINGS:
        raise typer.BadParameter(f"{output} must end in .html or .json", param_hint="--output")
    if (against_since or against_until) and not against:
        hint = "--against-since" if against_since else "--against-until"
        raise typer.BadParameter("needs --against OLD", param_hint=hint)
    read = {name: Path(name) for name in (*source, *(against or ()))} | {"--config": config}
    require_other_file("--output", output, read)
    require_other_file("--csv", csv, {**read, "--output": output})
    out = Reporter.open("log-report", json=json, quiet=quiet, debug=debug)

    from dsmops.cli.views.log_report import show_log_report
    from dsmops.errors import InputError
    from dsmops.files import replace_atomically
    from dsmops.logs import parse_moment
    from dsmops.operations.log_report import NOTHING, read_logs, with_comparison
    from dsmops.publish.store import StoreOptions

    now = datetime.now(UTC)
    times = [
        parse_moment(text, now, None) if text else None
        for text in (since, until, against_since, against_until)
    ]
    for begin, end, name in (
        (times[0], times[1], "--until"),
        (times[2], times[3], "--against-until"),
    ):
        if begin and end and begin >= end:
            raise InputError(
                f"{name} {end:%Y-%m-%d %H:%M:%SZ} is not after {begin:%Y-%m-%d %H:%M:%SZ}",
                hint="The stretch ends where it begins, or before: name a later time.",
                code="log.no-stretch",
            )
    options = StoreOptions(profile, region, endpoint_url, requester_pays=requester_pays)
    known = NOTHING
    if gpu or config or model:
        from dsmops.operations.log_report.planned import served

        known = served(gpu, config, model)
    is_page = output is not None and output.suffix.lower() == ".html"
    if is_page:
        from dsmops.report.charts import require_charts

        require_charts()

    def read_them(logs: list[str], begin: datetime | None, end: datetime | None) -> LogReport:
        return read_logs(
            logs,
            since=begin,
            until=end,
            options=options,
            known=known,
            on_note=out.note,
            progress=out.progress(),
        )

    with ExitStack() as stack:
        page_file, csv_file = (
            None if target is None else stack.enter_context(replace_atomically(target))
            for target in (output, csv)
        )
        report = read_them(source, times[0], times[1])
        if against:
            report = with_comparison(report, read_them(against, times[2], times[3]))
        if page_file is not None:
            if is_page:
                from dsmops.cli.views.log_report_page import html

                page_file.write(html(report).encode())
            else:
                page_file.write(f"{out.document(report)}\n".encode())
        if csv_file is not None:
            from dsmops.cli.views.log_report_csv import csv_text

            csv_file.write(csv_text(report).encode())
    out.result(report, show_log_report(report))


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("log-report", cls=FileCommand, rich_help_panel=LOGS)(log_report)
