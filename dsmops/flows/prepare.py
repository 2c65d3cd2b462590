"""`prep-sm75`: from a card to a converted checkpoint and a config that fits; planned first, then done, and only where needed.

A second run finds everything up to date and changes nothing. What an operator edited in a config that is already there stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from shlex import quote

from dsmops.checkpoint import ConversionReport, TensorInfo, convert, identify, is_current, plan_conversion
from dsmops.config.lint import LintReport
from dsmops.config.load import Config, parse_config, read_config
from dsmops.config.modules import Module, modules
from dsmops.config.plan import ServingPlan
from dsmops.config.presets import template_path
from dsmops.config.render import ConfigSettings, generate_api_key, masked_diff, own_api_keys, render, retitle
from dsmops.config.schema import ServerVersion
from dsmops.errors import CheckpointError, InputError
from dsmops.facts import Device, DType
from dsmops.files import os_errors, require_free_space, write_text_atomically
from dsmops.flows.check import lint_config
from dsmops.flows.serving import find_device, plan_model
from dsmops.flows.staging import Origin, Staging, locate_weights, read_tensors, stage
from dsmops.hub import fetch
from dsmops.models import MODELS, PublishedModel, model_of_repo
from dsmops.progress import SILENT, Progress

LOG_FOLDER = "logs/moshi-logs/raw"
_FOLDERS = {DType.F16: "fp16", DType.F32: "fp32", DType.BF16: "bf16"}


class Step(StrEnum):
    """What is to be done with one part, or was done."""

    PRESENT = "present"
    UP_TO_DATE = "up to date"
    NOT_NEEDED = "not needed"
    LEFT_TO_SERVER = "left to the server"
    DOWNLOAD = "download"
    CONVERT = "convert"
    WRITE = "write"
    CHANGE = "change"


@dataclass(frozen=True, slots=True)
class PrepareRequest:
    """What was asked for; None means: as follows from the card and the model."""

    hf_repo: str
    model_file: str | None = None
    input_path: Path | None = None
    output: Path | None = None
    config_out: Path | None = None
    template: Path | None = None
    dtype: DType | None = None
    batch_size: int | None = None
    api_key: str | None = None
    simulated: tuple[str, ...] = ()
    ordinal: int | None = None
    server_version: ServerVersion | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a preparation: what is done with it, where it is or will be, and its size (None: nothing of its own, or unknown)."""

    name: str
    step: Step
    where: str
    size_bytes: int | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PreparePlan:
    """Everything a preparation would do; nothing has been downloaded or written. `prepare` acts on it, `preview` shows it.

    `output` is the converted file, None where no conversion is needed. `config_before` is the config that is already there.
    """

    device: Device
    model: PublishedModel
    serving: ServingPlan
    staging: Staging
    output: Path | None
    convert: bool
    config_path: Path
    config_text: str
    config_before: Config | None
    server_version: ServerVersion | None
    parts: tuple[Part, ...]
    notes: tuple[str, ...]

    @property
    def changes_something(self) -> bool:
        """Whether acting on this plan downloads or writes anything."""
        return any(part.step in {Step.DOWNLOAD, Step.CONVERT, Step.WRITE, Step.CHANGE} for part in self.parts)


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What was done, or with `dry_run` would be; `lint` is None then, for there is nothing to look at yet.

    `config_diff` is the change to a config that was already there, with its API keys masked.
    """

    dry_run: bool
    changed: bool
    device: Device
    model: str
    dtype: DType
    batch_size: int | None
    parts: tuple[Part, ...]
    serving: ServingPlan
    conversion: ConversionReport | None
    config_path: Path
    config_diff: str
    lint: LintReport | None
    next_commands: tuple[str, ...]
    notes: tuple[str, ...]


def plan_preparation(request: PrepareRequest) -> PreparePlan:
    """Decide what to download, convert and write for the card.

    Where files are not in the cache, the hub is asked for their sizes and for the checkpoint's header. The plan may say that nothing fits
    (`serving.fits`); acting on it is then pointless.

    Raises:
        DriverMissingError: no GPU, and none was simulated.
        InputError: a source, template or value that cannot be used, or a checkpoint that moshi-server cannot serve.
        RemoteError, CredentialsError: the hub failed or refused.
    """
    device = find_device(request.simulated, request.ordinal)
    published = model_of_repo(request.hf_repo.partition("@")[0])
    model_file = request.model_file or (published.model_file if published else "model.safetensors")
    weights = locate_weights(request.input_path, request.hf_repo, model_file)
    tensors = read_tensors(weights)
    model, template = _model_and_template(request, tensors)
    serving = plan_model(model, device, dtype=request.dtype)
    staging = stage(weights, model.tokenizer_file, model.mimi_file, refresh=request.force)
    needed = serving.dtype is not DType.BF16 and any(tensor.dtype == "BF16" for tensor in tensors.values())
    output = (request.output or _default_output(request, weights, serving.dtype)) if needed else None
    conversion = _weights_part(staging, output, serving.dtype, tensors, force=request.force)
    config_path = request.config_out or (output or _default_output(request, weights, serving.dtype)).with_suffix(".toml")
    before = _existing_config(config_path)
    settings = _settings(request, model, serving, staging, output or staging.weights, before)
    if before is None or request.force:
        text = render(retitle(template.text, _title(device, model, serving)), settings)
    else:
        text = render(before.text, settings)
    return PreparePlan(
        device=device,
        model=model,
        serving=serving,
        staging=staging,
        output=output,
        convert=conversion.step is Step.CONVERT,
        config_path=config_path,
        config_text=text,
        config_before=before,
        server_version=request.server_version,
        parts=(*_file_parts(staging, model), conversion, _config_part(config_path, before, text)),
        notes=_notes(serving, needed=needed),
    )


def preview(plan: PreparePlan) -> PrepareReport:
    """Return what acting on `plan` would do."""
    return _report(plan, dry_run=True, changed=False, conversion=None, lint=None)


def prepare(plan: PreparePlan, *, fresh: bool = False, progress: Progress = SILENT) -> PrepareReport:
    """Do what `plan` says: download, convert, write the config, lint it. What is up to date is not touched.

    `fresh` keeps a config that is replaced as `<name>.bak`.

    Raises:
        DiskFullError: checked for downloads and conversion before either begins.
        TensorRangeError: weights that do not fit the dtype; nothing is written.
        TransferError, IntegrityError, CredentialsError: the download failed.
        TargetBusyError: another process writes the same file.
    """
    conversion = None
    if plan.output is not None and plan.convert:
        require_free_space(plan.output.parent, sum(part.size_bytes or 0 for part in plan.parts if part.step is Step.CONVERT))
    if plan.staging.downloads is not None and plan.staging.fetch_bytes:
        fetch(plan.staging.downloads, progress=progress)
    if plan.output is not None and plan.convert:
        conversion = convert(plan_conversion(plan.staging.weights, plan.output, plan.serving.dtype), progress=progress)
    if plan.config_before is None or plan.config_text != plan.config_before.text:
        if plan.config_before is not None and fresh:
            with os_errors(plan.config_path):
                shutil.copy2(plan.config_path, plan.config_path.with_name(plan.config_path.name + ".bak"))
        write_text_atomically(plan.config_path, plan.config_text, private=plan.config_before is None)
    lint = lint_config(read_config(plan.config_path), device=plan.device, server_version=plan.server_version)
    return _report(plan, dry_run=False, changed=plan.changes_something, conversion=conversion, lint=lint)


def _model_and_template(request: PrepareRequest, tensors: Mapping[str, TensorInfo]) -> tuple[PublishedModel, Config]:
    """Return which model the checkpoint is and the config to start from."""
    if request.template is not None:
        template = read_config(request.template)
        return _model_of_template(template), template
    identity = identify(tensors)
    model = MODELS.get(identity.name or "")
    if model is None:
        differences = "".join(f"; {difference}" for difference in identity.differences)
        raise CheckpointError(
            f"this checkpoint is no published model ({identity.description}{differences})",
            hint="Name a moshi-server config that describes it: --template FILE.",
        )
    if model.lm is None:
        raise CheckpointError(
            f"{model.name} cannot be prepared for moshi-server on such a card: the server runs it through a Python module in bf16, "
            "and its Rust module runs no released file",
            hint="prep-sm75 prepares the speech-to-text models: kyutai/stt-1b-en_fr-candle, kyutai/stt-2.6b-en-candle.",
        )
    return model, read_config(template_path(model.preset))


def _model_of_template(template: Config) -> PublishedModel:
    found = [module for module in modules(template) if module.kind == "BatchedAsr" and module.lm_shape()]
    if len(found) != 1:
        raise InputError(
            f"{template.path} must describe one BatchedAsr module with its [model] tables; it has {len(found)}",
            hint="Start from one of the ready configs.",
        )
    module = found[0]
    return PublishedModel(
        name=module.name,
        hf_repo="",
        model_file=_file_name(module, "lm_model_file"),
        tokenizer_file=_file_name(module, "text_tokenizer_file"),
        mimi_file=_file_name(module, "audio_tokenizer_file"),
        preset="",
        lm=module.lm_shape(),
        asr_delay_in_tokens=module.whole("asr_delay_in_tokens"),
        batch_size=module.whole("batch_size") or 1,
    )


def _file_name(module: Module, key: str) -> str:
    return (module.text(key) or "").rpartition("/")[2]


def _default_output(request: PrepareRequest, weights: Origin, dtype: DType) -> Path:
    stem = request.hf_repo.partition("@")[0].rpartition("/")[2]
    if isinstance(weights, Path):
        stem = weights.name if weights.is_dir() else weights.stem
    folder = _FOLDERS[dtype]
    return Path("assets", folder, f"{stem}.{folder}.safetensors")


def _existing_config(path: Path) -> Config | None:
    return read_config(path) if path.exists() else None


def _settings(
    request: PrepareRequest, model: PublishedModel, serving: ServingPlan, staging: Staging, weights: Path, before: Config | None
) -> ConfigSettings:
    """Return what the config must say: in one that is there already only files and dtype, in a new one all that depends on the place."""
    own = ConfigSettings(
        lm_model_file=str(weights.absolute()),
        text_tokenizer_file=str(staging.tokenizer.absolute()) if staging.tokenizer else None,
        audio_tokenizer_file=str(staging.mimi.absolute()) if staging.mimi else None,
        dtype_override=None if serving.dtype is DType.BF16 and request.dtype is None else serving.dtype,
        batch_size=request.batch_size,
        authorized_ids=(request.api_key,) if request.api_key else None,
    )
    if before is not None and not request.force:
        return own
    keys = own.authorized_ids or (own_api_keys(before) if before else ()) or (generate_api_key(),)
    return replace(
        own,
        batch_size=own.batch_size or max(1, min(serving.batch_size, model.batch_size)),
        authorized_ids=keys,
        log_dir=LOG_FOLDER,
        instance_name=f"{serving.model}-{_FOLDERS[serving.dtype]}".replace(".", "_"),
    )


def _file_parts(staging: Staging, model: PublishedModel) -> list[Part]:
    """Return what happens to weights, tokenizer and Mimi before any conversion."""
    if staging.downloads is not None:
        return [
            Part(
                planned.file.filename,
                Step.DOWNLOAD if planned.fetch_bytes else Step.PRESENT,
                str(planned.file),
                planned.fetch_bytes or planned.version.size_bytes,
                "" if planned.fetch_bytes else "in the Hugging Face cache",
            )
            for planned in staging.downloads.files
        ]
    parts = [Part("weights", Step.PRESENT, str(staging.weights), None, "local")]
    for name, file_name, path in (("tokenizer", model.tokenizer_file, staging.tokenizer), ("Mimi", model.mimi_file, staging.mimi)):
        if path is not None:
            parts.append(Part(name, Step.PRESENT, str(path), path.stat().st_size, "beside the weights"))
        else:
            parts.append(Part(name, Step.LEFT_TO_SERVER, file_name, None, "not beside the weights; the config names it on the hub"))
    return parts


def _weights_part(staging: Staging, output: Path | None, dtype: DType, tensors: Mapping[str, TensorInfo], *, force: bool) -> Part:
    """Return what happens to the weights: converted, already converted, or served as they are."""
    if output is None:
        reason = "the device computes bf16" if dtype is DType.BF16 else "the file holds no bf16"
        return Part("conversion", Step.NOT_NEEDED, str(staging.weights), None, reason)
    size_bytes = sum(tensor.nbytes * (dtype.itemsize // 2 if tensor.dtype == "BF16" else 1) for tensor in tensors.values())
    here = staging.fetch_bytes == 0
    if here and not force and is_current(plan_conversion(staging.weights, output, dtype)):
        return Part("conversion", Step.UP_TO_DATE, str(output), output.stat().st_size, "made from this source by this recipe")
    return Part("conversion", Step.CONVERT, str(output), size_bytes, f"bf16 to {dtype.candle_name}")


def _config_part(path: Path, before: Config | None, text: str) -> Part:
    if before is None:
        return Part("config", Step.WRITE, str(path), len(text.encode()))
    if before.text == text:
        return Part("config", Step.UP_TO_DATE, str(path), len(text.encode()))
    return Part("config", Step.CHANGE, str(path), len(text.encode()), "what you edited stays")


def _title(device: Device, model: PublishedModel, serving: ServingPlan) -> str:
    return f"{model.name} in {serving.dtype.candle_name} for {device.label}, as `dsmops prep-sm75` planned it."


def _notes(serving: ServingPlan, *, needed: bool) -> tuple[str, ...]:
    notes = list(serving.notes)
    if needed:
        notes.append("Converted weights keep their licence (CC-BY 4.0).")
    return tuple(notes)


def _report(
    plan: PreparePlan, *, dry_run: bool, changed: bool, conversion: ConversionReport | None, lint: LintReport | None
) -> PrepareReport:
    config = parse_config(plan.config_text, path=plan.config_path.name)
    config_name = quote(str(plan.config_path))
    commands = [f"dsmops check-config {config_name}", f"moshi-server worker --config {config_name} --addr 127.0.0.1"]
    if plan.output is not None:
        commands.insert(0, f"dsmops verify {quote(str(plan.staging.weights))} {quote(str(plan.output))}")
    return PrepareReport(
        dry_run=dry_run,
        changed=changed,
        device=plan.device,
        model=plan.model.name,
        dtype=plan.serving.dtype,
        batch_size=next((module.whole("batch_size") for module in modules(config) if module.has_lm), None),
        parts=plan.parts,
        serving=plan.serving,
        conversion=conversion,
        config_path=plan.config_path,
        config_diff=masked_diff(plan.config_before, config) if plan.config_before else "",
        lint=lint,
        next_commands=tuple(commands),
        notes=plan.notes,
    )
