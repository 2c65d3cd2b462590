"""`format-log`: raw server logs to lines that people can read and share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from threading import Event
from typing import Annotated

import typer

from dsmops.cli.help import LOGS
from dsmops.cli.options import DebugOpt, JsonOpt, QuietOpt
from dsmops.report import Reporter

_LEVELS = {
    "trace": "TRACE",
    "debug": "DEBUG",
    "info": "INFO",
    "warn": "WARN",
    "warning": "WARN",
    "error": "ERROR",
}


def parse_level(text: str) -> str:
    """Return the level that `--level` names, in any case."""
    level = _LEVELS.get(text.lower())
    if level is None:
        raise typer.BadParameter(f"{text!r} is no level; use trace, debug, info, warn or error")
    return level


def parse_zone(text: str) -> tzinfo | None:
    """Return the time zone that `--tz` names: None for `local`, else UTC or an IANA name."""
    from difflib import get_close_matches
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

    if text.lower() == "local":
        return None
    if text.lower() in ("utc", "z"):
        return UTC
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        near = get_close_matches(text, available_timezones(), n=3, cutoff=0.4) or ["Europe/Paris"]
        raise typer.BadParameter(
            f"{text!r} is no time zone; use local, UTC or an IANA name like {', '.join(near)}"
        ) from exc


def format_log(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="Log file, plain, gzip or zstd; or - for stdin.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write; - is stdout; names in .gz and .zst are compressed. Default: from a folder named raw to the folder "
            "above it, else friendly-<name> beside the input; stdout where INPUT is stdin or a pipe, and with --follow.",
        ),
    ] = None,
    tz: Annotated[
        str,
        typer.Option(
            "--tz",
            metavar="ZONE",
            help="Zone of stamps written, and of stamps read that name none: local, UTC, Europe/Paris.",
        ),
    ] = "local",
    hours24: Annotated[
        bool, typer.Option("--24h", help="Write 24-hour times, without AM and PM.")
    ] = False,
    no_source: Annotated[bool, typer.Option("--no-source", help="Leave out file:line.")] = False,
    strip_raw: Annotated[
        bool,
        typer.Option(
            "--strip-raw",
            help="Also trim the left of lines without a stamp, causes and tracebacks included.",
        ),
    ] = False,
    level: Annotated[
        str | None,
        typer.Option(
            "--level",
            metavar="LEVEL",
            help="Only events of this level and above: trace, debug, info, warn, error.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="MODULE",
            help="Only events of this module or below: moshi_server::utils. Repeatable.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="From this time on: '2025-11-15 08:39', 08:39 (today), yesterday, or -3h.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Before this time.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            "-f",
            help="Go on as the log grows, through rotation and into the next day's file, until Ctrl-C.",
        ),
    ] = False,
    jsonl: Annotated[
        bool,
        typer.Option(
            "--jsonl", help="Write one JSON object per event, its continuation lines included."
        ),
    ] = False,
    redact: Annotated[
        bool,
        typer.Option(
            "--redact/--no-redact",
            help="Replace keys, tokens, addresses, user names and texts by pseudonyms keyed with DSMOPS_REDACTION_KEY or a key of yours.",
        ),
    ] = True,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Make a raw server log readable and remove secrets.

    Reads every dialect (colours, plain, JSON lines, icons, docker compose, formatted before), mixed
    in one file, and writes [2025-11-15 08:39:03.595 AM UTC (+0000)] [INFO] [moshi_server]
    src/main.rs:475: message. Causes and tracebacks stay with their event, and lines of no dialect
    are kept. What was seen is told on stderr.

    \b
    Examples:
      dsmops format-log logs/moshi-logs/raw/log.stt.2025-11-15
      dsmops format-log log.stt.2025-11-15 -o - --level warn --since -3h
      docker compose logs stt | dsmops format-log - --tz UTC
      dsmops format-log log.stt.2025-11-15 --follow --jsonl
    """
    from dsmops.cli.views.logs import show_format
    from dsmops.logs import (
        Clock,
        Filter,
        Style,
        can_follow,
        load_or_create_key,
        parse_moment,
        plan_output,
    )
    from dsmops.logs import format_log as run

    out = Reporter.open("format-log", json=json, quiet=quiet, debug=debug)
    following = follow and can_follow(source)
    if json and plan_output(source, output, following=following) is None:
        raise typer.BadParameter(
            "--json reports on stdout, where the log goes; name a file with -o"
        )
    zone, now = parse_zone(tz), datetime.now(UTC)
    begin, end = (parse_moment(moment, now, zone) if moment else None for moment in (since, until))
    with _stop_on_ctrl_c(following) as stop, _end_with_the_reader_of_stdout():
        report = run(
            source,
            output,
            style=Style(
                Clock(zone, hours24=hours24), source=not no_source, strip_raw=strip_raw, jsonl=jsonl
            ),
            key=load_or_create_key() if redact else None,
            wanted=Filter(parse_level(level) if level else None, tuple(target or ()), begin, end),
            stop=stop,
            on_next=lambda path: out.note(f"{path.name}: a later date, goes on there"),
            progress=out.progress(),
        )
    if json:
        out.result(report, ())
    for line in show_format(report):
        out.note(line)
    if stop and stop.is_set():
        raise typer.Exit(130)


@contextmanager
def _stop_on_ctrl_c(following: bool) -> Iterator[Event | None]:
    """Yield an event that the first Ctrl-C sets, so that what was read is still written. A second one ends the process at once."""
    if not following:
        yield None
        return
    stop = Event()

    def on_interrupt(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _end_with_the_reader_of_stdout() -> Iterator[None]:
    """End the command, quietly and well, when whoever reads its stdout has seen enough (`| head`)."""
    try:
        yield
    except BrokenPipeError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from exc


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("format-log", rich_help_panel=LOGS)(format_log)
