"""`publish-logs` and `pull-logs`: formatted logs to a bucket or a shared folder, and back."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from dsmops import user_settings
from dsmops.cli import values
from dsmops.cli.help import LOGS
from dsmops.cli.options import DebugOpt, DryRunOpt, ForceOpt, JsonOpt, QuietOpt
from dsmops.report import Reporter

if TYPE_CHECKING:
    from dsmops.publish.store import ChecksumMode

BucketOpt = Annotated[
    str,
    typer.Option(
        "--bucket",
        metavar="BUCKET",
        envvar=user_settings.BUCKET,
        help="Bucket, as NAME or s3://NAME; or a folder, as file:FOLDER.",
    ),
]
PrefixOpt = Annotated[
    str,
    typer.Option(
        "--prefix",
        metavar="PREFIX",
        envvar=user_settings.PREFIX,
        help="Use only keys below this prefix of the bucket.",
    ),
]
ProfileOpt = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        envvar=user_settings.PROFILE,
        help="AWS profile. Default: AWS_PROFILE, else `default`.",
    ),
]
RegionOpt = Annotated[
    str | None,
    typer.Option(
        "--region",
        metavar="REGION",
        envvar=user_settings.REGION,
        help="AWS region. Default: the profile's.",
    ),
]
EndpointOpt = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url",
        metavar="URL",
        envvar=user_settings.ENDPOINT_URL,
        help="S3 server other than AWS. Default: AWS_ENDPOINT_URL.",
    ),
]
RequesterPaysOpt = Annotated[
    bool,
    typer.Option("--requester-pays", help="Pay for requests to a requester-pays bucket."),
]

_DURATION_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_MAX_LINK_S = 7 * 86400
"""A signature of version 4 is valid for at most a week."""


def parse_link_duration(text: str) -> int:
    """Return the seconds of `90m`, `12h` or `7d`; a usage error for anything else."""
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    seconds = int(match[1]) * _DURATION_UNITS_S[match[2]] if match else 0
    if not 0 < seconds <= _MAX_LINK_S:
        raise typer.BadParameter(f"{text!r} is not a duration from 1s to 7d, such as 12h")
    return seconds


def parse_checksum(text: str) -> ChecksumMode:
    """Return the mode that `--checksum` names; a usage error for anything else."""
    from dsmops.publish.store import ChecksumMode

    modes = get_args(ChecksumMode)
    if text not in modes:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(modes)}")
    return cast("ChecksumMode", text)


def publish_logs(
    bucket: BucketOpt,
    prefix: PrefixOpt = "",
    source: Annotated[
        Path,
        typer.Option("--source", metavar="DIR", readable=False, help="Folder of formatted logs."),
    ] = Path("logs/moshi-logs"),
    include_raw: Annotated[
        bool, typer.Option("--include-raw", help="Also publish files in folders named raw.")
    ] = False,
    include_reports: Annotated[
        bool,
        typer.Option("--include-reports", help="Also publish what `log-report` wrote."),
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(
            "--include",
            metavar="GLOB",
            help="Also publish these files, though not logs (captures hold voices). Repeatable.",
        ),
    ] = None,
    allow_unredacted: Annotated[
        bool,
        typer.Option(
            "--allow-unredacted",
            help="Publish files even with keys, addresses or spoken text.",
        ),
    ] = False,
    acl: Annotated[
        str | None,
        typer.Option("--acl", metavar="ACL", help="Canned ACL. Default: none, which AWS expects."),
    ] = None,
    sse: Annotated[
        str | None,
        typer.Option("--sse", metavar="KIND", help="Encryption at rest: AES256 or aws:kms."),
    ] = None,
    sse_kms_key_id: Annotated[
        str | None, typer.Option("--sse-kms-key-id", metavar="KEY", help="Key for --sse aws:kms.")
    ] = None,
    storage_class: Annotated[
        str | None,
        typer.Option(
            "--storage-class", metavar="CLASS", help="Storage class, such as STANDARD_IA."
        ),
    ] = None,
    checksum: Annotated[
        str,
        typer.Option(
            "--checksum",
            metavar="MODE",
            autocompletion=values.checksums,
            help="Checksum for the server: auto, sha256, crc32, md5 or none.",
        ),
    ] = "auto",
    presign: Annotated[
        str | None,
        typer.Option(
            "--presign",
            metavar="DURATION",
            help="Print a link per file that works this long: 12h, at most 7d.",
        ),
    ] = None,
    requester_pays: RequesterPaysOpt = False,
    profile: ProfileOpt = None,
    region: RegionOpt = None,
    endpoint_url: EndpointOpt = None,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Find objects that no manifest names, check them and name them.",
        ),
    ] = False,
    force: ForceOpt = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Upload formatted logs to S3 or a shared folder.

    Each content is sent once: unchanged and renamed files send nothing. Only files with the name of
    a log are published. New content is searched for secrets, and a file with a hit is refused (exit
    code 1). A file that fails does not stop the others (exit code 6).

    The output ends with the `pull-logs` command that gets the logs on another machine.

    \b
    Examples:
      dsmops publish-logs --bucket my-logs --prefix stt/host-1 --dry-run
      dsmops publish-logs --bucket my-logs --prefix stt/host-1
      dsmops publish-logs --bucket my-logs --prefix stt/host-1 --presign 12h
      dsmops publish-logs --bucket my-logs --prefix stt/host-1 --include-reports
      dsmops publish-logs --bucket my-logs --endpoint-url http://127.0.0.1:9000 --json
      dsmops publish-logs --bucket file:/mnt/share/logs
    """
    from dsmops.cli.views.publish import show_publish
    from dsmops.operations.publishing import PublishRequest, publish_logs
    from dsmops.publish.store import StoreOptions
    from dsmops.publish.stores import join_url

    if sse_kms_key_id and not (sse or "").startswith("aws:kms"):
        raise typer.BadParameter("needs --sse aws:kms", param_hint="--sse-kms-key-id")
    mode = parse_checksum(checksum)
    link_valid_s = parse_link_duration(presign) if presign is not None else None
    out = Reporter.open("publish-logs", json=json, quiet=quiet, debug=debug)
    request = PublishRequest(
        join_url(bucket, prefix),
        source.expanduser(),
        StoreOptions(
            profile,
            region,
            endpoint_url,
            acl,
            sse,
            sse_kms_key_id,
            storage_class,
            checksum=mode,
            requester_pays=requester_pays,
        ),
        include_raw=include_raw,
        include_reports=include_reports,
        include=include or (),
        allow_unredacted=allow_unredacted,
        link_valid_s=link_valid_s,
        force=force,
        rebuild=rebuild,
        dry_run=dry_run,
    )
    report = publish_logs(request, on_note=out.note, progress=out.progress())
    out.result(report, show_publish(report))
    raise typer.Exit(report.exit_code)


