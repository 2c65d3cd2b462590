"""The safetensors header: bytes to a checked `Header` and back. Tensor data is never touched here.

A file is 8 bytes of header length (little-endian), the header (JSON, UTF-8), then the data section.
Each tensor names a byte range of that section; the ranges must cover it exactly, without holes or
overlaps. Files come from strangers, so the header is read by a small grammar instead of a general
JSON parser: nothing nests deeper than the format does, and memory stays in proportion to the header
whatever is in it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeGuard

from dsmops.dtypes import GgufDType, StorageDType
from dsmops.errors import HeaderError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
MAX_ENTRY_BYTES = 4096
"""Longest description of one tensor that is read; real ones have about 100 bytes."""
MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header describes it.

    `begin` and `end` are bytes from the start of the data section.
    """

    name: str
    dtype: StorageDType | GgufDType
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def storage_dtype(self) -> StorageDType:
        """The dtype of a tensor in a safetensors file."""
        return StorageDType[self.dtype.value]

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Header:
    """A header that passed every check.

    `tensors` are by name, in header order. `metadata` are the strings of `__metadata__`.
    `data_start` is where the data section begins in the file, `file_bytes` the size of the whole
    file, and `sha256` the digest of everything before the data section.
    """

    tensors: Mapping[str, TensorInfo] = field(hash=False)
    metadata: Mapping[str, str] = field(hash=False)
    data_start: int
    file_bytes: int
    sha256: str

    @property
    def data_bytes(self) -> int:
        """Bytes of the data section."""
        return self.file_bytes - self.data_start

    def in_data_order(self) -> list[TensorInfo]:
        """Return the tensors in the order of their data in the file.

        It may differ from header order.
        """
        return sorted(self.tensors.values(), key=lambda tensor: (tensor.begin, tensor.end))


def parse_data_start(prefix: bytes, file_bytes: int, *, name: str = "the file") -> int:
    """Return where the data section begins, from the first 8 bytes of the file.

    This is the number of bytes that `parse_header` needs.

    Raises:
        HeaderError: the file is too short, or the length it states is impossible.
    """
    if file_bytes < LENGTH_BYTES or len(prefix) < LENGTH_BYTES:
        raise HeaderError(
            f"{name} has {file_bytes} bytes, too few for a safetensors file", hint=_CUT_OFF
        )
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise HeaderError(
            f"{name} states a header of {length} bytes; the format allows {MAX_HEADER_BYTES}",
            hint="It is damaged, or not a safetensors file at all.",
        )
    if length > file_bytes - LENGTH_BYTES:
        raise HeaderError(
            f"{name} states a header of {length} bytes but has only {file_bytes} in all",
            hint=_CUT_OFF,
        )
    return LENGTH_BYTES + length


def parse_header(head: bytes, file_bytes: int, *, name: str = "the file") -> Header:
    """Return the header of a safetensors file of `file_bytes` bytes, given its first bytes.

    Pure: `head` may come from a disk or a network, and may be longer than the header. `name` is
    what errors call the file. Unaligned headers are accepted. Memory and time are in proportion to
    the header's length.

    Raises:
        HeaderError: the header breaks the format, or does not fit `file_bytes`.
    """
    data_start = parse_data_start(head[:LENGTH_BYTES], file_bytes, name=name)
    if len(head) < data_start:
        raise HeaderError(
            f"{name}: {len(head)} of the header's {data_start} bytes were read", hint=_CUT_OFF
        )
    head = head[:data_start]
    tensors, metadata = _Parser(head, name).parse()
    header = Header(tensors, metadata, data_start, file_bytes, hashlib.sha256(head).hexdigest())
    _check_layout(header, name)
    return header


