"""A dry run without the hub: the plan for a published model, by its known dimensions."""

from __future__ import annotations

from dsmops.config.plan import config_runtime, planned_dtype
from dsmops.dtypes import ComputeDType
from dsmops.errors import DsmopsError
from dsmops.models import PublishedModel, model_of_repo
from dsmops.operations.configs.planning import find_device, plan_model
from dsmops.operations.models.sources import locate
from dsmops.operations.prepare.items import Action, Item
from dsmops.operations.prepare.plan import PrepareRequest, converted_path
from dsmops.operations.prepare.report import PrepareOutcome, PrepareReport


def is_published(request: PrepareRequest) -> bool:
    """Whether the request names a published model's own file, whose facts are known."""
    return not request.input_path and _model(request) is not None


def _model(request: PrepareRequest) -> PublishedModel | None:
    model = model_of_repo(request.hf_repo.partition("@")[0])
    is_own = model is not None and request.model_file in {None, model.model_file}
    return model if is_own and not request.template else None


def preview_published(request: PrepareRequest, error: DsmopsError) -> PrepareReport:
    """Return what a preparation would do, as far as the published facts tell.

    The files are named, and the checkpoint's size follows from its dimensions. `error` says why the
    hub was not asked.

    Raises:
        InputError, DriverMissingError: as `plan_preparation` does.
    """
    model = _model(request)
    if model is None:
        raise error
    device = find_device(request.simulated, request.ordinal)
    runtime = config_runtime(model, device, request.dtype, request.quantised)
    dtype = planned_dtype(device, model, runtime, request.dtype)
    serving = plan_model(
        model, device, runtime=runtime, dtype=request.dtype, quantised=request.quantised
    )
    weights_bytes = model.shape.parameters * 2
    names = [model.model_file, model.tokenizer_file, model.mimi_file, model.config_file]
    items = [
        Item(
            name,
            Action.DOWNLOAD,
            f"hf://{request.hf_repo}/{name}",
            weights_bytes if name == model.model_file else None,
        )
        for name in names
        if name
    ]
    output = converted_path(request, locate(f"hf://{request.hf_repo}/{model.model_file}"), dtype)
    if dtype is ComputeDType.F16 or request.dtype is ComputeDType.F32:
        size_bytes = weights_bytes * dtype.itemsize // 2
        reason = f"bf16 to {dtype.candle_name}"
        items.append(Item("conversion", Action.CONVERT, str(output), size_bytes, reason))
    config_path = request.config_out or output.with_suffix(".toml")
    items.append(Item("config", Action.WRITE, str(config_path), None))
    batch_size = request.batch_size or min(serving.batch_size, model.batch_size)
    return PrepareReport(
        outcome=PrepareOutcome.DRY_RUN if serving.fits else PrepareOutcome.DOES_NOT_FIT,
        device=device,
        model=model.name,
        dtype=serving.dtype,
        batch_size=batch_size if serving.fits else None,
        items=tuple(items),
        serving=serving,
        conversion=None,
        config_path=config_path,
        config_diff="",
        lint=None,
        next_commands=(),
        notes=(
            f"From the published facts; the hub was not reached: {error.message}",
            *serving.notes,
        ),
    )