def pull_logs(
    bucket: BucketOpt,
    prefix: PrefixOpt = "",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", readable=False, help="Write the logs to this folder."
        ),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="List what is published.")] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="GLOB", help="Only names that match, such as 'log.*stt*'. Repeatable."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Only logs written since: '2025-11-15 08:39' (UTC), yesterday, -3h.",
        ),
    ] = None,
    profile: ProfileOpt = None,
    region: RegionOpt = None,
    endpoint_url: EndpointOpt = None,
    requester_pays: RequesterPaysOpt = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Also get objects that no manifest names.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace local files of the same name, even if never published."
        ),
    ] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Download or list published logs.

    Every byte is compared with its published digest. Files that are already here are not downloaded
    again. Local files that were never published are kept (exit code 1).

    \b
    Examples:
      dsmops pull-logs --bucket my-logs --prefix stt/host-1 --list
      dsmops pull-logs --bucket my-logs --prefix stt/host-1 --output pulled --since -2d
      dsmops pull-logs --bucket file:/mnt/share/logs --output pulled --name 'log.*' --json
    """
    from dsmops.cli.views.publish import show_pull
    from dsmops.logs import parse_moment
    from dsmops.operations.publishing import PullRequest, pull_logs
    from dsmops.publish.store import StoreOptions
    from dsmops.publish.stores import join_url

    if (output is None) != list_only:
        raise typer.BadParameter("give either --list or --output DIR", param_hint="--output")
    out = Reporter.open("pull-logs", json=json, quiet=quiet, debug=debug)
    request = PullRequest(
        join_url(bucket, prefix),
        output.expanduser() if output else None,
        StoreOptions(profile, region, endpoint_url, requester_pays=requester_pays),
        names=name or (),
        since=parse_moment(since, datetime.now(UTC), UTC) if since else None,
        force=force,
        rebuild=rebuild,
    )
    report = pull_logs(request, progress=out.progress())
    out.result(report, show_pull(report))
    raise typer.Exit(report.exit_code)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("publish-logs", rich_help_panel=LOGS)(publish_logs)
    app.command("pull-logs", rich_help_panel=LOGS)(pull_logs)
