"""The header parser: what the format allows is read, everything else is refused, and nothing costs
more than its size.
"""

import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsmops.checkpoint.header import (
    MAX_HEADER_BYTES,
    TensorInfo,
    parse_data_start,
    parse_header,
    render_header,
)
from dsmops.dtypes import StorageDType
from dsmops.errors import HeaderError
from tests.support.checkpoints import described, framed

TWO = {"a": described("BF16", [2, 3], 0, 12), "b": described("F32", [], 12, 16)}


def parse(raw: bytes) -> object:
    return parse_header(raw, len(raw))


def test_a_header_is_read_with_shapes_offsets_and_metadata() -> None:
    """Tensors come in header order, with dtype, shape and byte range; metadata are strings."""
    raw = framed({"__metadata__": {"format": "pt"}, **TWO}, bytes(16))
    header = parse_header(raw, len(raw))
    assert list(header.tensors.values()) == [
        TensorInfo("a", StorageDType.BF16, (2, 3), 0, 12),
        TensorInfo("b", StorageDType.F32, (), 12, 16),
    ]
    assert header.tensors["a"].elements == 6
    assert header.tensors["b"].elements == 1
    assert header.metadata == {"format": "pt"}
    assert header.data_bytes == 16


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{}     ",
        " { } ",
        '{"__metadata__":null}',
        '{"__metadata__":{}}',
        (
            '{\n "a" : {"shape":[0, 5],"data_offsets":[0,0],"dtype":"F16"}'
            ' ,"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
        ),
        '{"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
        '{"{[\\"é\\u00e9😀":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
    ],
)
def test_odd_but_legal_headers_are_accepted(text: str) -> None:
    """White space, empty names, escapes, empty tensors and lengths that are not a multiple of 8 are
    all within the format.
    """
    parse(framed(text))


