"""Plan an export before a byte is written: each tensor's encoding, name and place."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from dsmops.checkpoint.export.encodings import (
    GGUF_QUANTS,
    MLX_QUANTS,
    Encoding,
    Piece,
    Plain,
    RowInt8,
)
from dsmops.checkpoint.gguf import ALIGNMENT, render_gguf
from dsmops.checkpoint.header import TensorInfo, render_header
from dsmops.checkpoint.identity import ModelIdentity, identify
from dsmops.checkpoint.plan import KYUTAI_LICENCE, refuse_overwriting_source
from dsmops.checkpoint.shards import Checkpoint, Shard, open_checkpoint
from dsmops.errors import InputError
from dsmops.files import os_errors, partial_path

RECIPE = 1
"""Raised when the same source and options begin to give other bytes."""

SOURCE_ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4}
"""The dtypes that can be exported, and the bytes of an item."""


class Runtime(StrEnum):
    """The programs that files are exported for."""

    GGUF = "gguf"
    MLX = "mlx"
    MOSHI = "moshi"


QUANTS: dict[Runtime, tuple[str, ...]] = {
    Runtime.GGUF: tuple(GGUF_QUANTS),
    Runtime.MLX: tuple(MLX_QUANTS),
    Runtime.MOSHI: ("int8",),
}
"""What `--quant` may be for each program; the first is the default."""


@dataclass(frozen=True, slots=True)
class ExportTensor:
    """A source tensor, and the target tensors that it becomes: one for each piece of `encoding`."""

    shard: Shard
    source: TensorInfo
    encoding: Encoding
    pieces: tuple[TensorInfo, ...]

    @property
    def name(self) -> str:
        """Name of the first target tensor."""
        return self.pieces[0].name

    @property
    def source_bytes(self) -> int:
        """Bytes that are read of the source."""
        return self.source.nbytes

    def source_offset(self, element: int) -> int:
        """Return where an element stands in the shard's file, in bytes."""
        item_bytes = SOURCE_ITEM_BYTES[self.source.dtype]
        return self.shard.offset_of(self.source) + element * item_bytes


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """All that `export` will do. `head` is everything before the data section of the target."""

    checkpoint: Checkpoint
    identity: ModelIdentity
    target: Path
    runtime: Runtime
    quant: str
    head: bytes = field(repr=False)
    tensors: tuple[ExportTensor, ...] = field(repr=False)
    data_bytes: int

    @property
    def target_bytes(self) -> int:
        """Size of the target file."""
        return len(self.head) + self.data_bytes

    @property
    def source_bytes(self) -> int:
        """Bytes of tensor data that are read."""
        return sum(tensor.source_bytes for tensor in self.tensors)

    @property
    def record_path(self) -> Path:
        """Where the record of this export is kept."""
        return self.target.with_name(f"{self.target.name}.dsmops.json")

    @property
    def journal_path(self) -> Path:
        """Where an unfinished export notes which tensors are complete."""
        return self.target.with_name(f".{self.target.name}.dsmops-journal")

    @property
    def key(self) -> str:
        """A digest of everything that the target's bytes depend on, but the source's data."""
        stamps = [
            (shard.name, shard.stamp.size_bytes, shard.stamp.mtime_ns, shard.header.sha256)
            for shard in self.checkpoint.shards
        ]
        about = json.dumps([RECIPE, self.runtime, self.quant, stamps])
        return hashlib.sha256(about.encode(errors="surrogateescape") + self.head).hexdigest()

    def written_paths(self) -> Iterator[Path]:
        """Yield every path that carrying this out writes to."""
        for path in (self.target, self.record_path):
            yield from (path, partial_path(path))
        yield self.journal_path


def plan_export(source: Path, target: Path, runtime: Runtime, quant: str | None) -> ExportPlan:
    """Return the plan for writing `source` as a file that `runtime` loads.

    Reads headers only, writes nothing. `quant` is one of `QUANTS[runtime]`; None is its first.

    Raises:
        InputError: the target's name does not suit the program, `quant` is unknown, or the model
            cannot be loaded by the program.
        HeaderError, CheckpointError, SourceError: the source cannot be used.
    """
    quant = _require_quant(runtime, quant)
    checkpoint = open_checkpoint(source)
    target = _require_target(target, runtime, quant)
    identity = identify(checkpoint.tensors)
    tensors, data_bytes = lay_out(checkpoint, runtime, quant)
    metadata = _metadata(checkpoint, identity, runtime, quant)
    pieces = [piece for tensor in tensors for piece in tensor.pieces]
    pieces.sort(key=lambda piece: piece.begin)
    if runtime is Runtime.GGUF:
        about: dict[str, str | int] = {
            "general.architecture": "kyutai-dsm",
            "general.name": identity.name or source.name.encode(errors="replace").decode(),
            "general.license": metadata["dsmops.licence"],
            "general.alignment": ALIGNMENT,
            "general.quantization_version": 2,
        }
        head = render_gguf(pieces, about | metadata)
    else:
        head = render_header(pieces, metadata)
    plan = ExportPlan(checkpoint, identity, target, runtime, quant, head, tensors, data_bytes)
    refuse_overwriting_source(plan)
    return plan


