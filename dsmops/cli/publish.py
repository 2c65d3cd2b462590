"""`publish-logs` and `pull-logs`: friendly logs to a bucket or a shared folder, once per content, and back."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from dsmops.cli.help import LOGS
from dsmops.cli.options import DebugOpt, DryRunOpt, ForceOpt, JsonOpt, QuietOpt
from dsmops.report import Reporter

BucketOpt = Annotated[
    str,
    typer.Option(
        "--bucket",
        metavar="BUCKET",
        help="Bucket, as NAME or s3://NAME; or a folder, as file:FOLDER.",
    ),
]
PrefixOpt = Annotated[
    str,
    typer.Option(
        "--prefix", metavar="PREFIX", help="Keep everything below this prefix of the bucket."
    ),
]
ProfileOpt = Annotated[
    str | None,
    typer.Option(
        "--profile", metavar="NAME", help="AWS profile. Default: AWS_PROFILE, else `default`."
    ),
]
RegionOpt = Annotated[
    str | None,
    typer.Option("--region", metavar="REGION", help="AWS region. Default: the profile's."),
]
EndpointOpt = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url",
        metavar="URL",
        help="An S3 server that is not AWS. Default: AWS_ENDPOINT_URL.",
    ),
]


def publish_logs(
    bucket: BucketOpt,
    prefix: PrefixOpt = "",
    source: Annotated[
        Path,
        typer.Option("--source", metavar="DIR", readable=False, help="Folder of formatted logs."),
    ] = Path("logs/moshi-logs"),
    include_raw: Annotated[
        bool, typer.Option("--include-raw", help="Also publish what lies in folders named raw.")
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(
            "--include",
            metavar="GLOB",
            help="Also publish files of this name that are no logs (captures hold voices). Repeatable.",
        ),
    ] = None,
    allow_unredacted: Annotated[
        bool,
        typer.Option(
            "--allow-unredacted",
            help="Publish also what still holds keys, addresses or spoken text.",
        ),
    ] = False,
    acl: Annotated[
        str | None,
        typer.Option(
            "--acl", metavar="ACL", help="Canned ACL. Default: none, as AWS buckets want it."
        ),
    ] = None,
    sse: Annotated[
        str | None,
        typer.Option("--sse", metavar="KIND", help="Encryption at rest: AES256 or aws:kms."),
    ] = None,
    sse_kms_key_id: Annotated[
        str | None, typer.Option("--sse-kms-key-id", metavar="KEY", help="Key for --sse aws:kms.")
    ] = None,
    storage_class: Annotated[
        str | None, typer.Option("--storage-class", metavar="CLASS", help="Such as STANDARD_IA.")
    ] = None,
    profile: ProfileOpt = None,
    region: RegionOpt = None,
    endpoint_url: EndpointOpt = None,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Look for objects that no manifest names, check their bytes, name them again.",
        ),
    ] = False,
    force: ForceOpt = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Upload formatted logs to S3 or a shared folder.

    Unchanged and renamed files send nothing. Only names of logs are taken, new content is searched
    for what redaction removes, and a file with a hit stays here (exit code 1). One file that fails
    does not stop the rest (exit code 6).

    \b
    Examples:
      dsmops publish-logs --bucket my-logs --prefix stt/host-1 --dry-run
      dsmops publish-logs --bucket my-logs --prefix stt/host-1
      dsmops publish-logs --bucket my-logs --endpoint-url http://127.0.0.1:9000 --json
      dsmops publish-logs --bucket file:/mnt/share/logs
    """
    from dsmops.cli.views.publish import show_publish
    from dsmops.operations.publishing import PublishRequest, publish_logs
    from dsmops.publish.store import StoreOptions
    from dsmops.publish.stores import join_url

    if sse_kms_key_id and not (sse or "").startswith("aws:kms"):
        raise typer.BadParameter("needs --sse aws:kms", param_hint="--sse-kms-key-id")
    out = Reporter.open("publish-logs", json=json, quiet=quiet, debug=debug)
    request = PublishRequest(
        join_url(bucket, prefix),
        source.expanduser(),
        StoreOptions(profile, region, endpoint_url, acl, sse, sse_kms_key_id, storage_class),
        include_raw=include_raw,
        include=include or (),
        allow_unredacted=allow_unredacted,
        force=force,
        rebuild=rebuild,
        dry_run=dry_run,
    )
    report = publish_logs(request, progress=out.progress())
    out.result(report, show_publish(report))
    raise typer.Exit(report.exit_code)


def pull_logs(
    bucket: BucketOpt,
    prefix: PrefixOpt = "",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", readable=False, help="Bring the logs into this folder."
        ),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Only list what is published.")] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="GLOB", help="Only names that match, such as 'log.*stt*'. Repeatable."
        ),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            help="Only what was written since then, in UTC.",
        ),
    ] = None,
    profile: ProfileOpt = None,
    region: RegionOpt = None,
    endpoint_url: EndpointOpt = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Also bring objects that no manifest names.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace local files of the same name that were never published."
        ),
    ] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Download or list published logs.

    Every byte is compared with its published digest, and what is here already is not fetched again.
    Local files that were never published are kept (exit code 1).

    \b
    Examples:
      dsmops pull-logs --bucket my-logs --prefix stt/host-1 --list
      dsmops pull-logs --bucket my-logs --prefix stt/host-1 --output pulled --since 2025-11-14
      dsmops pull-logs --bucket file:/mnt/share/logs --output pulled --name 'log.*' --json
    """
    from datetime import UTC

    from dsmops.cli.views.publish import show_pull
    from dsmops.operations.publishing import PullRequest, pull_logs
    from dsmops.publish.store import StoreOptions
    from dsmops.publish.stores import join_url

    if (output is None) != list_only:
        raise typer.BadParameter("say either --list or --output DIR", param_hint="--output")
    out = Reporter.open("pull-logs", json=json, quiet=quiet, debug=debug)
    request = PullRequest(
        join_url(bucket, prefix),
        output.expanduser() if output else None,
        StoreOptions(profile, region, endpoint_url),
        names=name or (),
        since=since.replace(tzinfo=UTC) if since else None,
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
