"""Load an STT model by name: from a moshi-server config, a `config.json`, or the hub.

A moshi-server config and a repository's `config.json` describe a model in different terms. Both
become an `SttSource`.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dsmops.checkpoint import require_unchanged
from dsmops.config.modules import Module
from dsmops.dtypes import PLAIN, ComputeDType, Quantised
from dsmops.extras import require_worker
from dsmops.models import DEFAULT_STT, STT_MODELS
from dsmops.operations.models.files import (
    Downloads,
    file_names,
    find_model_config,
    find_module,
    locate,
    read_json,
    unusable,
)
from dsmops.progress import SILENT, Progress

if TYPE_CHECKING:
    from dsmops.worker.models.stt import LoadedStt
    from dsmops.worker.models.stt_config import SttConfig, SttFiles

STT_MODULES = ("BatchedAsr", "Asr")
# What the networks do; a TOML that says otherwise describes another network.
_TRANSFORMER = {
    "norm": "RmsNorm",
    "gating": "silu",
    "positional_embedding": "Rope",
    "bias_ff": False,
    "bias_attn": False,
    "kv_repeat": 1,
}
_MOST_DELAY_STEPS = 750
"""A minute. The published models write their text 0.5 or 2.5 s after
it."""


@dataclass(frozen=True, slots=True)
class SttSource:
    """A speech-to-text model whose files are on this machine: where they are and what they hold.

    `dtype` None: the source does not name one.
    """

    name: str
    files: SttFiles
    config: SttConfig
    dtype: ComputeDType | None


def find_stt(
    source: str,
    *,
    lm: Path | None = None,
    progress: Progress = SILENT,
) -> SttSource:
    """Return the model that `source` names, its files downloaded where they were not here.

    `source` is a moshi-server TOML, a folder with a `config.json`, such a file,
    `hf://org/repo[@revision]`, or a published model's name. `lm` takes the place of its language
    model's file, which is then not looked for. `progress` announces each download before it begins.

    Raises:
        SourceError: nothing is there, or it is something else.
        InputError, ConfigError: it does not describe a speech-to-text model that the embedded
            worker runs.
        ExtraMissingError: the worker's libraries are not installed.
        RemoteError, CredentialsError, ResourceError: the hub, the network or the disk failed or
            refused.
    """
    require_worker("transcribing")
    here = Downloads(progress)
    found = find_model_config(source, DEFAULT_STT, here)
    if isinstance(found, Path):
        return _of_module(found, find_module(found, STT_MODULES), lm, here)

    from dsmops.worker.models.stt_config import SttConfig, SttFiles

    name, path, bring = found
    body = read_json(path)
    config = SttConfig.from_json(body)
    names = file_names(name, body)
    files = bring(names) if lm is None else [lm, *bring(names[1:])]
    return SttSource(name, SttFiles(*files), config, None)


def load_stt_source(
    source: SttSource,
    *,
    dtype: ComputeDType | None = None,
    cpu: bool = False,
    quantised: Quantised = PLAIN,
) -> LoadedStt:
    """Load a model in `dtype`, but for what `quantised` says.

    The default is its source's dtype, or else the best one for its device, which is f32 on a CPU.

    Raises:
        CheckpointError, InputError: a file is not what the config describes, or a blob of the
            Hugging Face cache changed since its download.
        GpuMemoryError, DeviceLostError: the device has no room, or failed.
    """
    from dsmops.worker.models.device import best_device, best_dtype
    from dsmops.worker.models.stt import load_stt

    for path in astuple(source.files):
        require_unchanged(path)
    device = best_device(cpu=cpu)
    return load_stt(
        source.files,
        source.config,
        device=device,
        dtype=dtype or source.dtype or best_dtype(device),
        quantised=quantised,
    )


def find_stt_module(path: Path, module: Module, *, progress: Progress = SILENT) -> SttSource:
    """Return the model of one speech-to-text module of the config in `path`, its files downloaded.

    Errors as for `find_stt`.
    """
    return _of_module(path, module, None, Downloads(progress))


def _of_module(path: Path, module: Module, lm: Path | None, here: Downloads) -> SttSource:
    from dsmops.worker.models.stt_config import SttFiles

    config = _server_config(path, module)
    mimi, tokenizer = (
        locate(path, module, key, here=here)
        for key in ("audio_tokenizer_file", "text_tokenizer_file")
    )
    files = SttFiles(lm or locate(path, module, "lm_model_file", here=here), mimi, tokenizer)
    override = module.text("dtype_override")
    try:
        return SttSource(
            f"{path} [modules.{module.name}]",
            files,
            config,
            None if override is None else ComputeDType.parse(override),
        )
    except ValueError as exc:
        raise unusable(path, module, f"dtype_override = {override!r}") from exc


def _server_config(path: Path, module: Module) -> SttConfig:
    from dsmops.worker.models.config_values import check_heads, finite_number, whole_number
    from dsmops.worker.models.stt_config import SttConfig

    shape = module.lm_shape()
    transformer = module.subtable("model", "transformer") or {}
    for key, wanted in _TRANSFORMER.items():
        if transformer.get(key) != wanted:
            raise unusable(
                path,
                module,
                f"model.transformer.{key} = {transformer.get(key)!r}; speech-to-text models "
                f"have {wanted!r}",
            )
    for table in ("conditioners", "depformer"):
        if module.subtable("model", table):
            raise unusable(
                path, module, f"model.{table} is there; speech-to-text models have no such table"
            )
    if shape is None:
        raise unusable(path, module, "a dimension of its model is missing or not a whole number")
    try:
        check_heads(shape.d_model, shape.num_heads)
        whole_number(transformer, "context")
        return SttConfig(
            shape,
            max_period=whole_number(transformer, "max_period", most=10**9),
            text_delay_steps=whole_number(
                module.table, "asr_delay_in_tokens", least=0, most=_MOST_DELAY_STEPS
            ),
            silence_prefix_s=next(
                (model.silence_prefix_s for model in STT_MODELS.values() if model.shape == shape),
                0.0,
            ),
            temperature=finite_number(module.table, "temperature", 0.0),
        )
    except ValueError as exc:
        raise unusable(path, module, str(exc)) from exc
