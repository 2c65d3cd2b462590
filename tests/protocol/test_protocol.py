"""The wire format, held to bytes written by hand and to an independent MessagePack library."""

import tracemalloc
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops import protocol
from dsmops.protocol import (
    Audio,
    EndWord,
    Eos,
    Error,
    Init,
    Marker,
    OggOpus,
    ProtocolError,
    Ready,
    Step,
    Text,
    TtsFormat,
    TtsText,
    Voice,
    Word,
    decode_stt_answer,
    decode_stt_request,
    decode_tts_answer,
    decode_tts_request,
    encode,
)

float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
i64 = st.integers(-(2**63), 2**63 - 1)
client_messages = st.one_of(
    st.lists(float32s, max_size=40).map(lambda pcm: Audio(np.array(pcm, np.float32))),
    st.binary(max_size=400).map(OggOpus),
    i64.map(Marker),
    st.just(Init()),
)
answers = st.one_of(
    st.just(Ready()),
    st.builds(
        Step,
        st.integers(0, 2**40),
        st.lists(float32s, max_size=20).map(tuple),
        st.integers(0, 2**40),
    ),
    st.builds(Word, st.text(st.characters(codec="utf-8")), st.floats(allow_nan=False)),
    st.builds(EndWord, st.floats(allow_nan=False)),
    i64.map(Marker),
    st.builds(Error, st.text(st.characters(codec="utf-8"))),
)


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (Ready(), "81 a4 74 79 70 65 a5 52 65 61 64 79"),
        (
            Step(300, (0.5, 1.0), 70_000),
            "84 a4 74797065 a4 53746570 a8 737465705f696478 cd 012c a3 707273 "
            "92 ca 3f000000 ca 3f800000 "
            "ac 62756666657265645f70636d ce 00011170",
        ),
        (
            Word("é", 1.0),
            "83 a4 74797065 a4 576f7264 a4 74657874 a2 c3a9 "
            "aa 73746172745f74696d65 cb 3ff0000000000000",
        ),
        (
            EndWord(0.08),
            "82 a4 74797065 a7 456e64576f7264 a9 73746f705f74696d65 cb 3fb47ae147ae147b",
        ),
        (Marker(-1), "82 a4 74797065 a6 4d61726b6572 a2 6964 ff"),
        (Error("no"), "82 a4 74797065 a5 4572726f72 a7 6d657373616765 a2 6e6f"),
        (
            Audio(np.array([0.5], np.float32)),
            "82 a4 74797065 a5 417564696f a3 70636d 91 ca 3f000000",
        ),
        (OggOpus(b"\x4f\xff"), "82 a4 74797065 a7 4f67674f707573 a4 64617461 92 4f cc ff"),
        (Init(), "81 a4 74797065 a4 496e6974"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_messages_are_sent_byte_for_byte(message: Any, sent: str) -> None:
    """`type` first, fields in order, float64 times, float32 lists, Opus as an array."""
    assert encode(message) == bytes.fromhex(sent)


@given(client_messages)
def test_what_a_client_sends_is_what_arrives(message: Any) -> None:
    """Every client message survives the wire."""
    assert decode_stt_request(encode(message)) == message


@given(answers)
def test_what_a_server_sends_is_what_arrives(message: Any) -> None:
    """Every server message survives the wire, and an independent library reads the same."""
    assert decode_stt_answer(encode(message)) == message
    seen = msgpack.unpackb(encode(message))
    assert seen.pop("type") == type(message).__name__
    expected = {name: getattr(message, name) for name in message.__struct_fields__}
    assert seen == {
        name: list(value) if isinstance(value, tuple) else value for name, value in expected.items()
    }


@given(st.lists(st.one_of(float32s, st.integers(-(2**31), 2**31)), max_size=30), st.booleans())
def test_any_numbers_are_samples(values: list[float], single: bool) -> None:
    """Integers, float32 and float64, mixed, arrive as float32."""
    message = decode_stt_request(
        msgpack.packb({"pcm": values, "type": "Audio"}, use_single_float=single)
    )
    assert message == Audio(np.array(values, np.float32))


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"id": 7, "type": "Marker"}, Marker(7)),
        ({"type": "Marker", "id": 7, "more": {"a": [1]}}, Marker(7)),
        (["Marker", 7], Marker(7)),
        (["Audio", [1, 0.5]], Audio(np.array([1, 0.5], np.float32))),
        (["OggOpus", [1, 2]], OggOpus(b"\1\2")),
        (["Init"], Init()),
        ({"type": "Audio", "pcm": []}, Audio(np.zeros(0, np.float32))),
    ],
)
def test_other_forms_are_accepted(sent: Any, message: Any) -> None:
    """`type` anywhere, unknown keys, and the array form."""
    assert decode_stt_request(msgpack.packb(sent)) == message


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"type": "Audio", "pcm": b"\0\0\0\0"}, "send an array of numbers"),
        ({"type": "OggOpus", "data": b"OggS"}, "send an array of integers"),
        ({"type": "OggOpus", "data": [256]}, "255"),
        ({"type": "Audio", "pcm": [1.0, "x"]}, "got `str`"),
        ({"type": "Audio", "pcm": [float("nan")]}, r"pcm\[0\] is not a finite"),
        ({"type": "Audio", "pcm": [0.0, 1e39]}, r"pcm\[1\] is not a finite"),
        ({"type": "Audio", "pcm": None}, "not an array"),
        ({"type": "Audio", "pcm": [0] * (protocol.MAX_SAMPLES + 1)}, "1,440,001 items"),
        ({"type": "OggOpus", "data": [0] * (protocol.MAX_OPUS_BYTES + 1)}, "1,048,577 items"),
        ({"type": "Marker", "id": 1.0}, "got `float`"),
        ({"type": "Marker", "id": 2**63}, "<="),
        ({"type": "Marker"}, "missing required field `id`"),
        ({"type": "marker", "id": 1}, "Invalid value 'marker'"),
        ({"id": 1}, "missing required field `type`"),
        ({"type": "Ready"}, "Invalid value"),
        ([], "Expected `array` of at least length 1"),
        (3, "Expected `object`"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(sent: Any, reason: str) -> None:
    """bin instead of arrays, wrong types and ranges, unknown types."""
    with pytest.raises(ProtocolError, match=reason):
        decode_stt_request(msgpack.packb(sent))


def test_bytes_after_a_message_are_refused() -> None:
    """Two messages in one frame would lose the second."""
    with pytest.raises(ProtocolError, match="trailing"):
        decode_stt_request(encode(Init()) + encode(Init()))


@given(st.binary(max_size=300))
def test_any_bytes_give_a_message_or_a_protocol_error(data: bytes) -> None:
    """Nothing else ever comes out, neither here nor for a client."""
    for read in (decode_stt_request, decode_stt_answer):
        try:
            read(data)
        except ProtocolError:
            continue


@given(client_messages, st.data())
def test_damaged_messages_give_a_message_or_a_protocol_error(
    message: Any, data: st.DataObject
) -> None:
    """One byte changed, or cut anywhere."""
    sent = bytearray(encode(message))
    place = data.draw(st.integers(0, len(sent) - 1))
    sent[place] = data.draw(st.integers(0, 255))
    for candidate in (bytes(sent), bytes(sent[:place])):
        try:
            decode_stt_request(candidate)
        except ProtocolError:
            continue


@pytest.mark.parametrize(
    "sent",
    [
        b"\x82\xa4type\xa5Audio\xa3pcm\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x82\xa4type\xa5Audio\xa3pcm" + b"\x91" * 100_000,
        b"\x82\xa4type\xa5Audio\xa3pcm\xdd\x00\x7f\x00\x00" + b"\x00" * 0x7F0000,
    ],
    ids=[
        "claims 2**32 samples",
        "claims 2**32 keys",
        "nested",
        "nested samples",
        "8 million samples of a byte",
    ],
)
def test_lies_about_size_cost_no_memory(sent: bytes) -> None:
    """A small multiple of what was sent, whatever that claims to hold."""
    tracemalloc.start()
    with pytest.raises(ProtocolError):
        decode_stt_request(sent)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(sent) + 1_000_000


texts = st.text(st.characters(codec="utf-8"))
speech_requests = st.one_of(
    texts.map(Text),
    st.just(Eos()),
    st.tuples(st.integers(1, 3), st.integers(1, 4)).flatmap(
        lambda shape: st.lists(
            float32s, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]
        ).map(lambda values: Voice(np.array(values, np.float32), shape))
    ),
)
speech_answers = st.one_of(
    st.just(Ready()),
    st.builds(TtsText, texts, st.floats(allow_nan=False), st.floats(allow_nan=False)),
    st.lists(float32s, max_size=40).map(lambda pcm: Audio(np.array(pcm, np.float32))),
    st.binary(max_size=400).map(OggOpus),
    st.builds(Error, texts),
)


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (Text("hi"), "82 a4 74797065 a4 54657874 a4 74657874 a2 6869"),
        (Eos(), "81 a4 74797065 a3 456f73"),
        (
            Voice(np.array([0.5, 1.0], np.float32), (1, 2)),
            "83 a4 74797065 a5 566f696365 aa 656d62656464696e6773 92 ca 3f000000 ca 3f800000 "
            "a5 7368617065 92 01 02",
        ),
        (
            TtsText("é", 0.08, 1.0),
            "84 a4 74797065 a4 54657874 a4 74657874 a2 c3a9 a7 73746172745f73 cb 3fb47ae147ae147b "
            "a6 73746f705f73 cb 3ff0000000000000",
        ),
        (OggOpus(b"Og\xff"), "82 a4 74797065 a7 4f67674f707573 a4 64617461 93 4f 67 cc ff"),
    ],
)
def test_speech_is_sent_as_moshi_server_does(message: Any, sent: str) -> None:
    """Byte for byte: `type` first, fields in order, float64 times, float32 samples."""
    assert encode(message) == bytes.fromhex(sent)


