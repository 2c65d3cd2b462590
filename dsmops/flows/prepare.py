"""`prep-sm75`: from a card to a converted checkpoint and a config that fits; planned first, then done, and only where needed.

A second run finds everything up to date and changes nothing. What an operator edited in a config that is already there stays.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from shlex import quote

from dsmops.checkpoint import ConversionReport, TensorInfo, convert, identify, is_current, made_by_conversion, plan_conversion
from dsmops.config.lint import LintReport
from dsmops.config.lint.speech import codebooks_of
from dsmops.config.load import Config, parse_config, read_config
from dsmops.config.modules import modules
from dsmops.config.plan import ServingPlan, config_runtime, planned_dtype, visible_to_server
from dsmops.config.presets import described_model, find_template, is_shipped, same_dimensions, speaking_module
from dsmops.config.render import masked_diff, render, retitle
from dsmops.config.schema import ServerVersion
from dsmops.config.settings import keys_to_keep, planned_title, serving_settings
from dsmops.errors import CheckpointError, ConfigError, DriverMissingError, InputError, SourceError, TensorRangeError
from dsmops.facts import Device, DType, Runtime
from dsmops.files import os_errors, require_free_space, write_text_atomically
from dsmops.flows.check import lint_config
from dsmops.flows.model_files import CONFIG_FILE
from dsmops.flows.serving import find_device, plan_model
from dsmops.flows.sources import locate
from dsmops.flows.speaking import describe_speaking, speaks, weights_in
from dsmops.flows.staging import Origin, Staging, plan_staging, read_tensors
from dsmops.hub import DownloadPlan, fetch
from dsmops.models import MODELS, PublishedModel, model_of_repo
from dsmops.progress import SILENT, Progress

LOG_FOLDER = "logs/moshi-logs/raw"
_FOLDERS = {DType.F16: "fp16", DType.F32: "fp32", DType.BF16: "bf16"}
_NO_CARD = {
    "gpu.driver_missing",
    "gpu.device_missing",
    "gpu.container_without_gpu",
    "gpu.wsl_without_gpu",
    "gpu.wsl_driver_missing",
}
"""Findings that mean a machine without a GPU; any other means one with a GPU that does not work."""


class Outcome(StrEnum):
    """How a preparation ended."""

    DONE = "done"
    UP_TO_DATE = "up to date"
    DRY_RUN = "dry run"
    DOES_NOT_FIT = "does not fit"
    SKIPPED = "skipped"


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
    """What was asked for; None means: as follows from the card and the model.

    `input_path` is a local path or an `hf://` file, and goes before `hf_repo` (org/repo[@revision]). `template` is a file or the name of a
    ready config.
    """

    hf_repo: str
    model_file: str | None = None
    input_path: str | None = None
    output: Path | None = None
    config_out: Path | None = None
    template: str | None = None
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

    `output` is the converted file, None where no conversion is needed. `before` is the config that is already there; with `afresh` it is
    replaced and kept as a backup.
    """

    device: Device
    model: PublishedModel
    serving: ServingPlan
    staging: Staging
    output: Path | None
    config: Config
    before: Config | None
    afresh: bool
    server_version: ServerVersion | None
    parts: tuple[Part, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether there is any point in acting on this plan."""
        return self.serving.fits

    @property
    def changes_something(self) -> bool:
        """Whether acting on it downloads or writes anything."""
        return any(part.step in {Step.DOWNLOAD, Step.CONVERT, Step.WRITE, Step.CHANGE} for part in self.parts)


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What was done, or would be.

    `lint` is None where no config was written: in a dry run, or when nothing fits. `config_diff` is the change to a config that was already
    there, without API keys.
    """

    outcome: Outcome
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

    Where files are not in the cache, the hub is asked for their sizes and for the checkpoint's header. The plan may say that nothing fits.

    Raises:
        DriverMissingError: no GPU, and none was simulated.
        InputError: a source, template or value that cannot be used, or a checkpoint that moshi-server cannot serve.
        RemoteError, CredentialsError: the hub failed or refused.
    """
    device = find_device(request.simulated, request.ordinal)
    _require_distinct(request)
    weights = locate(request.input_path or f"hf://{request.hf_repo}/{_model_file(request)}")
    if isinstance(weights, Path) and weights.is_dir():
        weights = weights_in(weights)
    tensors = read_tensors(weights, refresh=request.force)
    model, template = _model_and_template(request, weights, tensors)
    runtime = config_runtime(model, device, request.dtype)
    dtype = planned_dtype(device, model, runtime, request.dtype)
    staging = plan_staging(weights, model.tokenizer_file, model.mimi_file, CONFIG_FILE if model.tts else None, refresh=request.force)
    _require_companions(model, staging)
    default_output = _output(request, weights, dtype)
    output = default_output if _needs_conversion(request, dtype, tensors) else None
    config_path = request.config_out or default_output.with_suffix(".toml")
    before = _existing_config(config_path, model, afresh=request.force)
    n_q = _codebooks(model, template if before is None or request.force else before)
    serving = plan_model(model, device, runtime=runtime, dtype=request.dtype, n_q=n_q)
    _require_writable(request, staging, output, config_path)
    config = _render(request, model, serving, staging, output, template, before, config_path)
    parts = [
        *_file_parts(staging, model),
        _conversion_part(request, staging, output, serving.dtype, tensors),
        _config_part(config, before, afresh=request.force),
    ]
    return PreparePlan(
        device=device,
        model=model,
        serving=serving,
        staging=staging,
        output=output,
        config=config,
        before=before,
        afresh=request.force,
        server_version=request.server_version,
        parts=tuple(parts),
        notes=(*serving.notes, *_own_notes(request, model, dtype, output, tensors)),
    )


def preview(plan: PreparePlan) -> PrepareReport:
    """Return what acting on `plan` would do, or that it would be pointless."""
    return _report(plan, Outcome.DRY_RUN if plan.fits else Outcome.DOES_NOT_FIT)


def prepare(plan: PreparePlan, *, progress: Progress = SILENT, announce: Callable[[DownloadPlan], None] = lambda _: None) -> PrepareReport:
    """Do what `plan` says: download, convert, write the config, lint it. What is up to date is not touched.

    `announce` gets the downloads, with their sizes, before they begin.

    Raises:
        DiskFullError: for downloads and conversion together, before either begins.
        TensorRangeError: weights that do not fit the dtype; no checkpoint and no config is written.
        TransferError, IntegrityError, CredentialsError: the download failed.
        TargetBusyError: another process writes the same file.
    """
    _require_room(plan)
    if plan.staging.downloads is not None and not plan.staging.is_here:
        announce(plan.staging.downloads)
        fetch(plan.staging.downloads, progress=progress)
    conversion = None
    if plan.output is not None and any(part.step is Step.CONVERT for part in plan.parts):
        conversion = _convert(plan.staging.weights, plan.output, plan.serving.dtype, progress)
    path = Path(plan.config.path)
    if plan.before is None or plan.before.text != plan.config.text:
        if plan.afresh and path.exists():
            with os_errors(path):
                shutil.copy2(path, path.with_name(f"{path.name}.bak"))
        write_text_atomically(path, plan.config.text, private=not path.exists())
    lint = lint_config(plan.config, device=plan.device, server_version=plan.server_version)
    return _report(plan, Outcome.DONE if plan.changes_something else Outcome.UP_TO_DATE, conversion=conversion, lint=lint)


def means_no_card(error: DriverMissingError) -> bool:
    """Return whether the error says that this machine has no GPU, rather than one that does not work or is hidden."""
    return error.code in _NO_CARD


def _model_file(request: PrepareRequest) -> str:
    published = model_of_repo(request.hf_repo.partition("@")[0])
    return request.model_file or (published.model_file if published else "model.safetensors")


def _model_and_template(request: PrepareRequest, weights: Origin, tensors: Mapping[str, TensorInfo]) -> tuple[PublishedModel, Config]:
    """Return which model the checkpoint is and the config to start from."""
    template = read_config(find_template(request.template)) if request.template is not None else None
    if template is not None and speaks(tensors) != (speaking_module(template) is not None):
        raise InputError(
            f"{template.path} has no single module of the kind that the checkpoint needs: {'Py' if speaks(tensors) else 'BatchedAsr'}",
            hint="Leave --template away, or name one for this model.",
            code="prep.other_template",
        )
    if speaks(tensors):
        model = describe_speaking(weights, tensors)
        return model, template or read_config(find_template(model.preset))
    if template is not None:
        return described_model(template), template
    identity = identify(tensors)
    known = MODELS.get(identity.name or "")
    if known is None:
        differences = "".join(f"; {difference}" for difference in identity.differences)
        raise CheckpointError(
            f"this checkpoint is no published model ({identity.description}{differences})",
            hint="Name a moshi-server config that describes it: --template FILE.",
            code="checkpoint.unknown_model",
        )
    return known, read_config(find_template(known.preset))


def _require_companions(model: PublishedModel, staging: Staging) -> None:
    """Check that a speaking model that nobody publishes has its files beside it: no server knows where to find them.

    Raises:
        SourceError: one is not there.
    """
    for name, path in ((model.tokenizer_file, staging.tokenizer), (model.mimi_file, staging.mimi)):
        if model.tts and not model.hf_repo and path is None:
            raise SourceError(f"{name}, which its {CONFIG_FILE} names, is not beside the checkpoint", hint="Put it there.")


def _codebooks(model: PublishedModel, config: Config) -> int | None:
    """Return how many codebooks a speaking model is to generate: what the config says where the model has so many, else all."""
    module = speaking_module(config)
    if model.tts is None or module is None:
        return None
    most = model.tts.lm.audio_codebooks
    return codebooks_of(module, most) or most


def _needs_conversion(request: PrepareRequest, dtype: DType, tensors: Mapping[str, TensorInfo]) -> bool:
    """Return whether a converted file is wanted: to f16 always, for it proves that the weights fit; to f32, which proves nothing and
    doubles the file, only when it was asked for."""
    wanted = dtype is DType.F16 or (dtype is DType.F32 and request.dtype is DType.F32)
    return wanted and any(tensor.dtype == "BF16" for tensor in tensors.values())


def _output(request: PrepareRequest, weights: Origin, dtype: DType) -> Path:
    """Return the converted file's path, whether or not one is needed."""
    # A repository's files are all called model.safetensors; its own name tells more.
    local = weights.stem if isinstance(weights, Path) and weights.is_file() else ""
    stem = local or (weights.name if isinstance(weights, Path) else weights.repo.rpartition("/")[2])
    folder = _FOLDERS[dtype]
    name = f"{stem}.{folder}.safetensors"
    if request.output is None:
        return Path("assets", folder, name)
    if request.output.is_dir():
        return request.output / name
    if request.output.suffix != ".safetensors":
        raise InputError(
            f"--output {request.output} does not end in .safetensors", hint="Name a file that does, or a folder.", code="prep.output_name"
        )
    return request.output


def _require_distinct(request: PrepareRequest) -> None:
    """Check that no file is to be two things at once.

    Raises:
        InputError: two options name the same file.
    """
    record = Path(f"{request.output}.dsmops.json") if request.output else None
    named = {"--output": request.output, "--output's record": record, "--config-out": request.config_out, "--template": request.template}
    seen: dict[Path, str] = {}
    for option, path in named.items():
        if path is None:
            continue
        place = Path(path).absolute()
        if place in seen:
            raise InputError(f"{seen[place]} and {option} name the same file, {path}", hint="Give each its own.", code="prep.same_file")
        seen[place] = option


def _require_writable(request: PrepareRequest, staging: Staging, output: Path | None, config_path: Path) -> None:
    """Check what will be written before anything is done: nothing of somebody else's is replaced, and the server can read the paths.

    Raises:
        InputError: a target is a source, or a checkpoint that dsmops did not make, or a path that a config cannot hold.
    """
    companions = (staging.tokenizer, staging.mimi, staging.model_config)
    sources = {path.absolute() for path in (staging.weights, *companions) if path is not None}
    for option, path in (("--output", output), ("--config-out", config_path)):
        if path is not None and path.absolute() in sources:
            raise InputError(f"{option} {path} is one of the sources", hint="Name another file.", code="prep.same_file")
    if output is not None and output.is_file() and not request.force and not made_by_conversion(output):
        raise InputError(
            f"{output} is there already, and dsmops did not make it",
            hint="Name another --output, or replace it with --force.",
            code="prep.foreign_output",
        )
    for path in (output or staging.weights, *companions):
        text = str(path.absolute()) if path else ""
        if "$" in text or not text.isprintable():
            raise InputError(
                f"the server could not find {text}: it expands $ in paths, and a config holds printable UTF-8 only",
                hint="Choose a path without such characters.",
                code="prep.path",
            )


def _existing_config(path: Path, model: PublishedModel, *, afresh: bool) -> Config | None:
    """Return the config that is at `path` already, if it is one of this model's.

    Raises:
        ConfigError: it is no TOML, and is not to be replaced.
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
    hears = model.lm and any(module.has_lm and same_dimensions(module.lm_shape(), model.lm) for module in modules(before))
    if afresh or hears or (model.tts and speaking_module(before) is not None):
        return before
    raise InputError(
        f"{path} is there already, and does not serve {model.name}",
        hint="Name another --config-out, or replace it with --force (it is kept as .bak).",
        code="prep.other_config",
    )


def _convert(source: Path, target: Path, dtype: DType, progress: Progress) -> ConversionReport:
    try:
        return convert(plan_conversion(source, target, dtype), progress=progress)
    except TensorRangeError as exc:
        command = f"dsmops convert {quote(str(source))} clamped.safetensors --dtype {dtype.candle_name} --on-overflow clamp"
        hint = f"Choose what becomes of them, for example `{command}`, then give the result as --input-path."
        raise TensorRangeError(exc.message, hint=hint) from exc


def _own_notes(
    request: PrepareRequest, model: PublishedModel, dtype: DType, output: Path | None, tensors: Mapping[str, TensorInfo]
) -> Iterator[str]:
    if output is not None:
        yield "Converted weights keep their licence (CC-BY 4.0)."
    elif request.output is not None:
        yield "--output is not used: nothing is converted."
    wide = sum(tensor.dtype == "F32" for tensor in tensors.values())
    if model.tts:
        if dtype is not DType.BF16:
            yield (
                "moshi-server cannot run it so: its Python module (type Py) computes in bf16 whatever a config says, and its Rust module "
                f"(type Tts) runs no released file. `dsmops worker` serves this config in {dtype.candle_name}."
            )
        yield f"{wide} tensors are F32 and stay so: conditioners, which are computed in float32 everywhere."
    elif wide and dtype is DType.F16:
        yield f"{wide} tensors are F32: the server casts them to f16 while loading, unchecked; values beyond 65504 become infinite."


def _render(
    request: PrepareRequest,
    model: PublishedModel,
    serving: ServingPlan,
    staging: Staging,
    output: Path | None,
    template: Config,
    before: Config | None,
    path: Path,
) -> Config:
    """Return the config as it shall be: made from the template, or the one that is there with its files and dtype brought up to date."""
    stays = before is not None and not request.force
    base = before if before is not None and stays else template
    settings = replace(
        serving_settings(
            base,
            model,
            serving,
            dtype=request.dtype,
            batch_size=request.batch_size,
            api_key=request.api_key,
            kept_keys=None if stays else keys_to_keep(before),
        ),
        lm_model_file=str((output or staging.weights).absolute()),
        text_tokenizer_file=str(staging.tokenizer.absolute()) if staging.tokenizer else None,
        audio_tokenizer_file=str(staging.mimi.absolute()) if staging.mimi else None,
        model_config_file=str(staging.model_config.absolute()) if staging.model_config else None,
        n_q=serving.n_q,
    )
    if not stays:
        name = f"{model.name}-{_FOLDERS[serving.dtype]}".replace(".", "_")
        settings = replace(settings, log_dir=LOG_FOLDER, instance_name=name)
    text = render(base.text, settings, name=base.path)
    if is_shipped(base):
        text = retitle(text, planned_title(model, serving.dtype, serving.device.label, "prep-sm75"))
    return parse_config(text, path=str(path))


def _file_parts(staging: Staging, model: PublishedModel) -> list[Part]:
    """Return what happens to weights, tokenizer and Mimi before any conversion."""
    if staging.downloads is not None:
        return [
            Part(planned.file.filename, Step.DOWNLOAD, str(planned.file), planned.fetch_bytes)
            if planned.path is None
            else Part(planned.file.filename, Step.PRESENT, str(planned.file), planned.version.size_bytes, "in the Hugging Face cache")
            for planned in staging.downloads.files
        ]
    parts = [Part("weights", Step.PRESENT, str(staging.weights), None, "local")]
    for name, file_name, path in (("tokenizer", model.tokenizer_file, staging.tokenizer), ("Mimi", model.mimi_file, staging.mimi)):
        if path is not None:
            parts.append(Part(name, Step.PRESENT, str(path), path.stat().st_size, "beside the weights"))
        else:
            parts.append(Part(name, Step.LEFT_TO_SERVER, file_name, None, "not beside the weights; stays as the template names it"))
    if staging.model_config is not None:
        path = staging.model_config
        parts.append(Part(path.name, Step.PRESENT, str(path), path.stat().st_size, "beside the weights"))
    return parts


def _conversion_part(
    request: PrepareRequest, staging: Staging, output: Path | None, dtype: DType, tensors: Mapping[str, TensorInfo]
) -> Part:
    """Return what happens to the weights: converted, already converted, or served as they are."""
    if output is None:
        reasons = {DType.BF16: "the device computes bf16", DType.F32: "the server casts to f32 without loss while loading"}
        has_bf16 = any(tensor.dtype == "BF16" for tensor in tensors.values())
        reason = reasons.get(dtype, "") if has_bf16 else "the file holds no bf16"
        return Part("conversion", Step.NOT_NEEDED, str(staging.weights), None, reason)
    if staging.is_here and not request.force and is_current(plan_conversion(staging.weights, output, dtype)):
        return Part("conversion", Step.UP_TO_DATE, str(output), output.stat().st_size, "made from this source by this recipe")
    size_bytes = sum(tensor.nbytes * (dtype.itemsize // 2 if tensor.dtype == "BF16" else 1) for tensor in tensors.values())
    return Part("conversion", Step.CONVERT, str(output), size_bytes, f"bf16 to {dtype.candle_name}")


def _config_part(config: Config, before: Config | None, *, afresh: bool) -> Part:
    size_bytes = len(config.text.encode())
    if before is None:
        return Part("config", Step.WRITE, config.path, size_bytes)
    if before.text == config.text:
        return Part("config", Step.UP_TO_DATE, config.path, size_bytes)
    return Part("config", Step.CHANGE, config.path, size_bytes, "the old one stays as .bak" if afresh else "what you edited stays")


def _require_room(plan: PreparePlan) -> None:
    """Check the room for downloads and conversion together, disk by disk.

    Raises:
        DiskFullError: one of the disks has less than it would have to take.
    """
    needs: defaultdict[int, int] = defaultdict(int)
    folders: dict[int, Path] = {}
    wanted = [(plan.output.parent, part.size_bytes or 0) for part in plan.parts if plan.output and part.step is Step.CONVERT]
    if plan.staging.downloads is not None:
        wanted.append((plan.staging.downloads.settings.cache, plan.staging.downloads.fetch_bytes))
    for folder, need_bytes in wanted:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        disk = there.stat().st_dev
        needs[disk] += need_bytes
        folders[disk] = folder
    for disk, need_bytes in needs.items():
        require_free_space(folders[disk], need_bytes)


def _report(
    plan: PreparePlan, outcome: Outcome, *, conversion: ConversionReport | None = None, lint: LintReport | None = None
) -> PrepareReport:
    name = quote(plan.config.path)
    visible = f"{visible_to_server(plan.device)} " if plan.device.cuda_ordinal else ""
    commands = [f"dsmops check-config {name}", f"{visible}dsmops smoke-test --config {name}"]
    if plan.serving.runtime is Runtime.MOSHI_SERVER:
        commands.append(f"{visible}moshi-server worker --config {name} --addr 127.0.0.1")
    if plan.model.tts:
        commands.append(f"{visible}dsmops worker --config {name} --addr 127.0.0.1")
    if plan.output is not None:
        commands.insert(0, f"dsmops verify {quote(str(plan.staging.weights))} {quote(str(plan.output))}")
    return PrepareReport(
        outcome=outcome,
        device=plan.device,
        model=plan.model.name,
        dtype=plan.serving.dtype,
        batch_size=next((module.whole("batch_size") for module in modules(plan.config) if module.has_lm or module.kind == "Py"), None),
        parts=plan.parts,
        serving=plan.serving,
        conversion=conversion,
        config_path=Path(plan.config.path),
        config_diff=masked_diff(plan.before, plan.config) if plan.before else "",
        lint=lint,
        next_commands=tuple(commands) if outcome in {Outcome.DONE, Outcome.UP_TO_DATE} else (),
        notes=plan.notes,
    )
