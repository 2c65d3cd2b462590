"""The command that tests a server: `smoke-test`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from dsmops.cli import values
from dsmops.cli.arguments import require_other_file
from dsmops.cli.help import CHECK
from dsmops.cli.options import DebugOpt, JsonOpt, KvOpt, QuietOpt, WeightsOpt, api_key_option
from dsmops.dtypes import PLAIN, Quant, Quantised
from dsmops.errors import DsmopsError
from dsmops.report import Reporter

if TYPE_CHECKING:
    from dsmops.operations.smoke import SmokeReport

_CONFIG = Path("configs", "config-stt-en_fr-lowram-sm75.toml")


def smoke_test(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            readable=False,
            help="Config to serve. Default: the newest in assets/, or the low-memory one.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            metavar="NAME",
            autocompletion=values.backends,
            help="embedded (default) or moshi-server.",
        ),
    ] = None,
    moshi_bin: Annotated[
        str | None,
        typer.Option(
            "--moshi-bin",
            metavar="PATH",
            help="Start this server binary: a path, or a name on PATH.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="Test a running server, for example ws://127.0.0.1:8080.",
        ),
    ] = None,
    api_key: Annotated[
        str | None, api_key_option("Key to send. Default: the first in the config.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            autocompletion=values.models,
            help="Serve and test this model: tiny, tiny-tts, or a published one.",
        ),
    ] = None,
    intrusive: Annotated[
        bool,
        typer.Option(
            "--intrusive",
            help="With --url: also test slots, which other clients notice.",
        ),
    ] = False,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate-success",
            help="Prepare, serve and test small models on the CPU.",
        ),
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            metavar="DIR",
            readable=False,
            help="Keep the files of --simulate-success in this folder.",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="S",
            min=5,
            max=86400,
            help="Limit the whole test to S seconds; shutdown may add 12.",
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
            help="Port of the server to start. Default: a free port.",
        ),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Start the server with --cpu.")] = False,
    weights: WeightsOpt = None,
    kv: KvOpt = Quant.NONE,
    audio: Annotated[
        Path | None,
        typer.Option(
            "--audio",
            metavar="FILE",
            readable=False,
            help="Send this recording; it must contain words.",
        ),
    ] = None,
    extra_arg: Annotated[
        list[str] | None,
        typer.Option(
            "--extra-arg",
            metavar="ARG",
            help="Add an argument to the server's command. Repeatable.",
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit", metavar="FILE", readable=False, help="Also write the checks as JUnit XML."
        ),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Test whether a speech server works.

    An open port does not mean that the server works. This test checks the config, the start, Ready,
    frames and answers, a recording in real time, step times, keys, slots, memory, shutdown and the
    log. A check that cannot run says why. The exit code is 1 if a check failed. The server's output
    stays in logs/moshi-logs/raw/.

    The tiny model is part of the package, with recordings of known words: the check `words`
    compares the transcript with what is spoken. moshi-server cannot serve that model, because it
    reads only the published Mimi.

    --timeout limits the whole test. --simulate-success runs a real server, too.

    \b
    Examples:
      dsmops smoke-test --simulate-success
      dsmops smoke-test --model tiny
      dsmops smoke-test --config assets/fp16/stt-1b-en_fr-candle.fp16.toml
      dsmops smoke-test --config my.toml --moshi-bin ~/.cargo/bin/moshi-server --junit smoke.xml
      dsmops smoke-test --url ws://10.0.0.5:8080 --api-key KEY
    """
    ways = {"--config": config, "--url": url, "--simulate-success": simulate, "--model": model}
    _require_one_way([name for name, value in ways.items() if value])
    if not isfinite(timeout):
        raise typer.BadParameter(f"{timeout} is not a number of seconds", param_hint="--timeout")
    require_other_file(
        "--junit",
        junit,
        {"config": config, "recording": audio, "server": Path(moshi_bin) if moshi_bin else None},
    )
    if url and (moshi_bin or backend or cpu or port or extra_arg):
        raise typer.BadParameter(
            "--moshi-bin, --backend, --cpu, --port and --extra-arg apply to a server that "
            "this command starts"
        )
    quantised = Quantised(weights, kv)
    _require_embedded(quantised, url, backend, moshi_bin)
    if folder and not simulate:
        raise typer.BadParameter(
            "--folder applies to --simulate-success only", param_hint="--folder"
        )
    binary = _binary(backend, moshi_bin, simulate=simulate)
    if model and binary:
        _require_other_server(model)
    default = None if url or simulate or config or model else _default_config()
    out = Reporter.open("smoke-test", json=json, quiet=quiet, debug=debug)
    with _errors_in(junit):
        # Imported here: if a package is missing, the import says so through the reporter.
        from dsmops.cli.views.smoke import junit_xml, show_smoke
        from dsmops.files import replace_atomically
        from dsmops.operations.smoke import SmokeRequest, simulate_success
        from dsmops.operations.smoke import smoke_test as test

        if model:
            from dsmops.operations.configs.writing import write_model_config

            config = write_model_config(model, cpu=cpu, api_key=api_key, quantised=quantised)
        if default not in (None, _CONFIG):
            out.note(f"config: {default}, the newest prepared one")
        request = SmokeRequest(
            config=None if url or simulate else config or default,
            url=url,
            moshi_bin=binary,
            api_key=api_key,
            intrusive=intrusive,
            timeout_s=timeout,
            extra_args=tuple(extra_arg or ()),
            cpu=cpu,
            quantised=quantised,
            port=port,
            audio=audio,
        )
        with ExitStack() as stack:
            # Before the work, so that a target that cannot be written fails at once.
            file = stack.enter_context(replace_atomically(junit)) if junit is not None else None
            if junit is not None:
                # If this run is killed, the verdict of an earlier one must not be left there.
                junit.unlink(missing_ok=True)
            if simulate:
                place = folder or Path(
                    stack.enter_context(TemporaryDirectory(prefix="dsmops-smoke-"))
                )
                report = _shown(out, partial(simulate_success, place, request))
            else:
                report = _shown(out, partial(test, request))
            # Before the file: on a full disk the verdict must still be shown.
            out.result(report, show_smoke(report))
            if file is not None:
                file.write(junit_xml(report).encode())
        if not report.passed:
            raise typer.Exit(1)