def lay_out(
    checkpoint: Checkpoint, runtime: Runtime, quant: str
) -> tuple[tuple[ExportTensor, ...], int]:
    """Return what each tensor becomes and where it goes, and the size of the data section.

    Raises:
        InputError: the program cannot load this model so.
    """
    drafts = {Runtime.GGUF: _gguf, Runtime.MLX: _mlx, Runtime.MOSHI: _moshi}[runtime]
    alignment = ALIGNMENT if runtime is Runtime.GGUF else 1
    tensors, data_bytes = _place(tuple(drafts(checkpoint, quant)), alignment)
    return tuple(tensors), data_bytes


@dataclass(frozen=True, slots=True)
class _Draft:
    """A target tensor before it has a place; `name` and `shape` are those of the target."""

    shard: Shard
    source: TensorInfo
    name: str
    shape: tuple[int, ...]
    encoding: Encoding


def _drafts(
    checkpoint: Checkpoint, choose: Callable[[TensorInfo], tuple[str, tuple[int, ...], Encoding]]
) -> Iterator[_Draft]:
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype not in SOURCE_ITEM_BYTES:
            raise InputError(
                f"tensor {name!r} of {checkpoint.path} is {tensor.dtype}",
                hint="Export the published checkpoint, whose tensors are BF16, F16 or F32.",
                code="export.dtype",
            )
        yield _Draft(checkpoint.shard_of[name], tensor, *choose(tensor))


def _gguf(checkpoint: Checkpoint, quant: str) -> Iterator[_Draft]:
    """Matrices are quantised where a block divides their rows, as candle's own tool does.

    For longer blocks than divide the rows, Q8_0 is next; all other tensors are F32.
    """
    wanted = GGUF_QUANTS[quant]
    choices = [encoding for encoding in (wanted, GGUF_QUANTS["q8_0"]) if encoding is not None]

    def choose(tensor: TensorInfo) -> tuple[str, tuple[int, ...], Encoding]:
        encoding: Encoding = Plain("F32")
        if len(tensor.shape) == 2 and wanted is None:
            encoding = Plain("F16")
        elif len(tensor.shape) == 2:
            fitting = (one for one in choices if tensor.shape[1] % one.group == 0)
            encoding = next(fitting, encoding)
        # GGUF stores a single value as a row of one.
        return tensor.name, tensor.shape or (1,), encoding

    return _drafts(checkpoint, choose)


_MLX_RENAMED = (
    (re.compile(r"^emb\.(\d+)\."), r"audio_embs.\1."),
    (re.compile(r"\.in_proj_weight$"), ".in_proj.weight"),
    (re.compile(r"\.alpha$"), ".weight"),
)


def _mlx(checkpoint: Checkpoint, quant: str) -> Iterator[_Draft]:
    """Names and shapes of `moshi_mlx` 0.3.0. It quantises every linear and embedding layer."""
    if any(name.startswith(("depformer", "condition_provider.")) for name in checkpoint.tensors):
        raise InputError(
            f"{checkpoint.path} is a text-to-speech model, and moshi_mlx reads those as published",
            hint="Give moshi_mlx.run_tts the published file; its --quantize 8 quantises at load.",
            code="export.mlx_tts",
        )
    encoding = MLX_QUANTS[quant]

    def choose(tensor: TensorInfo) -> tuple[str, tuple[int, ...], Encoding]:
        name = tensor.name
        for pattern, replacement in _MLX_RENAMED:
            name = pattern.sub(replacement, name)
        shape = tensor.shape[-1:] if tensor.name.endswith(".alpha") else tensor.shape
        if len(shape) != 2 or encoding is None:
            return name, shape, Plain("F16")
        if shape[1] % encoding.group:
            raise InputError(
                f"tensor {tensor.name!r} has rows of {shape[1]} values, which groups of"
                f" {encoding.group} do not divide",
                hint="moshi_mlx quantises every matrix or none. Use --quant none.",
                code="export.group",
            )
        return name, shape, encoding

    return _drafts(checkpoint, choose)


