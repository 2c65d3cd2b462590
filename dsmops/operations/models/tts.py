"""Load a TTS model by name: from a moshi-server config, a `config.json`, or the hub.

moshi-server serves such a model with a Python script, which reads the table `py` of the config.
This worker reads the same table. It ignores the keys `log_folder` and `debug`; `tokenizer` is only
for a script that splits words itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsmops.checkpoint import require_unchanged
from dsmops.config.modules import Module
from dsmops.config.values import resolve
from dsmops.dtypes import PLAIN, ComputeDType, Quantised
from dsmops.errors import (
    CheckpointError,
    CredentialsError,
    InputError,
    RemoteError,
    ResourceError,
    SourceError,
)
from dsmops.extras import require_worker
from dsmops.hub import HubFile, parse_source
from dsmops.models import DEFAULT_TTS
from dsmops.operations.models.files import (
    CONFIG_FILE,
    Downloads,
    file_names,
    find_model_config,
    find_module,
    locate,
    read_json,
    unusable,
)
from dsmops.operations.models.voices import DEFAULT_VOICE, PUBLISHED_VOICES, open_voices
from dsmops.progress import SILENT, Progress
from dsmops.shipped import shipped_configs

if TYPE_CHECKING:
    from dsmops.audio import Samples
    from dsmops.worker.models.tts import LoadedTts
    from dsmops.worker.models.tts_config import TtsConfig, TtsFiles
    from dsmops.worker.runtime.tts.interface import TtsRequest
    from dsmops.worker.runtime.tts.machine import TtsPacing

TTS_MODULE = "Py"
_SCRIPTS_VOICE, _SCRIPTS_FOLDER = "barack_demo.wav", "~/models/tts-voices"
_SCRIPTS_CODEBOOKS = 24
"""What the script takes where its table says nothing."""
_VOICES = "voices"
"""The folder beside a model's `config.json` that may hold voices of its own."""
_KEPT_VOICES = 64
"""Voices that a server keeps in memory, 256 kB each."""


@dataclass(frozen=True, slots=True)
class TtsDefaults:
    """The values for what a request does not say.

    They are the table `py`, with the defaults of the script that reads it. `n_q` None generates all
    codebooks. `voice_folder` is as `open_voices` takes it.
    """

    n_q: int | None = None
    voice_folder: str = PUBLISHED_VOICES
    default_voice: str = DEFAULT_VOICE
    temperature: float = 0.6
    cfg: float = 2.0
    padding_bonus: float = 0.0
    max_padding: int = 8
    initial_padding: int = 2
    final_padding: int = 4
    padding_between: int = 1
    interleaved_text_only: int = 2
    cpu: bool = False

    def request(self) -> TtsRequest:
        """Return what a stream is opened with, voices and seed aside."""
        from dsmops.worker.runtime.tts.interface import TtsRequest

        return TtsRequest(
            cfg=self.cfg, temperature=self.temperature, padding_bonus=self.padding_bonus
        )

    def pacing(self) -> TtsPacing:
        from dsmops.worker.runtime.tts.machine import TtsPacing

        return TtsPacing(
            self.max_padding, self.initial_padding, self.final_padding, self.padding_between
        )


@dataclass(frozen=True, slots=True)
class TtsSource:
    """A TTS model whose files are on this machine: the files, their config, the defaults."""

    name: str
    files: TtsFiles
    config: TtsConfig
    defaults: TtsDefaults = field(default_factory=TtsDefaults)


def find_tts(source: str, *, progress: Progress = SILENT) -> TtsSource:
    """Return the model that `source` names, its files downloaded where they were not here.

    `source` is a moshi-server TOML, a folder with a `config.json`, such a file,
    `hf://org/repo[@revision]`, or a published or shipped model's name. `progress` announces each
    download before it begins.

    Raises:
        SourceError: nothing is there, or it is something else.
        InputError, ConfigError: it does not describe a text-to-speech model that the embedded
            worker runs.
        ExtraMissingError: the worker's libraries are not installed.
        RemoteError, CredentialsError, ResourceError: the hub, the network or the disk failed or
            refused.
    """
    require_worker("synthesizing")
    # One shipped folder holds both models, and its name means the one that can do it.
    if f"{source}-tts" in shipped_configs():
        source = f"{source}-tts"
    here = Downloads(progress)
    found = find_model_config(source, DEFAULT_TTS, here)
    if isinstance(found, Path):
        return _of_module(found, find_module(found, [TTS_MODULE]), here)

    from dsmops.worker.models.tts_config import TtsConfig, TtsFiles

    name, path, bring = found
    body = read_json(path)
    config = TtsConfig.from_json(body)
    lm, mimi, tokenizer = bring(file_names(name, body))
    defaults = _own_defaults(path, body, config)
    return TtsSource(name, TtsFiles(lm, mimi, tokenizer, path), config, defaults)


