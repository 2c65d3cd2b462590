"""OpenMP's threads spin shortly, in every process that loads torch through this package."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dsmops.worker.openmp import SPIN_ROUNDS, limit_spinning

pytest.importorskip("torch", reason="the worker extra is not installed")

# libgomp shows the settings that it took when it is loaded.
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_DISPLAY_ENV")


def shown_by_libgomp(statement: str, **settings: str) -> str:
    """Return what libgomp writes about its settings in a process that runs `statement`."""
    environ = {name: value for name, value in os.environ.items() if name not in _SETTINGS}
    return subprocess.run(
        [sys.executable, "-c", statement],
        check=True,
        capture_output=True,
        text=True,
        env={**environ, **settings, "OMP_DISPLAY_ENV": "verbose"},
    ).stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "dsmops.worker.models.device",
        "dsmops.worker.runtime.stt.engine",
        "dsmops.worker.runtime.tts.engine",
    ],
)
def test_libgomp_takes_the_setting(module: str) -> None:
    """The setting is there before torch is, whichever module brings torch."""
    shown = shown_by_libgomp(f"import {module}")
    if "OPENMP DISPLAY ENVIRONMENT" not in shown:
        pytest.skip("this torch does not use libgomp")
    assert f"GOMP_SPINCOUNT = '{SPIN_ROUNDS}'" in shown


def test_the_users_settings_stay() -> None:
    """A user who sets one of the two variables gets what was set."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        environ = {name: "chosen"}
        limit_spinning(environ)
        assert environ == {name: "chosen"}
    environ = {}
    limit_spinning(environ)
    assert environ == {"GOMP_SPINCOUNT": str(SPIN_ROUNDS)}
