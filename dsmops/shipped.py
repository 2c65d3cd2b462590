"""Where the files that travel with the package are: `configs/` and `runbooks/`, in a wheel and in a checkout alike."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_folder(name: str) -> Path:
    """Return the folder `configs` or `runbooks` as shipped with this installation.

    A wheel holds them under `dsmops/_shipped`; an editable checkout has them beside the package.
    """
    in_wheel = _PACKAGE / "_shipped" / name
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / name
