"""`worker`: a moshi-server TOML, served by the embedded engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dsmops.config.lint import ConfigFinding
from dsmops.config.load import Config, read_config
from dsmops.config.modules import Module, modules
from dsmops.config.presets import published_tts
from dsmops.config.values import resolve
from dsmops.dtypes import PLAIN, Quantised
from dsmops.errors import ConfigError, DriverMissingError, InputError
from dsmops.extras import SERVER, require_worker
from dsmops.findings import Severity
from dsmops.models import model_of_shape
from dsmops.operations.configs.checking import lint_config
from dsmops.operations.configs.shipped_tts import shipped_tts_name
from dsmops.operations.models.stt import STT_MODULES, SttSource, find_stt_module, load_stt_source
from dsmops.operations.models.tts import (
    TTS_MODULE,
    TtsSource,
    find_tts_module,
    load_tts_source,
    served_voices,
)
from dsmops.operations.models.voices import open_voices
from dsmops.operations.speech.tokens import NO_TOKENS, TokenOptions
from dsmops.progress import SILENT, Progress
from dsmops.worker.models.driver import prepare_device

if TYPE_CHECKING:
    from dsmops.worker.models.tokenizer import TextTokenizer
    from dsmops.worker.runtime.facts import FactsBoard
    from dsmops.worker.runtime.stt.engine import SttEngine
    from dsmops.worker.runtime.tts.engine import TtsEngine
    from dsmops.worker.serving.addresses import Listening
    from dsmops.worker.serving.processes import Device
    from dsmops.worker.serving.settings import Ended, ModuleSettings, TtsSettings

_EXPOSURE = ("public-token-exposed",)
"""Errors of the lint with which the server does work: it is the operator's decision."""
_NO_KEYS = ("no-api-keys",)
"""An error of the lint, unless tokens let clients in."""
_OTHER_SERVER = ("other-mimi", "int8-file")
"""Warnings of the lint about what only moshi-server cannot do."""
_SHOWN = 3
_MOST_FRONTS = 8


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `moshi-server worker`, and whether the console's log goes to stderr."""

    addr: str = "127.0.0.1"
    port: int = 8080
    log_level: str = "info"
    cpu: bool = False
    silent: bool = False
    log_to_stderr: bool = False
    fronts: int | None = None
    """Processes for sockets; 0 serves in one process, None decides by the cores."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of pages of other sites that may use the server."""
    devices: str | None = None
    """Where models run, as `parse_devices` takes it; None for the one that torch prefers."""
    require_gpu: bool = False
    """Whether a model that torch would put on the CPU is an error."""
    quantised: Quantised = PLAIN
    tokens: TokenOptions = NO_TOKENS
    """Which tokens let callers in beside the config's keys."""


@dataclass(frozen=True, slots=True)
class Service:
    """A config that can be served, and what the lint finds worth knowing about it."""

    path: Path
    config: Config
    modules: tuple[Module, ...]
    findings: tuple[ConfigFinding, ...]
    notes: tuple[str, ...] = ()
    """What is worth knowing of the keys that check tokens."""


def check_options(options: Options) -> None:
    """Check what can be checked without a config.

    Raises:
        ValueError: `log_level` is unknown.
        ExtraMissingError: the worker's libraries are not installed.
    """
    require_worker("serving models", SERVER)
    from dsmops.worker.serving.logs import Level

    Level.parse(options.log_level)


