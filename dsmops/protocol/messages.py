"""The messages of moshi-server's streaming modules, as values. No I/O, no models, no event loop.

Names of types and fields are those on the wire.

Source: moshi-server `asr.rs`, `batched_asr.rs`, `tts.rs` and `py_module.rs`.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

MAX_SAMPLES = 60 * 24_000
"""A minute. Kyutai's clients send 80 ms per message, and 35 s of silence at the end."""
MAX_OPUS_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 8 << 20
"""Room for a minute of float32 samples at 5 bytes each. The original accepts 64 MiB."""

NO_FREE_CHANNELS = "no free channels"
"""The text of the `Error` that a server sends while all its slots are taken."""

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class ProtocolError(ValueError):
    """Bytes that are not a message of this protocol. The text says why, for the client."""


class CloseCode(IntEnum):
    """Why a WebSocket was closed. The code says whether trying again helps.

    The original server sends no code.
    """

    NORMAL = 1000
    """The client asked for it."""
    GOING_AWAY = 1001
    """The server is shutting down."""
    BAD_MESSAGE = 1007
    """A message or its audio cannot be decoded, or it asks for an unknown voice or word."""
    TIMED_OUT = 1008
    """The client sent or read nothing for too long, or the session's time is over."""
    TOO_BIG = 1009
    """A message was larger than `MAX_MESSAGE_BYTES`."""
    FAILED = 1011
    """The model failed, for this stream or for all."""
    FULL = 1013
    """No slot is free now."""


class TtsFormat(StrEnum):
    """How a text-to-speech module sends its audio.

    Bare bytes hold audio only. Messages also carry words and errors.
    """

    OGG_OPUS = "OggOpus"
    OGG_OPUS_MESSAGE_PACK = "OggOpusMessagePack"
    PCM = "Pcm"
    PCM_MESSAGE_PACK = "PcmMessagePack"

    @property
    def has_messages(self) -> bool:
        return self in (TtsFormat.OGG_OPUS_MESSAGE_PACK, TtsFormat.PCM_MESSAGE_PACK)

    @property
    def is_opus(self) -> bool:
        return self in (TtsFormat.OGG_OPUS, TtsFormat.OGG_OPUS_MESSAGE_PACK)


class Audio(Struct, frozen=True, eq=False):
    """24 kHz mono audio, nominally in [-1, 1], of at most `MAX_SAMPLES`, rounded to float32."""

    pcm: NDArray[np.float32]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Audio) and np.array_equal(self.pcm, other.pcm)

    __hash__ = None  # type: ignore[assignment]


class OggOpus(Struct, frozen=True):
    """A piece of an Ogg/Opus stream. Pages may be cut anywhere."""

    data: bytes


class Marker(Struct, frozen=True, tag="Marker", tag_field="type"):
    """Sent by a client, and returned when the text of all audio before it is complete."""

    id: Int64


class Init(Struct, frozen=True, tag="Init", tag_field="type"):
    """Restarts the stream; answered with `Ready`."""


class Text(Struct, frozen=True, tag="Text", tag_field="type"):
    """More text; the end of a piece is the end of a word."""

    text: str


class Voice(Struct, frozen=True, eq=False):
    """The speaker, as latents in the order of `shape`, which has one to three dimensions.

    Comes before the first text.
    """

    embeddings: NDArray[np.float32]
    shape: tuple[int, ...]


class Eos(Struct, frozen=True, tag="Eos", tag_field="type"):
    """The end of the text. The single byte `EOS_BYTE` means the same."""


class Ready(Struct, frozen=True, tag="Ready", tag_field="type"):
    """The stream has a slot, and the model runs."""


class Step(Struct, frozen=True, tag="Step", tag_field="type"):
    """A frame was processed.

    `prs[i]` is the probability of pause i, `buffered_pcm` the number of samples that wait.
    """

    step_idx: int
    prs: tuple[float, ...]
    buffered_pcm: int


class Word(Struct, frozen=True, tag="Word", tag_field="type"):
    """A complete word; `start_time` in seconds of the stream's audio."""

    text: str
    start_time: float


class EndWord(Struct, frozen=True, tag="EndWord", tag_field="type"):
    """The end of the last `Word`."""

    stop_time: float


class TtsText(Struct, frozen=True, tag="Text", tag_field="type"):
    """A synthesized word, with its times in the audio in seconds."""

    text: str
    start_s: float
    stop_s: float


class Error(Struct, frozen=True, tag="Error", tag_field="type"):
    """A failure; the last message before the server closes the socket."""

    message: str


SttRequest = Audio | OggOpus | Marker | Init
SttAnswer = Ready | Step | Word | EndWord | Marker | Error
TtsRequest = Text | Voice | Eos
TtsAnswer = Ready | TtsText | Audio | OggOpus | Error
EOS_BYTE = b"\0"
