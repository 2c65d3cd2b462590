"""The ready configs in the package, by name, and the published model of a config."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path, PurePath

from dsmops.config.load import Config
from dsmops.config.modules import Module, modules
from dsmops.errors import InputError
from dsmops.models import (
    DEFAULT_TTS,
    TTS_MODELS,
    PublishedModel,
    SttModel,
    TtsModel,
    model_of_shape,
)
from dsmops.shipped import shipped_folder


def preset_names() -> tuple[str, ...]:
    """Return the names of the ready configs, as their file names are."""
    return tuple(sorted(path.name for path in shipped_folder("configs").glob("*.toml")))


def find_template(name: str) -> Path:
    """Return the config that `name` means: a file, or a ready config.

    `.toml` may be omitted for a ready config.

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
    """Return the model that a config's one module serves.

    That is a published model, or an STT model that only the config describes: it has the name of
    its module, the file names that the config gives, and no repository. A TTS module that names no
    published model is described as the one whose repository moshi-server's script falls back to.

    Raises:
        InputError: neither one BatchedAsr module with complete `[model]` tables nor one Py module
            is there.
    """
    published = served_model(config)
    if published is not None:
        return published
    if tts_module(config) is not None:
        return DEFAULT_TTS
    found = [
        (module, shape)
        for module in modules(config)
        if module.type == "BatchedAsr" and (shape := module.lm_shape())
    ]
    if len(found) != 1:
        raise InputError(
            f"{config.path} must have one BatchedAsr module with its [model] tables, or one Py"
            f" module; it has {len(found)}",
            hint="Start from one of the ready configs.",
            code="config.no_model",
        )
    ((module, shape),) = found
    return SttModel(
        name=module.name,
        hf_repo="",
        model_file=_file_name(module, "lm_model_file"),
        tokenizer_file=_file_name(module, "text_tokenizer_file"),
        mimi_file=_file_name(module, "audio_tokenizer_file"),
        preset="",
        shape=shape,
        batch_size=module.whole("batch_size") or 1,
    )


def tts_module(config: Config) -> Module | None:
    """Return a config's one module if moshi-server's TTS script serves it.

    None for other configs.
    """
    found = modules(config)
    return found[0] if len(found) == 1 and found[0].type == "Py" and found[0].py_keys else None


def served_model(config: Config) -> PublishedModel | None:
    """Return the one published model that a config serves, None for no or several models.

    An STT model is known by the dimensions in its `[model]` tables, a TTS model by the repository
    or the files that its module names.
    """
    module = tts_module(config)
    if module is not None:
        return published_tts(module)
    shapes = [shape for module in modules(config) if (shape := module.lm_shape())]
    served = {model.name: model for shape in shapes if (model := model_of_shape(shape)) is not None}
    return next(iter(served.values())) if len(served) == 1 else None


def published_tts(module: Module) -> TtsModel | None:
    """Return the published TTS model that a Py module names, None for an unknown one.

    The weights decide, then the model's config.json, the repository and the tokenizer. A module
    that names none of these gets what moshi-server's script loads by itself.
    """
    named = [
        text
        for keys in (("py", "moshi_weight"), ("py", "config_path"), ("py", "hf_repo"), _TOKENIZER)
        if (text := module.text(*keys))
    ]
    for text in named:
        for model in TTS_MODELS.values():
            if _names_model(text, model):
                return model
    # The tokenizer alone may be anybody's: without further files the script loads its own model.
    return None if any(module.text("py", key) for key in _OWN_FILES) else DEFAULT_TTS


_TOKENIZER = ("text_tokenizer_file",)
_OWN_FILES = ("moshi_weight", "config_path", "hf_repo")


def _names_model(text: str, model: TtsModel) -> bool:
    """Return whether a repository, a path into one, or a file name is the model's.

    `assets/fp16/dsm_tts_1e68beda@240.fp16.safetensors` is a converted file;
    `.../models--org--name/snapshots/...` is a path in the hub cache.
    """
    org_name = model.hf_repo
    folder = f"models--{org_name.replace('/', '--')}"
    in_repo = text.removeprefix("hf://").partition("@")[0]
    return (
        in_repo == org_name
        or in_repo.startswith(f"{org_name}/")
        or folder in text.split("/")
        or PurePath(text).name.startswith(PurePath(model.model_file).stem)
    )


def _file_name(module: Module, key: str) -> str:
    return (module.text(key) or "").rpartition("/")[2]
