"""The one exception tree.

Packages raise these; only `cli.main` turns them into words and an exit code.

    DsmopsError
    ├── InputError               exit 3   a file, value or name the user gave is unusable
    │   ├── HeaderError                   a safetensors header breaks the format
    │   ├── CheckpointError               a well-formed checkpoint that cannot serve the purpose
    │   ├── TensorRangeError              a value does not fit the wanted dtype
    │   ├── ConfigError                   a TOML that cannot be read (path, line, col)
    │   └── SourceError                   a source that is not there, or not what was named
    ├── EnvironmentMissingError  exit 4   something this machine lacks
    │   ├── DriverMissingError            no usable GPU driver or device where one was needed
    │   ├── ExtraMissingError             a package of an optional extra is not installed
    │   └── CredentialsError              no credentials, or they were refused
    ├── ResourceError            exit 5   the machine has it, but not enough, or it is taken
    │   ├── DiskFullError
    │   ├── GpuMemoryError                a model and its streams do not fit on the device
    │   ├── DeviceLostError               the GPU failed while it worked
    │   ├── ModelLoopError                the loop that steps a served model died unexpectedly
    │   ├── PortInUseError                another process listens there
    │   ├── FileAccessError               permission refused, or the disk failed
    │   └── TargetBusyError               a second writer holds the target
    └── RemoteError              exit 6   the other side failed
        ├── TransferError                 retries were used up; `upload_id` names an upload left
        │                                 behind
        ├── MissingObjectError            the store has no object of that name
        └── IntegrityError                what arrived is not what was promised

A check that ran and said no is not an exception: the command exits 1. Usage errors are Typer's own,
exit 2. Anything else that escapes is a bug, exit 70.
"""

from __future__ import annotations

from typing import ClassVar


class DsmopsError(Exception):
    """An error that the user can act on: a message with the value, and a hint.

    The message names what failed, the hint says what to do next. `code` is short and stable
    (`"checkpoint.header"`), for scripts. `hint` is a sentence or a command; it may be empty only
    where the message already says what to do.
    """

    exit_code: ClassVar[int] = 70
    default_code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.default_code

    def __reduce__(self) -> tuple[object, ...]:
        """Let any error go to another process, whatever its constructor takes."""
        return _restored, (type(self), self.message, self.__dict__)


def _restored(kind: type[DsmopsError], message: str, state: dict[str, object]) -> DsmopsError:
    error = kind.__new__(kind, message)
    error.__dict__.update(state)
    return error


class InputError(DsmopsError):
    exit_code = 3
    default_code = "input"


class HeaderError(InputError):
    default_code = "checkpoint.header"


class CheckpointError(InputError):
    default_code = "checkpoint.unusable"


class TensorRangeError(InputError):
    default_code = "checkpoint.range"


class ConfigError(InputError):
    """A config that cannot be read.

    `line` and `col` count from 1 and are None where no position is known.
    """

    default_code = "config.unreadable"

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        line: int | None = None,
        col: int | None = None,
        hint: str = "",
        code: str | None = None,
    ) -> None:
        where = ":".join(str(part) for part in (path, line, col) if part is not None)
        super().__init__(f"{where}: {message}" if where else message, hint=hint, code=code)
        self.path, self.line, self.col = path, line, col


class SourceError(InputError):
    default_code = "source"


class EnvironmentMissingError(DsmopsError):
    exit_code = 4
    default_code = "environment.missing"


class DriverMissingError(EnvironmentMissingError):
    default_code = "gpu.driver_missing"


class ExtraMissingError(EnvironmentMissingError):
    """`purpose` ("reading audio") needs `package`, which is not installed.

    Raise it `from` the ImportError.

    `extra` is the one that brings the package, None for a package that no extra brings.
    """

    default_code = "environment.extra"

    def __init__(self, purpose: str, package: str, *, extra: str | None = "worker") -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed or cannot be loaded",
            hint=f"Run `pip install 'dsmops[{extra}]'`."
            if extra
            else f"Run `pip install {package}`.",
        )
        self.package, self.extra = package, extra


class CredentialsError(EnvironmentMissingError):
    default_code = "credentials"


class ResourceError(DsmopsError):
    exit_code = 5
    default_code = "resource"


class DiskFullError(ResourceError):
    """Not enough room; `need_bytes` and `free_bytes` are None where the system did not say."""

    default_code = "disk.full"

    def __init__(
        self,
        message: str,
        *,
        need_bytes: int | None = None,
        free_bytes: int | None = None,
        hint: str = "Free some space, or name a target on another disk.",
        code: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.need_bytes, self.free_bytes = need_bytes, free_bytes


class GpuMemoryError(ResourceError):
    default_code = "gpu.memory"


class DeviceLostError(ResourceError):
    default_code = "gpu.lost"


class ModelLoopError(ResourceError):
    default_code = "worker.loop_died"


class PortInUseError(ResourceError):
    default_code = "port.in_use"


class FileAccessError(ResourceError):
    default_code = "file.access"


class TargetBusyError(ResourceError):
    default_code = "target.busy"


class RemoteError(DsmopsError):
    exit_code = 6
    default_code = "remote"


class TransferError(RemoteError):
    default_code = "remote.transfer"
    upload_id: str | None = None


class MissingObjectError(RemoteError):
    default_code = "remote.missing"


class IntegrityError(RemoteError):
    default_code = "remote.integrity"
