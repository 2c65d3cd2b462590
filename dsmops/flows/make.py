"""`make-config`: a plan for a card rendered into a template, with the lint's opinion of the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsmops.config.lint import LintReport
from dsmops.config.load import parse_config, read_config
from dsmops.config.plan import ServingPlan
from dsmops.config.presets import served_model, template_path
from dsmops.config.render import ConfigSettings, generate_api_key, masked_diff, own_api_keys, render, retitle
from dsmops.config.schema import ServerVersion
from dsmops.errors import InputError
from dsmops.facts import Device, DType
from dsmops.files import write_text_atomically
from dsmops.flows.check import lint_config
from dsmops.flows.serving import find_model, plan_model
from dsmops.models import PublishedModel


@dataclass(frozen=True, slots=True)
class ConfigRequest:
    """What was asked for; None means: as follows from the card, the model or the template."""

    model: str | None = None
    template: Path | None = None
    lm_model_file: str | None = None
    dtype: DType | None = None
    batch_size: int | None = None
    context: int | None = None
    api_key: str | None = None
    server_version: ServerVersion | None = None
    addr: str | None = None


@dataclass(frozen=True, slots=True)
class MadeConfig:
    """A rendered config. `plan` is None where dtype and batch size were both given and no device was asked about.

    `change` is the difference to what is at the target already, API keys masked; empty when nothing is there or nothing differs.
    """

    text: str
    change: str
    plan: ServingPlan | None
    lint: LintReport


def make_config(request: ConfigRequest, device: Device | None, *, target: Path | None = None) -> MadeConfig:
    """Render a config for `device`; nothing is written. A key of a config that is already at `target` is kept, else one is made.

    `device` may be None when the request has both dtype and batch size.

    Raises:
        InputError: a model, template or value that cannot be used, or a model that does not fit the device.
    """
    if request.template is not None:
        template = read_config(request.template)
        model = find_model(request.model) if request.model else served_model(template)
    else:
        model = find_model(request.model or "stt-1b-en_fr")
        template = read_config(template_path(model.preset))
    plan = None
    if device is not None and model is not None and model.lm is not None:
        plan = plan_model(model, device, dtype=request.dtype, context=request.context)
    dtype = request.dtype or (plan.dtype if plan and plan.dtype is not DType.BF16 else None)
    # At least one: where nothing fits, the lint says so.
    planned = max(1, min(plan.batch_size, model.batch_size)) if plan and model else None
    before = read_config(target) if target is not None and target.exists() else None
    kept_keys = own_api_keys(before) if before else ()
    settings = ConfigSettings(
        lm_model_file=request.lm_model_file,
        dtype_override=dtype,
        batch_size=request.batch_size or planned,
        context=request.context,
        authorized_ids=(request.api_key,) if request.api_key else kept_keys or (generate_api_key(),),
    )
    text = render(retitle(template.text, _title(model, dtype, plan)), settings)
    config = parse_config(text, path=str(target or "<stdout>"))
    return MadeConfig(
        text,
        masked_diff(before, config) if before else "",
        plan,
        lint_config(config, device=device, server_version=request.server_version, addr=request.addr),
    )


def _title(model: PublishedModel | None, dtype: DType | None, plan: ServingPlan | None) -> str:
    what = model.name if model else "A model of its own"
    served = f" in {dtype.candle_name}" if dtype else ""
    return f"{what}{served}{f' for {plan.device.label}' if plan else ''}, as `dsmops make-config` was asked for it."


def write_config(made: MadeConfig, target: Path, *, force: bool) -> bool:
    """Write a made config, a new one readable by its owner only, and return whether anything changed.

    Raises:
        InputError: another config is there, and `force` was not given.
    """
    exists = target.exists()
    if exists and read_config(target).text == made.text:
        return False
    if exists and not force:
        raise InputError(
            f"{target} is there already and differs",
            hint="See how with --dry-run; replace it with --force, or name another --output.",
            code="config.exists",
        )
    write_text_atomically(target, made.text, private=not exists)
    return True
