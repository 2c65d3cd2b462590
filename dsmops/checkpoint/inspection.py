"""What headers say about a checkpoint: sizes, dtypes, which model it is.

Pure; works on headers from a disk or a network alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsmops.checkpoint.header import Header
from dsmops.checkpoint.identity import ModelIdentity, identify
from dsmops.checkpoint.losses import LossReport
from dsmops.checkpoint.shards import Checkpoint


@dataclass(frozen=True, slots=True)
class DTypeShare:
    """How much of a checkpoint is of one dtype."""

    dtype: str
    tensors: int
    elements: int
    data_bytes: int


@dataclass(frozen=True, slots=True)
class FileLine:
    """One file and its size, header included."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TensorLine:
    """One tensor and the file it is in."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data_bytes: int
    file: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """A summary of a checkpoint.

    `parameters` counts the elements of all tensors. `forecast` is what a conversion would lose, if
    asked for. `unlisted` are tensors that shards hold but the index does not name.
    `total_size_bytes` is what the index states, None without one.
    """

    source: str
    identity: ModelIdentity
    files: tuple[FileLine, ...]
    parameters: int
    data_bytes: int
    dtypes: tuple[DTypeShare, ...]
    tensors: tuple[TensorLine, ...]
    metadata: Mapping[str, str]
    unlisted: tuple[str, ...] = ()
    total_size_bytes: int | None = None
    forecast: LossReport | None = None


def inspect_checkpoint(
    source: str, checkpoint: Checkpoint, *, forecast: LossReport | None = None
) -> Inspection:
    """Describe an opened checkpoint; `source` is how the user called it."""
    headers = {shard.name: shard.header for shard in checkpoint.shards}
    stated = checkpoint.index.metadata.get("total_size") if checkpoint.index else None
    total = int(stated) if isinstance(stated, int | float) else None
    return inspect_headers(
        source, headers, unlisted=checkpoint.unlisted, total_size_bytes=total, forecast=forecast
    )


def inspect_headers(
    source: str,
    headers: Mapping[str, Header],
    *,
    unlisted: tuple[str, ...] = (),
    total_size_bytes: int | None = None,
    forecast: LossReport | None = None,
) -> Inspection:
    """Describe a checkpoint by the headers of its files, by file name."""
    lines = tuple(
        TensorLine(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes, file)
        for file, header in headers.items()
        for tensor in header.tensors.values()
    )
    tensors = {
        name: tensor for header in headers.values() for name, tensor in header.tensors.items()
    }
    shares = {
        dtype: [
            tensor
            for header in headers.values()
            for tensor in header.tensors.values()
            if tensor.dtype == dtype
        ]
        for dtype in sorted({line.dtype for line in lines})
    }
    return Inspection(
        source=source,
        identity=identify(tensors),
        files=tuple(FileLine(name, header.file_bytes) for name, header in headers.items()),
        parameters=sum(tensor.elements for found in shares.values() for tensor in found),
        data_bytes=sum(line.data_bytes for line in lines),
        dtypes=tuple(
            DTypeShare(
                dtype,
                len(found),
                sum(tensor.elements for tensor in found),
                sum(tensor.nbytes for tensor in found),
            )
            for dtype, found in shares.items()
        ),
        tensors=lines,
        metadata={
            key: text for header in headers.values() for key, text in header.metadata.items()
        },
        unlisted=unlisted,
        total_size_bytes=total_size_bytes,
        forecast=forecast,
    )
