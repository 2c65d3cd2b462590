"""The ready configs that travel with the package, by name, and which published model a config serves."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from dsmops.config.load import Config
from dsmops.config.modules import Module, modules
from dsmops.errors import InputError
from dsmops.models import MODELS, LmShape, PublishedModel, tts_model
from dsmops.shipped import shipped_folder


def preset_names() -> tuple[str, ...]:
    """Return the names of the ready configs, as their file names are."""
    return tuple(sorted(path.name for path in shipped_folder("configs").glob("*.toml")))


def find_template(name: str) -> Path:
    """Return the config that `name` means: a file, or a ready config by its name, with or without `.toml`.

    Raises:
        InputError: there is neither; the hint names the closest ready configs.
    """
    if Path(name).exists():
        return Path(name)
    names = preset_names()
    wanted = name if name.endswith(".toml") else f"{name}.toml"
    if wanted not in names:
        near = get_close_matches(wanted, names, n=2) or names
        raise InputError(
            f"there is no file and no ready config called {name!r}",
            hint=f"Ready are {' and '.join(near)}.",
            code="config.no_template",
        )
    return shipped_folder("configs") / wanted


def is_shipped(config: Config) -> bool:
    """Return whether a config is one of the ready ones, as they travel with the package."""
    return Path(config.path).resolve().parent == shipped_folder("configs").resolve()


def described_model(config: Config) -> PublishedModel:
    """Return the model that a config's one speech module serves: a published one, or one that only the config describes.

    The latter is named as its module, has the file names that the config gives, and belongs to no
    repository.

    Raises:
        InputError: not exactly one BatchedAsr module has complete `[model]` tables, and the module is no Py module alone.
    """
    if speaking_module(config) is not None:
        return tts_model()
    found = [
        module for module in modules(config) if module.kind == "BatchedAsr" and module.lm_shape()
    ]
    if len(found) != 1:
        raise InputError(
            f"{config.path} must describe one BatchedAsr module with its [model] tables, or one Py module; it has {len(found)}",
            hint="Start from one of the ready configs.",
            code="config.no_model",
        )
    module = found[0]
    return served_model(config) or PublishedModel(
        name=module.name,
        hf_repo="",
        model_file=_file_name(module, "lm_model_file"),
        tokenizer_file=_file_name(module, "text_tokenizer_file"),
        mimi_file=_file_name(module, "audio_tokenizer_file"),
        preset="",
        lm=module.lm_shape(),
        batch_size=module.whole("batch_size") or 1,
    )


def speaking_module(config: Config) -> Module | None:
    """Return a config's one module when the server's own script speaks there, None for any other config."""
    found = modules(config)
    return found[0] if len(found) == 1 and found[0].kind == "Py" and found[0].py_keys else None


def served_model(config: Config) -> PublishedModel | None:
    """Return the published model that a config serves, None when it is none or no single one.

    A hearing model is known by the dimensions in its `[model]` tables; there is one speaking model.
    """
    if speaking_module(config) is not None:
        return tts_model()
    shapes = [shape for module in modules(config) if (shape := module.lm_shape())]
    served = [
        model
        for model in MODELS.values()
        if model.lm and any(same_dimensions(shape, model.lm) for shape in shapes)
    ]
    return served[0] if len(served) == 1 else None


def same_dimensions(shape: LmShape | None, other: LmShape) -> bool:
    """Return whether two shapes are one model's. `context` does not count: it may be lowered to save memory."""
    return shape is not None and replace(shape, context=other.context) == other


def _file_name(module: Module, key: str) -> str:
    return (module.text(key) or "").rpartition("/")[2]
