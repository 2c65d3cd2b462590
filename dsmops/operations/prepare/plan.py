"""What to download, convert and write for a card: decided before any of it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from dsmops.checkpoint import TensorInfo, identify
from dsmops.config.lint.tts import codebooks_of
from dsmops.config.load import Config, parse_config, read_config
from dsmops.config.plan import ServingPlan, config_runtime, planned_dtype
from dsmops.config.presets import described_model, find_template, is_shipped, tts_module
from dsmops.config.render import render, retitle
from dsmops.config.schema import ServerVersion
from dsmops.config.settings import keys_to_keep, planned_title, serving_settings
from dsmops.devices import Device
from dsmops.dtypes import PLAIN, ComputeDType, Quant, Quantised, StorageDType
from dsmops.errors import CheckpointError, InputError
from dsmops.models import KNOWN, MODELS, PublishedModel, TtsModel, model_of_repo
from dsmops.operations.configs.planning import find_device, plan_model
from dsmops.operations.models.sources import locate
from dsmops.operations.models.staging import Origin, Staging, plan_staging, read_tensors
from dsmops.operations.models.tts_checkpoint import describe_tts_checkpoint, is_tts, weights_in
from dsmops.operations.prepare.guards import (
    existing_config,
    require_companions,
    require_distinct,
    require_writable,
)
from dsmops.operations.prepare.items import (
    Action,
    Item,
    config_item,
    conversion_item,
    file_items,
)
from dsmops.user_settings import assets_folder

LOG_FOLDER = "logs/moshi-logs/raw"
_FOLDERS = {ComputeDType.F16: "fp16", ComputeDType.F32: "fp32", ComputeDType.BF16: "bf16"}


@dataclass(frozen=True, slots=True)
class PrepareRequest:
    """What was asked for; None means: as follows from the card and the model.

    `input_path` is a local path or an `hf://` file, and goes before `hf_repo`
    (org/repo[@revision]). `template` is a file or the name of a ready config. `quantised` is what
    the embedded worker will keep in int8.
    """

    hf_repo: str
    model_file: str | None = None
    input_path: str | None = None
    output: Path | None = None
    config_out: Path | None = None
    template: str | None = None
    dtype: ComputeDType | None = None
    batch_size: int | None = None
    api_key: str | None = None
    simulated: tuple[str, ...] = ()
    ordinal: int | None = None
    server_version: ServerVersion | None = None
    force: bool = False
    quantised: Quantised = PLAIN


@dataclass(frozen=True, slots=True)
class PreparePlan:
    """Everything a preparation would do; nothing has been downloaded or written.

    `prepare` acts on it, `preview` shows it.

    `output` is the converted file, None where no conversion is needed. `before` is the config that
    is already there; with `afresh` it is replaced and kept as a backup.
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
    items: tuple[Item, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether there is any point in acting on this plan."""
        return self.serving.fits

    @property
    def changes_something(self) -> bool:
        """Whether acting on it downloads or writes anything."""
        return any(
            item.action in {Action.DOWNLOAD, Action.CONVERT, Action.WRITE, Action.CHANGE}
            for item in self.items
        )


def plan_preparation(request: PrepareRequest) -> PreparePlan:
    """Decide what to download, convert and write for the card.

    Where files are not in the cache, the hub is asked for their sizes and for the checkpoint's
    header. The plan may say that nothing fits.

    Raises:
        DriverMissingError: no GPU, and none was simulated.
        InputError: a source, template or value that cannot be used, or a checkpoint that
            moshi-server cannot serve.
        RemoteError, CredentialsError: the hub failed or refused.
    """
    device = find_device(request.simulated, request.ordinal)
    require_distinct(request.output, request.config_out, request.template)
    weights = locate(request.input_path or _published_file(request))
    if isinstance(weights, Path) and weights.is_dir():
        weights = weights_in(weights)
    tensors = read_tensors(weights, refresh=request.force)
    model, template = _model_and_template(request, weights, tensors)
    quantised = _as_stored(request.quantised, tensors)
    runtime = config_runtime(model, device, request.dtype, quantised)
    dtype = planned_dtype(device, model, runtime, request.dtype)
    staging = plan_staging(
        weights,
        model.tokenizer_file,
        model.mimi_file,
        model.config_file,
        refresh=request.force,
    )
    require_companions(model, staging)
    default_output = converted_path(request, weights, dtype)
    output = default_output if _needs_conversion(request, dtype, tensors) else None
    config_path = request.config_out or default_output.with_suffix(".toml")
    before = existing_config(config_path, model, afresh=request.force)
    n_q = _codebooks(model, template if before is None or request.force else before)
    serving = plan_model(
        model, device, runtime=runtime, dtype=request.dtype, n_q=n_q, quantised=quantised
    )
    require_writable(staging, output, config_path, afresh=request.force)
    config = _render(request, model, serving, staging, output, template, before, config_path)
    items = [
        *file_items(staging, model),
        conversion_item(staging, output, serving.dtype, tensors, afresh=request.force),
        config_item(config, before, afresh=request.force),
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
        items=tuple(items),
        notes=(*serving.notes, *_own_notes(request, model, dtype, output, tensors)),
    )


def _as_stored(asked: Quantised, tensors: Mapping[str, TensorInfo]) -> Quantised:
    """Return what will be in int8: what was asked for, and the weights of an int8 file."""
    in_file = any(tensor.dtype is StorageDType.I8 for tensor in tensors.values())
    return replace(asked, weights=Quant.INT8) if in_file and asked.weights is None else asked


def _published_file(request: PrepareRequest) -> str:
    """Return the `hf://` name of the weights in the repository that was asked for."""
    repo = request.hf_repo.partition("@")[0]
    if repo.count("/") != 1 or repo.startswith(("/", ".", "~")):
        near = get_close_matches(repo.rpartition("/")[2], MODELS, n=1) or MODELS
        wanted = [MODELS[name].hf_repo for name in near]
        raise InputError(
            f"{request.hf_repo or 'an empty name'} is not a repository: write org/name",
            hint=(
                f"Did you mean {' or '.join(wanted)}? A checkpoint on this machine is named with"
                " --input-path."
            ),
            code="prep.repository",
        )
    published = model_of_repo(repo)
    default = published.model_file if published else "model.safetensors"
    return f"hf://{request.hf_repo}/{request.model_file or default}"


def _model_and_template(
    request: PrepareRequest, weights: Origin, tensors: Mapping[str, TensorInfo]
) -> tuple[PublishedModel, Config]:
    """Return which model the checkpoint is and the config to start from."""
    template = (
        read_config(find_template(request.template)) if request.template is not None else None
    )
    if template is not None and is_tts(tensors) != (tts_module(template) is not None):
        raise InputError(
            f"{template.path} has no single module of the kind that the checkpoint needs:"
            f" {'Py' if is_tts(tensors) else 'BatchedAsr'}",
            hint="Omit --template, or name one for this model.",
            code="prep.other_template",
        )
    if is_tts(tensors):
        model = describe_tts_checkpoint(weights, tensors)
        return model, template or read_config(find_template(model.preset))
    if template is not None:
        return described_model(template), template
    identity = identify(tensors)
    known = KNOWN.get(identity.name or "")
    if known is None:
        differences = "".join(f"; {difference}" for difference in identity.differences)
        raise CheckpointError(
            f"this checkpoint is not a published model ({identity.description}{differences})",
            hint="Name a moshi-server config that describes it: --template FILE.",
            code="checkpoint.unknown_model",
        )
    return known, read_config(find_template(known.preset))


def _codebooks(model: PublishedModel, config: Config) -> int | None:
    """Return how many codebooks a TTS model generates: what the config says, else all."""
    module = tts_module(config)
    most = model.codebooks(None)
    return most if most is None or module is None else codebooks_of(module, most) or most


def _needs_conversion(
    request: PrepareRequest, dtype: ComputeDType, tensors: Mapping[str, TensorInfo]
) -> bool:
    """Return whether a converted file is wanted.

    To f16 always, because it proves that the weights fit. To f32 only when asked for: it proves
    nothing and doubles the file.
    """
    wanted = dtype is ComputeDType.F16 or (
        dtype is ComputeDType.F32 and request.dtype is ComputeDType.F32
    )
    return wanted and any(tensor.dtype is StorageDType.BF16 for tensor in tensors.values())


def converted_path(request: PrepareRequest, weights: Origin, dtype: ComputeDType) -> Path:
    """Return the converted file's path, whether or not one is needed."""
    # A repository's files are all called model.safetensors; its own name tells more.
    local = weights.stem if isinstance(weights, Path) and weights.is_file() else ""
    stem = local or (weights.name if isinstance(weights, Path) else weights.repo.rpartition("/")[2])
    folder = _FOLDERS[dtype]
    name = f"{stem}.{folder}.safetensors"
    if request.output is None:
        return assets_folder() / folder / name
    if request.output.is_dir():
        return request.output / name
    if request.output.suffix != ".safetensors":
        raise InputError(
            f"--output {request.output} does not end in .safetensors",
            hint="Name a file that does, or a folder.",
            code="prep.output_name",
        )
    return request.output


def _own_notes(
    request: PrepareRequest,
    model: PublishedModel,
    dtype: ComputeDType,
    output: Path | None,
    tensors: Mapping[str, TensorInfo],
) -> Iterator[str]:
    if output is not None and model.mimi is None:
        yield "Converted weights keep their licence (CC-BY 4.0)."
    if output is None and request.output is not None:
        yield "--output is not used: nothing is converted."
    wide = sum(tensor.dtype is StorageDType.F32 for tensor in tensors.values())
    if model.mimi is not None:
        yield (
            f"moshi-server cannot serve {model.name}: it reads only the published Mimi. `dsmops"
            " worker` serves it."
        )
    if model.server_dtype not in {None, dtype}:
        yield (
            "moshi-server cannot run it so: its Python module (type Py) computes in bf16 whatever"
            " a config says, and its Rust module (type Tts) runs no released file. `dsmops worker`"
            f" serves this config in {dtype.candle_name}."
        )
    if wide and isinstance(model, TtsModel):
        yield (
            f"{wide} tensors are F32 and stay so: conditioners, which are computed in float32"
            " everywhere."
        )
    elif wide and dtype is ComputeDType.F16:
        yield (
            f"{wide} tensors are F32: the server casts them to f16 while loading, unchecked; values"
            " beyond 65504 become infinite."
        )


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
    """Return the finished config.

    It is made from the template, or it is the existing one with files and dtype brought up to date.
    """
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
        title = planned_title(
            model, serving.dtype, serving.device.label, "prep-sm75", serving.quantised
        )
        text = retitle(text, title)
    return parse_config(text, path=str(path))
