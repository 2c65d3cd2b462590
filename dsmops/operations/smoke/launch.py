"""Starts a server for its test: from its config to its released port.

At the end the server and all its processes have always ended. Its output stays as a raw log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile

from dsmops.audio import Samples
from dsmops.config.load import Config
from dsmops.config.modules import Module, modules
from dsmops.devices import Runtime
from dsmops.files import os_errors
from dsmops.findings import Counts, Severity
from dsmops.logs.failures import FAILURES
from dsmops.operations.configs.checking import lint_config
from dsmops.operations.server_binary import find_binary, identify_binary
from dsmops.operations.smoke.checks import CheckFailed, DoesNotApply, Ledger
from dsmops.operations.smoke.memory import MemoryWatch, judge_memory
from dsmops.operations.smoke.module_checks import Observations, Subject, now_s
from dsmops.operations.smoke.modules import CHECKED_TYPES, CheckOptions, check_modules
from dsmops.operations.smoke.process import Child, accepts, free_port, require_free
from dsmops.operations.smoke.report import Backend, SmokeReport, make_report
from dsmops.operations.smoke.request import SmokeRequest
from dsmops.operations.smoke.words import recordings_for
from dsmops.units import counted

LOG_FOLDER = Path("logs", "moshi-logs", "raw")
_ADDR = "127.0.0.1"
_POLL_S = 0.1
_STARTING_SHARE = 0.8
"""Share of the remaining time that loading may take."""
_HELPERS_S = 2.0
"""Time for child processes of a server to notice that it has ended."""


async def check_config(
    ledger: Ledger,
    request: SmokeRequest,
    config: Config,
    recording: Samples,
    *,
    simulated: str | None = None,
) -> SmokeReport:
    """Start the server of a config, test its speech modules, and end it.

    The server has no other clients, so all checks run. `simulated` names the card that the config
    was made for and that this machine lacks.
    """
    return await _Launch(ledger, request, config, recording, simulated).run()


def require_log_folder() -> None:
    """Check, before any work, that the server's log can be written.

    Raises:
        FileAccessError, InputError, DiskFullError: the folder cannot be created, or it is not
        writable.
    """
    with os_errors(LOG_FOLDER):
        LOG_FOLDER.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=LOG_FOLDER).close()


class _Launch:
    """One server, from its config to its closed port."""

    def __init__(
        self,
        ledger: Ledger,
        request: SmokeRequest,
        config: Config,
        recording: Samples,
        simulated: str | None,
    ) -> None:
        self._ledger, self._request, self._config = ledger, request, config
        self._recording, self._simulated = recording, simulated
        self._child: Child | None = None
        self._port = request.port or free_port(_ADDR)
        self._watch = MemoryWatch()
        self._server = "dsmops worker" if request.backend is Backend.EMBEDDED else "unknown"
        self._seen: dict[str | None, Observations] = {}
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S.%fZ")
        self._raw_log = LOG_FOLDER / f"log.smoke-test.{stamp}"

    @property
    def _binary(self) -> Path:
        """The program of `moshi_bin`. Links are not resolved."""
        found = find_binary(self._request.moshi_bin or "") or ""
        return Path(os.path.abspath(found))  # noqa: PTH100 links stay

    async def run(self) -> SmokeReport:
        request, ledger = self._request, self._ledger
        ledger.hide(request.api_key, *self._keys)
        try:
            await ledger.run("config-lint", self._lint)
            if request.moshi_bin:
                await ledger.run("server-binary", self._identify)
            await ledger.run("port-free", self._port_is_free)
            await ledger.run("process-alive", self._start)
            await ledger.run("listening", self._listen)
            simulated = self._simulated is not None
            self._seen = await check_modules(
                ledger,
                [
                    (module.type, self._subject(module))
                    for module in modules(self._config)
                    if module.type in CHECKED_TYPES
                ],
                CheckOptions(
                    self._recording,
                    is_given=request.audio is not None,
                    wants_words=request.audio is not None or simulated,
                    speech_is_random=simulated,
                    intrusive=True,
                    patient=simulated,
                ),
            )
            await ledger.run("memory", self._memory)
            await ledger.run("shutdown", self._shut_down, always=True)
            await ledger.run("orphans", self._orphans, always=True)
        finally:
            if self._child is not None:
                await self._child.tear_down()
            await self._watch.stop()
        await ledger.run("port-released", self._port_is_released, always=True)
        await ledger.run("known-failures", self._known_failures, always=True)
        return make_report(
            ledger.results,
            self._seen,
            backend=request.backend,
            seconds=ledger.seconds,
            server=self._server,
            url=self._http_url.replace("http", "ws", 1),
            config=self._config.path,
            simulated=self._simulated,
            raw_log=self._raw_log if self._child else None,
        )

    @property
    def _keys(self) -> list[str]:
        keys = self._config.values.get("authorized_ids")
        return [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []

    @property
    def _see_log(self) -> str:
        return f"See {self._raw_log}."

    @property
    def _http_url(self) -> str:
        return f"http://{_ADDR}:{self._port}"

    def _subject(self, module: Module) -> Subject:
        path = module.text("path") or "/"
        python = module.type == "PyBatchedAsr"
        return Subject(
            url=f"ws://{_ADDR}:{self._port}{path}",
            http_url=self._http_url,
            path=path,
            api_key=self._request.api_key or next(iter(self._keys), None),
            module=module.name,
            sends_ready=module.type != "Asr",
            has_steps=True if python else module.subtable("model", "extra_heads") is not None,
            slots=None if module.type == "Asr" else module.whole("batch_size"),
            alone=True,
            spoken=recordings_for(module),
            limits=self._request.limits,
            steps_ms=lambda: self._child.output.steps_ms if self._child else (),
            died=lambda: self._child.output.dead_loop if self._child else None,
        )

    async def _lint(self) -> str:
        found = (await asyncio.to_thread(lint_config, self._config, addr=_ADDR)).findings
        errors = [finding for finding in found if finding.severity is Severity.ERROR]
        if errors:
            raise CheckFailed(
                "; ".join(f"{finding.where}: {finding.message}" for finding in errors[:3]),
                f"`dsmops check-config {self._config.path}` says more; "
                "`dsmops prep-sm75` converts files.",
            )
        if not any(module.type in CHECKED_TYPES for module in modules(self._config)):
            raise CheckFailed(
                f"the config has no module of type {', '.join(CHECKED_TYPES)}",
                "Add a module to test.",
            )
        warnings = counted(Counts.of(found).warnings, "warning")
        return f"{self._config.path}: no errors, {warnings}"

    async def _identify(self) -> str:
        binary = await asyncio.to_thread(identify_binary, self._binary)
        self._server = f"{binary.kind.value} moshi-server {binary.release}"
        if binary.problem:
            raise CheckFailed(
                f"{binary.path}: {binary.problem}",
                f"`dsmops doctor --moshi-bin {binary.path}` looks for the cause.",
            )
        if not binary.can_serve:
            raise CheckFailed(
                f"{binary.path} has no subcommand `worker`: {binary.evidence[0]}",
                "Install moshi-server: `cargo install --locked moshi-server`.",
            )
        if binary.has_dtype_override is False and any(
            module.text("dtype_override") for module in modules(self._config)
        ):
            raise CheckFailed(
                f"{binary.path} is {self._server}; it ignores `dtype_override`, "
                "which the config sets",
                "Install moshi-server 0.6.4 or newer.",
            )
        return f"{binary.path}: {', '.join([self._server, *binary.abilities])}"

    async def _port_is_free(self) -> str:
        require_free(self._port, _ADDR)
        return f"{_ADDR}:{self._port} is free"

    def _command(self) -> Sequence[str]:
        request = self._request
        if request.command is not None:
            head = list(request.command)
        elif request.moshi_bin:
            head = [str(self._binary), "worker"]
        else:
            head = [sys.executable, "-m", "dsmops", "worker"]
        config = os.path.abspath(self._config.path)  # noqa: PTH100 the links in it stay
        options = [
            "--config",
            config,
            "--addr",
            _ADDR,
            "--port",
            str(self._port),
            *(["--cpu"] if request.cpu else []),
            *request.quantised.worker_options,
        ]
        return [*head, *options, *request.extra_args]

    async def _start(self) -> str:
        await self._watch.start()
        begin_s = now_s()
        child = self._child = await Child.start(
            self._command(), self._raw_log, folder=self._request.folder
        )
        if not self._request.cpu:
            self._watch.follow(child.pid)
        until_s = begin_s + _STARTING_SHARE * self._ledger.left_s
        while child.code is None and not accepts(self._port, _ADDR) and now_s() < until_s:
            await asyncio.sleep(_POLL_S)
        if child.code is not None:
            await asyncio.sleep(_POLL_S)  # for its last output to come through the pipe
            raise CheckFailed(
                f"the server ended with exit code {child.code} before it listened: "
                f"{child.output.complaint}",
                self._see_log,
            )
        return f"process {child.pid} runs, {now_s() - begin_s:.1f} s after it was started"

    async def _listen(self) -> str:
        if not accepts(self._port, _ADDR):
            raise CheckFailed(
                f"{_ADDR}:{self._port} accepts no connection after {self._ledger.seconds:.0f} s; "
                f"the server's last line: {self._living().output.last_words}",
                "It may still download or load: give it more time with --timeout.",
            )
        if self._living().listens(self._port) is False:
            raise CheckFailed(
                f"another process took port {self._port} while the server was loading",
                f"`ss -ltnp 'sport = :{self._port}'` names it; omit --port to use a free port.",
            )
        return f"{self._http_url} accepts connections"

    async def _memory(self) -> str:
        await self._watch.stop()
        runtime = (
            Runtime.EMBEDDED if self._request.backend is Backend.EMBEDDED else Runtime.MOSHI_SERVER
        )
        return judge_memory(
            self._config, self._watch, runtime, self._living().pid, self._request.quantised
        )

    async def _shut_down(self) -> str:
        child = self._living()
        listened = accepts(self._port, _ADDR)
        if not listened:
            await asyncio.sleep(_POLL_S)  # it may be about to end
        if child.code is not None:
            raise CheckFailed(
                f"the server had ended by itself, with exit code {child.code}: "
                f"{child.output.complaint}",
                self._see_log,
            )
        begin_s = now_s()
        stopped = await child.stop(self._request.limits.grace_s)
        if stopped.killed:
            raise CheckFailed(
                f"the server ignored SIGTERM for {self._request.limits.grace_s:g} s and was killed",
                "A supervisor must kill it, too: set its time-out (TimeoutStopSec).",
            )
        took = f"{now_s() - begin_s:.1f} s after SIGTERM"
        if stopped.code == -signal.SIGTERM:
            # moshi-server has no signal handlers. The worker has some once it serves: it lets
            # conversations end, and exits with 0.
            if listened and self._request.backend is Backend.EMBEDDED:
                raise CheckFailed(
                    f"the signal itself ended the worker, {took}: conversations were cut off",
                    self._see_log,
                )
            return f"ended by the signal, {took}, as moshi-server is"
        if stopped.code:
            raise CheckFailed(
                f"the server ended with exit code {stopped.code}, {took}: {child.output.complaint}",
                self._see_log,
            )
        return f"ended with exit code 0, {took}"

    async def _orphans(self) -> str:
        left = await self._living().left_over(_HELPERS_S)
        if left:
            raise CheckFailed(
                f"still running after the server's end: {', '.join(left)}",
                "They are killed now. Let the server end its child processes.",
            )
        return "all its processes have ended"

    async def _port_is_released(self) -> str:
        require_free(self._port, _ADDR)
        return f"{_ADDR}:{self._port} is free again"

    async def _known_failures(self) -> str:
        child = self._living()
        seen = await asyncio.to_thread(child.output.failures)
        errors = [failure for failure in seen if FAILURES[failure.name].severity is Severity.ERROR]
        if errors:
            first = FAILURES[errors[0].name]
            raise CheckFailed(
                "; ".join(
                    f"`{failure.name}` on line {failure.line}: {failure.evidence}"
                    for failure in errors[:3]
                ),
                f"{first.meaning[0].upper()}{first.meaning[1:]}. {first.fix} "
                f"See runbooks/{first.runbook}.",
            )
        others = f"; also seen: {', '.join(failure.name for failure in seen)}" if seen else ""
        partly = f"; {child.output.problem}" if child.output.problem else ""
        return f"none in {counted(child.output.lines, 'line')} of log{others}{partly}"

    def _living(self) -> Child:
        if self._child is None:
            raise DoesNotApply("the server was not started")
        return self._child
