"""The request for a smoke test, and the recording that it sends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dsmops.audio import Samples, read
from dsmops.audio.signals import speech_like
from dsmops.dtypes import PLAIN, Quantised
from dsmops.operations.smoke.checks import Limits
from dsmops.operations.smoke.report import Backend

RECORDING_S = 4.0

OnStart = Callable[[str], None]
"""Gets the name of each check as it begins."""


@dataclass(frozen=True, slots=True)
class SmokeRequest:
    """What to test, and how.

    `url` is a running server. Without it the server of `config` is started: `moshi_bin`, or the
    embedded worker. `audio` None is the built-in recording. `timeout_s` is for the whole test;
    ending the server may take a grace period more. `command` replaces the backend's own command
    line; `folder` is where the server runs.
    """

    config: Path | None = None
    url: str | None = None
    moshi_bin: str | None = None
    api_key: str | None = None
    intrusive: bool = False
    timeout_s: float = 180.0
    extra_args: tuple[str, ...] = ()
    cpu: bool = False
    quantised: Quantised = PLAIN
    port: int | None = None
    audio: Path | None = None
    command: tuple[str, ...] | None = None
    folder: Path | None = None
    recording_s: float = RECORDING_S
    limits: Limits = field(default_factory=Limits)

    @property
    def backend(self) -> Backend:
        """Which server is tested."""
        return (
            Backend.URL
            if self.url
            else Backend.MOSHI_SERVER
            if self.moshi_bin
            else Backend.EMBEDDED
        )


def read_recording(request: SmokeRequest) -> Samples:
    """Return the audio to send.

    Raises:
        InputError, SourceError: the recording cannot be used.
    """
    return read(request.audio) if request.audio else speech_like(request.recording_s)
