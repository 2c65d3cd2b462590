"""The command `worker`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmops.cli import values
from dsmops.cli.help import SERVE
from dsmops.cli.options import (
    ApiKeyOpt,
    DebugOpt,
    JsonOpt,
    KvOpt,
    ListenAddrOpt,
    ListenPortOpt,
    QuietOpt,
    ServerCpuOpt,
    WeightsOpt,
    typed,
)
from dsmops.cli.token_options import (
    JwtAudienceOpt,
    JwtIssuerOpt,
    JwtKeysOpt,
    JwtLeewayOpt,
    JwtSecretOpt,
    token_options,
)
from dsmops.dtypes import Quant, Quantised
from dsmops.report import Reporter

if TYPE_CHECKING:
    from dsmops.operations.speech.serving import Options


def worker(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            readable=False,
            help="Config to serve. Default: the newest in assets/.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            autocompletion=values.models,
            help="Serve this model with a config made for it: tiny, tiny-tts, or a published one.",
        ),
    ] = None,
    api_key: ApiKeyOpt = None,
    jwt_keys: JwtKeysOpt = None,
    jwt_secret: JwtSecretOpt = None,
    jwt_audience: JwtAudienceOpt = None,
    jwt_issuer: JwtIssuerOpt = None,
    jwt_leeway: JwtLeewayOpt = None,
    addr: ListenAddrOpt = "127.0.0.1",
    port: ListenPortOpt = 8080,
    log: Annotated[
        str,
        typer.Option(
            "--log",
            "-l",
            metavar="LEVEL",
            autocompletion=values.server_log_levels,
            help="Log level: off, error, warn, info, debug, trace, or 0 to 5.",
        ),
    ] = "info",
    cpu: ServerCpuOpt = False,
    require_gpu: Annotated[
        bool,
        typer.Option("--require-gpu", help="Stop where no GPU is usable; never use the CPU."),
    ] = False,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices", metavar="LIST", help="Serve on these devices, as in 0,1 or all; or cpu."
        ),
    ] = None,
    weights: WeightsOpt = None,
    kv: KvOpt = Quant.NONE,
    fronts: Annotated[
        int | None,
        typer.Option(
            "--fronts",
            metavar="N",
            min=0,
            max=64,
            help="Use N processes for sockets; 0 is one process for all.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            metavar="ORIGIN",
            help="Let pages of this site in, like https://a.org. Repeatable.",
        ),
    ] = None,
    silent: Annotated[
        bool, typer.Option("--silent", help="Write the log to its file only.")
    ] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Serve a config, or a model by name, in the embedded engine.

    Takes the options and the TOML of `moshi-server worker`. Messages, metrics and log lines are the
    same. It listens once every model is loaded and has made its first steps. On SIGTERM and SIGHUP
    it lets conversations end and exits with 0. With --json one document on stdout says where it
    listens, and the log goes to stderr.

    --model writes a config for this machine into your state folder and prints its path. Its key
    stays the same; --api-key sets another. The tiny model is part of the package and runs on any
    CPU. moshi-server cannot serve it, because that server reads only the published Mimi.

    --jwt-keys and --jwt-secret let callers in with a token of your auth server, beside the keys;
    `dsmops runbook access-by-token` shows how. Set the secret as DSMOPS_JWT_SECRET: arguments can
    be listed.

    \b
    Examples:
      dsmops worker --model tiny
      dsmops worker --config configs/config-stt-en_fr-hf.toml
      dsmops worker --config configs/config-tts.toml --port 8089
      dsmops worker --config my.toml --addr 0.0.0.0 --port 8998 --silent
      dsmops worker --config my.toml --cpu --port 0 --json
      dsmops worker --config my.toml --devices all --fronts 8
      dsmops worker --config my.toml --jwt-keys https://auth.example.org/api/auth/jwks
    """
    from dsmops.operations.configs.prepared import newest_prepared

    prepared = (
        newest_prepared(("BatchedAsr", "Asr", "Py")) if config is None and model is None else None
    )
    if prepared is None and (config is None) is (model is None):
        raise typer.BadParameter(
            "name what to serve: --config FILE or --model NAME",
            param_hint="--config" if config is None else "--model",
        )
    # A key from the environment is for --model; with --config it is not used.
    if typed(ctx, "api_key") and config is not None:
        raise typer.BadParameter(
            "the keys are the config's authorized_ids; omit --api-key", param_hint="--api-key"
        )
    from dsmops.cli.views.config import view_findings
    from dsmops.operations.speech.serving import Options, check_options, open_service, serve

    out = Reporter.open("worker", json=json, quiet=quiet, debug=debug)
    options = Options(
        addr=addr,
        port=port,
        log_level=log,
        cpu=cpu,
        silent=silent or quiet,
        log_to_stderr=json,
        fronts=fronts,
        devices=devices,
        require_gpu=require_gpu,
        allowed_origins=tuple(allow_origin or ()),
        quantised=Quantised(weights, kv),
        tokens=token_options(jwt_keys, jwt_secret, jwt_audience, jwt_issuer, jwt_leeway),
    )
    if cpu and devices is not None:
        raise typer.BadParameter("it excludes --cpu", param_hint="--devices")
    if require_gpu and "cpu" in ("cpu" if cpu else devices or ""):
        raise typer.BadParameter("the CPU was asked for", param_hint="--require-gpu")
    try:
        check_options(options)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--log") from exc
    # A signal before anything is loaded is not a failure either.
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What the caller wants ignored (nohup) stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: sys.exit(0))
    if prepared is not None:
        out.note(f"config: {prepared}, the newest prepared one")
    config = config or prepared or _config_of(model or "", options, api_key, out)
    service = open_service(config, options)
    for line in view_findings(str(config), service.findings):
        out.note(str(line))
    for note in service.notes:
        out.note(f"warning: {note}")
    ended = serve(
        service,
        options,
        lambda listening: out.result(listening, ()),
        progress=out.progress(),
    )
    code = 128 + signal.SIGINT if ended.signal is signal.SIGINT else 0
    if ended.hangs:
        # A thread in a step that never ends would keep the interpreter from exiting.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


def _config_of(model: str, options: Options, api_key: str | None, out: Reporter) -> Path:
    """Return the config that was made for a model, and say where it is."""
    from dsmops.operations.configs.writing import write_model_config

    path = write_model_config(model, cpu=options.cpu, api_key=api_key, quantised=options.quantised)
    out.note(f"config: {path}; clients send the key in its authorized_ids")
    return path


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("worker", rich_help_panel=SERVE)(worker)