_EMBEDDING = re.compile(r"(^|\.|_)emb(ed)?(\.\d+)?\.weight$")


def _moshi(checkpoint: Checkpoint, quant: str) -> Iterator[_Draft]:  # noqa: ARG001 one choice
    """The int8 file of the `moshi` package: every linear layer, no embedding or norm."""

    def choose(tensor: TensorInfo) -> tuple[str, tuple[int, ...], Encoding]:
        linear = len(tensor.shape) == 2 and not _EMBEDDING.search(tensor.name)
        kept = "F32" if tensor.name.startswith("condition_provider.") else "F16"
        return tensor.name, tensor.shape, RowInt8(tensor.shape[1]) if linear else Plain(kept)

    return _drafts(checkpoint, choose)


def _place(drafts: tuple[_Draft, ...], alignment: int) -> tuple[list[ExportTensor], int]:
    """Return the tensors with their places in the data section, and the section's size.

    In a safetensors file larger items go first, so that each tensor is aligned to its item size.
    """
    pending = [
        (number, piece) for number, draft in enumerate(drafts) for piece in draft.encoding.pieces
    ]
    if alignment == 1:
        pending.sort(key=lambda one: -one[1].item_bytes)
    placed: dict[int, dict[str, TensorInfo]] = {}
    reached = 0
    for number, piece in pending:
        draft = drafts[number]
        nbytes = draft.source.elements // draft.encoding.group * piece.group_bytes
        info = TensorInfo(
            _piece_name(draft.name, piece),
            piece.dtype,
            _piece_shape(draft, piece),
            reached,
            reached + nbytes,
        )
        placed.setdefault(number, {})[piece.suffix] = info
        reached += nbytes + -nbytes % alignment
    tensors = [
        ExportTensor(
            draft.shard,
            draft.source,
            draft.encoding,
            tuple(placed[number][piece.suffix] for piece in draft.encoding.pieces),
        )
        for number, draft in enumerate(drafts)
    ]
    return tensors, reached


def _piece_name(name: str, piece: Piece) -> str:
    return name.removesuffix("weight") + piece.suffix if piece.suffix else name


def _piece_shape(draft: _Draft, piece: Piece) -> tuple[int, ...]:
    """Return the piece's shape: of GGUF types and plain ones that of the tensor itself."""
    if not piece.suffix:
        return draft.shape
    rows, columns = draft.shape
    items = columns // draft.encoding.group * piece.group_items
    return (rows,) if piece.suffix == "weight_scb" else (rows, items)


def _metadata(
    checkpoint: Checkpoint, identity: ModelIdentity, runtime: Runtime, quant: str
) -> dict[str, str]:
    """Return where the target came from. Nothing that differs between two runs."""
    names = ", ".join(Path(shard.name).name for shard in checkpoint.shards)
    return {
        "dsmops.source": names.encode(errors="replace").decode(),
        "dsmops.export": runtime.value,
        "dsmops.quant": quant,
        "dsmops.recipe": str(RECIPE),
        "dsmops.licence": KYUTAI_LICENCE if identity.name else "that of the source",
    }


def _require_quant(runtime: Runtime, quant: str | None) -> str:
    known = QUANTS[runtime]
    if quant is None:
        return known[0]
    if quant.lower() not in known:
        raise InputError(
            f"--quant {quant} is not available for {runtime}",
            hint=f"Use --quant {' or '.join(known)}.",
            code="export.quant",
        )
    return quant.lower()


def _require_target(target: Path, runtime: Runtime, quant: str) -> Path:
    def refuse(reason: str, hint: str) -> NoReturn:
        raise InputError(f"{target} {reason}", hint=hint, code="export.target")

    with os_errors(target):
        if target.is_dir():
            refuse("is a folder", "Name the file to write.")
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            refuse("is not a regular file", "Name the file to write.")
    suffix = ".gguf" if runtime is Runtime.GGUF else ".safetensors"
    if target.suffix != suffix:
        refuse(
            f"does not end in {suffix}, by which the program recognises the file",
            f"Name it {target.stem}{suffix}.",
        )
    if runtime is Runtime.MLX:
        stem = target.name.removesuffix(suffix)
        stated = next((word for word in ("q8", "q4") if stem.endswith(f".{word}")), "none")
        if stated != quant:
            plain = stem.removesuffix(f".{stated}")
            wanted = plain if quant == "none" else f"{plain}.{quant}"
            refuse(
                f"has another quantisation in its name than --quant {quant}; moshi_mlx reads it"
                " from there",
                f"Name it {wanted}{suffix}.",
            )
    return target
