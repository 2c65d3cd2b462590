"""`smoke-test`: test a server that runs, or start one and test it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable

from dsmops.config.load import read_config
from dsmops.errors import InputError, SourceError
from dsmops.extras import SERVER, require_worker
from dsmops.operations.server_binary import find_binary
from dsmops.operations.smoke.checks import Ledger
from dsmops.operations.smoke.launch import check_config, require_log_folder
from dsmops.operations.smoke.report import SmokeReport
from dsmops.operations.smoke.request import OnStart, SmokeRequest, read_recording
from dsmops.operations.smoke.running import check_running


def smoke_test(request: SmokeRequest, *, on_start: OnStart = lambda _: None) -> SmokeReport:
    """Run the whole test. SIGTERM and SIGINT end it early; no process is left behind then either.

    Raises:
        InputError, ConfigError, SourceError: the config, the address or the binary cannot be used.
        ExtraMissingError: the worker's libraries are not installed.
    """
    require_worker("talking to a server", SERVER)
    if request.moshi_bin and find_binary(request.moshi_bin) is None:
        raise SourceError(
            f"{request.moshi_bin} is not a program here, neither as a path nor on PATH",
            hint="`cargo install moshi-server` installs it into ~/.cargo/bin; "
            "omit --moshi-bin to test the embedded worker.",
            code="smoke.binary",
        )
    recording = read_recording(request)
    if request.url:
        return run_ledger(
            request.timeout_s, lambda ledger: check_running(ledger, request, recording), on_start
        )
    if request.config is None:
        raise InputError(
            "nothing to test",
            hint="Give a config with --config or a running server with --url, "
            "or use --simulate-success.",
        )
    config = read_config(request.config)
    require_log_folder()
    return run_ledger(
        request.timeout_s, lambda ledger: check_config(ledger, request, config, recording), on_start
    )


def run_ledger(
    timeout_s: float, work: Callable[[Ledger], Awaitable[SmokeReport]], on_start: OnStart
) -> SmokeReport:
    """Run checks on an event loop of their own; `on_start` gets the name of each as it begins.

    SIGTERM ends them as Ctrl-C does.
    """

    async def main() -> SmokeReport:
        task = asyncio.current_task()
        with contextlib.suppress(
            RuntimeError
        ):  # outside the main thread, where no signal arrives anyway
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, task.cancel)  # type: ignore[union-attr]
        return await work(Ledger(timeout_s, on_start))

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None
