"""Run the command line in a process of its own, as a user does, and return what it printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.documents import validate
from tests.support.processes import python


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout, which its schema allows."""
        loaded = json.loads(self.stdout)
        assert isinstance(loaded, dict)
        validate(loaded)
        return loaded


def dsmops(
    *args: str | Path,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 60,
    new_interpreter: bool = False,
) -> Run:
    """Run `dsmops` with `args` in a process. `env` is added to this process's environment.

    `new_interpreter` is for tests of what Python itself does at its start.
    """
    start = [sys.executable] if new_interpreter else python()
    done = subprocess.run(
        [*start, "-m", "dsmops", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        timeout=timeout_s,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)
