"""`make-config`: write a plan for a card into a template, and lint the result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from dsmops.config.lint import LintReport
from dsmops.config.lint.tts import codebooks_of
from dsmops.config.load import Config, parse_config, read_config
from dsmops.config.plan import CAUTIOUS_BATCH_SIZE, ServingPlan, config_runtime
from dsmops.config.presets import described_model, find_template, is_shipped, tts_module
from dsmops.config.render import ConfigSettings, masked_diff, render, retitle
from dsmops.config.schema import ServerVersion
from dsmops.config.settings import keys_to_keep, planned_title, serving_settings
from dsmops.devices import Device
from dsmops.dtypes import PLAIN, ComputeDType, Quantised
from dsmops.errors import ConfigError, InputError
from dsmops.files import os_errors, state_folder, write_text_atomically
from dsmops.findings import Severity
from dsmops.gpu import probe
from dsmops.models import DEFAULT_STT, SHIPPED, PublishedModel
from dsmops.operations.configs.checking import lint_config
from dsmops.operations.configs.planning import find_model, plan_model
from dsmops.operations.configs.shipped_tts import BATCH_SIZE as SHIPPED_TTS_BATCH_SIZE
from dsmops.operations.configs.shipped_tts import (
    TITLE,
    is_shipped_tts,
    shipped_tts_module,
)
from dsmops.shipped import shipped_models


@dataclass(frozen=True, slots=True)
class ConfigRequest:
    """What was asked for; None means: as follows from the card, the model or the template.

    `template` is a file or the name of a ready config; `model` chooses the ready one where no
    template is named. `quantised` is what the embedded worker will keep in int8.
    """

    model: str | None = None
    template: str | None = None
    lm_model_file: str | None = None
    dtype: ComputeDType | None = None
    batch_size: int | None = None
    context: int | None = None
    api_key: str | None = None
    server_version: ServerVersion | None = None
    addr: str | None = None
    quantised: Quantised = PLAIN


@dataclass(frozen=True, slots=True)
class MadeConfig:
    """A rendered config.

    `plan` is None where dtype and batch size were both given and no device was asked about.

    `before` is what is at the target already, `change` the difference to it, without API keys.
    """

    text: str
    before: Config | None
    change: str
    plan: ServingPlan | None
    lint: LintReport


class WriteOutcome(StrEnum):
    """What became of a made config."""

    PRINTED = "printed"
    WRITTEN = "written"
    UNCHANGED = "unchanged"
    DRY_RUN = "dry run"
    REFUSED = "refused by the lint"


def make_config(
    request: ConfigRequest, device: Device | None, *, target: Path | None = None
) -> MadeConfig:
    """Render a config for `device`; nothing is written.

    A key of a config that is already at `target` is kept, else one is made.

    `device` may be None where the request `needs_card` not.

    Raises:
        InputError: a model, template or value that cannot be used.
    """
    if request.model is not None and is_shipped_tts(request.model):
        return _make_shipped_tts(request, target)
    if request.template is not None and request.model is not None:
        raise InputError(
            "--model and --template exclude each other",
            hint="The template says which model it is for.",
            code="config.two_models",
        )
    template = read_config(
        find_template(request.template or find_model(request.model or DEFAULT_STT.name).preset)
    )
    model = described_model(template)
    plan = _plan(template, model, device, request) if device is not None else None
    before = read_config(target) if target is not None and target.exists() else None
    settings = serving_settings(
        template,
        model,
        plan,
        dtype=request.dtype,
        batch_size=request.batch_size,
        api_key=request.api_key,
        kept_keys=keys_to_keep(before),
    )
    settings = replace(
        _with_shipped_files(settings, model),
        context=request.context,
    )
    if request.lm_model_file is not None:
        settings = replace(settings, lm_model_file=request.lm_model_file)
    text = render(template.text, settings)
    if is_shipped(template):
        title = planned_title(
            model,
            plan.dtype if plan else request.dtype,
            plan.device.label if plan else None,
            "make-config",
            request.quantised,
        )
        text = retitle(text, title)
    config = parse_config(text, path=str(target or "<stdout>"))
    return MadeConfig(
        text=text,
        before=before,
        change=masked_diff(before, config) if before else "",
        plan=plan,
        lint=lint_config(
            config,
            device=device,
            server_version=request.server_version,
            addr=request.addr,
            quantised=request.quantised,
        ),
    )


def _with_shipped_files(settings: ConfigSettings, model: PublishedModel) -> ConfigSettings:
    """Return the settings with absolute names for the files of a shipped model.

    The server may start in any folder.
    """
    folder = shipped_models().get(model.name)
    if folder is None:
        return settings
    return replace(
        settings,
        lm_model_file=str(folder / model.model_file),
        text_tokenizer_file=str(folder / model.tokenizer_file),
        audio_tokenizer_file=str(folder / model.mimi_file),
        model_config_file=str(folder / model.config_file) if model.config_file else None,
    )


def _plan(
    template: Config, model: PublishedModel, device: Device, request: ConfigRequest
) -> ServingPlan:
    module = tts_module(template)
    return plan_model(
        model,
        device,
        runtime=config_runtime(model, device, request.dtype, request.quantised),
        dtype=request.dtype,
        context=request.context,
        n_q=codebooks_of(module) if module else None,
        quantised=request.quantised,
    )


def write_model_config(
    name: str, *, cpu: bool = False, api_key: str | None = None, quantised: Quantised = PLAIN
) -> Path:
    """Write a config for the embedded worker to serve model `name`, and return its path.

    It is made for the first card here; with `cpu`, or without a card, for the processor, and for a
    worker that keeps `quantised` in int8. It is in the user's state folder under the model's name,
    and keeps its key when it is made again.

    Raises:
        InputError: no model has that name, or the card cannot serve it.
        ConfigError: the config has errors, so it was not written.
        FileAccessError, ResourceError: it cannot be written.
    """
    if is_shipped_tts(name):
        return _write_shipped_tts(name, api_key)
    model = find_model(name)
    device = None if cpu else _first_card()
    target = _model_config(model.name)
    request = ConfigRequest(
        model=model.name,
        batch_size=min(model.batch_size, CAUTIOUS_BATCH_SIZE) if device is None else None,
        api_key=api_key,
        quantised=quantised,
    )
    made = make_config(request, device, target=target)
    outcome = place_config(made, target, strict=False, dry_run=False, force=True)
    if outcome is WriteOutcome.REFUSED:
        error = next(one for one in made.lint.findings if one.severity is Severity.ERROR)
        raise ConfigError(
            f"the config made for {name} has an error: {error.where}: {error.message}",
            path=str(target),
            hint=f"`dsmops make-config --model {name}` shows it whole.",
        )
    return target


def _write_shipped_tts(name: str, api_key: str | None) -> Path:
    target = _model_config(name)
    made = _make_shipped_tts(ConfigRequest(model=name, api_key=api_key), target)
    write_text_atomically(target, made.text, private=True)
    return target


def _make_shipped_tts(request: ConfigRequest, target: Path | None) -> MadeConfig:
    """Return the config of a text-to-speech model of the package, whose module has no options."""
    name = request.model or ""
    others = (request.template, request.lm_model_file, request.dtype, request.context)
    if any(one is not None for one in others):
        raise InputError(
            f"{name} has one checkpoint, one dtype and one context",
            hint="Omit --template, --lm-model-file, --dtype and --context.",
            code="config.fixed_model",
        )
    # The head of the config, with its key, is that of the speech-to-text model beside it.
    beside = replace(request, model=name.removesuffix("-tts"), batch_size=None)
    made = make_config(beside, None, target=target)
    head, _, _ = made.text.partition("\n[modules.")
    module = shipped_tts_module(name, request.batch_size or SHIPPED_TTS_BATCH_SIZE)
    text = f"{retitle(head, TITLE)}{module}"
    config = parse_config(text, path=str(target or "<stdout>"))
    return replace(
        made,
        text=text,
        change=masked_diff(made.before, config) if made.before else "",
        lint=lint_config(config, server_version=request.server_version, addr=request.addr),
    )


def needs_card(request: ConfigRequest) -> bool:
    """Return whether a config can be made for a certain card only.

    It need not where dtype and batch size are given, or for a model of the package, which any CPU
    runs.
    """
    name = request.model or ""
    if name in SHIPPED or is_shipped_tts(name):
        return False
    return request.dtype is None or request.batch_size is None


def _model_config(name: str) -> Path:
    target = state_folder() / "configs" / f"{name}.toml"
    with os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _first_card() -> Device | None:
    visible = probe().visible
    return visible[0].device if visible else None


def place_config(
    made: MadeConfig, target: Path | None, *, strict: bool, dry_run: bool, force: bool
) -> WriteOutcome:
    """Write a config to its target, and return what was done.

    A new file is readable by its owner only. A file with lint errors (with `strict`, warnings) is
    never written.

    Raises:
        InputError: another config is there, and `force` was not given.
    """
    if target is None:
        return WriteOutcome.PRINTED
    if not made.lint.is_clean(strict=strict):
        return WriteOutcome.REFUSED
    if made.before is not None and made.before.text == made.text:
        return WriteOutcome.UNCHANGED
    if dry_run:
        return WriteOutcome.DRY_RUN
    if made.before is not None and not force:
        raise InputError(
            f"{target} is there already and differs",
            hint="See how with --dry-run; replace it with --force, or name another --output.",
            code="config.exists",
        )
    write_text_atomically(target, made.text, private=made.before is None)
    return WriteOutcome.WRITTEN
