"""Starts, asks and ends the server in the background."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from dsmops.config.load import Config, read_config
from dsmops.errors import (
    DsmopsError,
    EnvironmentMissingError,
    InputError,
    RemoteError,
    ResourceError,
)
from dsmops.extras import SERVER, require_worker
from dsmops.operations.printed import printed_objects
from dsmops.operations.speech.tokens import NO_TOKENS, TokenOptions
from dsmops.operations.up import record as records
from dsmops.operations.up.config import key_of, write_config
from dsmops.operations.up.plan import UpPlan
from dsmops.operations.up.record import ServerRecord
from dsmops.progress import SILENT, Progress, waiting

_POLL_S = 0.2
_ASK_S = 5.0
_PATIENCE_S = 15.0
"""Between SIGTERM and SIGKILL: conversations may end by themselves for 8 s of them."""
_SHOWN_LINES = 5


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, as `up` and `status` show it.

    `models` are what `/v1/models` says of each; `reason` is why it is not ready, else empty.
    """

    running: bool
    ready: bool
    is_new: bool = False
    pid: int | None = None
    url: str | None = None
    page: str | None = None
    config: str | None = None
    log: str | None = None
    started_at: str | None = None
    reason: str = ""
    models: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    api_key: str | None = None

    def without_key(self) -> Server:
        """Return the same without what only its owner needs."""
        return replace(self, api_key=None, commands=())


def start(
    plan: Callable[[], UpPlan],
    *,
    addr: str,
    port: int,
    api_key: str | None,
    cpu: bool,
    wait_s: float,
    tokens: TokenOptions = NO_TOKENS,
    progress: Progress = SILENT,
) -> Server:
    """Return the server that runs, or start one for the plan and wait until it has made a step.

    `wait_s` is for loading and the first step. What the plan needs is downloaded before.

    Raises:
        TargetBusyError: another process starts or ends it now.
        DsmopsError: the server did not start; its last lines are in the message.
    """
    require_worker("serving models", SERVER)
    with records.only_one():
        running = records.read_record()
        if running is not None:
            if not running.url:
                # An `up` that was killed has left it to start alone.
                with waiting(progress, "Waiting for the server"):
                    running = _await_ready(running, partial(_exit_code, running), wait_s)
            return _shown(running, is_new=False)
        warnings = tokens.check()
        chosen = plan()
        config = write_config(chosen, api_key, progress=progress)
        environment = tokens.environment()
        with waiting(progress, "Starting the server"):
            running = _launch(chosen, config, addr, port, environment, cpu=cpu, wait_s=wait_s)
        return _shown(running, is_new=True, notes=(*chosen.notes, *warnings))


def stop() -> ServerRecord | None:
    """End the server, and return what it was, None where none ran.

    Raises:
        TargetBusyError: another process starts or ends it now.
        ResourceError: it does not end.
    """
    with records.only_one():
        running = records.read_record()
        if running is not None:
            _end(running)
        records.forget()
        return running


def look() -> Server:
    """Return how the server is."""
    running = records.read_record()
    if running is not None:
        return _shown(running, is_new=False)
    reason, last = "no server of `dsmops up` runs", records.read_last()
    if last is not None:
        reason += (
            f": process {last.pid}, started {last.started_at}, no longer runs (it ended, was"
            f" killed, or the machine restarted); its log is {last.log}"
        )
    return Server(running=False, ready=False, reason=reason)


