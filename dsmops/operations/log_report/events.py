"""What the messages of a server mean for a report.

Sources: moshi-server 0.6.3 and 0.6.4 (`main.rs`, `batched_asr.rs`, `py_module.rs`,
`py_basr_module.rs`), and `dsmops worker`, which logs the same and says more of some.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

STT, TTS = "stt", "tts"
KINDS = {
    "batched_asr": STT,
    "asr": STT,
    "py_basr_module": STT,
    "py_module": TTS,
    "tts": TTS,
}
"""Modules by the last part of the target of their lines, and what they do."""

HANDLED = (
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
ACCEPTED = (
    ("batched-asr ws query", "batched_asr", "stream"),
    ("batched-asr post query", "batched_asr", "post"),
    ("py-asr handle-socket", "py_basr_module", "stream"),
    ("py-asr handle-query", "py_basr_module", "post"),
    ("py query", "py_module", "stream"),
    ("py handle-query", "py_module", "post"),
)
SLOT = re.compile(r"batched-(?:asr|py|py-asr) channel (?:bidx|batch_idx)=(\d{1,6})")
FINISHED = re.compile(r"tts finished batch_idx=(\d{1,6})(?: first_audio_ms=(\d{1,9}))?")
LOOP = re.compile(r"starting asr loop (\d{1,6})")
ENGINE = re.compile(r"engine is loaded model=(\S{1,100}).*? dtype=\"?(\w+)\"? streams=(\d{1,6})")
SILENT = re.compile(r"recv loop (?:short|long) timeout(?: (?:bidx|batch_idx)=(\d{1,6}))?")
REFUSED_KEY = re.compile(
    r"(?:requests without a known key were refused|a token was refused: .{0,300}?) count=(\d{1,9})"
)
"""Of `dsmops worker`, which counts them for a while."""
RECV_ENDS = re.compile(
    r"task (?:completed successfully|failed) name=\"?recv_loop\"?|recv loop (?:exited|err)\b"
)
ANY_ENDS = re.compile(r"task (?:completed successfully name=\"?recv|failed name=\"?\w+)_loop\"?")
"""Of `dsmops worker`, which logs a failure once, under whichever of the two it was."""


@dataclass(frozen=True, slots=True)
class Event:
    """A line that begins an event. `line` is that of the server's source, None if unknown."""

    at: datetime | None
    target: str
    line: int | None
    message: str


def begins_run(message: str) -> bool:
    """Return whether a server says this first."""
    return message.startswith(("build_info=", "starting worker"))
