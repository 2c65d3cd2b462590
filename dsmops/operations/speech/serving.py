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
from dsmops.config.values import resolve
from dsmops.errors import ConfigError
from dsmops.extras import SERVER, require_worker
from dsmops.findings import Severity
from dsmops.operations.configs.checking import lint_config
from dsmops.operations.models.stt import STT_MODULES, SttSource, find_stt_module, load_stt_source
from dsmops.operations.models.tts import (
    TTS_MODULE,
    TtsSource,
    find_tts_module,
    load_tts_source,
    served_voices,
)
from dsmops.progress import SILENT, Progress

if TYPE_CHECKING:
    from dsmops.worker.runtime.stt.engine import SttEngine
    from dsmops.worker.runtime.tts.engine import TtsEngine
    from dsmops.worker.serving.server import Ended, Listening, ModuleSettings
    from dsmops.worker.serving.tts import TtsSettings

_EXPOSURE = ("public-token-exposed",)
"""Errors of the lint with which the server does work: it is the operator's decision."""
_OTHER_SERVER = ("other-mimi",)
"""Warnings of the lint about what only moshi-server cannot do."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Options:
    """The command line: that of `moshi-server worker`, and whether the console's log goes to
    stderr.
    """

    addr: str = "127.0.0.1"
    port: int = 8080
    log_level: str = "info"
    cpu: bool = False
    silent: bool = False
    log_to_stderr: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A config that can be served, and what the lint finds worth knowing about it."""

    path: Path
    config: Config
    modules: tuple[Module, ...]
    findings: tuple[ConfigFinding, ...]


def check_options(options: Options) -> None:
    """Raise ValueError unless `log_level` is one."""
    require_worker("serving models", SERVER)
    from dsmops.worker.serving.logs import Level

    Level.parse(options.log_level)


def open_service(path: Path, options: Options) -> Service:
    """Read and check a config. Nothing is loaded or downloaded.

    Raises:
        ConfigError, InputError: it cannot be served, or not at that address.
        ExtraMissingError: the worker's libraries are not installed.
    """
    require_worker("serving models", SERVER)
    from dsmops.worker.serving.server import address_family

    # Before the lint, which says what moshi-server makes of one.
    address_family(options.addr)
    config = read_config(path)
    report = lint_config(config, addr=options.addr)
    errors = [
        finding
        for finding in report.findings
        if finding.severity is Severity.ERROR and finding.code not in _EXPOSURE
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
    others = [module for module in found if module.kind not in (*STT_MODULES, TTS_MODULE)]
    if others or not found:
        what = (
            f"[modules.{others[0].name}] is of type {others[0].kind}"
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
        if finding.severity is not Severity.NOTE and finding.code not in _OTHER_SERVER
    )
    return Service(path, config, found, findings)


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
    from dsmops.worker.serving.server import WorkerSettings
    from dsmops.worker.serving.server import serve as serve_settings

    served = [_settings(service.path, module, options, progress) for module in service.modules]
    values = service.config.values
    settings = WorkerSettings(
        addr=options.addr,
        port=options.port,
        static_dir=Path(_expanded(values["static_dir"])),
        authorized_ids=tuple(values["authorized_ids"]),
        modules=served,
    )
    file = DailyFile(Path(_expanded(values["log_dir"])), _expanded(values["instance_name"]))
    console = None if options.silent else sys.stderr if options.log_to_stderr else sys.stdout
    log = ServerLog(
        Level.parse(options.log_level), file, console, no_color=bool(os.environ.get("NO_COLOR"))
    )
    try:
        return serve_settings(settings, log, on_ready)
    finally:
        log.close()


def _settings(path: Path, module: Module, options: Options, progress: Progress) -> ModuleSettings:
    if module.kind == TTS_MODULE:
        return _tts_settings(path, module, options, progress)

    from dsmops.worker.serving.stt import STT_SESSIONS, SttSettings

    source = find_stt_module(path, module, progress=progress)
    slots = module.whole("batch_size") if module.kind == "BatchedAsr" else STT_SESSIONS
    return SttSettings(
        name=module.name,
        kind=module.kind,
        path=module.text("path") or "",
        slots=slots or 0,
        lm_file=str(source.files.lm),
        audio_tokenizer_file=str(source.files.mimi),
        open_engine=partial(_open_stt_engine, source, slots or 0, cpu=options.cpu),
    )


def _tts_settings(path: Path, module: Module, options: Options, progress: Progress) -> TtsSettings:
    from dsmops.worker.serving.tts import TtsSettings

    source = find_tts_module(path, module, progress=progress)
    return TtsSettings(
        name=module.name,
        path=module.text("path") or "",
        open_engine=partial(
            _open_tts_engine, source, module.whole("batch_size") or 0, cpu=options.cpu
        ),
        find_voice=served_voices(source, progress=progress),
        request=source.defaults.request(),
        pacing=source.defaults.pacing(),
        interleaved_text_only=source.defaults.interleaved_text_only,
    )


def _open_stt_engine(source: SttSource, slots: int, *, cpu: bool) -> SttEngine:
    from dsmops.worker.runtime.stt.engine import SttEngine

    return SttEngine(load_stt_source(source, cpu=cpu), slots)


def _open_tts_engine(source: TtsSource, slots: int, *, cpu: bool) -> TtsEngine:
    from dsmops.worker.runtime.tts.engine import TtsEngine

    return TtsEngine(
        load_tts_source(source, cpu=cpu),
        slots,
        guidance=not source.config.distilled and source.defaults.cfg != 1,
    )


def _expanded(value: str) -> str:
    return resolve(value, os.environ).text
