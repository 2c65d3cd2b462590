"""What the messages of a server mean for a report.

Sources: moshi-server 0.6.3 and 0.6.4 (`main.rs`, `batched_asr.rs`, `py_module.rs`,
`py_basr_module.rs`), and `dsmops worker`, which logs the same and says more of some.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from dsmops.logs.failures import FailureSeen
from dsmops.logs.step_rows import StepRows

STT, TTS = "stt", "tts"
KINDS = {
    "batched_asr": STT,
    "asr": STT,
    "py_basr_module": STT,
    "py_module": TTS,
    "tts": TTS,
}
"""Modules by the last part of the target of their lines, and what they do."""

_HANDLED = (
    # Beginning of the message, module, stream or post, whether a second line tells that the key is
    # known.
    ("handling batched asr-streaming query", "batched_asr", "stream", True),
    ("handling asr-streaming query", "asr", "stream", False),
    ("handling py asr streaming post query", "py_basr_module", "post", True),
    ("handling py asr streaming query", "py_basr_module", "stream", True),
    ("handling py streaming post query", "py_module", "post", True),
    ("handling py streaming query", "py_module", "stream", True),
    ("handling py query", "py_module", "stream", False),
    ("handling tts streaming query", "tts", "stream", False),
    ("handling tts query", "tts", "post", False),
    ("handling asr post query", "batched_asr", "post", True),
    ("handling openai transcription", "batched_asr", "post", False),
    ("handling openai speech", "py_module", "post", False),
)
_ACCEPTED = (
    ("batched-asr ws query", "batched_asr", "stream"),
    ("batched-asr post query", "batched_asr", "post"),
    ("py-asr handle-socket", "py_basr_module", "stream"),
    ("py-asr handle-query", "py_basr_module", "post"),
    ("py query", "py_module", "stream"),
    ("py handle-query", "py_module", "post"),
)
_SLOT = re.compile(r"batched-(?:asr|py|py-asr) channel (?:bidx|batch_idx)=(\d{1,6})")
_FINISHED = re.compile(r"tts finished batch_idx=(\d{1,6})(?: first_audio_ms=(\d{1,9}))?")
_LOOP = re.compile(r"starting asr loop (\d{1,6})")
_ENGINE = re.compile(r"engine is loaded model=(\S{1,100}).*? dtype=\"?(\w+)\"? streams=(\d{1,6})")
_SILENT = re.compile(r"recv loop (?:short|long) timeout(?: (?:bidx|batch_idx)=(\d{1,6}))?")
_REFUSED_KEY = re.compile(
    r"(?:requests without a known key were refused|a token was refused: .{0,300}?) count=(\d{1,9})"
)
"""Of `dsmops worker`, which counts them for a while."""
_RECV_ENDS = re.compile(
    r"task (?:completed successfully|failed) name=\"?recv_loop\"?|recv loop (?:exited|err)\b"
)
_ANY_ENDS = re.compile(r"task (?:completed successfully name=\"?recv|failed name=\"?\w+)_loop\"?")
"""Of `dsmops worker`, which logs a failure once, under whichever of the two it was."""


class Began(NamedTuple):
    """A server starts. `is_second` is for the line that may follow one that said so."""

    is_second: bool


class Ready(NamedTuple):
    """A model loop runs, of so many slots where the log has it."""

    slots: int | None


class Listening(NamedTuple):
    """The port is open."""


class Handled(NamedTuple):
    """A `stream` or `post` is asked for. `tells_key`: a later line tells that its key is known."""

    module: str
    kind: str
    tells_key: bool


class Accepted(NamedTuple):
    """The key of a `stream` or `post` is known."""

    module: str
    kind: str


class KeysRefused(NamedTuple):
    """So many requests had no known key."""

    requests: int


class ConnectionEnded(NamedTuple):
    """A connection ended; the line does not say of which module, nor of which slot."""


class SlotTaken(NamedTuple):
    """A stream or post of a module takes a slot."""

    module: str
    slot: int


class TextFinished(NamedTuple):
    """All sound of a text was sent; the first after so many milliseconds."""

    module: str
    slot: int
    first_audio_ms: int | None


class Full(NamedTuple):
    """A module had no free slot."""

    module: str


class Silent(NamedTuple):
    """A module drops a client for silence."""

    module: str
    slot: int | None


class LoopSize(NamedTuple):
    """The model loop of a module has so many slots."""

    module: str
    slots: int


class Engine(NamedTuple):
    """A module has loaded a model."""

    module: str
    model: str
    dtype: str
    slots: int


class Failed(NamedTuple):
    """A line tells of a known failure. `ends_service`: no stream is served after it."""

    seen: FailureSeen
    ends_service: bool


Said = (
    Began
    | Ready
    | Listening
    | Handled
    | Accepted
    | KeysRefused
    | ConnectionEnded
    | SlotTaken
    | TextFinished
    | Full
    | Silent
    | LoopSize
    | Engine
    | Failed
)
"""What one event tells."""


@dataclass(slots=True)
class Batch:
    """What a stretch of a log tells, in its order.

    `said` are time, container and what was said. Of events that say nothing the time remains: the
    server still wrote something. `steps` are those of the stretch by container and module.
    """

    read_bytes: int = 0
    lines: int = 0
    text_lines: int = 0
    is_worker: bool = False
    """Whether `dsmops worker` wrote this: its lines name line 0 of the original's sources."""
    said: list[tuple[datetime | None, str | None, tuple[Said, ...]]] = field(default_factory=list)
    steps: list[tuple[str | None, StepRows]] = field(default_factory=list)

    @property
    def has_news(self) -> bool:
        """Whether there is more in it than lines."""
        return bool(self.said or self.steps)


def said_by(target: str, line: int | None, message: str) -> tuple[Said, ...]:
    """Return what an event says, but for failures.

    `target` is the module path of the server, `line` that of its source.
    """
    if message.startswith("starting worker"):
        return (Began(is_second=True),)
    if message.startswith("build_info="):
        return (Began(is_second=False),)
    if message.startswith("listening on "):
        return (Listening(),)
    if message.startswith(("starting-up the py model loop", "starting-up the py asr model loop")):
        return (Ready(None),)
    module = target.rpartition("::")[2]
    if found := _LOOP.match(message):
        slots = int(found[1])
        return (Ready(slots), LoopSize(module, slots))
    for begin, of, kind, tells_key in _HANDLED:
        if message.startswith(begin):
            return (Handled(of, kind, tells_key),)
    for begin, of, kind in _ACCEPTED:
        if message.startswith(begin):
            return (Accepted(of, kind),)
    if found := _REFUSED_KEY.match(message):
        return (KeysRefused(int(found[1])),)
    if (_ANY_ENDS if line == 0 else _RECV_ENDS).match(message):
        return (ConnectionEnded(),)
    said = _said_by_module(module, message)
    return () if said is None else (said,)


def _said_by_module(module: str, message: str) -> Said | None:
    """Return what a module itself says of its slots."""
    if found := _SLOT.match(message):
        return SlotTaken(module, int(found[1]))
    if found := _FINISHED.match(message):
        return TextFinished(module, int(found[1]), int(found[2]) if found[2] else None)
    if message.startswith("no free channels"):
        return Full(module)
    if found := _SILENT.match(message):
        return Silent(module, int(found[1]) if found[1] else None)
    if found := _ENGINE.match(message):
        return Engine(module, found[1], found[2], int(found[3]))
    return None