def _own_defaults(path: Path, body: Mapping[str, Any], config: TtsConfig) -> TtsDefaults:
    """Return the defaults of a model without a moshi-server config.

    The temperature is that of its `config.json`, the voice the first one beside it, if there is
    one.

    Raises:
        InputError: the temperature is not a number.
    """
    from dsmops.worker.models.config_values import finite_number, section

    defaults = TtsDefaults()
    try:
        generation = section(body, "lm_gen_config")
        temperature = finite_number(generation, "temp", defaults.temperature)
    except ValueError as exc:
        raise InputError(
            f"{path} has no usable lm_gen_config: {exc}", hint="Published models have temp 0.6."
        ) from exc
    defaults = replace(defaults, temperature=temperature)
    folder = path.parent / _VOICES
    if not folder.is_dir():
        return defaults
    names = open_voices(str(folder), config.voice_suffix).names()
    if not names:
        return defaults
    return replace(defaults, voice_folder=str(folder), default_voice=names[0])


def find_tts_module(path: Path, module: Module, *, progress: Progress = SILENT) -> TtsSource:
    """Return the model of one `Py` module of the config in `path`, its files downloaded.

    Errors as for `find_tts`.
    """
    return _of_module(path, module, Downloads(progress))


def load_tts_source(
    source: TtsSource,
    *,
    dtype: ComputeDType | None = None,
    n_q: int | None = None,
    cpu: bool = False,
    quantised: Quantised = PLAIN,
) -> LoadedTts:
    """Load a model in `dtype`; by default in the one its device serves best, which is f32 on a CPU.

    `quantised` says what is in int8 instead.

    Raises:
        CheckpointError, InputError: a file is not what the config describes, or a blob of the
            Hugging Face cache changed since its download.
        GpuMemoryError, DeviceLostError: the device has no room, or failed.
    """
    from dsmops.worker.models.device import best_device, best_dtype
    from dsmops.worker.models.tts import load_tts

    for path in astuple(source.files):
        require_unchanged(path)
    device = best_device(cpu=cpu or source.defaults.cpu)
    return load_tts(
        source.files,
        device=device,
        dtype=dtype or best_dtype(device),
        n_q=n_q or source.defaults.n_q,
        quantised=quantised,
    )


def served_voices(
    source: TtsSource, *, progress: Progress = SILENT
) -> Callable[[str], tuple[Samples, ...]]:
    """Return a function that finds the voices for a client's voice name.

    An empty name stands for the default voice, which is looked up here and now. A voice is read
    when it is first asked for, and downloaded then, where its folder is a repository. As in
    moshi-server it speaks for both the main speaker and the other. May be called from any thread.

    Raises:
        SourceError, CheckpointError: the folder or the default voice is not there, or none of this
        model. RemoteError, CredentialsError, ResourceError: the hub, the network or the disk failed
        or refused.
    """
    from dsmops.worker.models.voice import read_voice

    defaults = source.defaults
    open_voices(defaults.voice_folder, source.config.voice_suffix, progress=progress).find(
        defaults.default_voice
    )
    # Progress is shown at the start only: later downloads are for clients' voices.
    voices = open_voices(defaults.voice_folder, source.config.voice_suffix)

    @lru_cache(_KEPT_VOICES)
    def read(name: str) -> tuple[Samples, ...]:
        return (read_voice(voices.find(name), source.config),) * 2

    def find(name: str) -> tuple[Samples, ...]:
        try:
            return read(name or defaults.default_voice)
        # Where a server keeps its voices is nothing to its clients.
        except SourceError as exc:
            raise InputError(
                f"this server has no voice {name!r}", hint=exc.hint, code=exc.code
            ) from exc
        except CheckpointError as exc:
            raise InputError(
                f"this server's voice {name!r} was not made for its model",
                hint="Ask for another voice.",
                code=exc.code,
            ) from exc
        except (ResourceError, RemoteError, CredentialsError) as exc:
            raise RemoteError(
                f"this server cannot get its voice {name!r}",
                hint="Its log says why.",
                code=exc.code,
            ) from exc

    read(defaults.default_voice)
    return find


