"""Compare an exported file with its source: the bytes, or where they differ the values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from dsmops.checkpoint.export.accuracy import Errors
from dsmops.checkpoint.export.encodings import GGUF_QUANTS, Bytes, Encoding, Plain, as_floats
from dsmops.checkpoint.export.plan import ExportTensor, Runtime, lay_out
from dsmops.checkpoint.export.writing import block_ranges, read_items
from dsmops.checkpoint.gguf import is_gguf, read_gguf_header
from dsmops.checkpoint.header import Header
from dsmops.checkpoint.reading import ShardReader
from dsmops.checkpoint.shards import Shard, open_checkpoint, open_shard, stamp_of
from dsmops.checkpoint.verification import Difference, VerifyReport
from dsmops.progress import SILENT, Progress

TOLERANCE = 1.1
"""A tensor passes with a relative error of at most this, times the error of our own encoding."""

_GGUF_ENCODINGS: dict[str, Encoding] = {
    encoding.pieces[0].dtype: encoding
    for encoding in (*GGUF_QUANTS.values(), Plain("F16"), Plain("F32"))
    if encoding is not None
}


def is_export(path: Path) -> bool:
    """Return whether `path` is a GGUF file, or a safetensors file that `export` wrote."""
    if path.is_dir():
        return False
    return is_gguf(path) or "dsmops.export" in open_shard(path, path.name).header.metadata


def is_loadable_export(path: Path) -> bool:
    """Return whether the embedded worker loads this export: the int8 file of `moshi`."""
    return _runtime_of(_open_target(path)) is Runtime.MOSHI


def verify_export(source: Path, target: Path, *, progress: Progress = SILENT) -> VerifyReport:
    """Compare every tensor of an exported file with its source.

    Bytes that are those of our own encoding pass. Others, which another program may have written,
    pass when their values are as near to the source's as ours would be, within `TOLERANCE`.

    Raises:
        HeaderError, CheckpointError, SourceError: one of the two cannot be read.
        InputError: one changed meanwhile.
    """
    checkpoint = open_checkpoint(source)
    shard = _open_target(target)
    runtime = _runtime_of(shard)
    quant = shard.header.metadata.get("dsmops.quant", "none")
    planned, _ = lay_out(checkpoint, runtime, quant)
    differences: list[Difference] = []
    pairs = list(_located(planned, shard.header, runtime, differences))
    known = {piece.name for tensor in planned for piece in tensor.pieces}
    differences += [
        Difference(name, "not in the source") for name in shard.header.tensors if name not in known
    ]
    progress.start("Verifying", sum(tensor.source_bytes for tensor in pairs))
    try:
        with ExitStack() as stack:
            readers = {one.name: stack.enter_context(ShardReader(one)) for one in checkpoint.shards}
            target_reader = stack.enter_context(ShardReader(shard))
            for tensor in pairs:
                found = _compare(tensor, readers[tensor.shard.name], shard, target_reader, progress)
                if found is not None:
                    differences.append(found)
            for reader in (*readers.values(), target_reader):
                reader.confirm_unchanged()
    finally:
        progress.finish()
    quantised = sum(tensor.encoding.group > 1 for tensor in pairs)
    return VerifyReport(
        source=source,
        target=target,
        tensors=len(planned),
        converted=quantised,
        untouched=len(pairs) - quantised,
        compared_bytes=sum(
            tensor.source_bytes + sum(piece.nbytes for piece in tensor.pieces) for tensor in pairs
        ),
        differences=tuple(differences),
    )


def _open_target(path: Path) -> Shard:
    if not is_gguf(path):
        return open_shard(path, path.name)
    return Shard(path.name, path, read_gguf_header(path), stamp_of(path), None)


def _runtime_of(target: Shard) -> Runtime:
    """Return the program that an export was written for."""
    return Runtime(target.header.metadata.get("dsmops.export", Runtime.GGUF))


def _located(
    planned: tuple[ExportTensor, ...],
    header: Header,
    runtime: Runtime,
    differences: list[Difference],
) -> Iterator[ExportTensor]:
    """Yield the planned tensors with the places and encodings that they have in the file."""
    for tensor in planned:
        found = tuple(header.tensors.get(piece.name) for piece in tensor.pieces)
        pieces = tuple(piece for piece in found if piece is not None)
        if len(pieces) < len(found):
            differences.append(Difference(tensor.source.name, "missing in the target"))
            continue
        encoding: Encoding | None = tensor.encoding
        if runtime is Runtime.GGUF:
            encoding = _GGUF_ENCODINGS.get(pieces[0].dtype)
        if encoding is None:
            message = f"{pieces[0].dtype} is not verified"
            differences.append(Difference(tensor.source.name, message))
            continue
        wrong = [
            (has, wanted)
            for has, wanted in zip(pieces, tensor.pieces, strict=True)
            if has.shape != wanted.shape
            or (runtime is not Runtime.GGUF and has.dtype != wanted.dtype)
        ]
        if wrong:
            has, wanted = wrong[0]
            message = f"is {has.dtype} {list(has.shape)}, not {wanted.dtype} {list(wanted.shape)}"
            differences.append(Difference(has.name, message))
            continue
        yield ExportTensor(tensor.shard, tensor.source, encoding, pieces)


def _compare(
    tensor: ExportTensor,
    source: ShardReader,
    target_shard: Shard,
    target: ShardReader,
    progress: Progress,
) -> Difference | None:
    encoding, ours, theirs, different = tensor.encoding, Errors(), Errors(), 0
    for first, count in block_ranges(tensor.source.elements, encoding):
        items = read_items(tensor, source, first, count).reshape(-1, encoding.group)
        with np.errstate(all="ignore"):
            encoded = encoding.encode(encoding.arrange(items))
            ours.note(encoded.source, encoded.values)
            held = tuple(
                _read_piece(target, target_shard.offset_of(info) + at * piece.group_bytes, data)
                for info, piece, data in zip(
                    tensor.pieces, encoding.pieces, encoded.pieces, strict=True
                )
                for at in [first // encoding.group]
            )
            wrong = sum(
                int(np.count_nonzero(has != wanted))
                for has, wanted in zip(held, encoded.pieces, strict=True)
            )
            different += wrong
            if wrong:
                theirs.note(as_floats(items), encoding.decode(held))
            else:
                theirs.note(encoded.source, encoded.values)
        progress.advance(count * tensor.source.nbytes // max(tensor.source.elements, 1))
    limit = ours.summary().relative_rms_error * TOLERANCE
    found = theirs.summary()
    if theirs.overflowed > ours.overflowed:
        return Difference(
            tensor.source.name,
            f"{different} bytes differ, and {theirs.overflowed:,} values are NaN or infinite that"
            " are not in the source",
            different,
        )
    if not different or found.relative_rms_error <= limit:
        return None
    return Difference(
        tensor.source.name,
        f"{different} bytes differ, and the values are {found.relative_rms_error:.2g} of their size"
        f" away from the source, where {encoding.name} allows {limit:.2g}",
        different,
    )


def _read_piece(reader: ShardReader, offset: int, like: Bytes) -> Bytes:
    data = np.empty(like.shape, np.uint8)
    reader.read_into(data.data, offset)
    return data
