"""`format-log`: raw server logs to lines that people can read and share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsmops.cli import values
from dsmops.cli.help import LOGS
from dsmops.cli.options import DebugOpt, JsonOpt, QuietOpt
from dsmops.report import Reporter

if TYPE_CHECKING:
    from pathlib import Path

    from dsmops.logs import FormatReport

_LEVELS = {
    "trace": "TRACE",
    "debug": "DEBUG",
    "info": "INFO",
    "warn": "WARN",
    "warning": "WARN",
    "error": "ERROR",
}


def parse_level(text: str | None) -> str | None:
    """Return the level that `--level` names, in any case; None where it was not given."""
    if text is None:
        return None
    level = _LEVELS.get(text.lower())
    if level is None:
        raise typer.BadParameter(f"{text!r} is not a level; use trace, debug, info, warn or error")
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
            f"{text!r} is not a time zone; use local, UTC or an IANA name like {', '.join(near)}"
        ) from exc


def format_log(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Log files, plain, gzip or zstd; folders of them; or - for stdin.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|FOLDER",
            help="Where to write; - is stdout; names in .gz and .zst are compressed. A folder for "
            "several inputs. Default: from a folder named raw to the folder above it, else "
            "friendly-<name> beside the input; stdout where INPUT is stdin or a pipe, and with "
            "--follow or --merge.",
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write one log of all inputs, in the order of time.")
    ] = False,
    wrapper: Annotated[
        str,
        typer.Option(
            "--wrapper",
            metavar="NAME",
            autocompletion=values.wrappers,
            help="What a collector put around the lines: auto, none, docker-json, containerd, "
            "kubectl, journald-json, syslog, compose, timestamps.",
        ),
    ] = "auto",
    tz: Annotated[
        str,
        typer.Option(
            "--tz",
            metavar="ZONE",
            help="Zone of times written, and of times read that name none: local, UTC, "
            "Europe/Paris.",
        ),
    ] = "local",
    hours24: Annotated[
        bool, typer.Option("--24h", help="Write 24-hour times, without AM and PM.")
    ] = False,
    no_source: Annotated[bool, typer.Option("--no-source", help="Omit file:line.")] = False,
    strip_raw: Annotated[
        bool,
        typer.Option(
            "--strip-raw", help="Also trim the left of lines without a time, such as causes."
        ),
    ] = False,
    level: Annotated[
        str | None,
        typer.Option(
            "--level",
            metavar="LEVEL",
            autocompletion=values.log_levels,
            help="Keep only events of this level and above: trace, debug, info, warn, error. "
            "Panics, tracebacks and crashes count as error.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="MODULE",
            help="Keep only events of this module or below: moshi_server::utils. Repeatable.",
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
            help="Go on as the log grows, through rotation and into the next day's file, until "
            "Ctrl-C.",
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
            help="Replace keys, tokens, addresses, user names and texts by pseudonyms, keyed with "
            "DSMOPS_REDACTION_KEY or a key file of yours.",
        ),
    ] = True,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Make raw server logs readable and remove secrets.

    Reads every format of the server (colours, plain, JSON lines, icons, formatted before).
    Removes what collectors put around the lines (docker, compose, Kubernetes, journald, syslog).
    Causes and tracebacks stay with their event. Lines of an unknown format are kept. A line
    becomes:

    [2025-11-15 08:39:03.595 AM UTC (+0000)] [INFO] [moshi_server] src/main.rs:475: message

    A summary goes to stderr.

    \b
    Examples:
      dsmops format-log logs/moshi-logs/raw/log.stt.2025-11-15
      dsmops format-log logs/moshi-logs/raw
      dsmops format-log --merge log.stt.2025-11-15 log.tts.2025-11-15 | less
      dsmops format-log log.stt.2025-11-15 -o - --level warn --since -3h
      docker compose logs stt | dsmops format-log - --tz UTC
      dsmops format-log log.stt.2025-11-15 --follow --jsonl
    """
    from dsmops.cli.views.logs import show_format
    from dsmops.errors import DsmopsError
    from dsmops.logs import (
        Clock,
        Filter,
        FormatReports,
        Style,
        can_follow,
        load_or_create_key,
        merge_logs,
        parse_moment,
        plan_output,
    )
    from dsmops.logs import format_log as run

    out = Reporter.open("format-log", json=json, quiet=quiet, debug=debug)
    sources = _sources(inputs)
    several = len(sources) > 1 and not merge
    following = follow and not merge and can_follow(sources[0])
    _check(sources, output, wrapper, follow=follow, several=several)
    targets = [_target(source, output, several=several) for source in sources]
    if several and output not in (None, "-") and len(set(targets)) < len(targets):
        raise typer.BadParameter("two inputs have one name; format their folders one by one")
    places = [] if merge else list(zip(sources, targets, strict=True))
    to_stdout = (merge and output in (None, "-")) or any(
        plan_output(source, place, following=following) is None for source, place in places
    )
    if json and to_stdout:
        raise typer.BadParameter(
            "--json reports on stdout, where the log goes; name a file with -o"
        )
    zone, now = parse_zone(tz), datetime.now(UTC)
    begin, end = (parse_moment(moment, now, zone) if moment else None for moment in (since, until))
    style = Style(
        Clock(zone, hours24=hours24), source=not no_source, strip_raw=strip_raw, jsonl=jsonl
    )
    key = load_or_create_key() if redact else None
    wanted = Filter(parse_level(level), tuple(target or ()), begin, end)
    reports: list[FormatReport] = []
    failed: list[DsmopsError] = []
    with _stop_on_ctrl_c(following) as stop, _end_with_the_reader_of_stdout():
        options: dict[str, Any] = {
            "style": style,
            "key": key,
            "wanted": wanted,
            "wrapper": wrapper,
            "on_note": out.note,
            "progress": out.progress(),
        }
        if merge:
            reports.append(merge_logs(sources, output, **options))
        for source, place in places:
            try:
                report = run(source, place, **options, stop=stop, on_next=_tell_next(out))
                reports.append(report)
            except DsmopsError as exc:  # One bad file does not keep the others.
                failed.append(exc)
    if json and reports:
        out.result(FormatReports(tuple(reports)) if several else reports[0], ())
    for report in reports:
        for line in show_format(report):
            out.note(line)
    for error in failed[1:]:
        out.note(f"also failed: {error.message}")
    if failed:
        raise failed[0]
    if stop and stop.is_set():
        raise typer.Exit(130)


