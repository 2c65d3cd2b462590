"""Finding and opening a checkpoint: one file, a folder, or an index file with its shards.

Reads headers only.

Pickle files are refused by name and by content: loading one runs whatever code is in it.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from dsmops.checkpoint.header import (
    LENGTH_BYTES,
    Header,
    TensorInfo,
    parse_data_start,
    parse_header,
)
from dsmops.errors import CheckpointError, HeaderError, InputError
from dsmops.files import os_errors, remember_sha256, remembered_sha256, sha256
from dsmops.progress import SILENT, Progress

INDEX_SUFFIX = ".safetensors.index.json"
MAX_INDEX_BYTES = 32 << 20
"""Largest index file that is read. The index of a 163-shard model with 91,000 tensors has 9 MB."""

_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_PICKLE_HINT = (
    "Get the model's .safetensors files. If there are none, convert it where nothing can be harmed:"
    " safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)."
)
_GGUF_HINT = (
    "Name the .safetensors file that it was made from. `dsmops inspect` reads GGUF, and `dsmops"
    " verify SOURCE TARGET` does as TARGET."
)
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (
        b"PK\x03\x04",
        "a PyTorch zip archive, which holds a pickle: loading it can run code hidden in it",
        _PICKLE_HINT,
    ),
    (b"\x80\x02", "a pickle: loading it can run code hidden in it", _PICKLE_HINT),
    (b"\x80\x03", "a pickle: loading it can run code hidden in it", _PICKLE_HINT),
    (b"\x80\x04", "a pickle: loading it can run code hidden in it", _PICKLE_HINT),
    (b"\x80\x05", "a pickle: loading it can run code hidden in it", _PICKLE_HINT),
    (b"GGUF", "a GGUF file", _GGUF_HINT),
    (
        b"version ",
        "a Git LFS pointer, not the file it stands for",
        "Fetch the file itself: git lfs pull, or dsmops with hf://.",
    ),
    (b"<!DOCTYP", "a web page", "The download gave an error page. Fetch the file again."),
)


@dataclass(frozen=True, slots=True)
class FileStamp:
    """The values that show whether a file has changed."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a checkpoint. `name` is relative to the index, or the bare file name.

    `known_sha256` is the digest that was computed from this file before, None if it was not.
    """

    name: str
    path: Path
    header: Header
    stamp: FileStamp
    known_sha256: str | None

    def offset_of(self, tensor: TensorInfo) -> int:
        """Return where the tensor's data begin, in bytes from the start of the file."""
        return self.header.data_start + tensor.begin


@dataclass(frozen=True, slots=True)
class IndexFile:
    """The JSON file that says which shard holds which tensor.

    `metadata` is kept as found; `total_size` in it may be absent.
    """

    path: Path
    weight_map: Mapping[str, str] = field(hash=False)
    metadata: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's weights, with all headers read.

    `shards` has one entry for a single file. `tensors` are by name, in file order, with the shard
    of each. `unlisted` are tensors that a shard holds but the index does not name; they travel with
    their shard.
    """

    path: Path
    shards: tuple[Shard, ...]
    tensors: Mapping[str, TensorInfo] = field(hash=False)
    shard_of: Mapping[str, Shard] = field(hash=False, repr=False)
    index: IndexFile | None
    unlisted: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all files but the index."""
        return sum(shard.header.file_bytes for shard in self.shards)

    def stored(self) -> Iterator[tuple[Shard, TensorInfo]]:
        """Yield every tensor of every shard, in the order of their data.

        Those of `unlisted` are included, so a name may come twice.
        """
        return ((shard, tensor) for shard in self.shards for tensor in shard.header.in_data_order())


