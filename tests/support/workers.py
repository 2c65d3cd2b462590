"""Workers to talk to: the command in a process, and the server in a thread with a stub engine."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from dsmops.errors import DsmopsError
from dsmops.worker.runtime.stt.interface import SttEngineProtocol
from dsmops.worker.serving.addresses import Listening
from dsmops.worker.serving.logs import Level, ServerLog
from dsmops.worker.serving.server import Server
from dsmops.worker.serving.settings import (
    Ended,
    Limits,
    ModuleSettings,
    SttSettings,
    WorkerSettings,
)
from dsmops.worker.serving.token_keys import TokenSettings
from tests.support.engines import EchoEngine
from tests.support.processes import python

KEY = "a key of the tests"
PATH = "/api/asr-streaming"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def request(
    url: str,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """Ask once; the path is sent unchanged."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return Answer(
            answer.status,
            {name.lower(): value for name, value in answer.getheaders()},
            answer.read(),
        )
    finally:
        connection.close()


class WorkerProcess:
    """`dsmops worker` on a port that the system chose, in `folder`, ready when this is made.

    Without `cpu` it looks for a GPU, and finds none.

    With `is_own` it is a new Python, whose process and children are those of `process`.
    """

    def __init__(
        self, folder: Path, config: Path, *args: str, is_own: bool = False, cpu: bool = True
    ) -> None:
        command = [
            *([sys.executable] if is_own else python()),
            "-m",
            "dsmops",
            "worker",
            "--config",
            str(config),
            *(["--cpu"] if cpu else []),
            "--port",
            "0",
            "--json",
            *args,
        ]
        self.folder = folder
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        self._errors = io.StringIO()
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        document = ""
        assert self.process.stdout is not None
        while not document.endswith("}\n"):
            line = self.process.stdout.readline()
            if not line:
                self.process.wait(10)
                self._reader.join(10)
                raise RuntimeError(
                    f"the worker ended with {self.process.returncode}: {self.errors}"
                )
            document += line
        self.url: str = json.loads(document)["url"]

    @property
    def errors(self) -> str:
        """What it wrote to stderr so far: its log."""
        return self._errors.getvalue()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._errors.write(line)

    def end(self, timeout_s: float = 30) -> int:
        """Wait for the end, and return the exit code."""
        code = self.process.wait(timeout_s)
        self._reader.join(10)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        if self.process.stdout is not None and not self.process.stdout.closed:
            self.end()


@dataclass
class ThreadedServer:
    """The server in a thread of this process, ready on entry, stopped on exit.

    `failure` is what ended it otherwise.
    """

    open_engine: Callable[[], SttEngineProtocol] = EchoEngine
    slots: int = 2
    kind: str = "BatchedAsr"
    limits: Limits = field(default_factory=Limits)
    drain_s: float = 0.0
    static_dir: Path = Path("/nonexistent")
    keys: Sequence[str] = (KEY,)
    allowed_origins: Sequence[str] = ()
    module: ModuleSettings | None = None
    """Served instead of a speech-to-text module with that engine."""
    tokens: TokenSettings | None = None
    failure: DsmopsError | None = None
    ended: Ended | None = None

    def __enter__(self) -> ThreadedServer:
        self.console = io.StringIO()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(30)
        if self.failure is not None:
            raise self.failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self.join()

    def stop(self) -> None:
        """Send SIGTERM, so to speak."""
        if self._thread.is_alive():
            self._event_loop.call_soon_threadsafe(self._server.stop)

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join(30)
        assert not self._thread.is_alive()

    @property
    def log(self) -> str:
        """What was logged; complete after the end."""
        return self.console.getvalue()

    def _run(self) -> None:
        module = self.module or SttSettings(
            "asr",
            self.kind,
            PATH,
            self.slots,
            "lm.safetensors",
            "mimi.safetensors",
            self.open_engine,
        )
        settings = WorkerSettings(
            "127.0.0.1",
            0,
            self.static_dir,
            self.keys,
            [module],
            self.limits,
            self.drain_s,
            self.allowed_origins,
            self.tokens,
        )
        log = ServerLog(Level.INFO, None, self.console, no_color=True)
        try:
            self.ended = asyncio.run(self._serve(Server(settings, log)))
        except DsmopsError as exc:
            self.failure = exc
        finally:
            log.close()
            self._ready.set()

    async def _serve(self, server: Server) -> Ended:
        self._server, self._event_loop = server, asyncio.get_running_loop()

        def on_ready(listening: Listening) -> None:
            self.url = listening.url
            self._ready.set()

        return await server.run(on_ready, handle_signals=False)
