"""Checks before a preparation: targets are distinct, replaceable and readable."""

from __future__ import annotations

from pathlib import Path

from dsmops.checkpoint import made_by_conversion
from dsmops.config.load import Config, read_config
from dsmops.config.modules import modules
from dsmops.config.presets import tts_module
from dsmops.errors import ConfigError, InputError, SourceError
from dsmops.models import PublishedModel, TtsModel, same_dimensions
from dsmops.operations.models.files import CONFIG_FILE
from dsmops.operations.models.staging import Staging


def require_distinct(output: Path | None, config_out: Path | None, template: str | None) -> None:
    """Check that no file has two purposes.

    Raises:
        InputError: two options name the same file.
    """
    record = Path(f"{output}.dsmops.json") if output else None
    named = {
        "--output": output,
        "--output's record": record,
        "--config-out": config_out,
        "--template": template,
    }
    seen: dict[Path, str] = {}
    for option, path in named.items():
        if path is None:
            continue
        place = Path(path).absolute()
        if place in seen:
            raise InputError(
                f"{seen[place]} and {option} name the same file, {path}",
                hint="Give each its own.",
                code="prep.same_file",
            )
        seen[place] = option


def require_companions(model: PublishedModel, staging: Staging) -> None:
    """Check that an unpublished TTS model has its files beside it.

    A server cannot find them elsewhere.

    Raises:
        SourceError: one is not there.
    """
    for name, path in ((model.tokenizer_file, staging.tokenizer), (model.mimi_file, staging.mimi)):
        if model.config_file and not model.hf_repo and path is None:
            raise SourceError(
                f"{name}, which its {CONFIG_FILE} names, is not beside the checkpoint",
                hint="Put it there.",
            )


def require_writable(
    staging: Staging, output: Path | None, config_path: Path, *, afresh: bool
) -> None:
    """Check the targets before anything is done.

    No file of another origin may be replaced, and the server must be able to read the paths.

    Raises:
        InputError: a target is a source, or a checkpoint that dsmops did not make, or a path that a
            config cannot hold.
    """
    companions = (staging.tokenizer, staging.mimi, staging.model_config)
    sources = {path.absolute() for path in (staging.weights, *companions) if path is not None}
    for option, path in (("--output", output), ("--config-out", config_path)):
        if path is not None and path.absolute() in sources:
            raise InputError(
                f"{option} {path} is one of the sources",
                hint="Name another file.",
                code="prep.same_file",
            )
    if output is not None and output.is_file() and not afresh and not made_by_conversion(output):
        raise InputError(
            f"{output} is there already, and dsmops did not make it",
            hint="Name another --output, or replace it with --force.",
            code="prep.foreign_output",
        )
    for path in (output or staging.weights, *companions):
        text = str(path.absolute()) if path else ""
        if "$" in text or not text.isprintable():
            raise InputError(
                f"the server could not find {text}: it expands $ in paths, and a config holds"
                " printable UTF-8 only",
                hint="Choose a path without such characters.",
                code="prep.path",
            )


def existing_config(path: Path, model: PublishedModel, *, afresh: bool) -> Config | None:
    """Return the config that is at `path` already, if it is one of this model's.

    Raises:
        ConfigError: it is not TOML, and must not be replaced.
        InputError: it serves another model, and is not to be replaced.
    """
    if not path.exists():
        return None
    try:
        before = read_config(path)
    except ConfigError:
        if afresh:
            return None
        raise
    if afresh or _serves(before, model):
        return before
    raise InputError(
        f"{path} is there already, and does not serve {model.name}",
        hint="Name another --config-out, or replace it with --force (it is kept as .bak).",
        code="prep.other_config",
    )


def _serves(config: Config, model: PublishedModel) -> bool:
    if isinstance(model, TtsModel):
        return tts_module(config) is not None
    return any(
        module.has_lm and same_dimensions(module.lm_shape(), model.shape)
        for module in modules(config)
    )