def render_header(tensors: Iterable[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes before the data section.

    They are the length, compact JSON, and spaces up to a multiple of 8.
    """
    body: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for tensor in tensors:
        body[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (tensor.begin, tensor.end),
        }
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


_CUT_OFF = "The copy or download was cut off, or this is not a safetensors file. Fetch it again."
_DAMAGED = (
    "The file is damaged or was written by a faulty program. Fetch it again from where it came."
)

# Possessive (`*+`): no backtracking, so no memory beyond the match however long it is.
_STRING = re.compile(rb'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"')
_SPACE = re.compile(rb"[ \t\r\n]*+")
_ENTRY = re.compile(rb"\{[^{}]{0,%d}+\}" % MAX_ENTRY_BYTES)
_NULL = re.compile(rb"null")


class _Parser:
    """A parser of one header.

    The grammar is `{"__metadata__": {string: string}, name: {"dtype", "shape", "data_offsets"},
    ...}`.
    """

    def __init__(self, head: bytes, name: str) -> None:
        self._text = head
        self._at = LENGTH_BYTES
        self._name = name

    def parse(self) -> tuple[dict[str, TensorInfo], dict[str, str]]:
        tensors: dict[str, TensorInfo] = {}
        metadata: dict[str, str] | None = None
        more = self._open_object()
        while more:
            key = self._key()
            if key in tensors or (key == "__metadata__" and metadata is not None):
                self._fail(f"{key!r} is described twice")
            if key == "__metadata__":
                metadata = self._metadata()
            else:
                tensors[key] = self._entry(key)
            more = self._next_member()
        self._skip_space()
        if self._at != len(self._text):
            self._fail(f"byte {self._at}: something follows the end of the header")
        return tensors, metadata or {}

    def _metadata(self) -> dict[str, str]:
        if _NULL.match(self._text, self._at):
            self._at += 4
            return {}
        found: dict[str, str] = {}
        more = self._open_object()
        while more:
            key = self._key()
            if key in found:
                self._fail(f"metadata {key!r} is given twice")
            found[key] = self._string(f"the value of metadata {key!r}")
            more = self._next_member()
        return found

    def _entry(self, name: str) -> TensorInfo:
        match = _ENTRY.match(self._text, self._at)
        if match is None:
            self._fail(
                f"tensor {name!r} is not described by a JSON object of at most {MAX_ENTRY_BYTES}"
                " bytes"
            )
        self._at = match.end()
        try:
            fields = json.loads(
                match[0].decode(),
                object_pairs_hook=_without_duplicates,
                parse_constant=_refuse_constant,
            )
            return _entry_of(name, fields)
        except (ValueError, RecursionError) as exc:
            self._fail(
                f"tensor {name!r}:"
                f" {exc if isinstance(exc, ValueError) else 'lists are nested too deeply'}"
            )

    def _open_object(self) -> bool:
        """Step over `{`, and over `}` when it follows at once; return whether a member follows."""
        self._skip_space()
        self._expect(b"{", "a JSON object")
        self._skip_space()
        if self._text.startswith(b"}", self._at):
            self._at += 1
            return False
        return True

    def _next_member(self) -> bool:
        """Step over `,` or `}`; return whether a member follows."""
        self._skip_space()
        if self._text.startswith(b"}", self._at):
            self._at += 1
            return False
        self._expect(b",", "',' or '}'")
        self._skip_space()
        return True

    def _key(self) -> str:
        key = self._string("a name")
        self._skip_space()
        self._expect(b":", "':'")
        self._skip_space()
        return key

    def _string(self, what: str) -> str:
        match = _STRING.match(self._text, self._at)
        if match is None:
            self._fail(f"byte {self._at}: {what} is not a JSON string")
        self._at = match.end()
        try:
            text: str = json.loads(match[0].decode())
            text.encode()  # a lone surrogate escape decodes, but is not text
        except ValueError as exc:
            self._fail(f"byte {match.start()}: {what} is not valid text ({exc})")
        return text

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _expect(self, token: bytes, what: str) -> None:
        if not self._text.startswith(token, self._at):
            self._fail(f"byte {self._at}: {what} was expected")
        self._at += len(token)

    def _fail(self, reason: str) -> NoReturn:
        raise HeaderError(f"{self._name}: bad header: {_shortened(reason)}", hint=_DAMAGED)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _entry_of(name: str, fields: dict[str, Any]) -> TensorInfo:
    """Return the tensor that `fields` describe.

    Raises ValueError with the reason when they do not.
    """
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in StorageDType.__members__:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(StorageDType)}")
    if not _are_sizes(shape):
        raise ValueError(f"shape {shape!r} is not a list of whole numbers from 0 up")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"data_offsets {offsets!r} is not a pair of ascending byte positions")
    stored = StorageDType[dtype]
    bits = math.prod(shape) * stored.bits
    if bits > MAX_INTEGER:
        raise ValueError(f"shape {shape} has more elements than any file can hold")
    if bits != 8 * (offsets[1] - offsets[0]):
        raise ValueError(
            f"shape {shape} of {dtype} needs {bits / 8:g} bytes, data_offsets span"
            f" {offsets[1] - offsets[0]}"
        )
    return TensorInfo(name, stored, tuple(shape), offsets[0], offsets[1])


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    # bool is an int to Python; to the format it is not.
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item <= MAX_INTEGER for item in value
    )


def _check_layout(header: Header, name: str) -> None:
    reached, data_bytes = 0, header.data_bytes
    for tensor in header.in_data_order():
        if tensor.begin != reached:
            kind = (
                "leaves a hole before" if tensor.begin > reached else "overlaps what comes before"
            )
            raise HeaderError(
                f"{name}: bad header: tensor {_shortened(repr(tensor.name))} {kind} byte"
                f" {tensor.begin}",
                hint=_DAMAGED,
            )
        reached = tensor.end
    if reached > data_bytes:
        raise HeaderError(
            f"{name} is cut off: its tensors need {reached} bytes of data, {data_bytes} are there",
            hint=_CUT_OFF,
        )
    if reached < data_bytes:
        raise HeaderError(
            f"{name}: {data_bytes - reached} bytes at the end belong to no tensor", hint=_DAMAGED
        )


def _shortened(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}…"
