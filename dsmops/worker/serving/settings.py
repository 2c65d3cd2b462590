"""The settings of a worker, and how its run begins and ends.

Model processes begin with this. Nothing here takes long to import, so that they do so early.
"""

from __future__ import annotations

import json
import platform
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dsmops import __version__
from dsmops.worker.runtime.facts import FactsBoard
from dsmops.worker.serving.logs import Shown

if TYPE_CHECKING:
    from dsmops.audio import Samples
    from dsmops.worker.runtime.stt.interface import SttEngineProtocol, SttTokenizer
    from dsmops.worker.runtime.tts.interface import TtsEngineProtocol, TtsRequest, TtsTokenizer
    from dsmops.worker.runtime.tts.machine import TtsPacing
    from dsmops.worker.serving.token_keys import TokenSettings

BATCHED_TYPE = "BatchedAsr"
"""The type of a speech-to-text module with slots; the other is `Asr`."""
STT_SESSIONS = 8
"""Slots of an `Asr` module, whose config names no number. The original makes a new model state for
each session, without a limit."""
DRAIN_S = 8.0
"""How long conversations may go on after SIGTERM. Docker kills after 10 s."""
PARTING_S = 1.5
"""For the closing handshakes of the remaining clients."""
PATIENT_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""After these conversations may end by themselves."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take. Those up to `tts_silence_s` are moshi-server's."""

    ping_s: float = 10.0
    """A ping goes out after so long without anything to send."""
    silence_s: float = 20.0
    """A speech-to-text client that sends no frame for so long is dropped."""
    no_audio_s: float = 120.0
    """The same without a binary frame; noticed when another frame comes."""
    session_s: float | None = None
    tts_silence_s: float = 30.0
    """Without any frame from a text-to-speech client, the end; those that only listen answer
    pings."""
    stalled_s: float = 20.0
    """A client that reads nothing for so long is dropped."""
    close_s: float = 1.0
    """For the client's part of the closing handshake."""
    body_s: float = 60.0
    """For the body of a post, 2 MiB at most."""
    first_request_s: float = 15.0
    """For the first request's head on a new connection."""
    connections: int | None = None
    """Connections at once; None: what the limit of open files leaves."""
    waiting_posts: int = 64
    """Posts that wait for a slot, with at most 2 MiB each; further ones get 503."""
    upload_bytes: int = 25 << 20
    """Bytes of a file in a form, as OpenAI allows them; beyond 2 MiB it lies on disk."""
    post_audio_s: float = 7200.0
    """Seconds of audio in one post. 2 MiB of FLAC can hold 162 hours of silence."""


class ModuleSettings(Protocol):
    """A module of the config."""

    @property
    def name(self) -> str: ...
    @property
    def facts(self) -> FactsBoard: ...


@dataclass(frozen=True, slots=True)
class SttSettings:
    """One module of the config.

    `module_type` is `BatchedAsr` or `Asr`; the file names are for `/api/modules_info`.
    """

    name: str
    module_type: str
    path: str
    slots: int
    lm_file: str
    audio_tokenizer_file: str
    open_engine: Callable[[], SttEngineProtocol]
    open_tokenizer: Callable[[], SttTokenizer] | None = None
    """For fronts, which have no engine. Without it the module is served in one process."""
    model_name: str = ""
    """The model's own name, empty where it is not known."""
    facts: FactsBoard = field(default_factory=FactsBoard)
    """What the engines say of themselves once they are loaded."""


@dataclass(frozen=True, slots=True)
class TtsSettings:
    """One `Py` module of the config.

    `find_voice` returns the voices, main speaker first, that a name stands for, the default's for
    an empty name; it may read files, on any thread, and raises InputError for a name that stands
    for none. `request` is how streams speak where they do not say: all but voices and seed of it
    counts.
    """

    name: str
    path: str
    open_engine: Callable[[], TtsEngineProtocol]
    find_voice: Callable[[str], tuple[Samples, ...]]
    request: TtsRequest
    pacing: TtsPacing
    interleaved_text_only: int
    slots: int = 0
    """Slots of the engine; fronts must know them before it is loaded."""
    open_tokenizer: Callable[[], TtsTokenizer] | None = None
    """For fronts, which have no engine. Without it the module is served in one process."""
    model_name: str = ""
    """The model's own name, empty where it is not known."""
    facts: FactsBoard = field(default_factory=FactsBoard)
    """What the engines say of themselves once they are loaded."""
    list_voices: Callable[[], Sequence[str]] = tuple
    """Names of the voices; it may ask the hub, on any thread."""
    default_voice: str = ""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What to serve, and where. `port` 0 lets the system choose."""

    addr: str
    port: int
    static_dir: Path
    authorized_ids: Sequence[str]
    modules: Sequence[ModuleSettings]
    limits: Limits = field(default_factory=Limits)
    drain_s: float = DRAIN_S
    allowed_origins: Sequence[str] = ()
    """Origins of pages of other sites that may use the server; `*` is every site."""
    tokens: TokenSettings | None = None
    """The tokens that let callers in beside `authorized_ids`."""
    started_s: int = field(default_factory=lambda: int(time.time()))
    """When the server was started, as a Unix time; the same in all its processes."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How serving ended: the signal, and whether a step hangs.

    A hanging step would keep the process alive.
    """

    signal: signal.Signals
    hangs: bool


BUILD_INFO = {
    **dict.fromkeys(
        ("build_timestamp", "build_date", "git_branch", "git_timestamp", "git_date", "git_hash"),
        "unknown",
    ),
    "git_describe": f"dsmops {__version__}",
    "rustc_host_triple": f"{platform.machine()}-unknown-{platform.system().lower()}",
    "rustc_version": f"none, Python {platform.python_version()}",
    "cargo_target_triple": f"{platform.machine()}-unknown-{platform.system().lower()}",
}
"""The keys of moshi-server's, all strings; `git_describe` says who answers."""


def build_info() -> Shown:
    """Return what the log says of the build."""
    build = ", ".join(f"{key}: {json.dumps(value)}" for key, value in BUILD_INFO.items())
    return Shown(f"BuildInfo {{ {build} }}")
