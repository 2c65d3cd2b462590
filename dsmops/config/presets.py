"""The ready configs that travel with the package, by name, and which published model a config serves."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from dsmops.config.load import Config
from dsmops.config.modules import modules
from dsmops.errors import InputError
from dsmops.models import MODELS, PublishedModel
from dsmops.shipped import shipped_folder


def preset_names() -> tuple[str, ...]:
    """Return the names of the ready configs, as their file names are."""
    return tuple(sorted(path.name for path in shipped_folder("configs").glob("*.toml")))


def template_path(name: str) -> Path:
    """Return the ready config of that name, with or without `.toml`.

    Raises:
        InputError: there is none; the hint names the closest ones.
    """
    names = preset_names()
    wanted = name if name.endswith(".toml") else f"{name}.toml"
    if wanted not in names:
        near = get_close_matches(wanted, names, n=2) or names
        raise InputError(f"there is no ready config called {name!r}", hint=f"Use {' or '.join(near)}, or name a file of your own.")
    return shipped_folder("configs") / wanted


def served_model(config: Config) -> PublishedModel | None:
    """Return the published model whose dimensions a config's `[model]` tables have, None when it is none or no single one.

    `context` does not count: it may be lowered to save memory.
    """
    shapes = [shape for module in modules(config) if (shape := module.lm_shape())]
    served = [
        model for model in MODELS.values() if model.lm and any(replace(shape, context=model.lm.context) == model.lm for shape in shapes)
    ]
    return served[0] if len(served) == 1 else None
