"""The messages of moshi-server's streaming modules, as values and as MessagePack bytes. No I/O, no models, no event loop.

Names of types and fields are those on the wire. What is sent is byte for byte what moshi-server 0.6.4 sends: maps with `type` first and
the fields in order, times as float64, lists of samples and probabilities as float32, Opus bytes as an array of integers. What is accepted
is what it accepts, with these differences, none of which a known client can notice:

- samples and voices must be finite, and a message holds at most `MAX_SAMPLES` of such numbers, or `MAX_OPUS_BYTES` of Opus;
- bytes after the first object are an error: with them audio would vanish without a word;
- keys are strings; the original also takes them as bytes. Of two equal keys the last one counts.

Source: moshi-server `asr.rs`, `batched_asr.rs`, `tts.rs` and `py_module.rs`, rmp-serde 1.3.0.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct
from numpy.typing import NDArray

MAX_SAMPLES = 60 * 24_000
"""A minute. Kyutai's clients send 80 ms a message, and 35 s of silence at the end."""
MAX_OPUS_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 8 << 20
"""Room for a minute of float32 samples at 5 bytes each. The original takes 64 MiB."""

_I64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class ProtocolError(ValueError):
    """Bytes that are none of the messages; the text says why, for the client to read."""


class CloseCode(IntEnum):
    """Why a WebSocket was closed, so that a client knows whether trying again helps. The original sends no code."""

    NORMAL = 1000
    """The client asked for it."""
    GOING_AWAY = 1001
    """The server shuts down."""
    BAD_MESSAGE = 1007
    """A message could not be decoded, or its audio could not, or asks for what cannot be: a voice that is not there, an unsayable word."""
    TIMED_OUT = 1008
    """Nothing came for too long, or nothing was read, or the session's time is over."""
    TOO_BIG = 1009
    """A message was larger than `MAX_MESSAGE_BYTES`."""
    FAILED = 1011
    """The model failed, for this stream or for all."""
    FULL = 1013
    """No slot is free now."""


class SpeechFormat(StrEnum):
    """How a text-to-speech module sends its audio: as bare bytes, or in messages, which also carry words and errors."""

    OGG_OPUS = "OggOpus"
    OGG_OPUS_MESSAGE_PACK = "OggOpusMessagePack"
    PCM = "Pcm"
    PCM_MESSAGE_PACK = "PcmMessagePack"

    @property
    def has_messages(self) -> bool:
        return self in (SpeechFormat.OGG_OPUS_MESSAGE_PACK, SpeechFormat.PCM_MESSAGE_PACK)

    @property
    def is_opus(self) -> bool:
        return self in (SpeechFormat.OGG_OPUS, SpeechFormat.OGG_OPUS_MESSAGE_PACK)


class Audio(Struct, frozen=True, eq=False):
    """24 kHz mono audio, nominally in [-1, 1], of any length up to `MAX_SAMPLES`. Values of other widths are rounded to float32."""

    pcm: NDArray[np.float32]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Audio) and np.array_equal(self.pcm, other.pcm)

    __hash__ = None  # type: ignore[assignment]


class OggOpus(Struct, frozen=True):
    """A piece of an Ogg/Opus stream; pages may be cut anywhere."""

    data: bytes


class Marker(Struct, frozen=True, tag="Marker", tag_field="type"):
    """Sent by a client, and echoed when the text of all that was sent before it is out."""

    id: _I64


class Init(Struct, frozen=True, tag="Init", tag_field="type"):
    """Starts the stream anew; answered with `Ready`."""


class Text(Struct, frozen=True, tag="Text", tag_field="type"):
    """More to say; the end of a piece is the end of a word."""

    text: str


class Voice(Struct, frozen=True, eq=False):
    """Who speaks, as latents in the order of `shape`, which has one to three dimensions. Comes before the first text."""

    embeddings: NDArray[np.float32]
    shape: tuple[int, ...]


class Eos(Struct, frozen=True, tag="Eos", tag_field="type"):
    """No more text comes. One byte, `EOS_BYTE`, says the same."""


class Ready(Struct, frozen=True, tag="Ready", tag_field="type"):
    """The stream has its slot, and the model runs."""


class Step(Struct, frozen=True, tag="Step", tag_field="type"):
    """A frame was heard. `prs[i]` is the probability of pause i, `buffered_pcm` the samples that wait."""

    step_idx: int
    prs: tuple[float, ...]
    buffered_pcm: int


