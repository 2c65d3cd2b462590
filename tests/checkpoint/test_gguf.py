"""GGUF headers: what is written reads back, and damaged files give one clear error."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.checkpoint.gguf import ALIGNMENT, parse_gguf_header, read_gguf_header, render_gguf
from dsmops.checkpoint.header import TensorInfo
from dsmops.dtypes import GgufDType
from dsmops.errors import HeaderError

TENSORS = [
    TensorInfo("a.weight", GgufDType.Q8_0, (4, 64), 0, 272),
    TensorInfo("norm.alpha", GgufDType.F32, (1, 1, 64), 288, 544),
]
METADATA: dict[str, str | int] = {"general.name": "é", "general.alignment": ALIGNMENT}
FILE = render_gguf(TENSORS, METADATA) + bytes(544)


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def head(values: bytes, count: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 0, count) + values


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    """Names, types, shapes in their own order, places and metadata as text."""
    path = tmp_path / "a.gguf"
    path.write_bytes(FILE)
    header = read_gguf_header(path)
    assert list(header.tensors.values()) == TENSORS
    assert header.metadata == {"general.name": "é", "general.alignment": "32"}
    assert header.data_start % ALIGNMENT == 0
    assert header.data_start + 544 == header.file_bytes == len(FILE)


def test_every_kind_of_value_is_shown_as_text() -> None:
    """Numbers, booleans, strings and arrays; of long arrays the first values and the length."""
    values = (
        string("a") + struct.pack("<If", 6, 0.5)
        + string("b") + struct.pack("<I?", 7, True)
        + string("c") + struct.pack("<IIQ3h", 9, 3, 3, 1, -2, 3)
        + string("d") + struct.pack("<IIQ", 9, 8, 9) + b"".join(string("x") for _ in range(9))
    )  # fmt: skip
    assert parse_gguf_header(head(values, 4), 1000).metadata == {
        "a": "0.5",
        "b": "True",
        "c": "[1, -2, 3]",
        "d": "[x, x, x, x, x, x, x, x, ... (9 values)]",
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GGML" + FILE[4:], "does not begin with GGUF"),
        (head(b"", 0, version=1), "version 1 is not read"),
        (FILE[:-1], "its tensors need"),
        (FILE[:40], "ends within its header"),
        (head(b"", 2**63), "ends within its header"),
        (head(struct.pack("<Q", 2**62), 1), "string of"),
        (head(string("a") + struct.pack("<I", 13), 1), "unknown type 13"),
        (head(string("a") + struct.pack("<IIQ", 9, 9, 1), 1), "array of the unknown type 9"),
        (head(string("a") + struct.pack("<IIQ", 9, 0, 2**60), 1), "ends within its header"),
        (render_gguf([TENSORS[0], TENSORS[0]], {}) + bytes(272), "names a tensor twice"),
        (
            render_gguf([TensorInfo("a", GgufDType.F32, (8,), 4, 36)], {}) + bytes(64),
            "multiple of 32",
        ),
        (
            render_gguf([TensorInfo("a", GgufDType.Q8_0, (2, 33), 0, 68)], {}) + bytes(99),
            "cannot be Q8_0",
        ),
        (
            render_gguf([TensorInfo("a", GgufDType.F32, (2**40, 2**40), 0, 4)], {}) + bytes(99),
            "cannot be F32",
        ),
        (
            render_gguf([TENSORS[0], TensorInfo("b", GgufDType.F32, (8,), 256, 288)], {})
            + bytes(400),
            "overlaps",
        ),
    ],
)
def test_a_damaged_file_is_refused(data: bytes, words: str) -> None:
    """In one sentence that names the file, whatever the numbers in it."""
    with pytest.raises(HeaderError, match=words) as caught:
        parse_gguf_header(data, len(data), name="a.gguf")
    assert str(caught.value).startswith("a.gguf is not a valid GGUF file")


@given(st.data())
def test_no_damage_ends_in_another_error(data: st.DataObject) -> None:
    """Any few bytes of a header changed: it reads, or it is refused."""
    damaged = bytearray(FILE)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(FILE) - 545))] = data.draw(st.integers(0, 255))
    with suppress(HeaderError):
        parse_gguf_header(bytes(damaged), len(damaged))