def default_fronts() -> int:
    """Return the number of processes that serve sockets on this machine.

    One for four cores, at most `_MOST_FRONTS`. 0, which is one process for all, where there is one
    core, or where forks are unsafe.
    """
    if sys.platform != "linux":
        return 0
    cores = len(os.sched_getaffinity(0))
    return 0 if cores < 2 else max(1, min(_MOST_FRONTS, cores // 4))


def plan_processes(options: Options) -> tuple[list[Device], int]:
    """Return the devices of the model processes, and the number of fronts.

    Without fronts there is one process, whose device torch chooses.

    Raises:
        InputError, DriverMissingError: as `parse_devices`, or several devices without fronts.
    """
    from dsmops.worker.serving.processes import Device

    fronts = default_fronts() if options.fronts is None else options.fronts
    if fronts and sys.platform != "linux":
        raise InputError(
            "front processes need Linux", hint="Omit --fronts, or use --fronts 0.", code="fronts"
        )
    if options.devices is None:
        mask = {"CUDA_VISIBLE_DEVICES": ""} if options.cpu else {}
        return [Device("cpu" if options.cpu else "the default device", mask)], fronts
    devices = parse_devices(options.devices)
    if not fronts:
        if options.fronts == 0 or sys.platform != "linux":
            raise InputError(
                "--devices needs front processes", hint="Omit --fronts 0.", code="fronts"
            )
        fronts = 1
    return devices, fronts


def parse_devices(text: str) -> list[Device]:
    """Return the devices that `--devices` names: numbers of visible CUDA devices, `cpu`, or `all`.

    Raises:
        InputError: a word is neither, or a device is named twice.
        DriverMissingError: the machine does not have this CUDA device.
    """
    from dsmops.worker.serving.processes import Device

    words = [word.strip().removeprefix("cuda:") for word in text.split(",")]
    cards = [] if set(words) == {"cpu"} else _visible_cards()
    if words == ["all"]:
        words = [str(number) for number in range(len(cards))]
        if not words:
            raise DriverMissingError(
                "no CUDA device is visible", hint="`dsmops check-gpu` says why; or use --cpu."
            )
    devices: list[Device] = []
    for place, word in enumerate(words):
        if word == "cpu":
            # Two on one processor are the rehearsal of two cards; each needs a name of its own.
            name = "cpu" if len(words) == 1 else f"cpu:{place}"
            devices.append(Device(name, {"CUDA_VISIBLE_DEVICES": ""}))
        elif not word.isdigit():
            raise InputError(
                f"{word!r} is not a device",
                hint="Use `all`, numbers of CUDA devices as in `0,1`, or `cpu`.",
                code="device.unknown",
            )
        elif words.count(word) > 1:
            raise InputError(
                f"device {word} is named twice", hint="Name each once.", code="device.twice"
            )
        elif int(word) >= len(cards):
            raise DriverMissingError(
                f"there is no CUDA device {word}: {len(cards)} are visible",
                hint="`dsmops check-gpu` lists them.",
            )
        else:
            # The driver library counts in this order; CUDA would put the fastest first.
            env = {"CUDA_VISIBLE_DEVICES": cards[int(word)], "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
            devices.append(Device(f"cuda:{word}", env))
    return devices


def _visible_cards() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES may say of each device that it leaves visible."""
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    if mask is not None:
        return [word.strip() for word in mask.split(",") if word.strip()]
    from dsmops.gpu import probe

    return [str(number) for number in range(len(probe().devices))]


def open_service(path: Path, options: Options) -> Service:
    """Read and check a config. Nothing is loaded or downloaded.

    Raises:
        ConfigError, InputError: it cannot be served, or not at that address.
        ExtraMissingError: the worker's libraries are not installed.
    """
    require_worker("serving models", SERVER)
    from dsmops.worker.serving.addresses import address_family

    # Before the lint, which says what moshi-server makes of one.
    address_family(options.addr)
    notes = options.tokens.check()
    config = read_config(path)
    report = lint_config(config, addr=options.addr)
    passed = (*_EXPOSURE, *(_NO_KEYS if options.tokens.are_taken else ()))
    errors = [
        finding
        for finding in report.findings
        if finding.severity is Severity.ERROR and finding.code not in passed
    ]
    if errors:
        shown = "; ".join(f"{finding.where}: {finding.message}" for finding in errors[:_SHOWN])
        more = f", and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise ConfigError(
            f"cannot be served: {shown}{more}",
            path=str(path),
            hint=f"`dsmops check-config {path}` shows all findings.",
            code="config.unusable",
        )
    found = modules(config)
    others = [module for module in found if module.type not in (*STT_MODULES, TTS_MODULE)]
    if others or not found:
        what = (
            f"[modules.{others[0].name}] is of type {others[0].type}"
            if others
            else "it has no modules"
        )
        raise ConfigError(
            f"{what}; this worker serves {', '.join(STT_MODULES)} and {TTS_MODULE}",
            path=str(path),
            hint="Remove such modules, or serve them with a moshi-server binary.",
            code="config.unusable",
        )
    for module in found:
        route = module.text("path") or ""
        if "{" in route or "}" in route:
            raise ConfigError(
                f"[modules.{module.name}] has the path {route}: braces are wildcards to"
                " moshi-server, and this worker serves plain paths only",
                path=str(config.path),
                hint="Write the path that the clients use, without braces.",
                code="config.unusable",
            )
    findings = tuple(
        finding
        for finding in report.findings
        if finding.severity is not Severity.NOTE
        and finding.code not in (*_OTHER_SERVER, *(_NO_KEYS if options.tokens.are_taken else ()))
    )
    return Service(path, config, found, findings, tuple(notes))


def serve(
    service: Service,
    options: Options,
    on_ready: Callable[[Listening], None],
    *,
    progress: Progress = SILENT,
) -> Ended:
    """Download what is missing, load, and serve until a signal comes.

    Errors as for `find_stt` and `worker.server.serve`.
    """
    from dsmops.worker.serving.logs import DailyFile, Level, ServerLog
    from dsmops.worker.serving.settings import WorkerSettings

    served = [
        module_settings(service.path, module, options, progress) for module in service.modules
    ]
    devices, fronts = plan_processes(options)
    values = service.config.values
    settings = WorkerSettings(
        addr=options.addr,
        port=options.port,
        static_dir=Path(_expanded(values["static_dir"])),
        authorized_ids=tuple(values["authorized_ids"]),
        modules=served,
        allowed_origins=options.allowed_origins,
        tokens=options.tokens.settings(),
    )
    file = DailyFile(Path(_expanded(values["log_dir"])), _expanded(values["instance_name"]))
    console = None if options.silent else sys.stderr if options.log_to_stderr else sys.stdout
    log = ServerLog(
        Level.parse(options.log_level), file, console, no_color=bool(os.environ.get("NO_COLOR"))
    )
    try:
        if not fronts:
            from dsmops.worker.serving.server import serve as serve_settings

            return serve_settings(settings, log, on_ready)
        from dsmops.worker.serving.supervisor import serve_split

        return serve_split(settings, log, on_ready, devices=devices, fronts=fronts)
    finally:
        log.close()


def module_settings(
    path: Path, module: Module, options: Options, progress: Progress
) -> ModuleSettings:
    """Return what a server is given for a module of the config at `path`.

    Its files are downloaded where they are missing. Errors as for `find_stt_module`.
    """
    if module.type == TTS_MODULE:
        return _tts_settings(path, module, options, progress)

    from dsmops.worker.runtime.facts import FactsBoard
    from dsmops.worker.serving.settings import STT_SESSIONS, SttSettings

    source = find_stt_module(path, module, progress=progress)
    slots = module.whole("batch_size") if module.type == "BatchedAsr" else STT_SESSIONS
    shape = module.lm_shape()
    model = None if shape is None else model_of_shape(shape)
    facts = FactsBoard()
    return SttSettings(
        name=module.name,
        module_type=module.type,
        path=module.text("path") or "",
        slots=slots or 0,
        lm_file=str(source.files.lm),
        audio_tokenizer_file=str(source.files.mimi),
        open_engine=partial(_open_stt_engine, source, slots or 0, facts, options),
        open_tokenizer=partial(_open_tokenizer, source.files.tokenizer),
        model_name=model.name if model is not None else "",
        facts=facts,
    )


def _tts_settings(path: Path, module: Module, options: Options, progress: Progress) -> TtsSettings:
    from dsmops.worker.runtime.facts import FactsBoard
    from dsmops.worker.serving.settings import TtsSettings

    source = find_tts_module(path, module, progress=progress)
    model = published_tts(module)
    facts = FactsBoard()
    return TtsSettings(
        name=module.name,
        path=module.text("path") or "",
        open_engine=partial(
            _open_tts_engine, source, module.whole("batch_size") or 0, facts, options
        ),
        find_voice=served_voices(source, progress=progress),
        request=source.defaults.request(),
        pacing=source.defaults.pacing(),
        interleaved_text_only=source.defaults.interleaved_text_only,
        slots=module.whole("batch_size") or 0,
        open_tokenizer=partial(_open_tokenizer, source.files.tokenizer),
        model_name=model.name if model is not None else shipped_tts_name(source.files.config),
        facts=facts,
        list_voices=open_voices(source.defaults.voice_folder, source.config.voice_suffix).names,
        default_voice=source.defaults.default_voice,
    )


def _open_stt_engine(
    source: SttSource, slots: int, facts: FactsBoard, options: Options
) -> SttEngine:
    preparing = None if options.cpu else prepare_device()
    # torch is imported meanwhile.
    from dsmops.worker.runtime.description import describe
    from dsmops.worker.runtime.stt.engine import SttEngine

    if preparing is not None:
        preparing.join()
    fallback = _fallback(options)
    model = load_stt_source(source, cpu=options.cpu, quantised=options.quantised)
    engine = SttEngine(model, slots)
    facts.write(describe(model.device, model.dtype, fallback=fallback))
    return engine


def _open_tts_engine(
    source: TtsSource, slots: int, facts: FactsBoard, options: Options
) -> TtsEngine:
    preparing = None if options.cpu or source.defaults.cpu else prepare_device()
    # torch is imported meanwhile.
    from dsmops.worker.runtime.description import describe
    from dsmops.worker.runtime.tts.engine import TtsEngine

    if preparing is not None:
        preparing.join()
    fallback = "" if source.defaults.cpu else _fallback(options)
    model = load_tts_source(source, cpu=options.cpu, quantised=options.quantised)
    engine = TtsEngine(
        model, slots, guidance=not source.config.distilled and source.defaults.cfg != 1
    )
    facts.write(describe(model.device, model.dtype, fallback=fallback))
    return engine


def _fallback(options: Options) -> str:
    """Return why this process computes on the CPU, empty where it need not or was asked to.

    Raises:
        DriverMissingError: a GPU is required.
    """
    from dsmops.worker.models.device import why_not_cuda

    reason = "" if options.cpu or "cpu" in (options.devices or "") else why_not_cuda()
    if reason and options.require_gpu:
        raise DriverMissingError(
            reason, hint="`dsmops check-gpu` shows why. Without --require-gpu the CPU is used."
        )
    return reason


def _open_tokenizer(path: Path) -> TextTokenizer:
    from dsmops.worker.models.tokenizer import TextTokenizer

    return TextTokenizer(path)


def _expanded(value: str) -> str:
    return resolve(value, os.environ).text
