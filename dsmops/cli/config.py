"""Commands about moshi-server configs: `check-config`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmops.cli.options import DebugOpt, DeviceOpt, JsonOpt, QuietOpt, SimulateOpt
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


def parse_server_version(text: str | None) -> ServerVersion | None:
    """Return the version of a `--server-version` option, a usage error for what is none."""
    from dsmops.config.schema import ServerVersion

    try:
        return None if text is None else ServerVersion.parse(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--server-version") from exc


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("check-config")(check_config)
