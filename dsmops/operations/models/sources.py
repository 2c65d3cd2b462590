"""Find what a SOURCE names: a local path, or `hf://org/repo[@revision]/file`."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from dsmops.checkpoint import Header, parse_header
from dsmops.checkpoint.header import LENGTH_BYTES, parse_data_start
from dsmops.checkpoint.shards import INDEX_SUFFIX, read_index
from dsmops.errors import SourceError
from dsmops.hub import HubFile, fetch, parse_source, plan_download, read_head
from dsmops.progress import SILENT, Progress

# The headers of the published speech-to-text models have 15 and 38 KB: one read gets them whole.
_FIRST_READ_BYTES = 1 << 17


def local_checkpoint(
    source: str,
    *,
    download: bool = True,
    progress: Progress = SILENT,
) -> Path:
    """Return the local file or folder that `source` names.

    An `hf://` source is downloaded into the Hugging Face cache. An index file brings the shards
    that it names. `progress` announces the plan, with its sizes, before a download begins. It is
    not called when everything is in the cache, which is then used without a request. Without
    `download`, as in a dry run, a file that is not in the cache is an error.

    Raises:
        SourceError: nothing is there, its name is not that of a checkpoint, or it would have to be
            downloaded.
        CheckpointError: an index that names no shards, or some outside its folder.
        RemoteError, CredentialsError, ResourceError: the hub, the network or the disk failed or
        refused.
    """
    file = locate(source)
    if isinstance(file, Path):
        return file
    plan = plan_download([file])
    if file.filename.endswith(INDEX_SUFFIX) and (download or not plan.fetch_bytes):
        plan = plan_download([file, *_shards(file, fetch(plan, progress=progress)[file]).values()])
    if plan.fetch_bytes and not download:
        raise SourceError(
            f"{source} is not in the cache: {plan.fetch_bytes:,} bytes must be downloaded first,"
            " and a dry run downloads nothing",
            hint=f"See what it holds with `dsmops inspect {source}`, or omit --dry-run.",
            code="source.not_here",
        )
    if plan.fetch_bytes:
        progress.announce(plan.lines())
    return fetch(plan, progress=progress)[file]


def locate(source: str) -> Path | HubFile:
    """Return what a SOURCE names: a local file or folder, or a file of the hub.

    The file of the hub need not exist.

    Raises:
        SourceError: the path does not exist, or the name is not a checkpoint on the hub.
    """
    if "://" in source:
        return _parse_checkpoint(source)
    path = Path(os.path.expanduser(source))  # noqa: PTH111 the method fails at ~name where no user has that name
    # An empty name, of a variable that is not set, say, would be this folder.
    if not source or not path.exists():
        raise SourceError(
            f"{source or 'an empty name'} does not exist",
            hint="Check the path, or name a hub file as hf://org/repo/model.safetensors.",
        )
    return path


def source_headers(source: str, *, progress: Progress = SILENT) -> dict[str, Header]:
    """Return the headers of the checkpoint that an `hf://` source names, by file name.

    There is one, or one of each shard of an index. They come from the cache where it has the files,
    else by range requests. Of files that are not there, only an index file is downloaded.

    Raises:
        HeaderError, CheckpointError: the file is neither a safetensors file nor an index.
        SourceError, RemoteError, CredentialsError: the hub has no such file, failed or refused.
    """
    file = _parse_checkpoint(source)
    if not file.filename.endswith(INDEX_SUFFIX):
        return {PurePosixPath(file.filename).name: read_hub_header(file)}
    shards = _shards(file, fetch(plan_download([file]), progress=progress)[file])
    return {name: read_hub_header(shard) for name, shard in shards.items()}


def read_hub_header(file: HubFile) -> Header:
    """Return the header of one checkpoint file of the hub.

    It comes from the cache if the file is there, and by range requests otherwise.

    Raises:
        HeaderError: the file is not a safetensors file.
        SourceError, RemoteError, CredentialsError: the hub has no such file, failed or refused.
    """
    head, file_bytes = read_head(file, _FIRST_READ_BYTES)
    header_bytes = parse_data_start(head[:LENGTH_BYTES], file_bytes, name=str(file))
    if header_bytes > len(head):
        head, file_bytes = read_head(file, header_bytes)
    return parse_header(head, file_bytes, name=str(file))


def _parse_checkpoint(source: str) -> HubFile:
    file = parse_source(source)
    if not file.filename.endswith((".safetensors", INDEX_SUFFIX)):
        raise SourceError(
            f"{source} is not a checkpoint: its name ends neither in .safetensors nor in"
            f" {INDEX_SUFFIX}",
            hint="Name a checkpoint, as in hf://org/repo/model.safetensors.",
        )
    return file


def _shards(index: HubFile, path: Path) -> dict[str, HubFile]:
    """Return the files that an index names, by their names there.

    A name is a path from the index's folder down.
    """
    folder = PurePosixPath(index.filename).parent
    names = dict.fromkeys(read_index(path).weight_map.values())
    return {name: index.sibling(str(folder / name)) for name in names}