def _shown(out: Reporter, test: Callable[..., SmokeReport]) -> SmokeReport:
    """Run a test; a terminal shows each check that takes longer than a moment.

    Raises:
        Exit: Ctrl-C ended it.
    """
    from dsmops.operations.smoke import CHECKS

    begun, progress = ["the start"], out.progress()

    def on_start(name: str) -> None:
        begun.append(f"`{name}`")
        progress.start(f"{name}: {CHECKS[name].question}", None, "")

    try:
        return test(on_start=on_start)
    except KeyboardInterrupt:
        progress.finish()
        out.note(f"stopped at {begun[-1]}; all processes have ended")
        raise typer.Exit(130) from None
    finally:
        progress.finish()


def _default_config() -> Path:
    """Return what is tested where nothing is named: the newest prepared config, else a ready one.

    Raises:
        BadParameter: there is neither.
    """
    from dsmops.operations.configs.prepared import newest_prepared

    found = newest_prepared(("BatchedAsr", "Asr", "Py"))
    if found is None and not _CONFIG.exists():
        raise typer.BadParameter(
            f"{_CONFIG} does not exist: give a config, --model, --url or --simulate-success",
            param_hint="--config",
        )
    return found or _CONFIG


@contextmanager
def _errors_in(junit: Path | None) -> Iterator[None]:
    """Write the error of a test that cannot start where its verdict would be."""
    try:
        yield
    except DsmopsError as exc:
        if junit is not None:
            from dsmops.cli.views.junit import error_xml
            from dsmops.files import write_text_atomically

            with suppress(DsmopsError):
                write_text_atomically(junit, error_xml(exc))
        raise


def _require_other_server(model: str) -> None:
    from dsmops.models import SHIPPED

    if model in SHIPPED:
        raise typer.BadParameter(
            f"moshi-server cannot serve {model}: it reads only the published Mimi; "
            "omit --moshi-bin",
            param_hint="--model",
        )


def _require_embedded(
    quantised: Quantised, url: str | None, backend: str | None, moshi_bin: str | None
) -> None:
    """Usage error for --weights and --kv with another server."""
    if quantised != PLAIN and (url or moshi_bin or backend == "moshi-server"):
        raise typer.BadParameter(
            "--weights and --kv apply to the embedded worker; moshi-server knows neither"
        )


def _require_one_way(named: list[str]) -> None:
    if len(named) > 1:
        raise typer.BadParameter(f"{' and '.join(named)} exclude each other")


def _binary(backend: str | None, moshi_bin: str | None, *, simulate: bool) -> str | None:
    """Return the binary to start, None for the embedded worker."""
    if backend not in (None, "embedded", "moshi-server"):
        raise typer.BadParameter(
            f"{backend!r} is unknown; use embedded or moshi-server", param_hint="--backend"
        )
    if moshi_bin and (backend == "embedded" or simulate):
        raise typer.BadParameter(
            "the embedded worker is tested; omit --moshi-bin", param_hint="--moshi-bin"
        )
    if backend == "moshi-server":
        return moshi_bin or "moshi-server"
    return moshi_bin


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("smoke-test", rich_help_panel=CHECK)(smoke_test)
