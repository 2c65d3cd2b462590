"""The server in several processes, with engines without a model: `SplitServer` starts it, and
`python -m tests.support.split_server` is it.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dsmops.errors import DsmopsError, InputError
from dsmops.worker.runtime.tts.interface import TtsRequest
from dsmops.worker.runtime.tts.machine import TtsPacing
from dsmops.worker.serving.addresses import Listening
from dsmops.worker.serving.logs import Level, ServerLog
from dsmops.worker.serving.processes import Device
from dsmops.worker.serving.settings import (
    Limits,
    ModuleSettings,
    SttSettings,
    TtsSettings,
    WorkerSettings,
)
from dsmops.worker.serving.supervisor import serve_split
from tests.support.engines import EchoEngine, Letters
from tests.support.tts_client import TTS_PATH
from tests.support.tts_engines import TalkEngine
from tests.support.workers import KEY, PATH

DEATH_TOKEN = 99
"""Audio whose first sample is this kills the model loop that takes it."""
CRASH_TOKEN = 98
"""And this ends its whole process."""


class MortalEngine(EchoEngine):
    """An `EchoEngine` that audio can kill."""

    def step(self, pcm: Any, exec_mask: Any) -> Any:
        if (pcm[exec_mask, 0] == DEATH_TOKEN).any():
            raise ZeroDivisionError("oops")
        if (pcm[exec_mask, 0] == CRASH_TOKEN).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().step(pcm, exec_mask)


def find_voice(name: str) -> tuple[Any, ...]:
    """Return a voice of the speaking engine."""
    if name not in ("", "default.wav"):
        raise InputError(f"no voice is named {name}", hint="Use another.", code="voice.unknown")
    return (np.full((6, 5), 1, np.float32),) * 2


@dataclass
class SplitServer:
    """The server in a process that has others, ready on entry, killed on exit."""

    slots: int = 2
    devices: int = 1
    fronts: int = 2
    drain_s: float = 0.0
    code: int | None = None
    _errors: io.StringIO = field(default_factory=io.StringIO)

    def __enter__(self) -> SplitServer:
        settings = {
            "slots": self.slots,
            "devices": self.devices,
            "fronts": self.fronts,
            "drain_s": self.drain_s,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.split_server", json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self.process.stdout.readline().strip()
        assert self.url, self._errors.getvalue()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.end()
        finally:
            if self.process.poll() is None:
                self.process.kill()

    @property
    def lines(self) -> str:
        """The log so far."""
        return self._errors.getvalue()

    def children(self, kind: str) -> list[int]:
        """Return the process ids of its `model` or `front` processes."""
        found = []
        for line in (
            Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            .read_text(encoding="utf-8")
            .split()
        ):
            command = Path(f"/proc/{line}/comm").read_text(encoding="utf-8").strip()
            if command == f"dsmops-{kind}":
                found.append(int(line))
        return found

    def until(self, text: str, within_s: float = 20) -> None:
        """Wait until the log has a text."""
        until_s = time.monotonic() + within_s
        while text not in self.lines:
            assert time.monotonic() < until_s, self.lines
            time.sleep(0.01)

    def end(self, timeout_s: float = 30) -> int:
        """Wait for the end, and return the exit code."""
        self.code = self.process.wait(timeout_s)
        self._reader.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
        return self.code

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._errors.write(line)


def _talker(slots: int) -> TalkEngine:
    engine = TalkEngine(slots)
    # Readiness is asked of idle modules too.
    engine.may_step_nobody = True
    return engine


def main(slots: int, devices: int, fronts: int, drain_s: float) -> int:
    """Serve both kinds of modules; print the address once it listens."""
    modules: list[ModuleSettings] = [
        SttSettings(
            "asr",
            "BatchedAsr",
            PATH,
            slots,
            "lm.safetensors",
            "mimi.safetensors",
            lambda: MortalEngine(slots),
            Letters,
        ),
        TtsSettings(
            name="tts",
            path=TTS_PATH,
            open_engine=lambda: _talker(slots),
            find_voice=find_voice,
            request=TtsRequest(),
            pacing=TtsPacing(),
            interleaved_text_only=2,
            slots=slots,
            open_tokenizer=lambda: TalkEngine(1).model.tokenizer,
        ),
    ]
    settings = WorkerSettings(
        "127.0.0.1", 0, Path("/nonexistent"), [KEY], modules, Limits(), drain_s
    )
    log = ServerLog(Level.INFO, None, sys.stderr, no_color=True)

    def on_ready(listening: Listening) -> None:
        print(listening.url, flush=True)

    names = [Device(f"cpu:{number}") for number in range(devices)]
    try:
        ended = serve_split(settings, log, on_ready, devices=names, fronts=fronts)
    except DsmopsError as exc:
        print(f"error: {exc.message}", file=sys.stderr)
        return exc.exit_code
    finally:
        log.close()
    return 130 if ended.signal is signal.SIGINT else 0


if __name__ == "__main__":
    sys.exit(main(**json.loads(sys.argv[1])))
