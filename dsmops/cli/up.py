"""The commands `up`, `down` and `status`: a server in the background."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

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


def up(
    ctx: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            autocompletion=values.models,
            help="Serve this model: tiny, or a published one. Repeatable.",
        ),
    ] = None,
    cpu: ServerCpuOpt = False,
    weights: WeightsOpt = None,
    kv: KvOpt = Quant.NONE,
    addr: ListenAddrOpt = "127.0.0.1",
    port: ListenPortOpt = 8080,
    api_key: ApiKeyOpt = None,
    jwt_keys: JwtKeysOpt = None,
    jwt_secret: JwtSecretOpt = None,
    jwt_audience: JwtAudienceOpt = None,
    jwt_issuer: JwtIssuerOpt = None,
    jwt_leeway: JwtLeewayOpt = None,
    wait: Annotated[
        float,
        typer.Option("--wait", metavar="S", min=1, help="Seconds to wait for the first step."),
    ] = 900.0,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Start a server in the background and say how to use it.

    Detects the card, prepares what is missing as `prep-sm75` does, starts `worker`, and waits until
    the models have made a step. Without --model it serves speech to text, and text to speech beside
    it where the card carries both. The tiny models need no card and no network. A second call shows
    the server that runs. `down` ends it.

    A note says where --weights int8 and --kv int8 let another model fit, or double the streams.

    \b
    Examples:
      dsmops up --model tiny
      dsmops up
      dsmops up --model stt-1b-en_fr --model tts-1.6b-en_fr --port 8998
      dsmops up --model stt-2.6b-en --weights int8 --kv int8
      dsmops up --cpu
    """
    from dsmops.cli.views.up import show_server
    from dsmops.errors import TargetBusyError
    from dsmops.operations.up.control import start
    from dsmops.operations.up.plan import plan_up

    out = Reporter.open("up", json=json, quiet=quiet, debug=debug)
    names = tuple(model or ())
    server = start(
        lambda: plan_up(names, cpu=cpu, quantised=Quantised(weights, kv)),
        addr=addr,
        port=port,
        api_key=api_key,
        cpu=cpu,
        wait_s=wait,
        tokens=token_options(jwt_keys, jwt_secret, jwt_audience, jwt_issuer, jwt_leeway),
        progress=out.progress(),
    )
    served = {one.get("id") for one in server.models}
    others = [name for name in names if served and name not in served]
    differs = [f"does not serve {', '.join(others)}"] if others else []
    if server.url and typed(ctx, "port") and port not in (0, urlsplit(server.url).port):
        differs.append(f"listens on {server.url}, not on port {port}")
    if differs and not server.is_new:
        raise TargetBusyError(
            f"the server that runs {' and '.join(differs)}",
            hint="`dsmops down` ends it; then start another.",
            code="up.running",
        )
    out.result(server, show_server(server, has_key=True))


def down(
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """End the server that `up` has started.

    A server that still starts ends too. Conversations may end by themselves for 8 s. Where no
    server runs nothing is done.

    \b
    Examples:
      dsmops down
    """
    from dsmops.operations.up.control import stop

    out = Reporter.open("down", json=json, quiet=quiet, debug=debug)
    ended = stop()
    text = (
        "no server runs"
        if ended is None
        else f"ended the server at {ended.url} (process {ended.pid})"
        if ended.url
        else f"ended the server that was starting (process {ended.pid})"
    )
    out.result({"ended": ended is not None, "pid": ended.pid if ended else None}, [text])


def status(
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Show the server that `up` has started.

    Exit code 0 means that it is ready, 1 that it is not, or that none runs.

    \b
    Examples:
      dsmops status
      dsmops status --json
    """
    from dsmops.cli.views.up import show_server
    from dsmops.operations.up.control import look

    out = Reporter.open("status", json=json, quiet=quiet, debug=debug)
    server = look()
    # The key is for who starts the server; this may be pasted into a report.
    out.result(server.without_key(), show_server(server, has_key=False))
    if not server.ready:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("up", rich_help_panel=SERVE)(up)
    app.command("down", rich_help_panel=SERVE)(down)
    app.command("status", rich_help_panel=SERVE)(status)