HOSTILE = {
    "empty file": b"",
    "seven bytes": b"1234567",
    "huge length": b"\xff" * 8 + b"{}",
    "length beyond the limit": (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + bytes(100),
    "length beyond the file": (50).to_bytes(8, "little") + b"{}",
    "negative-looking length": (2**63).to_bytes(8, "little") + b"{}",
    "no JSON": framed("hello"),
    "empty header": framed(""),
    "a list": framed("[]"),
    "a number": framed("1"),
    "unterminated": framed('{"a":'),
    "unterminated string": framed('{"a'),
    "trailing text": framed("{}x"),
    "trailing NUL": framed(b"{}\0\0"),
    "trailing comma": framed('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},}'),
    "single quotes": framed("{'a':1}"),
    "bad UTF-8 in a name": framed(b'{"\xff":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "bad UTF-8 in a dtype": framed(b'{"a":{"dtype":"\xff","shape":[0],"data_offsets":[0,0]}}'),
    "lone surrogate": framed('{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "control character in a name": framed(
        b'{"a\nb":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "duplicate name": framed(
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        b"ab",
    ),
    "duplicate name by escape": framed(
        '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "duplicate metadata": framed('{"__metadata__":{},"__metadata__":{}}'),
    "duplicate metadata key": framed('{"__metadata__":{"a":"1","a":"2"}}'),
    "duplicate field": framed('{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "metadata is a number": framed('{"__metadata__":{"a":1}}'),
    "metadata is nested": framed('{"__metadata__":{"a":{"b":"c"}}}'),
    "metadata is a list": framed('{"__metadata__":["a"]}'),
    "tensor is a number": framed('{"a":1}'),
    "tensor is null": framed('{"a":null}'),
    "missing fields": framed('{"a":{}}'),
    "unknown dtype": framed({"a": described("F128", [1], 0, 16)}, bytes(16)),
    "dtype is a number": framed('{"a":{"dtype":1,"shape":[0],"data_offsets":[0,0]}}'),
    "negative offset": framed({"a": described("U8", [1], -1, 0)}),
    "descending offsets": framed({"a": described("U8", [1], 1, 0)}, b"ab"),
    "fractional offset": framed('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1.0]}}', b"a"),
    "offset in powers": framed('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1e0]}}', b"a"),
    "boolean offset": framed('{"a":{"dtype":"U8","shape":[1],"data_offsets":[false,true]}}', b"a"),
    "NaN offset": framed('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,NaN]}}', b"a"),
    "infinite shape": framed('{"a":{"dtype":"U8","shape":[Infinity],"data_offsets":[0,1]}}', b"a"),
    "string offset": framed('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,"1"]}}', b"a"),
    "three offsets": framed('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}}', b"a"),
    "huge offset": framed({"a": described("U8", [1], 0, 2**64)}, b"a"),
    "integer of 4000 digits": framed({"a": described("U8", [1], 0, 10**4000)}, b"a"),
    "negative dimension": framed({"a": described("U8", [-1], 0, 1)}, b"a"),
    "boolean dimension": framed('{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', b"a"),
    "shape is a number": framed('{"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}}', b"a"),
    "wrong size": framed({"a": described("BF16", [3], 0, 4)}, bytes(4)),
    "product that wraps around 64 bits": framed({"a": described("U8", [2**32, 2**32], 0, 0)}),
    "half a byte": framed({"a": described("F4", [3], 0, 1)}, b"a"),
    "hole before the first": framed({"a": described("U8", [1], 1, 2)}, b"ab"),
    "hole between": framed(
        {"a": described("U8", [1], 0, 1), "b": described("U8", [1], 2, 3)}, b"abc"
    ),
    "overlap": framed({"a": described("U8", [2], 0, 2), "b": described("U8", [2], 1, 3)}, b"abc"),
    "the same bytes twice": framed(
        {"a": described("U8", [2], 0, 2), "b": described("U8", [2], 0, 2)}, b"ab"
    ),
    "truncated data": framed(TWO, bytes(15)),
    "trailing data": framed(TWO, bytes(17)),
    "deep nesting of a tensor": framed('{"a":' * 5000 + "1" + "}" * 5000),
    "deep nesting of a list": framed("[" * 100_000),
    "deep nesting of a shape": framed(
        '{"a":{"dtype":"U8","shape":' + "[" * 1500 + "]" * 1500 + ',"data_offsets":[0,1]}}', b"a"
    ),
    "endless description": framed({"a": described("U8", [1] * 5000, 0, 1)}, b"a"),
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_headers_are_refused(raw: bytes) -> None:
    """Everything that breaks the format is a HeaderError that names the file and says what to
    do.
    """
    with pytest.raises(HeaderError) as caught:
        parse_header(raw, len(raw), name="exhibit.safetensors")
    assert "exhibit.safetensors" in caught.value.message
    assert len(caught.value.message) < 800
    assert caught.value.hint


@pytest.mark.parametrize(
    "piece",
    [
        b"[],",
        b'{"a":{},',
        b'{"":',
        b'"\\n',
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},',
        b'{"__metadata__":{"":"",',
    ],
    ids=["empty lists", "objects", "nesting", "escapes", "duplicates", "metadata"],
)
def test_a_large_hostile_header_costs_no_more_than_its_size(piece: bytes) -> None:
    """Four megabytes of any repeated piece are refused with less than three times that memory."""
    raw = framed(piece * (4_000_000 // len(piece)))
    tracemalloc.start()
    try:
        with pytest.raises(HeaderError):
            parse(raw)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3 * len(raw)


def test_the_length_alone_says_how_much_to_read() -> None:
    """Eight bytes tell where the data begin, so a remote header needs two reads at most; too few
    bytes are refused.
    """
    raw = framed(TWO, bytes(16))
    start = parse_data_start(raw[:8], len(raw))
    assert start == len(raw) - 16
    assert parse_header(raw[:start], len(raw)) == parse_header(raw, len(raw))
    with pytest.raises(HeaderError):
        parse_header(raw[: start - 1], len(raw))


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def layouts(draw: st.DrawFn) -> list[TensorInfo]:
    found, reached = [], 0
    for name in draw(
        st.lists(names.filter(lambda name: name != "__metadata__"), unique=True, max_size=6)
    ):
        dtype = draw(st.sampled_from(sorted(StorageDType)))
        shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 3, 8]), max_size=4)))
        info = TensorInfo(name, dtype, shape, 0, 0)
        if info.elements * dtype.bits % 8:
            shape = (*shape, 8)
        end = reached + TensorInfo(name, dtype, shape, 0, 0).elements * dtype.bits // 8
        found.append(TensorInfo(name, dtype, shape, reached, end))
        reached = end
    return draw(st.permutations(found))


@given(layouts(), st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"]))))
def test_what_is_rendered_is_read_back(tensors: list[TensorInfo], metadata: dict[str, str]) -> None:
    """Any layout, in any header order and with any names, survives writing and reading; the data
    begin at a multiple of 8.
    """
    raw = render_header(tensors, metadata)
    header = parse_header(raw, len(raw) + sum(tensor.nbytes for tensor in tensors))
    assert list(header.tensors.values()) == tensors
    assert header.metadata == metadata
    assert header.data_start % 8 == 0


@given(st.binary(max_size=200))
@example(b"")
def test_any_bytes_give_a_header_or_a_header_error(raw: bytes) -> None:
    """No input of any kind raises anything else."""
    for candidate in (raw, framed(raw)):
        try:
            parse(candidate)
        except HeaderError:
            continue


tokens = st.sampled_from(
    [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"a"',
        '"b"',
        '"__metadata__"',
        '"dtype"',
        '"shape"',
        '"data_offsets"',
        '"U8"',
        '"BF16"',
        "0",
        "1",
        "2",
        "-1",
        "1.5",
        "true",
        "null",
        "NaN",
        " ",
        "\\",
        '"',
        "é",
        "1e999",
    ]
)


@given(st.lists(tokens, max_size=60).map("".join), st.integers(0, 8))
def test_any_sequence_of_tokens_gives_a_header_or_a_header_error(
    text: str, data_bytes: int
) -> None:
    """Text made of the format's own pieces raises nothing else either, and what is accepted covers
    its data exactly.
    """
    raw = framed(text, bytes(data_bytes))
    try:
        header = parse_header(raw, len(raw))
    except HeaderError:
        return
    assert sum(tensor.nbytes for tensor in header.tensors.values()) == data_bytes


@given(layouts(), st.data())
def test_a_damaged_header_gives_a_header_or_a_header_error(
    tensors: list[TensorInfo], data: st.DataObject
) -> None:
    """One byte changed, cut or doubled anywhere in a good file never raises anything else."""
    raw = render_header(tensors, {"k": "v"}) + bytes(sum(tensor.nbytes for tensor in tensors))
    at = data.draw(st.integers(0, len(raw) - 1))
    middle = data.draw(st.sampled_from([b"", raw[at : at + 1] * 2, b"\xff", b"0", b'"', b"}"]))
    with suppress(HeaderError):
        parse(raw[:at] + middle + raw[at + 1 :])