@given(speech_requests)
def test_what_a_speaking_client_sends_is_read(message: Any) -> None:
    """Through our encoder, and an independent one that orders and types things differently."""
    read = decode_tts_request(encode(message))
    foreign: dict[str, Any]
    match message:
        case Voice(embeddings=embeddings, shape=shape):
            assert isinstance(read, Voice)
            assert (read.shape, read.embeddings.tobytes()) == (shape, embeddings.tobytes())
            foreign = {"shape": list(shape), "embeddings": embeddings.tolist(), "type": "Voice"}
            again = decode_tts_request(msgpack.packb(foreign))
            assert isinstance(again, Voice)
            assert again.embeddings.tobytes() == embeddings.tobytes()
        case _:
            assert read == message
            name = type(message).__name__
            foreign = {
                "more": None,
                **({"text": message.text} if isinstance(message, Text) else {}),
                "type": name,
            }
            assert decode_tts_request(msgpack.packb(foreign)) == message
            listed = [name, message.text] if isinstance(message, Text) else [name]
            assert decode_tts_request(msgpack.packb(listed)) == message


def test_one_byte_is_the_end_of_the_text() -> None:
    """As Kyutai's Rust clients send it."""
    assert decode_tts_request(b"\0") == Eos()


@given(speech_answers)
def test_what_a_speaking_server_sends_is_read(message: Any) -> None:
    """Whichever it is."""
    assert decode_tts_answer(encode(message)) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_speech_message_or_an_error(data: bytes) -> None:
    """Nothing else is raised."""
    for read in (decode_tts_request, decode_tts_answer):
        with suppress(ProtocolError):
            read(data)


@pytest.mark.parametrize(
    "shape", [[], [0], [-1], [1, 1, 1, 1], [2], [2.0], "1", None, [2**40, 2**40]], ids=str
)
def test_a_voice_has_the_shape_that_it_says(shape: Any) -> None:
    """One to three dimensions that hold its numbers."""
    with pytest.raises(ProtocolError):
        decode_tts_request(msgpack.packb({"type": "Voice", "embeddings": [1.0], "shape": shape}))


def test_formats_say_what_they_carry() -> None:
    """Four, two with messages, two with Opus; names as on the wire."""
    assert [(str(form), form.has_messages, form.is_opus) for form in TtsFormat] == [
        ("OggOpus", False, True),
        ("OggOpusMessagePack", True, True),
        ("Pcm", False, False),
        ("PcmMessagePack", True, False),
    ]
