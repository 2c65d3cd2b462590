"""`prep-sm75`: the whole way from a card to a checkpoint and a config that fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsmops.cli.config import parse_server_version
from dsmops.cli.options import DebugOpt, DeviceOpt, DryRunOpt, DTypeOpt, JsonOpt, QuietOpt, SimulateOpt
from dsmops.report import Reporter


def prep_sm75(
    hf_repo: Annotated[
        str, typer.Option("--hf-repo", metavar="ORG/REPO[@REV]", help="Repository of the model.")
    ] = "kyutai/stt-1b-en_fr-candle",
    model_file: Annotated[
        str | None, typer.Option("--model-file", metavar="NAME", help="Weights in that repository. Default: the published name.")
    ] = None,
    input_path: Annotated[
        Path | None,
        typer.Option("--input-path", metavar="PATH", help="Local checkpoint instead; tokenizer and Mimi are taken from beside it."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Converted checkpoint. Default: assets/fp16/<repository>.fp16.safetensors."),
    ] = None,
    config_out: Annotated[
        Path | None, typer.Option("--config-out", metavar="FILE", help="Config to write. Default: beside the converted checkpoint, .toml.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option("--template", metavar="FILE", help="Config to start from, for a model that is not a published one.")
    ] = None,
    dtype: DTypeOpt = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", metavar="N", min=1, help="Streams at once. Default: what fits and keeps up, at most the published size."
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", metavar="KEY", envvar="DSMOPS_API_KEY", help="Key that clients send. Default: a new one.")
    ] = None,
    server_version: Annotated[
        str | None, typer.Option("--server-version", metavar="V", help="moshi-server's version, to judge the config by.")
    ] = None,
    device: DeviceOpt = None,
    simulate: SimulateOpt = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Ask the hub for a newer version, convert again, and write the config afresh (the old one is kept as .bak)."
        ),
    ] = False,
    skip_when_undetected: Annotated[
        bool, typer.Option("--skip-when-undetected", help="Without a GPU do nothing and exit 0, instead of exiting 4.")
    ] = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Prepare a pre-Ampere card: detect, download, convert, write a config, lint it.

    Idempotent: what is up to date is left alone, and a config that is already there keeps what you edited. On a card that computes bf16
    nothing is converted. Exit code 1 means that the model does not fit or that the config has errors.

    Differs from the script that this replaces: without a GPU it stops, unless --simulate names a card.

    \b
    Examples:
      dsmops prep-sm75 --dry-run
      dsmops prep-sm75
      dsmops prep-sm75 --simulate t4 --input-path model.safetensors --output out.fp16.safetensors
    """
    from dsmops.cli.views.plan import show_plan
    from dsmops.cli.views.prep import show_preparation
    from dsmops.errors import DriverMissingError
    from dsmops.flows.prepare import PrepareRequest, plan_preparation, prepare, preview

    out = Reporter.open("prep-sm75", json=json, quiet=quiet, debug=debug)
    request = PrepareRequest(
        hf_repo=hf_repo,
        model_file=model_file,
        input_path=input_path,
        output=output,
        config_out=config_out,
        template=template,
        dtype=dtype,
        batch_size=batch_size,
        api_key=api_key,
        simulated=tuple(simulate or ()),
        ordinal=device,
        server_version=parse_server_version(server_version),
        force=force,
    )
    try:
        plan = plan_preparation(request)
    except DriverMissingError as exc:
        if not skip_when_undetected:
            raise
        out.result({"skipped": True, "reason": exc.message}, [f"Nothing done: {exc.message}"])
        return
    if not plan.serving.fits:
        out.result(preview(plan), show_plan(plan.serving))
        raise typer.Exit(1)
    report = preview(plan) if dry_run else prepare(plan, fresh=force, progress=out.progress())
    out.result(report, show_preparation(report))
    if report.lint is not None and report.lint.has_errors:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("prep-sm75")(prep_sm75)
