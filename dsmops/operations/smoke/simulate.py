"""`smoke-test --simulate-success`: the whole path without a GPU and without a network.

Two small bf16 models, one for each direction, are prepared for a T4 by `prep-sm75` and served in
f16 by the embedded worker on the CPU. Then that is tested like any server. Only the card is
simulated. The speech-to-text model is the trained one that travels with the package, so its words
are judged; the text-to-speech model is random.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dsmops.audio import Samples
from dsmops.checkpoint import read_header, verify
from dsmops.config.load import Config, read_config
from dsmops.config.modules import modules
from dsmops.config.presets import find_template
from dsmops.errors import InputError
from dsmops.extras import SERVER, require_worker
from dsmops.files import os_errors, write_text_atomically
from dsmops.models import SHIPPED
from dsmops.operations.prepare import PrepareReport, PrepareRequest, plan_preparation, prepare
from dsmops.operations.smoke.checks import CheckFailed, Ledger
from dsmops.operations.smoke.launch import check_config, require_log_folder
from dsmops.operations.smoke.report import Backend, SmokeReport, make_report
from dsmops.operations.smoke.request import OnStart, SmokeRequest, read_recording
from dsmops.operations.smoke.run import run_ledger
from dsmops.shipped import shipped_models
from dsmops.units import counted, size

CARD = "t4"
_CARD_NAME = "Tesla T4"
_STORED_DTYPE = "F16"
_SLOTS = 4


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A small bf16 model, and the config to start from."""

    weights: Path
    template: Path


def _generate(folder: Path) -> tuple[TinyModel, ...]:
    return copy_shipped("tiny", folder), random_tts(folder)


def copy_shipped(name: str, folder: Path) -> TinyModel:
    """Copy a model that travels with the package into `folder`, and return it.

    Raises:
        FileAccessError, DiskFullError: it cannot be written there.
    """
    with os_errors(folder):
        copy = shutil.copytree(shipped_models()[name], folder / name)
    model = SHIPPED[name]
    return TinyModel(copy / model.model_file, find_template(model.preset))


def random_tts(folder: Path) -> TinyModel:
    """Write a text-to-speech model with random weights into `folder`, and return it."""
    from dsmops.worker.tiny.tts import write_tiny_tts

    tts = write_tiny_tts(folder / "tts")
    # Voices are searched relative to the folder where the server runs.
    voices = f'voice_folder = "{tts.voice_folder.absolute()}"'
    template = tts.server_config.read_text(encoding="utf-8").replace(
        'voice_folder = "voices"', voices
    )
    tts.server_config.write_text(template, encoding="utf-8")
    return TinyModel(tts.files.lm, tts.server_config)


def _prepare(model: TinyModel, output: Path) -> PrepareReport:
    request = PrepareRequest(
        hf_repo="",
        input_path=str(model.weights),
        template=str(model.template),
        output=output,
        simulated=(CARD,),
        batch_size=_SLOTS,
    )
    return prepare(plan_preparation(request))


@dataclass(frozen=True, slots=True)
class Simulation:
    """What the simulation runs. Tests replace one of these, so that the smoke test must notice.

    `generate` writes models into a folder; `prepare` turns one into a converted checkpoint and its
    config; `command` is the worker's command line, None for this package's worker.
    """

    generate: Callable[[Path], tuple[TinyModel, ...]] = _generate
    prepare: Callable[[TinyModel, Path], PrepareReport] = _prepare
    command: tuple[str, ...] | None = None


@dataclass(slots=True)
class _Made:
    """What the first checks make for later ones: models, a config for each, and one for all."""

    models: tuple[TinyModel, ...] = ()
    configs: list[Config] = field(default_factory=list)
    config: Config | None = None