class Word(Struct, frozen=True, tag="Word", tag_field="type"):
    """A whole word; `start_time` in seconds of the stream's audio."""

    text: str
    start_time: float


class EndWord(Struct, frozen=True, tag="EndWord", tag_field="type"):
    """The end of the last `Word`."""

    stop_time: float


class SpokenText(Struct, frozen=True, tag="Text", tag_field="type"):
    """A word that was said, with its times in the audio in seconds."""

    text: str
    start_s: float
    stop_s: float


class Error(Struct, frozen=True, tag="Error", tag_field="type"):
    """What went wrong; the last message before the socket is closed."""

    message: str


ClientMessage = Audio | OggOpus | Marker | Init
ServerMessage = Ready | Step | Word | EndWord | Marker | Error
SpeechRequest = Text | Voice | Eos
SpeechAnswer = Ready | SpokenText | Audio | OggOpus | Error
EOS_BYTE = b"\0"


class _Audio(Struct, tag="Audio", tag_field="type"):
    pcm: Raw


class _OggOpus(Struct, tag="OggOpus", tag_field="type"):
    data: Raw


class _Voice(Struct, tag="Voice", tag_field="type"):
    embeddings: Raw
    shape: Annotated[list[Annotated[int, Meta(ge=1)]], Meta(min_length=1, max_length=3)]


class _Step(Struct, tag="Step", tag_field="type"):
    step_idx: int
    prs: Raw
    buffered_pcm: int


class _AudioArray(_Audio, tag="Audio", tag_field="type", array_like=True): ...


class _OggOpusArray(_OggOpus, tag="OggOpus", tag_field="type", array_like=True): ...


class _MarkerArray(Struct, tag="Marker", tag_field="type", array_like=True):
    id: _I64


class _InitArray(Struct, tag="Init", tag_field="type", array_like=True): ...


class _TextArray(Struct, tag="Text", tag_field="type", array_like=True):
    text: str


class _VoiceArray(_Voice, tag="Voice", tag_field="type", array_like=True): ...


class _EosArray(Struct, tag="Eos", tag_field="type", array_like=True): ...


_encoder = msgspec.msgpack.Encoder()
_maps = msgspec.msgpack.Decoder(_Audio | _OggOpus | Marker | Init)
_arrays = msgspec.msgpack.Decoder(_AudioArray | _OggOpusArray | _MarkerArray | _InitArray)
_answers = msgspec.msgpack.Decoder(ServerMessage)
_speech_maps = msgspec.msgpack.Decoder(Text | _Voice | Eos)
_speech_arrays = msgspec.msgpack.Decoder(_TextArray | _VoiceArray | _EosArray)
_speech_answers = msgspec.msgpack.Decoder(Ready | SpokenText | _Audio | _OggOpus | Error)
_numbers = msgspec.msgpack.Decoder(list[float])
_bytes = msgspec.msgpack.Decoder(list[Annotated[int, Meta(ge=0, le=255)]])

_FLOAT32, _FLOAT64 = 0xCA, 0xCB


def decode(data: bytes) -> ClientMessage:
    """Return the message that a client sent. Memory stays within a small multiple of the input, whatever that claims to hold.

    Raises:
        ProtocolError: these bytes are no message.
    """
    message: Any = _decoded(_arrays if _is_array(data) else _maps, data)
    match message:
        case _Audio():
            return Audio(_samples(bytes(message.pcm), "pcm"))
        case _OggOpus():
            return OggOpus(_pages(bytes(message.data)))
        case _MarkerArray():
            return Marker(message.id)
        case _InitArray():
            return Init()
        case Marker() | Init():
            return message
    raise AssertionError(message)


def decode_speech_request(data: bytes) -> SpeechRequest:
    """Return the message that a client of a text-to-speech module sent; memory as for `decode`.

    Raises:
        ProtocolError: these bytes are no message.
    """
    if data == EOS_BYTE:
        return Eos()
    message: Any = _decoded(_speech_arrays if _is_array(data) else _speech_maps, data)
    match message:
        case _Voice():
            embeddings = _samples(bytes(message.embeddings), "embeddings")
            if math.prod(message.shape) != len(embeddings):
                raise ProtocolError(f"shape {message.shape} does not hold {len(embeddings):,} embeddings")
            return Voice(embeddings, tuple(message.shape))
        case _TextArray():
            return Text(message.text)
        case _EosArray():
            return Eos()
        case Text() | Eos():
            return message
    raise AssertionError(message)


