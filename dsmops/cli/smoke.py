"""The command that says whether a server works: `smoke-test`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from dsmops.cli.help import CHECK
from dsmops.cli.options import DebugOpt, JsonOpt, QuietOpt, check_api_key
from dsmops.report import Reporter

_CONFIG = Path("configs", "config-stt-en_fr-lowram-sm75.toml")


def smoke_test(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            readable=False,
            help=f"Config of the server to start. Default: {_CONFIG}.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            metavar="NAME",
            help="embedded (the default) or moshi-server, which takes --moshi-bin.",
        ),
    ] = None,
    moshi_bin: Annotated[
        str | None,
        typer.Option(
            "--moshi-bin",
            metavar="PATH",
            help="Start this binary instead of the embedded worker: a path, or a name on PATH.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="Test a server that is running already, for example ws://127.0.0.1:8080.",
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            envvar="DSMOPS_API_KEY",
            callback=check_api_key,
            help="Default: the config's first.",
        ),
    ] = None,
    intrusive: Annotated[
        bool,
        typer.Option(
            "--intrusive",
            help="With --url: also take all free slots, and vanish from some, which other clients notice.",
        ),
    ] = False,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate-success",
            help="Try the whole path without GPU or network: a tiny model is generated, prepared for a simulated T4, served, tested.",
        ),
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            metavar="DIR",
            readable=False,
            help="With --simulate-success: work here, and keep the files. Default: a temporary folder.",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="S",
            min=5,
            max=86400,
            help="Seconds for the whole test; ending the server may add 12.",
        ),
    ] = 180.0,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            "-p",
            metavar="N",
            min=1,
            max=65535,
            help="Port of the server to start. Default: a free one.",
        ),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Start the server with --cpu.")] = False,
    audio: Annotated[
        Path | None,
        typer.Option(
            "--audio",
            metavar="FILE",
            readable=False,
            help="Recording to send, which must bring words. Default: a built-in sound.",
        ),
    ] = None,
    extra_arg: Annotated[
        list[str] | None,
        typer.Option(
            "--extra-arg",
            metavar="ARG",
            help="Further argument for the server's command line. Repeatable.",
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit", metavar="FILE", readable=False, help="Write the checks as JUnit XML as well."
        ),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Test whether a speech server works.

    A live port is not a live server: checked are the config, the start, Ready, frames in and
    answers out, a clip in real time, step times, refused keys, full and lost slots, memory,
    shutdown and the log. A check that cannot run says why. Exit code 1 means that one failed. The
    server's output stays in logs/moshi-logs/raw/.

    Differs from the script that this replaces: --timeout is for the whole test, not for how long
    the server must stay alive, and
    --simulate-success does the work.

    \b
    Examples:
      dsmops smoke-test --simulate-success
      dsmops smoke-test --config assets/fp16/stt-1b-en_fr-candle.fp16.toml
      dsmops smoke-test --config my.toml --moshi-bin ~/.cargo/bin/moshi-server --junit smoke.xml
      dsmops smoke-test --url ws://10.0.0.5:8080 --api-key KEY
    """
    ways = {"--config": config, "--url": url, "--simulate-success": simulate}
    _require_one_way([name for name, value in ways.items() if value])
    if not isfinite(timeout):
        raise typer.BadParameter(f"{timeout} is no number of seconds", param_hint="--timeout")
    _require_other_file(
        junit,
        {"config": config, "recording": audio, "server": Path(moshi_bin) if moshi_bin else None},
    )
    if url and (moshi_bin or backend or cpu or port or extra_arg):
        raise typer.BadParameter(
            "--moshi-bin, --backend, --cpu, --port and --extra-arg are for a server that is started here"
        )
    if folder and not simulate:
        raise typer.BadParameter("only --simulate-success works in a folder", param_hint="--folder")
    binary = _binary(backend, moshi_bin, simulate=simulate)
    if not (url or simulate or config or _CONFIG.exists()):
        raise typer.BadParameter(
            f"name one: {_CONFIG} is not here; or use --url, or --simulate-success",
            param_hint="--config",
        )
    out = Reporter.open("smoke-test", json=json, quiet=quiet, debug=debug)
    # Not before: where packages are absent, loading these says so through the reporter.
    from dsmops.cli.views.smoke import junit_xml, show_smoke
    from dsmops.files import replace_atomically
    from dsmops.operations.smoke import SmokeRequest, simulate_success
    from dsmops.operations.smoke import smoke_test as test

    request = SmokeRequest(
        config=None if url or simulate else config or _CONFIG,
        url=url,
        moshi_bin=binary,
        api_key=api_key,
        intrusive=intrusive,
        timeout_s=timeout,
        extra_args=tuple(extra_arg or ()),
        cpu=cpu,
        port=port,
        audio=audio,
    )
    with ExitStack() as stack:
        # Before the work, so that a target that cannot be written is told at once.
        file = stack.enter_context(replace_atomically(junit)) if junit is not None else None
        if junit is not None:
            # What an earlier run wrote there must not pass for this one's verdict, should this one
            # be killed.
            junit.unlink(missing_ok=True)
        begun = ["the start"]

        def on_start(name: str) -> None:
            begun.append(f"`{name}`")
            out.live(name)

        try:
            if simulate:
                place = folder or Path(
                    stack.enter_context(TemporaryDirectory(prefix="dsmops-smoke-"))
                )
                report = simulate_success(place, request, on_start=on_start)
            else:
                report = test(request, on_start=on_start)
        except KeyboardInterrupt:
            out.note(f"stopped at {begun[-1]}; nothing that was started still runs")
            raise typer.Exit(130) from None
        # Before the file: its disk may have become full, and the verdict must not be lost for that.
        out.result(report, show_smoke(report))
        if file is not None:
            file.write(junit_xml(report).encode())
    if not report.passed:
        raise typer.Exit(1)


def _require_other_file(junit: Path | None, read: Mapping[str, Path | None]) -> None:
    for what, path in read.items():
        if (
            junit is not None
            and path is not None
            and junit.exists()
            and path.exists()
            and junit.samefile(path)
        ):
            raise typer.BadParameter(
                f"is the {what} itself; name another file", param_hint="--junit"
            )


def _require_one_way(named: list[str]) -> None:
    if len(named) > 1:
        raise typer.BadParameter(f"{' and '.join(named)} are different tests; choose one")


def _binary(backend: str | None, moshi_bin: str | None, *, simulate: bool) -> str | None:
    """Return the binary to start, None for the embedded worker."""
    if backend not in (None, "embedded", "moshi-server"):
        raise typer.BadParameter(
            f"{backend!r} is none; use embedded or moshi-server", param_hint="--backend"
        )
    if moshi_bin and (backend == "embedded" or simulate):
        raise typer.BadParameter(
            "the embedded worker is to be tested; leave it away", param_hint="--moshi-bin"
        )
    if backend == "moshi-server":
        return moshi_bin or "moshi-server"
    return moshi_bin


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("smoke-test", rich_help_panel=CHECK)(smoke_test)