def _launch(
    plan: UpPlan,
    config: Config,
    addr: str,
    port: int,
    environment: dict[str, str],
    *,
    cpu: bool,
    wait_s: float,
) -> ServerRecord:
    """Start a server, with `environment` beside this process's own."""
    folder = records.folder()
    log = folder / "server.log"
    command = [sys.executable, "-m", "dsmops", "worker", "--config", str(config.path)]
    command += ["--addr", addr, "--port", str(port), "--json", "--silent"]
    command += plan.quantised.worker_options
    command += ["--cpu"] if cpu or plan.device is None else ["--require-gpu"]
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    record = ServerRecord(
        pid=child.pid,
        started=records.started(child.pid),
        url="",
        config=str(config.path),
        log=str(log),
        models=tuple(model.name for model in plan.models),
        started_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
    try:
        # Before it is ready: `down` must find it if this process is killed while it waits.
        records.write_record(record)
        record = _await_ready(record, child.poll, wait_s)
    except BaseException:
        child.terminate()
        try:
            child.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        records.forget()
        raise
    # It outlives this process, which must not be asked about it at its end.
    child.returncode = 0
    return record


def _await_ready(
    record: ServerRecord, exit_code: Callable[[], int | None], wait_s: float
) -> ServerRecord:
    """Return the record of a server with its address, once it is ready.

    `exit_code` is None while its process runs.

    Raises:
        DsmopsError: it ended, or takes too long.
    """
    until_s = time.monotonic() + wait_s
    log, url = Path(record.log), record.url
    while time.monotonic() < until_s:
        if (code := exit_code()) is not None:
            raise _failed(log, code, wait_s)
        url = url or _address_in(log)
        if url and _ask(f"{url}/readyz")[0]:
            found = replace(record, url=url)
            records.write_record(found)
            return found
        time.sleep(_POLL_S)
    raise _failed(log, None, wait_s)


def _exit_code(record: ServerRecord) -> int | None:
    """Return None while another's process runs, and then a failure: its own is not known."""
    return None if records.started(record.pid) == record.started else 1


def _address_in(log: Path) -> str:
    """Return the address that the worker prints when it listens, empty before."""
    try:
        text = log.read_text("utf-8", "replace")
    except OSError:
        return ""
    return str(_document(text).get("url", ""))


def _document(text: str) -> dict[str, Any]:
    """Return the first JSON object in a worker's output, empty where none is complete."""
    return next(printed_objects(text), {})


def _failed(log: Path, exit_code: int | None, wait_s: float) -> DsmopsError:
    """Return the error of a server that did not start: its own where it told one."""
    text = log.read_text("utf-8", "replace")
    told = _document(text).get("error")
    if exit_code is not None and isinstance(told, dict):
        kinds = (InputError, EnvironmentMissingError, ResourceError, RemoteError)
        kind = next((kind for kind in kinds if kind.exit_code == exit_code), ResourceError)
        return kind(str(told["message"]), hint=str(told["hint"]), code=str(told["code"]))
    lines = [line for line in text.splitlines() if line.strip()]
    what = (
        f"the server made no step within {wait_s:g} s"
        if exit_code is None
        else f"the server ended with exit code {exit_code}"
    )
    return ResourceError(
        f"{what}; its last lines are: {' / '.join(lines[-_SHOWN_LINES:]) or 'none'}",
        hint=f"{log} has the rest; `dsmops doctor` looks for the cause.",
        code="up.failed",
    )


def _shown(record: ServerRecord, *, is_new: bool, notes: tuple[str, ...] = ()) -> Server:
    try:
        key = key_of(read_config(Path(record.config)))
    except (InputError, ResourceError):
        key = ""
    url = record.url or _address_in(Path(record.log))
    if not url:
        return Server(
            running=True,
            ready=False,
            pid=record.pid,
            config=record.config,
            log=record.log,
            started_at=record.started_at,
            reason="it is starting",
        )
    ready, health = _ask(f"{url}/readyz")
    reasons = [
        f"{module['name']}: {module['reason']}"
        for module in health.get("modules", [])
        if not module.get("ready")
    ]
    reason = "" if ready else "; ".join(reasons) or "it does not answer"
    _, listed = _ask(f"{url}/v1/models", key)
    socket = url.replace("http", "ws", 1)
    models = tuple(listed.get("data", []))
    use = {
        "stt": f"dsmops transcribe --url {socket} --api-key {key} talk.mp3",
        "tts": f'dsmops synthesize --url {socket} --api-key {key} "good morning" hello.wav',
    }
    return Server(
        running=True,
        ready=ready,
        is_new=is_new,
        pid=record.pid,
        url=url,
        page=f"{url}/",
        config=record.config,
        log=record.log,
        started_at=record.started_at,
        reason=reason,
        models=models,
        notes=notes,
        commands=tuple(use[one["purpose"]] for one in models if one.get("purpose") in use),
        api_key=key or None,
    )


def _ask(url: str, key: str = "") -> tuple[bool, dict[str, Any]]:
    """Return whether a server answers with 200, and the JSON that it answers with."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_ASK_S) as answer:  # noqa: S310
            return True, json.loads(answer.read())
    except urllib.error.HTTPError as exc:
        try:
            return False, json.loads(exc.read())
        except ValueError:
            return False, {}
    except (OSError, ValueError):
        return False, {}


def _end(record: ServerRecord) -> None:
    for number, patience_s in ((signal.SIGTERM, _PATIENCE_S), (signal.SIGKILL, _ASK_S)):
        try:
            os.kill(record.pid, number)
        except ProcessLookupError:
            return
        until_s = time.monotonic() + patience_s
        while time.monotonic() < until_s:
            if records.started(record.pid) != record.started:
                return
            time.sleep(_POLL_S)
    raise ResourceError(
        f"process {record.pid} does not end",
        hint="It waits for the GPU or a disk; `ps` shows its state.",
        code="up.stuck",
    )