def _of_module(path: Path, module: Module, here: Downloads) -> TtsSource:
    from dsmops.worker.models.tts_config import TtsConfig, TtsFiles

    script = module.table.get("script")
    if script is not None:
        raise unusable(
            path,
            module,
            f"script = {script!r} is not supported; this worker serves the default tts.py only",
        )
    tokenizer = locate(path, module, "text_tokenizer_file", here=here)
    config_file, config, body = _module_config(path, module, here)
    names = dict(zip(("moshi_weight", "mimi_weight"), file_names(str(config), body), strict=False))
    lm, mimi = (
        locate(path, module, "py", key, here=here)
        if module.text("py", key)
        else here.fetch([config_file.sibling(name)])[0]
        for key, name in names.items()
    )
    described = TtsConfig.from_json(body)
    defaults = _read_defaults(path, module, most_codebooks=described.shape.lm.audio_codebooks)
    return TtsSource(
        f"{path} [modules.{module.name}]",
        TtsFiles(lm, mimi, tokenizer, config),
        described,
        defaults,
    )


def _module_config(
    path: Path, module: Module, here: Downloads
) -> tuple[HubFile, Path, Mapping[str, Any]]:
    """Return a module's `config.json`: on the hub, here, and what it holds."""
    repo = f"hf://{module.text('py', 'hf_repo') or DEFAULT_TTS.hf_repo}"
    config_file = parse_source(f"{repo}/{CONFIG_FILE}")
    config = (
        locate(path, module, "py", "config_path", here=here)
        if module.text("py", "config_path")
        else here.fetch([config_file])[0]
    )
    return config_file, config, read_json(config)


@dataclass(frozen=True, slots=True)
class VoiceList:
    """The voices of a model: where they are, which speaks by default, their names in order."""

    model: str
    voice_folder: str
    default_voice: str
    voices: tuple[str, ...]


def list_voices(source: str, text: str = "", *, progress: Progress = SILENT) -> VoiceList:
    """Return the voices of a model whose names contain `text`.

    `source` names the model as for `find_tts`; only its config is downloaded.

    Errors as for `find_tts` and `open_voices`.
    """
    require_worker("listing voices", ("numpy",))
    from dsmops.worker.models.tts_config import TtsConfig

    source = f"{source}-tts" if f"{source}-tts" in shipped_configs() else source
    here = Downloads(progress)
    found = find_model_config(source, DEFAULT_TTS, here)
    if isinstance(found, Path):
        module = find_module(found, [TTS_MODULE])
        _, _, body = _module_config(found, module, here)
        described = TtsConfig.from_json(body)
        defaults = _read_defaults(found, module, most_codebooks=described.shape.lm.audio_codebooks)
    else:
        _, path, _ = found
        body = read_json(path)
        described = TtsConfig.from_json(body)
        defaults = _own_defaults(path, body, described)
    voices = open_voices(defaults.voice_folder, described.voice_suffix, progress=progress)
    names = tuple(name for name in voices.names() if text.lower() in name.lower())
    return VoiceList(source, defaults.voice_folder, defaults.default_voice, names)


def _read_defaults(path: Path, module: Module, *, most_codebooks: int) -> TtsDefaults:
    """Return what the table `py` says.

    Numbers may be written as texts, as the script takes them.
    """
    table = module.subtable("py") or {}

    def number(
        key: str, kind: Callable[[Any], Any], default: float, *, least: float = -math.inf
    ) -> Any:
        value = table.get(key, default)
        try:
            found = kind(value)
        except (TypeError, ValueError, OverflowError) as exc:
            raise unusable(path, module, f"py.{key} = {value!r} is not a number") from exc
        if not math.isfinite(found) or found < least:
            raise unusable(
                path,
                module,
                f"py.{key} = {value!r} is not a number"
                + (f" of at least {least:g}" if found < least else ""),
            )
        return found

    device = module.text("py", "device") or "cuda"
    if device not in ("cpu", "cuda", "cuda:0"):
        raise unusable(
            path, module, f"py.device = {device!r}; this worker runs on CUDA device 0 or the CPU"
        )
    defaults = TtsDefaults()
    return TtsDefaults(
        n_q=number("n_q", int, min(_SCRIPTS_CODEBOOKS, most_codebooks)),
        voice_folder=resolve(module.text("py", "voice_folder") or _SCRIPTS_FOLDER, os.environ).text,
        default_voice=module.text("py", "default_voice") or _SCRIPTS_VOICE,
        temperature=number("temp", float, defaults.temperature, least=0),
        cfg=number("cfg_coef", float, defaults.cfg),
        padding_bonus=number("padding_bonus", float, defaults.padding_bonus),
        max_padding=number("max_padding", int, defaults.max_padding, least=0),
        initial_padding=number("initial_padding", int, defaults.initial_padding, least=0),
        final_padding=number("final_padding", int, defaults.final_padding, least=0),
        padding_between=number("padding_between", int, defaults.padding_between, least=0),
        interleaved_text_only=number(
            "interleaved_text_only", int, defaults.interleaved_text_only, least=0
        ),
        cpu=device == "cpu",
    )
