"""Where the commands that take a SOURCE find it: a local path, or `hf://org/repo[@revision]/file`."""

from __future__ import annotations

from pathlib import Path

from dsmops.errors import SourceError
from dsmops.progress import SILENT, Progress


def local_checkpoint(source: str, *, progress: Progress = SILENT) -> Path:  # noqa: ARG001
    """Return the local file or folder that `source` names, downloading it into the Hugging Face cache when it is `hf://`.

    Raises:
        SourceError: nothing is there.
        RemoteError, CredentialsError: the hub failed or refused.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise SourceError(f"{source} does not exist", hint="Check the path, or name a hub file as hf://org/repo/file.")
    return path
