"""What is remembered of the server that `up` started, and whether it still runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from dsmops.errors import FileAccessError, TargetBusyError
from dsmops.files import state_folder, write_text_atomically


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """A server in the background.

    `started` identifies the process beside its number, which the system uses again. `url` is empty
    while it starts. `config` has the key; it is not repeated here.
    """

    pid: int
    started: str
    url: str
    config: str
    log: str
    models: tuple[str, ...]
    started_at: str


def folder() -> Path:
    """Return where `up` keeps its files. It need not exist yet."""
    return state_folder() / "up"


def read_record() -> ServerRecord | None:
    """Return the server that runs, None where none does."""
    record = read_last()
    return record if record is not None and started(record.pid) == record.started else None


def read_last() -> ServerRecord | None:
    """Return the server that was started last and not ended by `down`, whether it runs or not."""
    try:
        values = json.loads(_path().read_text("utf-8"))
        return ServerRecord(**{**values, "models": tuple(values["models"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_record(record: ServerRecord) -> None:
    """Remember a server."""
    write_text_atomically(_path(), json.dumps(asdict(record), indent=2) + "\n", private=True)


def forget() -> None:
    """Remember no server."""
    _path().unlink(missing_ok=True)


def started(pid: int) -> str:
    """Return what tells a process from later ones of the same number, empty where it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
        shown = subprocess.run(  # macOS
            ["ps", "-o", "lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        return shown.stdout.strip()
    # The name, in parentheses, may hold anything. State is field 3, the start time field 22.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


@contextmanager
def only_one() -> Iterator[None]:
    """Let no second `up` or `down` of this user work at the same time.

    Raises:
        TargetBusyError: one does.
        FileAccessError: the state folder cannot be written.
    """
    import fcntl

    with _lock_file() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise TargetBusyError(
                "another `dsmops up` or `dsmops down` is at work",
                hint="Wait for it; `dsmops status` shows what runs.",
                code="up.busy",
            ) from exc
        yield


def _lock_file() -> IO[str]:
    """Open the file that is locked while a server is started or ended; its folder is made."""
    path = folder() / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path.open("w")
    except OSError as exc:
        raise FileAccessError(
            f"the state folder {path.parent} cannot be written: {exc.strerror or exc}",
            hint="Set XDG_STATE_HOME to a folder that this user may write.",
            code="up.state",
        ) from exc


def _path() -> Path:
    return folder() / "server.json"
