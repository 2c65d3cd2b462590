"""GGUF headers: bytes to a checked `Header` and back. Tensor data is never touched here.

A file is a fixed head (magic, version, counts), metadata, tensor descriptions, padding, then the
data section. Numbers are little-endian; dimensions stand in reverse order; each tensor begins at a
multiple of `general.alignment`. Version 3 is written; 2 and 3 are read.

Source: the GGUF specification of ggml; what candle 0.9.1 and the `gguf` package read.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from dsmops.checkpoint.header import MAX_INTEGER, Header, TensorInfo
from dsmops.dtypes import GgufDType
from dsmops.errors import HeaderError
from dsmops.files import open_regular, os_errors

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
MAX_HEADER_BYTES = 64 << 20
"""Longest header that is read. The tokenizer of a large language model takes about 10 MB."""
MAX_STRING_BYTES = 1 << 20
_SHOWN_VALUES = 8


_BY_NUMBER = {dtype.number: dtype for dtype in GgufDType}

# Number of a metadata type → its struct format; 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"} | {
    12: "d"
}
_UINT32, _STRING, _ARRAY = 4, 8, 9


def render_gguf(tensors: Iterable[TensorInfo], metadata: Mapping[str, str | int]) -> bytes:
    """Return all bytes before the data section.

    `begin` of each tensor counts from the start of the data section and is a multiple of
    `ALIGNMENT`. Integers become uint32.
    """
    listed = list(tensors)
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(listed), len(metadata))]
    for key, value in metadata.items():
        parts.append(_string(key))
        if isinstance(value, int):
            parts.append(struct.pack("<II", _UINT32, value))
        else:
            parts += [struct.pack("<I", _STRING), _string(value)]
    for tensor in listed:
        # A scalar is written with one dimension: candle and ggml expect at least one.
        shape = tensor.shape or (1,)
        parts.append(_string(tensor.name))
        parts.append(struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)))
        parts.append(struct.pack("<IQ", GgufDType[tensor.dtype.value].number, tensor.begin))
    head = b"".join(parts)
    return head + bytes(-len(head) % ALIGNMENT)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def is_gguf(path: Path) -> bool:
    """Return whether a local file begins as a GGUF file does."""
    with os_errors(path):
        if not path.is_file():
            return False
        with open_regular(path) as file:
            return file.read(len(MAGIC)) == MAGIC


def read_gguf_header(path: Path) -> Header:
    """Return the checked header of a GGUF file. Metadata values are given as text.

    Raises:
        HeaderError: it breaks the format, or a tensor reaches beyond the end of the file.
        SourceError, FileAccessError: it does not exist, or cannot be read.
    """
    with os_errors(path), open_regular(path) as file:
        file_bytes = file.seek(0, 2)
        file.seek(0)
        head = file.read(min(file_bytes, MAX_HEADER_BYTES)) or b""
    return parse_gguf_header(head, file_bytes, name=str(path))


def parse_gguf_header(head: bytes, file_bytes: int, *, name: str = "the file") -> Header:
    """Return the header of a GGUF file of `file_bytes` bytes, given its first bytes.

    Raises:
        HeaderError: the header breaks the format, or does not fit `file_bytes`.
    """
    return _Parser(head, file_bytes, name).parse()


class _Parser:
    def __init__(self, head: bytes, file_bytes: int, name: str) -> None:
        self._head = head
        self._file_bytes = file_bytes
        self._name = name
        self._at = 0

    def parse(self) -> Header:
        if self._take(4) != MAGIC:
            self._refuse("it does not begin with GGUF")
        (version,) = self._unpack("<I")
        if version not in (2, 3):
            self._refuse(f"version {version} is not read, only 2 and 3")
        tensor_count, value_count = self._unpack("<QQ")
        metadata: dict[str, str] = {}
        for _ in range(value_count):
            key = self._text()
            (kind,) = self._unpack("<I")
            metadata[key] = self._value(kind)
        alignment = int(metadata.get("general.alignment", ALIGNMENT))
        if alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            self._refuse(f"its alignment is {alignment}, not a power of two")
        described = [self._tensor() for _ in range(tensor_count)]
        data_start = self._at + -self._at % alignment
        tensors = {tensor.name: tensor for tensor in described}
        if len(tensors) != len(described):
            self._refuse("it names a tensor twice")
        self._check_layout(described, alignment, data_start)
        digest = hashlib.sha256(self._head[: self._at]).hexdigest()
        return Header(tensors, metadata, data_start, self._file_bytes, digest)

    def _tensor(self) -> TensorInfo:
        name = self._text()
        (dimensions,) = self._unpack("<I")
        if dimensions > 8:
            self._refuse(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(reversed(self._unpack(f"<{dimensions}Q")))
        number, begin = self._unpack("<IQ")
        dtype = _BY_NUMBER.get(number)
        if dtype is None:
            self._refuse(f"tensor {name!r} has the unknown type {number}")
        elements = math.prod(shape)
        if elements > MAX_INTEGER or (shape and shape[-1] % dtype.block_values):
            self._refuse(f"tensor {name!r} of shape {list(shape)} cannot be {dtype}")
        return TensorInfo(
            name, dtype, shape, begin, begin + elements // dtype.block_values * dtype.block_bytes
        )

    def _check_layout(self, tensors: list[TensorInfo], alignment: int, data_start: int) -> None:
        reached = 0
        for tensor in sorted(tensors, key=lambda one: (one.begin, one.end)):
            if tensor.begin % alignment:
                self._refuse(f"tensor {tensor.name!r} does not begin at a multiple of {alignment}")
            if tensor.begin < reached:
                self._refuse(f"tensor {tensor.name!r} overlaps the one before it")
            reached = tensor.end
        if reached and data_start + reached > self._file_bytes:
            self._refuse(
                f"its tensors need {data_start + reached} bytes and it has {self._file_bytes}"
            )

    def _value(self, kind: int) -> str:
        if kind in _SCALARS:
            return str(self._unpack(f"<{_SCALARS[kind]}")[0])
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            self._refuse(f"it has a value of the unknown type {kind}")
        item_kind, count = self._unpack("<IQ")
        if item_kind in _SCALARS:
            size = struct.calcsize(f"<{_SCALARS[item_kind]}")
            data = self._take(count * size)
            shown = data[: _SHOWN_VALUES * size]
            items = [str(one) for (one,) in struct.iter_unpack(f"<{_SCALARS[item_kind]}", shown)]
        elif item_kind == _STRING:
            items = []
            for number in range(count):
                text = self._text()
                if number < _SHOWN_VALUES:
                    items.append(text)
        else:
            self._refuse(f"it has an array of the unknown type {item_kind}")
        more = f", ... ({count} values)" if count > _SHOWN_VALUES else ""
        return f"[{', '.join(items)}{more}]"

    def _text(self) -> str:
        (length,) = self._unpack("<Q")
        if length > MAX_STRING_BYTES:
            self._refuse(f"it has a string of {length} bytes")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            self._refuse("it has a string that is not UTF-8")

    def _unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self._take(struct.calcsize(form)))

    def _take(self, count: int) -> bytes:
        data = self._head[self._at : self._at + count]
        if len(data) < count:
            if self._at + count <= self._file_bytes:
                self._refuse(f"its header is longer than {MAX_HEADER_BYTES} bytes")
            self._refuse("it ends within its header")
        self._at += count
        return data

    def _refuse(self, reason: str) -> NoReturn:
        raise HeaderError(
            f"{self._name} is not a valid GGUF file: {reason}",
            hint="The file is damaged or its download was cut off. Fetch it again.",
        )
