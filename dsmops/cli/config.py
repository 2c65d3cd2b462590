"""Commands about moshi-server configs: `make-config` and `check-config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsmops.cli import values
from dsmops.cli.help import CHECK, PREPARE
from dsmops.cli.options import (
    ApiKeyOpt,
    BatchSizeOpt,
    CheckedAddrOpt,
    ContextOpt,
    DebugOpt,
    DeviceOpt,
    DryRunOpt,
    DTypeOpt,
    JsonOpt,
    KvOpt,
    QuietOpt,
    ServerVersionOpt,
    SimulateOpt,
    StrictOpt,
    TemplateOpt,
    WeightsOpt,
    parse_server_version,
)
from dsmops.dtypes import Quant, Quantised
from dsmops.models import DEFAULT_STT
from dsmops.report import Reporter


def check_config(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", readable=False, help="moshi-server TOML files."),
    ],
    server_version: ServerVersionOpt = None,
    device: DeviceOpt = None,
    simulate: SimulateOpt = None,
    weights: WeightsOpt = None,
    kv: KvOpt = Quant.NONE,
    addr: CheckedAddrOpt = None,
    strict: StrictOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Check a moshi-server config for mistakes.

    Knows every key of the server, and reads the files that are on this machine. Downloads nothing.
    Dtype and memory are judged only for a device that --device or --simulate names. With --weights
    int8 or --kv int8 they are judged for `dsmops worker` with the same options: moshi-server knows
    neither. Exits 1 on errors, with --strict also on warnings.

    \b
    Examples:
      dsmops check-config configs/config-stt-en_fr-hf.toml
      dsmops check-config --simulate t4 --server-version 0.6.4 my.toml
      dsmops check-config --simulate rtx2070 --weights int8 --kv int8 my.toml
      dsmops check-config --addr 0.0.0.0 --strict *.toml
    """
    from dsmops.cli.views.config import show_config_check
    from dsmops.operations.configs.checking import check_files
    from dsmops.operations.configs.planning import find_device

    out = Reporter.open("check-config", json=json, quiet=quiet, debug=debug)
    version = parse_server_version(server_version)
    judged_for = find_device(simulate, device) if simulate or device is not None else None
    check = check_files(
        files,
        device=judged_for,
        server_version=version,
        addr=addr,
        quantised=Quantised(weights, kv),
    )
    out.result(check, show_config_check(check))
    if not check.is_clean(strict=strict):
        raise typer.Exit(1)


def make_config(
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; - for stdout.")
    ] = "-",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            autocompletion=values.models,
            help=f"Published model. Default: {DEFAULT_STT.name}. Not together with --template.",
        ),
    ] = None,
    template: TemplateOpt = None,
    lm_model_file: Annotated[
        str | None,
        typer.Option(
            "--lm-model-file",
            metavar="PATH",
            help="Checkpoint to serve: a path, or hf://org/repo/file.",
        ),
    ] = None,
    dtype: DTypeOpt = None,
    weights: WeightsOpt = None,
    kv: KvOpt = Quant.NONE,
    batch_size: BatchSizeOpt = None,
    context: ContextOpt = None,
    api_key: ApiKeyOpt = None,
    server_version: ServerVersionOpt = None,
    addr: CheckedAddrOpt = None,
    device: DeviceOpt = None,
    simulate: SimulateOpt = None,
    strict: StrictOpt = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another config that is there already.")
    ] = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Write a moshi-server config for a GPU.

    Keeps the template's comments and order. Sets dtype_override, batch_size and an API key for the
    card. A config for text-to-speech has no dtype. Where moshi-server's Python module cannot
    compute, the config is planned for `dsmops worker`. With --dtype and --batch-size, and for the
    models tiny and tiny-tts of the package, no card is needed.

    --weights int8 and --kv int8 plan it for `dsmops worker` with the same options: moshi-server
    knows neither.

    Exits 1 when the result has lint errors, with --strict also on warnings. The result is then
    printed, but not written to a file.

    \b
    Examples:
      dsmops make-config --simulate t4
      dsmops make-config -o my.toml --lm-model-file assets/fp16/stt-1b-en_fr-candle.fp16.safetensors
      dsmops make-config --model stt-2.6b-en --dtype f16 --batch-size 8 -o my.toml
      dsmops make-config --model tts-1.6b-en_fr --simulate t4
      dsmops make-config --model stt-2.6b-en --simulate rtx2070 --weights int8 --kv int8
      dsmops make-config --model tiny -o tiny.toml
    """
    from dsmops.cli.views.config import show_made_config, view_findings
    from dsmops.operations.configs import writing as make
    from dsmops.operations.configs.planning import find_device

    target = None if output == "-" else Path(output)
    if quiet and target is None and not json:
        raise typer.BadParameter(
            "the config itself would not be printed; name a file with --output",
            param_hint="--quiet",
        )
    out = Reporter.open("make-config", json=json, quiet=quiet, debug=debug)
    version = parse_server_version(server_version)
    request = make.ConfigRequest(
        model,
        template,
        lm_model_file,
        dtype,
        batch_size,
        context,
        api_key,
        version,
        addr,
        Quantised(weights, kv),
    )
    needs_device = simulate or device is not None or make.needs_card(request)
    made = make.make_config(
        request, find_device(simulate, device) if needs_device else None, target=target
    )
    outcome = make.place_config(made, target, strict=strict, dry_run=dry_run, force=force)
    document = {
        "outcome": outcome,
        "path": target,
        "text": None if target else made.text,
        "plan": made.plan,
        "lint": made.lint,
    }
    if target is not None:
        out.result(document, show_made_config(made, target, outcome))
    elif json:
        out.result(document, ())
    else:
        out.file(made.text)
        for line in view_findings("<stdout>", made.lint.findings):
            out.note(str(line))
    if not made.lint.is_clean(strict=strict):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("make-config", rich_help_panel=PREPARE)(make_config)
    app.command("check-config", rich_help_panel=CHECK)(check_config)
