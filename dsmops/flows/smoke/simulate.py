"""`smoke-test --simulate-success`: the whole path without a GPU and without a network, where nothing but the card is simulated.

A tiny bf16 model is generated, prepared for a T4 as `prep-sm75` prepares any model, and served in f16 by the embedded worker on the CPU,
which is then tested as any server is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from dsmops.audio import Samples
from dsmops.checkpoint import read_header, verify
from dsmops.config.load import Config, read_config
from dsmops.config.modules import modules
from dsmops.flows.prepare import PrepareReport, PrepareRequest, plan_preparation, prepare
from dsmops.flows.smoke.checks import CheckFailed, Ledger
from dsmops.flows.smoke.report import Backend, SmokeReport, make_report
from dsmops.flows.smoke.run import OnStart, SmokeRequest, check_config, make_clip, run_ledger
from dsmops.units import size
from dsmops.worker import SERVER, require_worker

CARD = "t4"
_CARD_NAME = "Tesla T4"
_STORED_DTYPE = "F16"


def _generate(folder: Path) -> tuple[Path, Path]:
    from dsmops.worker.tiny import write_tiny_stt  # noqa: PLC0415 takes torch along, 1.4 s

    tiny = write_tiny_stt(folder)
    return tiny.files.lm, tiny.server_config


def _prepare(weights: Path, template: Path, output: Path) -> PrepareReport:
    request = PrepareRequest(hf_repo="", input_path=str(weights), template=str(template), output=output, simulated=(CARD,))
    return prepare(plan_preparation(request))


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that the simulation puts together; each can be exchanged, to see the test notice.

    `generate` writes a model into a folder and returns its weights and a config for it; `prepare` turns both into a converted checkpoint
    and its config; `command` is the worker's command line, None for our own.
    """

    generate: Callable[[Path], tuple[Path, Path]] = _generate
    prepare: Callable[[Path, Path, Path], PrepareReport] = _prepare
    command: tuple[str, ...] | None = None


@dataclass(slots=True)
class _Made:
    """What the first checks make for those after them."""

    weights: Path | None = None
    template: Path | None = None
    config: Config | None = None
    target: Path = field(default_factory=Path)


def simulate_success(folder: Path, request: SmokeRequest, *, parts: Parts | None = None, on_start: OnStart = lambda _: None) -> SmokeReport:
    """Try the whole path in `folder`, which is there and empty; its files stay.

    Raises:
        ExtraMissingError: the worker's libraries are not installed.
        InputError, SourceError: the recording cannot be used.
    """
    require_worker("simulating", SERVER)
    clip = make_clip(request)
    return run_ledger(request.timeout_s, lambda ledger: _simulate(ledger, folder, request, clip, parts or Parts()), on_start)


async def _simulate(ledger: Ledger, folder: Path, request: SmokeRequest, clip: Samples, parts: Parts) -> SmokeReport:
    made = _Made(target=folder / "assets" / "fp16" / "model.fp16.safetensors")

    async def generate() -> str:
        weights, made.template = await asyncio.to_thread(parts.generate, folder / "source")
        made.weights = weights
        return f"{len(read_header(weights).tensors)} tensors, {size(weights.stat().st_size)} of bf16, made up"

    async def preparation() -> str:
        if made.weights is None or made.template is None:
            raise CheckFailed("there is nothing to prepare")
        report = await asyncio.to_thread(parts.prepare, made.weights, made.template, made.target)
        made.config = read_config(report.config_path)
        if report.lint is None or report.lint.has_errors:
            raise CheckFailed("the config that was written has errors", f"`dsmops check-config {report.config_path}` names them.")
        return f"{report.device.name}: {report.dtype.candle_name}, batch_size {report.batch_size}; {report.config_path.name} written"

    async def conversion() -> str:
        if made.weights is None or made.config is None:
            raise CheckFailed("there is nothing to compare")
        return await asyncio.to_thread(_judge_conversion, made.weights, made.config)

    await ledger.run("tiny-checkpoint", generate)
    await ledger.run("preparation", preparation)
    converted = await ledger.run("conversion", conversion)
    if made.config is None or not converted:
        await ledger.block_rest()
        return make_report(ledger.checks, {}, backend=Backend.EMBEDDED, seconds=ledger.seconds, simulated=_CARD_NAME)
    served = replace(request, config=Path(made.config.path), cpu=True, folder=folder, command=parts.command)
    return await check_config(ledger, served, made.config, clip, simulated=_CARD_NAME)


def _judge_conversion(weights: Path, config: Config) -> str:
    """Compare what the config serves with what it was made from, and return that as evidence.

    Raises:
        CheckFailed: it serves another file, in another dtype, or with other values.
    """
    module = modules(config)[0]
    served = Path(module.text("lm_model_file") or "")
    dtypes = {tensor.dtype for tensor in read_header(served).tensors.values()}
    if dtypes != {_STORED_DTYPE}:
        raise CheckFailed(f"{served.name}, which the config serves, holds {', '.join(sorted(dtypes))}, and the card needs {_STORED_DTYPE}")
    report = verify(weights, served)
    if not report.same:
        raise CheckFailed(f"{served.name} does not hold the values of {weights.name}", f"`dsmops verify {weights} {served}` says more.")
    return (
        f"all {report.tensors} tensors of {served.name} are {_STORED_DTYPE} and right; dtype_override = {module.text('dtype_override')!r}"
    )
