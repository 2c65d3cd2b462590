"""The server's front starts without the libraries that compute."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("aiohttp", reason="the server extra is not installed")

_FRONT = ("server", "stt", "tts")
_HEAVY = ("torch", "safetensors", "sentencepiece")


@pytest.mark.slow
def test_serving_imports_no_torch() -> None:
    """Importing the server and both modules loads none of the libraries that models need."""
    script = (
        "import importlib, json, sys\n"
        f"for name in {_FRONT!r}:\n"
        "    importlib.import_module(f'dsmops.worker.serving.{name}')\n"
        f"print(json.dumps([name for name in {_HEAVY!r} if name in sys.modules]))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    assert json.loads(printed) == []
