"""Messages to MessagePack bytes and back.

Encoded messages equal those of moshi-server 0.6.4 byte for byte: maps with `type` first and the
fields in order, times as float64, lists of samples and probabilities as float32, Opus bytes as an
array of integers. Decoding accepts what it accepts, except for these differences, which no known
client can notice:

- samples and voices must be finite, and a message holds at most `MAX_SAMPLES` numbers or
  `MAX_OPUS_BYTES` of Opus;
- bytes after the first object are an error: the original drops them, and with them audio;
- keys are strings; the original also accepts bytes. Of two equal keys the last one counts.

Source: moshi-server `asr.rs`, `batched_asr.rs`, `tts.rs` and `py_module.rs`, rmp-serde 1.3.0.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct
from numpy.typing import NDArray

from dsmops.protocol.messages import (
    EOS_BYTE,
    MAX_OPUS_BYTES,
    MAX_SAMPLES,
    Audio,
    Eos,
    Error,
    Init,
    Int64,
    Marker,
    OggOpus,
    ProtocolError,
    Ready,
    Step,
    SttAnswer,
    SttRequest,
    Text,
    TtsAnswer,
    TtsRequest,
    TtsText,
    Voice,
)


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
    id: Int64


class _InitArray(Struct, tag="Init", tag_field="type", array_like=True): ...


class _TextArray(Struct, tag="Text", tag_field="type", array_like=True):
    text: str


class _VoiceArray(_Voice, tag="Voice", tag_field="type", array_like=True): ...


class _EosArray(Struct, tag="Eos", tag_field="type", array_like=True): ...


_encoder = msgspec.msgpack.Encoder()
_maps = msgspec.msgpack.Decoder(_Audio | _OggOpus | Marker | Init)
_arrays = msgspec.msgpack.Decoder(_AudioArray | _OggOpusArray | _MarkerArray | _InitArray)
_answers = msgspec.msgpack.Decoder(SttAnswer)
_tts_maps = msgspec.msgpack.Decoder(Text | _Voice | Eos)
_tts_arrays = msgspec.msgpack.Decoder(_TextArray | _VoiceArray | _EosArray)
_tts_answers = msgspec.msgpack.Decoder(Ready | TtsText | _Audio | _OggOpus | Error)
_numbers = msgspec.msgpack.Decoder(list[float])
_bytes = msgspec.msgpack.Decoder(list[Annotated[int, Meta(ge=0, le=255)]])

_FLOAT32, _FLOAT64 = 0xCA, 0xCB


def decode_stt_request(data: bytes) -> SttRequest:
    """Return the message of a speech-to-text client.

    Memory stays within a small multiple of the input, whatever its headers claim.

    Raises:
        ProtocolError: these bytes are not a message.
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


def decode_tts_request(data: bytes) -> TtsRequest:
    """Return the message of a text-to-speech client; memory as for `decode_stt_request`.

    Raises:
        ProtocolError: these bytes are not a message.
    """
    if data == EOS_BYTE:
        return Eos()
    message: Any = _decoded(_tts_arrays if _is_array(data) else _tts_maps, data)
    match message:
        case _Voice():
            embeddings = _samples(bytes(message.embeddings), "embeddings")
            if math.prod(message.shape) != len(embeddings):
                raise ProtocolError(
                    f"shape {message.shape} does not hold {len(embeddings):,} embeddings"
                )
            return Voice(embeddings, tuple(message.shape))
        case _TextArray():
            return Text(message.text)
        case _EosArray():
            return Eos()
        case Text() | Eos():
            return message
    raise AssertionError(message)


def decode_tts_answer(data: bytes) -> TtsAnswer:
    """Return the message of a text-to-speech module.

    Raises:
        ProtocolError: these bytes are not a message.
    """
    answer: Any = _decoded(_tts_answers, data)
    match answer:
        case _Audio():
            return Audio(_samples(bytes(answer.pcm), "pcm"))
        case _OggOpus():
            return OggOpus(_pages(bytes(answer.data)))
        case Ready() | TtsText() | Error():
            return answer
    raise AssertionError(answer)


def decode_stt_answer(data: bytes) -> SttAnswer:
    """Return the message of a speech-to-text module.

    Raises:
        ProtocolError: these bytes are not a message.
    """
    answer: SttAnswer = _decoded(_answers, data)
    return answer


def encode(message: SttRequest | SttAnswer | TtsRequest | TtsAnswer) -> bytes:
    """Return a message's bytes."""
    match message:
        case Audio():
            return _encoder.encode(_Audio(Raw(_float32s(message.pcm))))
        case OggOpus():
            return _encoder.encode(_OggOpus(Raw(_encoder.encode(list(message.data)))))
        case Voice():
            return _encoder.encode(
                _Voice(Raw(_float32s(message.embeddings.reshape(-1))), list(message.shape))
            )
        case Step():
            return _encoder.encode(
                _Step(message.step_idx, Raw(_float32s(message.prs)), message.buffered_pcm)
            )
    return _encoder.encode(message)


def encode_json(messages: Sequence[SttAnswer]) -> bytes:
    """Return messages as a JSON array of objects, `type` first: the answer to a POST."""
    return msgspec.json.encode(messages)


def _decoded(decoder: msgspec.msgpack.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ProtocolError(f"not a message of this protocol: {exc}") from exc


def _is_array(data: bytes) -> bool:
    return data[:1] != b"" and (data[0] & 0xF0 == 0x90 or data[0] in (0xDC, 0xDD))


def _pages(data: bytes) -> bytes:
    """Return an array of integers as bytes."""
    _require_count(data, "data", MAX_OPUS_BYTES, "integers from 0 to 255")
    return bytes(_decoded(_bytes, data))


def _samples(data: bytes, field: str) -> NDArray[np.float32]:
    """Return an array of numbers as float32.

    Arrays of one float width, which all known clients send, are converted as a whole.
    """
    start = _require_count(data, field, MAX_SAMPLES, "numbers")
    pcm = None
    if len(data) > start and data[start] in (_FLOAT32, _FLOAT64):
        item = np.dtype([("type", "u1"), ("value", ">f4" if data[start] == _FLOAT32 else ">f8")])
        if (len(data) - start) % item.itemsize == 0:
            items = np.frombuffer(data, item, offset=start)
            if (items["type"] == data[start]).all() and len(items) == _count(data)[0]:
                pcm = items["value"]
    with np.errstate(over="ignore"):
        samples = np.asarray(_decoded(_numbers, data) if pcm is None else pcm).astype(np.float32)
    finite = np.isfinite(samples)
    if not finite.all():
        raise ProtocolError(f"{field}[{int(finite.argmin())}] is not a finite float32")
    return samples


def _require_count(data: bytes, field: str, most: int, what: str) -> int:
    """Return where the items of an array begin. Other types and longer arrays are errors."""
    count, start = _count(data)
    if start == 0:
        raise ProtocolError(
            f"{field} is not an array: send an array of {what}, not bytes or a single value"
        )
    if count > most:
        raise ProtocolError(f"{field} has {count:,} items; a message may have {most:,}")
    return start


def _count(data: bytes) -> tuple[int, int]:
    """Return number of items and header length of a MessagePack array, (0, 0) for other types."""
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
    head = (
        bytes([0x90 | count])
        if count < 16
        else struct.pack(">BH", 0xDC, count)
        if count < 1 << 16
        else struct.pack(">BI", 0xDD, count)
    )
    return head + items.tobytes()