def decode_speech_answer(data: bytes) -> SpeechAnswer:
    """Return the message that a text-to-speech module sent.

    Raises:
        ProtocolError: these bytes are no message.
    """
    answer: Any = _decoded(_speech_answers, data)
    match answer:
        case _Audio():
            return Audio(_samples(bytes(answer.pcm), "pcm"))
        case _OggOpus():
            return OggOpus(_pages(bytes(answer.data)))
        case Ready() | SpokenText() | Error():
            return answer
    raise AssertionError(answer)


def decode_answer(data: bytes) -> ServerMessage:
    """Return the message that a server sent.

    Raises:
        ProtocolError: these bytes are no message.
    """
    answer: ServerMessage = _decoded(_answers, data)
    return answer


def encode(message: ClientMessage | ServerMessage | SpeechRequest | SpeechAnswer) -> bytes:
    """Return a message's bytes."""
    match message:
        case Audio():
            return _encoder.encode(_Audio(Raw(_float32s(message.pcm))))
        case OggOpus():
            return _encoder.encode(_OggOpus(Raw(_encoder.encode(list(message.data)))))
        case Voice():
            return _encoder.encode(_Voice(Raw(_float32s(message.embeddings.reshape(-1))), list(message.shape)))
        case Step():
            return _encoder.encode(_Step(message.step_idx, Raw(_float32s(message.prs)), message.buffered_pcm))
    return _encoder.encode(message)


def encode_json(messages: Sequence[ServerMessage]) -> bytes:
    """Return messages as a JSON array of objects, `type` first: the answer to a POST."""
    return msgspec.json.encode(messages)


def _decoded(decoder: msgspec.msgpack.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ProtocolError(f"no message of this protocol: {exc}") from exc


def _is_array(data: bytes) -> bool:
    return data[:1] != b"" and (data[0] & 0xF0 == 0x90 or data[0] in (0xDC, 0xDD))


def _pages(data: bytes) -> bytes:
    """Return an array of integers as bytes."""
    _require_count(data, "data", MAX_OPUS_BYTES, "integers from 0 to 255")
    return bytes(_decoded(_bytes, data))


def _samples(data: bytes, field: str) -> NDArray[np.float32]:
    """Return an array of numbers as float32. Arrays of one float width, which all clients send, are not looked at number by number."""
    start = _require_count(data, field, MAX_SAMPLES, "numbers")
    pcm = None
    if len(data) > start and data[start] in (_FLOAT32, _FLOAT64):
        kind = np.dtype([("type", "u1"), ("value", ">f4" if data[start] == _FLOAT32 else ">f8")])
        if (len(data) - start) % kind.itemsize == 0:
            items = np.frombuffer(data, kind, offset=start)
            if (items["type"] == data[start]).all() and len(items) == _count(data)[0]:
                pcm = items["value"]
    with np.errstate(over="ignore"):
        samples = np.asarray(_decoded(_numbers, data) if pcm is None else pcm).astype(np.float32)
    finite = np.isfinite(samples)
    if not finite.all():
        raise ProtocolError(f"{field}[{int(finite.argmin())}] is not a finite float32")
    return samples


def _require_count(data: bytes, field: str, most: int, what: str) -> int:
    """Return where the items of an array begin, once it is one, and not too long."""
    count, start = _count(data)
    if start == 0:
        raise ProtocolError(f"{field} is not an array: send an array of {what}, not bytes or a single value")
    if count > most:
        raise ProtocolError(f"{field} has {count:,} items, and a message may have {most:,}")
    return start


def _count(data: bytes) -> tuple[int, int]:
    """Return the number of items of a MessagePack array, and the length of its header; (0, 0) where it is something else."""
    if data[0] & 0xF0 == 0x90:
        return data[0] & 0x0F, 1
    if data[0] == 0xDC:
        return int.from_bytes(data[1:3], "big"), 3
    if data[0] == 0xDD:
        return int.from_bytes(data[1:5], "big"), 5
    return 0, 0


def _float32s(values: Any) -> bytes:
    """Return an array of float32."""
    items = np.empty(len(values), np.dtype([("type", "u1"), ("value", ">f4")]))
    items["type"] = _FLOAT32
    items["value"] = values
    count = len(items)
    head = bytes([0x90 | count]) if count < 16 else struct.pack(">BH", 0xDC, count) if count < 1 << 16 else struct.pack(">BI", 0xDD, count)
    return head + items.tobytes()
