"""The newest config that `prep-sm75` made in this folder, which commands use by default."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from dsmops.config.load import read_config
from dsmops.config.modules import modules
from dsmops.errors import DsmopsError
from dsmops.user_settings import assets_folder


def prepared_configs(folder: Path | None = None) -> list[Path]:
    """Return the configs below `assets/` of a folder, by default of this one, newest first."""
    found: list[tuple[float, Path]] = []
    for path in ((folder or Path()) / assets_folder()).rglob("*.toml"):
        with suppress(OSError):
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def newest_prepared(types: Collection[str]) -> Path | None:
    """Return the newest config in `assets/` with a module of one of `types`, None without one.

    A file that cannot be read as a config does not count.
    """
    for path in prepared_configs():
        with suppress(DsmopsError):
            if any(module.type in types for module in modules(read_config(path))):
                return path
    return None
