"""Where the commands that take a SOURCE find it: a local path, or `hf://org/repo[@revision]/file`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from dsmops.errors import CheckpointError, SourceError
from dsmops.files import os_errors
from dsmops.hub import DownloadPlan, HubFile, fetch, parse_source, plan_download
from dsmops.progress import SILENT, Progress

_INDEX_SUFFIX = ".safetensors.index.json"
Announce = Callable[[DownloadPlan], None]


def local_checkpoint(source: str, *, progress: Progress = SILENT, announce: Announce = lambda _: None) -> Path:
    """Return the local file or folder that `source` names, downloading it into the Hugging Face cache when it is `hf://`.

    An index file brings the shards that it names. `announce` gets the plan, with its sizes, before a download begins; it is not
    called when everything is in the cache, which is then used without a request.

    Raises:
        SourceError: nothing is there, or it is no checkpoint by its name.
        CheckpointError: an index that names no shards, or some outside its folder.
        RemoteError, CredentialsError, ResourceError: the hub, the network or the disk failed or refused.
    """
    if "://" not in source:
        path = Path(source).expanduser()
        if not path.exists():
            raise SourceError(f"{source} does not exist", hint="Check the path, or name a hub file as hf://org/repo/model.safetensors.")
        return path
    file = parse_source(source)
    if not file.filename.endswith((".safetensors", _INDEX_SUFFIX)):
        raise SourceError(
            f"{source} is no checkpoint: its name ends neither in .safetensors nor in {_INDEX_SUFFIX}",
            hint="Name a checkpoint, as in hf://org/repo/model.safetensors.",
        )
    wanted = [file]
    if file.filename.endswith(_INDEX_SUFFIX):
        wanted += _shards(file, fetch(plan_download([file]))[file])
    plan = plan_download(wanted)
    if plan.fetch_bytes:
        announce(plan)
    return fetch(plan, progress=progress)[file]


def _shards(index: HubFile, path: Path) -> list[HubFile]:
    """Return the files that an index names, which lie in its folder or below."""
    with os_errors(path):
        text = path.read_bytes()
    try:
        names = sorted(set(json.loads(text)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise CheckpointError(f"{index} is no index of shards: it has no weight_map from tensor to file") from exc
    folder = str(index).rpartition("/")[0]
    return [parse_source(f"{folder}/{name}") for name in names]
