"""The files of a model that a server needs at hand: weights, tokenizer, Mimi. Where each is, and what has to be downloaded first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dsmops.checkpoint import TensorInfo, open_checkpoint
from dsmops.errors import InputError
from dsmops.flows.sources import source_header
from dsmops.hub import DownloadPlan, HubFile, parse_source, plan_download

Origin = Path | HubFile


@dataclass(frozen=True, slots=True)
class Staging:
    """Where the three files are or will be. A None is left to the server, which downloads what the config names by `hf://`.

    `downloads` covers all that come from the hub, in the cache or not; None when nothing does.
    """

    weights: Path
    tokenizer: Path | None
    mimi: Path | None
    downloads: DownloadPlan | None

    @property
    def fetch_bytes(self) -> int:
        """What has to come over the network."""
        return self.downloads.fetch_bytes if self.downloads else 0


def locate_weights(input_path: Path | None, hf_repo: str, model_file: str) -> Origin:
    """Return where the weights come from: the local path when given, else `model_file` of `org/repo[@revision]`.

    Raises:
        InputError: the path is not there, or the names are none the hub can have.
    """
    if input_path is None:
        return parse_source(f"hf://{hf_repo}/{model_file}")
    path = input_path.expanduser()
    if not path.exists():
        raise InputError(f"{input_path} does not exist", hint="Check --input-path, or leave it away to download.", code="file.missing")
    return path


def read_tensors(origin: Origin) -> Mapping[str, TensorInfo]:
    """Return the tensors that a checkpoint's headers promise, by name, downloading at most a remote header.

    Raises:
        HeaderError, CheckpointError: it is no usable checkpoint.
        RemoteError, CredentialsError: the hub failed or refused.
    """
    return open_checkpoint(origin).tensors if isinstance(origin, Path) else source_header(str(origin)).tensors


def stage(weights: Origin, tokenizer_name: str, mimi_name: str, *, refresh: bool = False) -> Staging:
    """Return where the files of a model are: all of one hub repository and revision, or those beside a local checkpoint.

    `refresh` asks the hub whether a branch has moved, also where the cache has everything.

    Raises:
        SourceError, RemoteError, CredentialsError: the hub has no such file, failed or refused.
    """
    if isinstance(weights, Path):
        folder = weights if weights.is_dir() else weights.parent
        tokenizer, mimi = (path if (path := folder / name).is_file() else None for name in (tokenizer_name, mimi_name))
        return Staging(weights, tokenizer, mimi, None)
    plan = plan_download([weights, weights.sibling(tokenizer_name), weights.sibling(mimi_name)], refresh=refresh)
    paths = [plan.path_of(planned) for planned in plan.files]
    return Staging(paths[0], paths[1], paths[2], plan)