def read_header(path: Path) -> Header:
    """Return the checked header of a local safetensors file.

    Raises:
        HeaderError: it breaks the format.
        CheckpointError: it is a pickle, or another kind of file.
        SourceError, FileAccessError: it is not there, or cannot be read.
    """
    return open_shard(path, path.name).header


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a `.safetensors` file, an index file, or a folder that holds one or the other.

    In a folder `model.safetensors` is taken first, then the index, then the only `.safetensors`
    file. Symbolic links are followed, so a snapshot of a Hugging Face cache works; an index entry
    that is absolute or climbs out of its folder is refused.

    Raises:
        HeaderError, CheckpointError: a file breaks the format, is a pickle, or index and shards
        disagree; the message names it.
        SourceError: nothing is there, or a shard is missing.
    """
    chosen = _choose(path)
    if chosen.name.endswith(".json"):
        return open_sharded(path, read_index(chosen))
    shard = open_shard(chosen, chosen.name)
    return Checkpoint(
        path, (shard,), shard.header.tensors, dict.fromkeys(shard.header.tensors, shard), None
    )


def _choose(path: Path) -> Path:
    with os_errors(path):
        if not path.is_dir():
            return path
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    files = [name for name in names if name.endswith(".safetensors")]
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    if "model.safetensors" in files:
        return path / "model.safetensors"
    for found in (indexes, files):
        if len(found) == 1:
            return path / found[0]
    if files or indexes:
        raise CheckpointError(
            f"{path} holds several checkpoints: {', '.join((indexes or files)[:8])}",
            hint="Name one of the files instead of the folder.",
        )
    pickles = [name for name in names if Path(name).suffix in _PICKLE_SUFFIXES]
    if pickles:
        _refuse_pickle(path / pickles[0])
    raise CheckpointError(
        f"{path} holds no .safetensors file",
        hint="Name the file, or the folder it is in.",
        code="checkpoint.none",
    )


def _refuse_pickle(path: Path) -> NoReturn:
    raise CheckpointError(
        f"{path} is a pickle by its name: loading it can run code hidden in it",
        hint=_PICKLE_HINT,
        code="checkpoint.pickle",
    )


def open_shard(path: Path, name: str) -> Shard:
    """Return one file of a checkpoint, its header read and checked.

    `name` is how the checkpoint calls it.
    """
    if path.suffix in _PICKLE_SUFFIXES:
        _refuse_pickle(path)
    with os_errors(path):
        _require_regular(path)
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            head = file.read(LENGTH_BYTES)
            try:
                data_start = parse_data_start(head, status.st_size, name=str(path))
            except HeaderError:
                _refuse_other_formats(path, head)
                raise
            file.seek(0)
            head = file.read(data_start)
    return Shard(
        name,
        path,
        parse_header(head, status.st_size, name=str(path)),
        FileStamp.of(status),
        _known_sha256(path),
    )


def stamp_of(path: Path) -> FileStamp:
    """Return the stamp of a local file.

    Raises:
        SourceError, FileAccessError: it does not exist, or cannot be looked at.
    """
    with os_errors(path):
        return FileStamp.of(path.stat())


def _require_regular(path: Path) -> None:
    # Opening a pipe would wait for its other end. Opening a folder fails, in words of its own.
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(
            f"{path} is not a regular file",
            hint="Name a .safetensors file.",
            code="file.not_regular",
        )


def _refuse_other_formats(path: Path, head: bytes) -> None:
    # Asked only once the first bytes cannot be a header length: the length 640 begins like a
    # pickle.
    for magic, kind, hint in _MAGIC:
        if head.startswith(magic):
            code = "checkpoint.pickle" if hint is _PICKLE_HINT else None
            raise CheckpointError(f"{path} is {kind}", hint=hint, code=code)


def _known_sha256(path: Path) -> str | None:
    """Return the digest of a blob of a Hugging Face cache, if it was computed from these bytes.

    The name of a blob is only what its bytes should have.
    """
    return remembered_sha256(path) if _promised_sha256(path) else None


def _promised_sha256(path: Path) -> str | None:
    blob = path.resolve()
    is_blob = blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name)
    return blob.name if is_blob else None


def compute_sha256(shard: Shard, *, progress: Progress = SILENT) -> str:
    """Return the SHA-256 of a shard's bytes, and remember it for a blob of a Hugging Face cache.

    Raises:
        CheckpointError: a blob does not have the digest that is its name.
        SourceError, FileAccessError: the file is gone, or cannot be read.
    """
    return _compare_with_name(shard.path, progress=progress)


def _compare_with_name(path: Path, *, progress: Progress = SILENT) -> str:
    with os_errors(path):
        status = path.stat()
    digest = sha256(path, progress=progress)
    promised = _promised_sha256(path)
    if promised is not None and digest != promised:
        raise CheckpointError(
            f"{path} changed since it was downloaded: its SHA-256 is {digest}, and its name "
            f"in the cache promises {promised}",
            hint=f"Delete {path.resolve()} and run the command again. It downloads the file.",
            code="checkpoint.blob_changed",
        )
    if promised is not None:
        remember_sha256(path, digest, status)
    return digest


def require_unchanged(path: Path) -> None:
    """Check that a blob of a Hugging Face cache still has the bytes that its name promises.

    Other files pass. A blob is read once, and again only when size, time or inode changed.

    Raises:
        CheckpointError: its digest is not its name.
        SourceError, FileAccessError: the file is gone, or cannot be read.
    """
    if _promised_sha256(path) is not None and _known_sha256(path) is None:
        _compare_with_name(path)


def read_index(path: Path) -> IndexFile:
    """Return what an index file says; the shards need not be there.

    Raises:
        CheckpointError: it is not an index, or names files that are not below its folder.
    """

    def refuse(reason: str) -> NoReturn:
        raise CheckpointError(
            f"{path}: {reason}", hint="Fetch the index file again.", code="checkpoint.index"
        )

    with os_errors(path):
        _require_regular(path)
        with path.open("rb") as file:
            data = file.read(MAX_INDEX_BYTES + 1)
    if len(data) > MAX_INDEX_BYTES:
        refuse(f"an index file of more than {MAX_INDEX_BYTES} bytes")
    try:
        body = json.loads(data.decode(), object_pairs_hook=_without_duplicates)
        # What cannot be written again is refused too: numbers beyond every range, halves of a
        # character.
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as exc:
        refuse(f"not a valid index file: {exc}")
    weight_map = body.get("weight_map") if isinstance(body, dict) else None
    metadata = body.get("metadata", {}) if isinstance(body, dict) else {}
    if not isinstance(weight_map, dict) or not all(
        isinstance(shard, str) for shard in weight_map.values()
    ):
        refuse("not an index file: it has no `weight_map` from tensor names to file names")
    if not weight_map:
        refuse("its `weight_map` names no tensor")
    for tensor, shard in weight_map.items():
        pure = PurePosixPath(shard)
        if (
            not shard
            or pure.is_absolute()
            or ".." in pure.parts
            or "\0" in shard
            or pure.suffix != ".safetensors"
        ):
            refuse(
                f"tensor {tensor!r} is said to be in {shard!r}, which is not a .safetensors file"
                " below this folder"
            )
    return IndexFile(path, weight_map, metadata if isinstance(metadata, dict) else {})


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def open_sharded(path: Path, index: IndexFile) -> Checkpoint:
    folder = index.path.parent
    names = list(dict.fromkeys(str(PurePosixPath(name)) for name in index.weight_map.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(names)} shards named in {index.path} are missing:"
            f" {', '.join(missing[:4])}",
            hint="Fetch the missing files into the same folder.",
            code="checkpoint.shard_missing",
        )
    shards = {name: open_shard(folder / name, name) for name in names}
    shard_of = {
        tensor: shards[str(PurePosixPath(name))] for tensor, name in index.weight_map.items()
    }
    absent = [tensor for tensor, shard in shard_of.items() if tensor not in shard.header.tensors]
    if absent:
        raise CheckpointError(
            f"{index.path} names {len(absent)} tensors that their shards do not hold:"
            f" {', '.join(absent[:4])}",
            hint="Index and shards are of different releases. Fetch all of them again.",
            code="checkpoint.index",
        )
    held = [
        (shard, tensor) for shard in shards.values() for tensor in shard.header.tensors.values()
    ]
    tensors = {tensor.name: tensor for shard, tensor in held if shard_of.get(tensor.name) is shard}
    unlisted = tuple(
        tensor.name for shard, tensor in held if shard_of.get(tensor.name) is not shard
    )
    return Checkpoint(path, tuple(shards.values()), tensors, shard_of, index, unlisted)
