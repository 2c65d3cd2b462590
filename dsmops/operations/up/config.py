"""The config of the server that `up` starts: one file with the modules of all its models."""

from __future__ import annotations

import secrets
from pathlib import Path

from dsmops.config.load import Config, parse_config, read_config
from dsmops.errors import InputError, ResourceError
from dsmops.files import os_errors, write_text_atomically
from dsmops.operations.configs.shipped_tts import is_shipped_tts, shipped_tts_module
from dsmops.operations.configs.writing import ConfigRequest, make_config
from dsmops.operations.prepare import PrepareRequest, plan_preparation, prepare
from dsmops.operations.up.plan import PlannedModel, UpPlan
from dsmops.operations.up.record import folder
from dsmops.progress import SILENT, Progress

_MODULES = "\n[modules."
_TITLE = "# Made by `dsmops up`, which replaces it at each start.\n"


def write_config(plan: UpPlan, api_key: str | None, *, progress: Progress = SILENT) -> Config:
    """Prepare what the models of `plan` need, and write their config.

    The key of an earlier config stays, unless `api_key` sets another.

    Raises:
        DsmopsError: as `prepare` and `make_config` do.
    """
    target = folder() / "config.toml"
    key = api_key or _kept_key(target) or f"dsmops-{secrets.token_urlsafe(24)}"
    texts = [_config_text(model, plan, key, progress) for model in plan.models]
    text = (
        _TITLE + texts[0] + "".join(_MODULES + other.partition(_MODULES)[2] for other in texts[1:])
    )
    with os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_text_atomically(target, text, private=True)
    return parse_config(text, path=str(target))


def key_of(config: Config) -> str:
    """Return the first key that clients of a config may send."""
    keys = config.values.get("authorized_ids")
    return str(keys[0]) if isinstance(keys, list) and keys else ""


def _kept_key(target: Path) -> str | None:
    try:
        return key_of(read_config(target)) or None
    except (InputError, ResourceError):
        return None


def _config_text(model: PlannedModel, plan: UpPlan, key: str, progress: Progress) -> str:
    if is_shipped_tts(model.name):
        return shipped_tts_module(model.name, model.batch_size)
    if plan.device is None:
        request = ConfigRequest(model=model.name, batch_size=model.batch_size, api_key=key)
        return make_config(request, None).text
    prepared = plan_preparation(
        PrepareRequest(
            hf_repo=model.hf_repo,
            batch_size=model.batch_size,
            api_key=key,
            quantised=plan.quantised,
        )
    )
    return Path(prepare(prepared, progress=progress).config_path).read_text("utf-8")
