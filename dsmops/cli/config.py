"""Commands about moshi-server configs: `make-config` and `check-config`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmops.cli.options import DebugOpt, DeviceOpt, DryRunOpt, DTypeOpt, JsonOpt, QuietOpt, SimulateOpt
from dsmops.report import Reporter

if TYPE_CHECKING:
    from dsmops.config.schema import ServerVersion


def check_config(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="moshi-server TOML files.")],
    server_version: Annotated[
        str | None, typer.Option("--server-version", metavar="V", help="Judge for this moshi-server release, for example 0.6.4.")
    ] = None,
    device: DeviceOpt = None,
    simulate: SimulateOpt = None,
    addr: Annotated[str | None, typer.Option("--addr", metavar="IP", help="Judge exposure for this --addr of the server.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings fail the check as well.")] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Say what moshi-server will make of a TOML: mistakes, ignored keys, missing files, exposure.

    Knows every key of the server and looks into the files that are on this machine; it downloads nothing. Dtype and memory are
    judged for a device when one is named with --device or --simulate. Exits 1 on errors, with --strict on warnings too.

    \b
    Examples:
      dsmops check-config configs/config-stt-en_fr-hf.toml
      dsmops check-config --simulate t4 --server-version 0.6.4 my.toml
      dsmops check-config --addr 0.0.0.0 --strict *.toml
    """
    from dsmops.cli.views.config import show_config_check
    from dsmops.flows.check import check_files
    from dsmops.flows.serving import find_device

    out = Reporter.open("check-config", json=json, quiet=quiet, debug=debug)
    version = parse_server_version(server_version)
    judged_for = find_device(simulate, device) if simulate or device is not None else None
    check = check_files(files, device=judged_for, server_version=version, addr=addr)
    out.result(check, show_config_check(check))
    if not check.is_clean(strict=strict):
        raise typer.Exit(1)


def make_config(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; - for stdout.")] = "-",
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Published model. Default: stt-1b-en_fr, or the template's own.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option("--template", metavar="FILE", help="Config to start from. Default: the ready one of the model.")
    ] = None,
    lm_model_file: Annotated[
        str | None, typer.Option("--lm-model-file", metavar="PATH", help="Checkpoint to serve: a path, or hf://org/repo/file.")
    ] = None,
    dtype: DTypeOpt = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", metavar="N", min=1, help="Streams at once. Default: what fits and keeps up, at most the published size."
        ),
    ] = None,
    context: Annotated[int | None, typer.Option("--context", metavar="N", min=1, help="Attention window in frames of 80 ms.")] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", metavar="KEY", envvar="DSMOPS_API_KEY", help="Key that clients send. Default: a new one.")
    ] = None,
    server_version: Annotated[
        str | None, typer.Option("--server-version", metavar="V", help="moshi-server's version, to judge the config by.")
    ] = None,
    addr: Annotated[str | None, typer.Option("--addr", metavar="IP", help="Judge exposure for this --addr of the server.")] = None,
    device: DeviceOpt = None,
    simulate: SimulateOpt = None,
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings fail the command as well.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace another config that is there already.")] = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Render a moshi-server TOML for a card.

    Takes the template's comments and order, and sets dtype_override, batch_size and an API key as the card and the plan ask for. A card is
    not needed when --dtype and --batch-size are both given. Exits 1 when the result has lint errors, with --strict on warnings too; it
    is not written then.

    \b
    Examples:
      dsmops make-config --simulate t4
      dsmops make-config -o my.toml --lm-model-file assets/fp16/stt-1b-en_fr-candle.fp16.safetensors
      dsmops make-config --model stt-2.6b-en --dtype f16 --batch-size 8 -o my.toml
    """
    from dsmops.cli.views.config import show_made_config, view_findings
    from dsmops.flows.make import ConfigRequest, make_config, write_config
    from dsmops.flows.serving import find_device

    out = Reporter.open("make-config", json=json, quiet=quiet, debug=debug)
    version = parse_server_version(server_version)
    needs_device = simulate or device is not None or dtype is None or batch_size is None
    request = ConfigRequest(model, template, lm_model_file, dtype, batch_size, context, api_key, version, addr)
    target = None if output == "-" else Path(output)
    made = make_config(request, find_device(simulate, device) if needs_device else None, target=target)
    clean = made.lint.is_clean(strict=strict)
    written = clean and not dry_run and target is not None and write_config(made, target, force=force)
    document = {"path": target, "written": written, "text": made.text if target is None else None, "plan": made.plan, "lint": made.lint}
    out.result(document, show_made_config(made, target, written=written, dry_run=dry_run))
    if target is None:
        for line in view_findings("<stdout>", made.lint.findings):
            out.note(str(line))
    if not clean:
        raise typer.Exit(1)


def parse_server_version(text: str | None) -> ServerVersion | None:
    """Return the version of a `--server-version` option, a usage error for what is none."""
    from dsmops.config.schema import ServerVersion

    try:
        return None if text is None else ServerVersion.parse(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--server-version") from exc


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("make-config")(make_config)
    app.command("check-config")(check_config)
