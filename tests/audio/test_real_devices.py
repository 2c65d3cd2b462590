"""A real PortAudio over a real PulseAudio with a null sink, where both are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sounddevice", reason="sounddevice or PortAudio is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("pulseaudio") is None, reason="PulseAudio is not installed"),
]

_CONFIG = """
</usr/share/alsa/alsa.conf>
pcm.nullmic { type pulse device "null.monitor" hint { show on description "monitor" } }
pcm.nullspk { type pulse device "null" hint { show on description "sink" } }
pcm.!default { type pulse }
"""
_RECORD = """
import asyncio
from dsmops.audio.microphone import microphone
async def main():
    async for frame in microphone(asyncio.Event(), device="nullmic", on_note=print):
        assert len(frame) == 1920
asyncio.run(main())
"""
_PLAY = """
import numpy as np
from dsmops.audio import play
play(iter([np.full(24_000, 0.1, np.float32)]), device="nullspk")
"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[tuple[dict[str, str], subprocess.Popen[bytes]]]:
    """Variables that lead to a sound server with one sink of 48 kHz stereo, and the server."""
    (tmp_path / "asound.conf").write_text(_CONFIG)
    socket = tmp_path / "socket"
    own = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1"]
    for module in (
        f"module-native-protocol-unix auth-anonymous=1 socket={socket}",
        "module-null-sink sink_name=null rate=48000 channels=2",
    ):
        command += ["-L", module]
    with subprocess.Popen(command, env=own, stderr=subprocess.DEVNULL) as server:
        try:
            while not socket.exists():
                assert server.poll() is None
            yield (
                {
                    **own,
                    "PULSE_SERVER": f"unix:{socket}",
                    "ALSA_CONFIG_PATH": str(tmp_path / "asound.conf"),
                },
                server,
            )
        finally:
            server.terminate()


def test_sound_is_played_and_devices_are_listed(
    environment: tuple[dict[str, str], subprocess.Popen[bytes]],
) -> None:
    """Through its own rate and channels, with no line of a library."""
    variables, _ = environment
    listed = subprocess.run(
        [sys.executable, "-m", "dsmops", "transcribe", "--device", "list"],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "nullmic: microphone" in listed.stdout
    assert listed.stderr == ""
    played = subprocess.run(
        [sys.executable, "-c", _PLAY], env=variables, capture_output=True, check=True, timeout=60
    )
    assert played.stderr == b""


def test_silence_and_an_unplugged_microphone_are_reported(
    environment: tuple[dict[str, str], subprocess.Popen[bytes]],
) -> None:
    """The monitor of an idle sink is digital silence; then its server goes away."""
    variables, server = environment
    with subprocess.Popen(
        [sys.executable, "-uc", _RECORD],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as recorder:
        assert recorder.stdout is not None
        assert "digital silence for 4 s" in recorder.stdout.readline()
        server.terminate()
        _, errors = recorder.communicate(timeout=30)
    assert "gave nothing for 4 s: it was unplugged or stopped" in errors
    assert "Expression" not in errors