def simulate_success(
    folder: Path,
    request: SmokeRequest,
    *,
    simulation: Simulation | None = None,
    on_start: OnStart = lambda _: None,
) -> SmokeReport:
    """Test the whole path in `folder`, which is created, or empty. Its files stay.

    Raises:
        ExtraMissingError: the worker's libraries are not installed.
        InputError, SourceError: the folder is not empty, or the recording cannot be used.
        FileAccessError: the folder of logs cannot be written.
    """
    require_worker("simulating", SERVER)
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(
                f"{folder} is not empty",
                hint="Give a new folder: files in this one could be overwritten.",
                code="smoke.folder",
            )
    recording = read_recording(request)
    require_log_folder()
    request = replace(request, api_key=None)  # its servers have keys of their own
    return run_ledger(
        request.timeout_s,
        lambda ledger: _simulate(ledger, folder, request, recording, simulation or Simulation()),
        on_start,
    )


async def _simulate(
    ledger: Ledger, folder: Path, request: SmokeRequest, recording: Samples, simulation: Simulation
) -> SmokeReport:
    made = _Made()

    async def generate() -> str:
        models = await asyncio.to_thread(simulation.generate, folder / "source")
        tensors = sum(len(read_header(model.weights).tensors) for model in models)
        made.models = models
        total_bytes = sum(model.weights.stat().st_size for model in models)
        names = ", ".join(model.weights.parent.name for model in models)
        return (
            f"{counted(len(models), 'model')} ({names}) with {tensors} tensors,"
            f" {size(total_bytes)} of bf16 weights"
        )

    async def preparation() -> str:
        said = []
        for model in made.models:
            output = folder / "assets" / "fp16" / f"{model.weights.parent.name}.fp16.safetensors"
            report = await asyncio.to_thread(simulation.prepare, model, output)
            if report.lint is None or report.lint.has_errors:
                raise CheckFailed(
                    "the config that was written has errors",
                    f"`dsmops check-config {report.config_path}` names them.",
                )
            made.configs.append(read_config(report.config_path))
            said.append(f"{report.config_path.name} in {report.dtype.candle_name}")
        made.config = _joined(made.configs, folder / "config.toml")
        return f"for a {_CARD_NAME}: {', '.join(said)}"

    async def conversion() -> str:
        pairs = zip(made.models, made.configs, strict=True)
        return "; ".join(
            [
                await asyncio.to_thread(_judge_conversion, model.weights, config)
                for model, config in pairs
            ]
        )

    await ledger.run("tiny-checkpoint", generate)
    await ledger.run("preparation", preparation)
    converted = await ledger.run("conversion", conversion)
    if made.config is None or not converted:
        await ledger.block_rest()
        return make_report(
            ledger.results,
            {},
            backend=Backend.EMBEDDED,
            seconds=ledger.seconds,
            simulated=_CARD_NAME,
        )
    served = replace(
        request, config=Path(made.config.path), cpu=True, folder=folder, command=simulation.command
    )
    return await check_config(ledger, served, made.config, recording, simulated=_CARD_NAME)


def _joined(configs: Sequence[Config], path: Path) -> Config:
    """Write a config with the modules of all, and the settings of the first."""
    first, *others = configs
    modules_of_others = [config.text[config.text.index("[modules.") :] for config in others]
    write_text_atomically(path, "\n".join([first.text, *modules_of_others]), private=True)
    return read_config(path)


def _judge_conversion(weights: Path, config: Config) -> str:
    """Compare the file that the config serves with its source, and return that as evidence.

    Raises:
        CheckFailed: the config serves another file, in another dtype, or with other values.
    """
    (module,) = modules(config)
    served = Path(module.text("lm_model_file") or module.text("py", "moshi_weight") or "")
    dtypes = {tensor.dtype for tensor in read_header(served).tensors.values()}
    if "BF16" in dtypes or _STORED_DTYPE not in dtypes:
        raise CheckFailed(
            f"{served.name}, which the config serves, holds {', '.join(sorted(dtypes))}, "
            f"and the card needs {_STORED_DTYPE}"
        )
    report = verify(weights, served)
    if not report.same:
        raise CheckFailed(
            f"{served.name} does not hold the values of {weights.name}",
            f"`dsmops verify {weights} {served}` says more.",
        )
    converted = f"{report.converted} of them now in {_STORED_DTYPE}"
    return f"all {report.tensors} tensors of {served.name} are right, {converted}"
