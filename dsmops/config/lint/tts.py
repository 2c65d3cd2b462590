"""Rules about Py modules, which the server's embedded TTS script serves.

The script takes some values and then fails at them. The model's own config.json says how many
codebooks and which guidance there are. Where it is not available, the one released model counts.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from dsmops.config.lint.inputs import LintInputs
from dsmops.config.lint.lax import lax_integer, lax_number
from dsmops.config.lint.report import Findings, finding
from dsmops.config.load import Config
from dsmops.config.modules import FileRole, Module, modules
from dsmops.config.presets import published_tts
from dsmops.config.schema import U32_MAX
from dsmops.config.values import HUB_SNAPSHOT, resolve
from dsmops.models import TTS_MODELS, TtsModel

_CODEBOOKS = 32
_CFG_VALUES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""What kyutai/tts-1.6b-en_fr was distilled with."""
_FIRST_TOKEN = 1
"""Begins the main speaker's text; 2 would be the other speaker's."""
_VOICE_SUFFIX = ".safetensors"


def codebooks(config: Config, given: LintInputs) -> Findings:
    """Report numbers of codebooks that the model does not have."""
    for module in tts_modules(config):
        n_q, most = (
            lax_integer(_py(module).get("n_q")),
            _most_codebooks(model_config(module, given)),
        )
        if n_q is not None and not 1 <= n_q <= most:
            message = (
                f"n_q is {n_q}, and the model generates 1 to {most} codebooks: the script fails"
            )
            yield finding(
                config,
                "bad-n-q",
                module.where("py", "n_q"),
                message,
                f"Use {most} for the best sound; fewer are faster.",
            )


def guidance(config: Config, given: LintInputs) -> Findings:
    """Report guidance that the model was not trained with."""
    for module in tts_modules(config):
        cfg, known = (
            lax_number(_py(module).get("cfg_coef")),
            _cfg_values(model_config(module, given)),
        )
        # The script writes it with one digit behind the point.
        if cfg is not None and known and round(cfg, 1) not in known:
            listed = ", ".join(f"{value:g}" for value in known)
            message = (
                f"cfg_coef is {cfg:g}, and the model knows {listed} only: the script fails at load"
            )
            yield finding(
                config,
                "bad-cfg",
                module.where("py", "cfg_coef"),
                message,
                "2 is what Kyutai serves with.",
            )


def first_token(config: Config, given: LintInputs) -> Findings:  # noqa: ARG001
    """Report a text that would begin with another token than in training."""
    for module in tts_modules(config):
        token = module.whole("text_bos_token")
        if token is not None and token != _FIRST_TOKEN and token <= U32_MAX:
            message = (
                f"text_bos_token is {token}: the released model's texts begin with {_FIRST_TOKEN},"
                " the main speaker's mark"
            )
            yield finding(
                config,
                "bos-token",
                module.where("text_bos_token"),
                message,
                f"Write text_bos_token = {_FIRST_TOKEN}.",
            )


def default_voice(config: Config, given: LintInputs) -> Findings:  # noqa: ARG001
    """Report a default voice that does not exist."""
    for module in tts_modules(config):
        voice = module.text("py", "default_voice")
        if voice is None:
            continue
        name = posixpath.normpath(voice)
        if (
            not voice
            or voice.startswith(("/", "~", "hf://", HUB_SNAPSHOT))
            or name.split("/")[0] == ".."
        ):
            message = f"default_voice = {voice!r} is not a name within voice_folder"
            hint = "Name it by its path from there, as unmute-prod-website/default_voice.wav."
        elif voice.endswith(_VOICE_SUFFIX):
            message = (
                f"default_voice = {voice!r} ends as its file does; voices are called by what stands"
                " before the model's suffix"
            )
            hint = (
                "Leave out what follows the recording's own name, as in"
                " unmute-prod-website/default_voice.wav."
            )
        else:
            continue
        yield finding(config, "bad-voice", module.where("py", "default_voice"), message, hint)


def tts_modules(config: Config) -> tuple[Module, ...]:
    """Return the modules that the embedded TTS script serves.

    Modules with a script of the operator's own are not included.
    """
    return tuple(module for module in modules(config) if module.type == "Py" and module.py_keys)


def model_config(module: Module, given: LintInputs) -> Mapping[str, Any] | None:
    """Return the model's own config.json where the module names one and it was read."""
    path = module.text("py", "config_path")
    known = (
        None
        if path is None
        else given.files.get((resolve(path, given.environ).text, FileRole.MODEL_CONFIG))
    )
    return known.values if known else None


def published_model(module: Module, given: LintInputs) -> TtsModel | None:
    """Return the published model that a module serves.

    It is found by its config.json or by the names that the module uses.
    """
    own = model_config(module, given)
    if own is None:
        return published_tts(module)
    size = (own.get("dim"), own.get("num_layers"), own.get("dep_q"))
    for model in TTS_MODELS.values():
        lm = model.shape.lm
        if size == (lm.d_model, lm.num_layers, lm.audio_codebooks):
            return model
    return None


def codebooks_of(module: Module, most: int = _CODEBOOKS) -> int | None:
    """Return how many codebooks a module generates.

    None for a number that a model with `most` of them does not have.
    """
    found = lax_integer(_py(module).get("n_q", module.py_keys["n_q"].default))
    return found if found is not None and 1 <= found <= most else None


def _py(module: Module) -> Mapping[str, Any]:
    return module.subtable("py") or {}


def _most_codebooks(own: Mapping[str, Any] | None) -> int:
    most = (own or {}).get("dep_q", _CODEBOOKS)
    return most if type(most) is int else _CODEBOOKS


def _cfg_values(own: Mapping[str, Any] | None) -> tuple[float, ...]:
    """Return the values of the model's cfg conditioner.

    Empty where it has no such conditioner or no server can read them.
    """
    if own is None:
        return _CFG_VALUES
    value: Any = own
    for key in ("conditioners", "cfg", "lut", "possible_values"):
        value = value.get(key) if isinstance(value, dict) else None
    found = [lax_number(item) for item in value] if isinstance(value, list) else []
    return tuple(number for number in found if number is not None)
