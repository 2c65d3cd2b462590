"""The files of a model that a server needs: weights, tokenizer, Mimi.

Where each is, and what has to be downloaded first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dsmops.checkpoint import TensorInfo, open_checkpoint
from dsmops.hub import DownloadPlan, HubFile, plan_download
from dsmops.operations.models.sources import read_hub_header

Origin = Path | HubFile


@dataclass(frozen=True, slots=True)
class Staging:
    """Where the files are or will be.

    A None is left to the server, which downloads what the config names by `hf://`.

    `model_config` is the model's own config.json where that was asked for, and is never left to
    anybody. `downloads` covers all that come from the hub, in the cache or not; None when nothing
    does.
    """

    weights: Path
    tokenizer: Path | None
    mimi: Path | None
    downloads: DownloadPlan | None
    model_config: Path | None = None

    @property
    def is_here(self) -> bool:
        """Whether every file can be opened now."""
        return self.downloads is None or all(
            planned.path is not None for planned in self.downloads.files
        )


def read_tensors(origin: Origin, *, refresh: bool = False) -> Mapping[str, TensorInfo]:
    """Return the tensors in a checkpoint's headers, by name.

    Downloads at most a remote header. `refresh` asks the hub whether a branch has moved, also where
    the cache has the file.

    Raises:
        HeaderError, CheckpointError: it is not a usable checkpoint.
        RemoteError, CredentialsError: the hub failed or refused.
    """
    if isinstance(origin, Path):
        return open_checkpoint(origin).tensors
    (planned,) = plan_download([origin], refresh=refresh).files
    return read_hub_header(replace(origin, revision=planned.version.commit)).tensors


def plan_staging(
    weights: Origin,
    tokenizer_name: str,
    mimi_name: str,
    config_name: str | None = None,
    *,
    refresh: bool = False,
) -> Staging:
    """Return where the files of a model are.

    All are in one hub repository and revision, or beside a local checkpoint.

    Raises:
        SourceError, RemoteError, CredentialsError: the hub has no such file, failed or refused.
    """
    if isinstance(weights, Path):
        folder = weights if weights.is_dir() else weights.parent
        tokenizer, mimi = (
            path if name and (path := folder / name).is_file() else None
            for name in (tokenizer_name, mimi_name)
        )
        return Staging(
            weights, tokenizer, mimi, None, folder / config_name if config_name else None
        )
    names = [tokenizer_name, mimi_name, *([config_name] if config_name else [])]
    plan = plan_download([weights, *(weights.sibling(name) for name in names)], refresh=refresh)
    paths = [plan.path_of(planned) for planned in plan.files]
    return Staging(paths[0], paths[1], paths[2], plan, paths[3] if config_name else None)
