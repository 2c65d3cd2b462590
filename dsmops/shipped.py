"""Where the files of the package are, in a wheel and in a checkout alike.

They are `configs/`, `models/` and `runbooks/`.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_folder(name: str) -> Path:
    """Return the folder `configs`, `models` or `runbooks` as shipped with this installation.

    A wheel holds them under `dsmops/_shipped`; an editable checkout has them beside the package.
    """
    in_wheel = _PACKAGE / "_shipped" / name
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / name


def shipped_models() -> dict[str, Path]:
    """Return name → folder of the trained models in this installation.

    They are complete, small and usable offline. A text-to-speech model in the same folder has no
    name here.
    """
    return {
        config.parent.name: config.parent
        for config in sorted(shipped_folder("models").glob("*/config.json"))
    }


def shipped_configs() -> dict[str, Path]:
    """Return name → `config.json` of the trained models that travel with this installation.

    A folder may hold two models that share codec and tokenizer: `tiny/config.json` is `tiny`, and
    `tiny/config-tts.json` is `tiny-tts`.
    """
    return {
        config.parent.name + config.stem.removeprefix("config"): config
        for config in sorted(shipped_folder("models").glob("*/config*.json"))
    }
