"""The settings of a config that depend on the card.

An existing config keeps some of them.
"""

from __future__ import annotations

from dsmops.config.load import Config
from dsmops.config.modules import modules
from dsmops.config.plan import ServingPlan
from dsmops.config.render import ConfigSettings, generate_api_key, own_api_keys
from dsmops.dtypes import PLAIN, ComputeDType, Quantised
from dsmops.models import PublishedModel


def serving_settings(
    base: Config,
    model: PublishedModel,
    plan: ServingPlan | None,
    *,
    dtype: ComputeDType | None,
    batch_size: int | None,
    api_key: str | None,
    kept_keys: tuple[str, ...] | None,
) -> ConfigSettings:
    """Return dtype, batch size and API keys for `base`, the config to render.

    Pure but for a new random key.

    `dtype`, `batch_size` and `api_key` are what was asked for; what was not follows from `plan`,
    with the published batch size as its upper end. `kept_keys` are keys of a config that is
    replaced, empty for a new one; None says that `base` itself stays in use, and then batch size
    and keys change only when asked for.
    """
    # A TTS module has no key for its dtype.
    served = None if model.server_dtype else dtype or (plan.dtype if plan else None)
    inherited = next(
        (module.text("dtype_override") for module in modules(base) if module.has_lm), None
    )
    # bf16 is what the server takes by itself: it is written only where it was asked for, or has to
    # replace something else.
    if served is ComputeDType.BF16 and dtype is None and inherited in (None, served.candle_name):
        served = None
    keys = (api_key,) if api_key else None
    if kept_keys is None:
        return ConfigSettings(dtype_override=served, batch_size=batch_size, authorized_ids=keys)
    # At least one: where nothing fits, the lint says so.
    planned = max(1, min(plan.batch_size, model.batch_size)) if plan else None
    return ConfigSettings(
        dtype_override=served,
        batch_size=batch_size or planned,
        authorized_ids=keys or kept_keys or (generate_api_key(),),
    )


def keys_to_keep(before: Config | None) -> tuple[str, ...]:
    """Return the API keys of a config to replace, without the public one."""
    return own_api_keys(before) if before is not None else ()


def planned_title(
    model: PublishedModel,
    dtype: ComputeDType | None,
    device_label: str | None,
    command: str,
    quantised: Quantised = PLAIN,
) -> str:
    """Return the opening comment of a config made from a ready one."""
    served = f" in {dtype.candle_name}" if dtype else ""
    where = f" for {device_label}" if device_label else ""
    title = f"{model.name}{served}{where}, as `dsmops {command}` planned it."
    if quantised.has_int8:
        options = " ".join(quantised.worker_options)
        return f"{title}\nServe it with `dsmops worker {options}`: moshi-server has no int8."
    if model.mimi is not None:
        return (
            f"{title}\nServe it with `dsmops worker`: moshi-server reads only the published Mimi."
        )
    if model.server_dtype is None or dtype in (None, model.server_dtype):
        return title
    return (
        f"{title}\nServe it with `dsmops worker`: moshi-server's Python module would compute in"
        " bf16, whatever a config says."
    )