def _check(
    sources: list[str], output: str | None, wrapper: str, *, follow: bool, several: bool
) -> None:
    """Refuse options that do not go together, and a wrapper that does not exist."""
    from dsmops.logs import WRAPPERS

    if wrapper not in ("auto", "none", *WRAPPERS):
        known = ", ".join(("auto", "none", *WRAPPERS))
        raise typer.BadParameter(f"{wrapper!r} is not a wrapper; use {known}")
    if follow and len(sources) > 1:
        raise typer.BadParameter("--follow takes one INPUT")
    if several and output not in (None, "-") and not _is_folder(str(output)):
        raise typer.BadParameter(f"{len(sources)} inputs need a folder for -o, -, or --merge")


def _sources(inputs: list[str]) -> list[str]:
    """Return the logs that inputs name: files as they are, and the logs in folders."""
    from pathlib import Path

    from dsmops.errors import SourceError
    from dsmops.files import os_errors
    from dsmops.logs import logs_in

    found: list[str] = []
    for name in inputs:
        path = Path(name)
        if name == "-" or not path.is_dir():
            found.append(name)
            continue
        with os_errors(path):
            logs = logs_in(path)
        if not logs:
            raise SourceError(
                f"{path} is a folder without logs",
                hint="Logs are named log.* or *.log. Name a file to format it whatever its name.",
                code="logs.empty_folder",
            )
        found += map(str, logs)
    return list(dict.fromkeys(found))


def _tell_next(out: Reporter) -> Callable[[Path], object]:
    return lambda path: out.note(f"{path.name}: a later date, goes on there")


def _is_folder(output: str) -> bool:
    from pathlib import Path

    return output.endswith("/") or Path(output).is_dir()


def _target(source: str, output: str | None, *, several: bool) -> str | None:
    """Return where one of several logs goes: into the folder that `output` names."""
    from pathlib import Path

    if output is None or output == "-" or not several or source == "-":
        return output
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / Path(source).name)


@contextmanager
def _stop_on_ctrl_c(following: bool) -> Iterator[Event | None]:
    """Yield an event that the first Ctrl-C sets, so that what was read is still written.

    A second one ends the process at once.
    """
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
    """End the command with success when the reader of its stdout goes away (`| head`)."""
    try:
        yield
    except BrokenPipeError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from exc


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("format-log", rich_help_panel=LOGS)(format_log)
