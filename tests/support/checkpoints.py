"""A second, naive writer and reader of safetensors files, and an oracle for the casts: whole files
in memory, no code of the package.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Stored = tuple[str, tuple[int, ...], bytes]
"""dtype, shape, data."""


def framed(header: bytes | str | Mapping[str, Any], data: bytes = b"") -> bytes:
    """Return a file with this header, its true length before it and `data` after it."""
    if isinstance(header, Mapping):
        header = json.dumps(header)
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw + data


def described(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    """Return the header entry of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_bytes(tensors: Mapping[str, Stored], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file with these tensors in this order. The header is not padded."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = described(dtype, list(shape), len(data), len(data) + len(raw))
        data += raw
    return framed(header, data)


def write_file(
    path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write such a file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file_bytes(tensors, metadata))
    return path


def write_sharded(
    folder: Path,
    shards: Mapping[str, Mapping[str, Stored]],
    *,
    index: str = "model.safetensors.index.json",
) -> Path:
    """Write shards and their index into `folder`, and return it."""
    for name, tensors in shards.items():
        write_file(folder / name, tensors)
    total = sum(len(raw) for tensors in shards.values() for _, _, raw in tensors.values())
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (folder / index).write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
    )
    return folder


def read_file(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the tensors, in header order, and the metadata of a safetensors file."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    data = raw[8 + length :]
    return {
        name: (entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }, metadata


def patterns(*values: int) -> bytes:
    """Return 16-bit patterns as they lie in a file."""
    return struct.pack(f"<{len(values)}H", *values)


def bf16(*values: float) -> Stored:
    """Return a one-dimensional BF16 tensor with these values, cut off rather than rounded."""
    return "BF16", (len(values),), b"".join(struct.pack("<f", value)[2:] for value in values)


def f16_of(pattern: int) -> int:
    """Return the F16 pattern of a BF16 pattern by exact rational arithmetic; any NaN for NaN."""
    value = value_of(pattern)
    sign = pattern & 0x8000
    if math.isnan(value):
        return sign | 0x7E00
    try:
        (half,) = struct.unpack("<H", struct.pack("<e", value))
    except OverflowError:
        return sign | 0x7C00
    return int(half)


def f32_of(pattern: int) -> int:
    """Return the F32 pattern of a BF16 pattern."""
    return pattern << 16


def value_of(pattern: int) -> float:
    """Return the value of a BF16 pattern."""
    (value,) = struct.unpack("<f", struct.pack("<I", pattern << 16))
    return float(value)
