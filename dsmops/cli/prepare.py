"""`prep-sm75`: the whole way from a card to a checkpoint and a config that fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsmops.cli.help import PREPARE
from dsmops.cli.options import (
    ApiKeyOpt,
    BatchSizeOpt,
    DebugOpt,
    DeviceOpt,
    DryRunOpt,
    DTypeOpt,
    JsonOpt,
    KvOpt,
    QuietOpt,
    ServerVersionOpt,
    SimulateOpt,
    TemplateOpt,
    WeightsOpt,
    parse_server_version,
)
from dsmops.dtypes import Quant, Quantised
from dsmops.models import DEFAULT_STT
from dsmops.report import Reporter


def prep_sm75(
    hf_repo: Annotated[
        str, typer.Option("--hf-repo", metavar="ORG/REPO[@REV]", help="Repository of the model.")
    ] = DEFAULT_STT.hf_repo,
    model_file: Annotated[
        str | None,
        typer.Option(
            "--model-file",
            metavar="NAME",
            help="Weights in that repository. Default: the published name.",
        ),
    ] = None,
    input_path: Annotated[
        str | None,
        typer.Option(
            "--input-path",
            metavar="PATH",
            help=(
                "Local checkpoint (or hf:// file) instead; tokenizer and Mimi are taken from"
                " beside it."
            ),
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            readable=False,
            help="Converted checkpoint. Default: assets/fp16/<repository>.fp16.safetensors.",
        ),
    ] = None,
    config_out: Annotated[
        Path | None,
        typer.Option(
            "--config-out",
            metavar="FILE",
            readable=False,
            help="Config to write. Default: beside the converted checkpoint, .toml.",
        ),
    ] = None,
    template: TemplateOpt = None,
    dtype: DTypeOpt = None,
    weights: WeightsOpt = None,
    kv: KvOpt = Quant.NONE,
    batch_size: BatchSizeOpt = None,
    api_key: ApiKeyOpt = None,
    server_version: ServerVersionOpt = None,
    device: DeviceOpt = None,
    simulate: SimulateOpt = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help=(
                "Ask the hub for a newer version, convert again, and write the config afresh (the"
                " old one is kept as .bak)."
            ),
        ),
    ] = False,
    skip_when_undetected: Annotated[
        bool,
        typer.Option(
            "--skip-when-undetected",
            help=(
                "On a machine without a GPU do nothing and exit 0, instead of exiting 4. A GPU that"
                " does not work still exits 4."
            ),
        ),
    ] = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Prepare a model and a config for a GPU in one command.

    Run it again at any time: it does only what is missing, and an existing config keeps your edits.
    On a card that computes bf16 nothing is converted. Without a GPU it stops, unless --simulate
    names a card. Exit code 1 means that the model does not fit or that the config has errors.
    --dry-run also works without the hub, from the published facts.

    --weights int8 and --kv int8 plan the config for `dsmops worker`, which then takes the same
    options: moshi-server knows neither. They are proposed where they let a model fit or double the
    streams.

    A text-to-speech model is prepared for `dsmops worker`: moshi-server's Python module computes
    only in bf16. Its config.json, tokenizer and Mimi are taken from beside its weights.

    \b
    Examples:
      dsmops prep-sm75 --dry-run
      dsmops prep-sm75
      dsmops prep-sm75 --hf-repo kyutai/tts-1.6b-en_fr
      dsmops prep-sm75 --hf-repo kyutai/stt-2.6b-en --weights int8 --kv int8
      dsmops prep-sm75 --simulate t4 --input-path model.safetensors --output out.fp16.safetensors
    """
    from dsmops.cli.views.plan import show_plan
    from dsmops.cli.views.preparation import show_preparation
    from dsmops.errors import DriverMissingError, SourceError, TransferError
    from dsmops.operations.prepare import (
        PrepareOutcome,
        PrepareRequest,
        is_published,
        means_no_card,
        plan_preparation,
        prepare,
        preview,
        preview_published,
    )

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
        quantised=Quantised(weights, kv),
    )
    try:
        plan = plan_preparation(request)
    except DriverMissingError as exc:
        if not (skip_when_undetected and means_no_card(exc)):
            raise
        out.result(
            {"outcome": PrepareOutcome.SKIPPED, "reason": exc.message},
            [f"Nothing done: {exc.message}"],
        )
        return
    except (SourceError, TransferError) as exc:
        is_unreached = isinstance(exc, TransferError) or exc.code == "hub.offline"
        if not (dry_run and is_unreached and is_published(request)):
            raise
        report = preview_published(request, exc)
    else:
        acting = plan.fits and not dry_run
        report = prepare(plan, progress=out.progress()) if acting else preview(plan)
    fits = report.serving.fits
    out.result(report, show_preparation(report) if fits else show_plan(report.serving))
    if not fits or (report.lint is not None and report.lint.has_errors):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("prep-sm75", rich_help_panel=PREPARE)(prep_sm75)
