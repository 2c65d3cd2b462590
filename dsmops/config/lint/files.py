"""Rules about path-like values: what the server finds there, and whether it fits `[model]`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from dsmops.config.lint.inputs import FileState, KnownFile, LintInputs
from dsmops.config.lint.report import ConfigFinding, Findings, finding
from dsmops.config.load import Config, KeyPath
from dsmops.config.modules import FileReference, FileRole, Module, file_references, modules
from dsmops.config.schema import MODULES
from dsmops.config.values import HUB, HUB_SNAPSHOT, resolve, source_problem
from dsmops.dtypes import StorageDType
from dsmops.models import MIMI_TENSOR_PROBES, STT_MODELS, LmShape

Header = Mapping[str, tuple[str, tuple[int, ...]]]

_LM_PROBE = "text_emb.weight"
_TTS_PROBE = "depformer_text_emb.weight"
_NAMED_DIFFERENCES = 3


def expansion(config: Config, given: LintInputs) -> Findings:
    """Report variables that become nothing, and spellings that the server does not expand."""
    for where, value in _path_like(config):
        seen = resolve(value, given.environ)
        for name in seen.unset:
            shown = "an empty string in its place" if _looks_secret(where) else repr(seen.text)
            message = f"${name} is not set here, so the server sees {shown}"
            yield finding(
                config,
                "unset-variable",
                where,
                message,
                f"Set {name} in the server's environment, or write the path out.",
            )
        for braced in seen.braced:
            message = f"{braced} is not expanded: the server knows $NAME only"
            yield finding(config, "not-expanded", where, message, f"Write ${braced[2:-1]}.")
        # The Python scripts expand `~` in the folders they own; the server never does.
        if seen.tilde and where[2:3] != ("py",):
            yield finding(
                config,
                "not-expanded",
                where,
                "~ is not expanded: the server means a folder of that name",
                "Write $HOME.",
            )


def _path_like(config: Config) -> Iterator[tuple[KeyPath, str]]:
    """Yield every string that the server expands.

    Keys that it does not read at their place do not count.
    """
    for key in ("static_dir", "log_dir", "instance_name"):
        value = config.values.get(key)
        if isinstance(value, str):
            yield (key,), value
    for module in modules(config):
        for key in MODULES[module.type].keys:
            if key.endswith("_file") or key in {"voice_dir", "script", "voices", "py"}:
                yield from _strings(module.table.get(key), module.where(key), nested=key == "py")


def _strings(value: object, where: KeyPath, *, nested: bool) -> Iterator[tuple[KeyPath, str]]:
    """Yield a string, or those of a table; with `nested` those of all tables and arrays in it."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for name, item in value.items():
            if nested or isinstance(item, str):
                yield from _strings(item, (*where, name), nested=nested)
    elif isinstance(value, list) and nested:
        for index, item in enumerate(value):
            yield from _strings(item, (*where, str(index)), nested=nested)


_SECRET_NAME = re.compile(r"key|tokens?$|secret|passw|credential|auth|bearer", re.IGNORECASE)


def _looks_secret(where: KeyPath) -> bool:
    """Whether a value may be an API key, by the names of its keys.

    Findings are shown, logged and shared.
    """
    return any(_SECRET_NAME.search(name) for name in where[2:])


def sources(config: Config, given: LintInputs) -> Findings:  # noqa: ARG001
    """Report names of hub files that the server cannot fetch."""
    by_name = {module.name: module for module in modules(config)}
    for where, value in _path_like(config):
        problem = source_problem(value)
        if where[2:] == ("py", "voice_folder") and "voice_folder" in by_name[where[1]].py_keys:
            problem = _folder_problem(value)
        elif (
            value.startswith(HUB_SNAPSHOT)
            and where[2:3] == ("py",)
            and _may_be_snapshot(by_name[where[1]], where[3:])
        ):
            continue
        if problem:
            shown = "the value" if _looks_secret(where) else value
            hint = (
                "Name one file, like hf://kyutai/stt-1b-en_fr-candle/model.safetensors, or"
                " something local."
            )
            if where[-1] == "voice_folder":
                hint = (
                    "Kyutai's own are hf-snapshot://kyutai/tts-voices/**/*.safetensors; a local"
                    " folder will do."
                )
            yield finding(config, "bad-source", where, f"{shown} {problem}", hint)


def _folder_problem(value: str) -> str:
    """Return why the script cannot find a folder of voices under a name, or an empty string."""
    if value.startswith(HUB):
        return "names one file, and the voices are a folder of them: hf-snapshot://ORG/REPO/PATTERN"
    segments = value.removeprefix(HUB_SNAPSHOT).split("/")
    if value.startswith(HUB_SNAPSHOT) and (len(segments) < 2 or not all(segments[:2])):
        return "needs an organisation and a repository: hf-snapshot://ORG/REPO/PATTERN"
    return ""


def _may_be_snapshot(module: Module, keys: KeyPath) -> bool:
    """Whether only the operator's own script would need a folder in a value of `py`."""
    return len(keys) > 1 or keys[0] not in module.py_keys


def files(config: Config, given: LintInputs) -> Findings:
    """Report files that are absent, unreadable, or not what their key says.

    Files of which nothing is known are not judged.
    """
    by_name = {module.name: module for module in modules(config)}
    for reference in file_references(config, given.environ):
        known = given.files.get((reference.value.text, reference.role))
        if known is not None:
            for found in _file(config, by_name[reference.where[1]], reference, known):
                # The worker reads such a file.
                if not (found.code == "int8-file" and given.quantised.has_int8):
                    yield found


def _file(config: Config, module: Module, reference: FileReference, known: KnownFile) -> Findings:
    where, name = reference.where, reference.value.text
    if known.state is FileState.NOT_CACHED:
        yield finding(
            config,
            "not-checked",
            where,
            f"{name} is not in the hub cache, and was not checked",
            "The server downloads it at start.",
        )
    elif known.state is FileState.MISSING and reference.role is FileRole.VOICE:
        yield finding(
            config,
            "bad-voice",
            where,
            f"{name} is not there",
            "Name a voice that is, by its path from voice_folder.",
        )
    elif known.state is FileState.MISSING:
        hint = "Relative paths count from the server's working directory."
        if "fp16" in name:
            hint = "`dsmops prep-sm75` makes converted files. " + hint
        yield finding(
            config, "file-missing", where, f"{name or 'an empty path'} is not there", hint
        )
    elif reference.role is FileRole.TOKENIZER:
        yield from _tokenizer(config, module, where, name, known)
    elif reference.role is FileRole.MODEL_CONFIG:
        yield from _model_config(config, where, name, known)
    elif reference.role in {FileRole.LM, FileRole.MIMI}:
        if known.tensors is None:
            message = f"{name} is not a readable safetensors file: {known.problem}"
            yield finding(
                config,
                "not-safetensors",
                where,
                message,
                "Download or convert it again; the server reads safetensors only.",
            )
        elif reference.role is FileRole.MIMI:
            yield from _mimi(config, where, name, known.tensors)
        else:
            yield from _language_model(config, module, where, name, known.tensors)


def _tokenizer(
    config: Config, module: Module, where: KeyPath, name: str, known: KnownFile
) -> Findings:
    if known.pieces is None:
        message = f"{name} is not a sentencepiece model: {known.problem}"
        yield finding(
            config,
            "not-a-tokenizer",
            where,
            message,
            "Name the tokenizer_….model file of the model's repository.",
        )
        return
    tokens = module.whole("model", "text_out_vocab_size")
    if tokens is not None and tokens != known.pieces:
        message = (
            f"{name} has {known.pieces} pieces, and text_out_vocab_size is {tokens}: words would"
            " come out wrong"
        )
        yield finding(
            config,
            "tokenizer-size",
            where,
            message,
            "Take the tokenizer from the same repository as the language model.",
        )


def _model_config(config: Config, where: KeyPath, name: str, known: KnownFile) -> Findings:
    kind = None if known.values is None else known.values.get("model_type")
    if kind != "tts":
        problem = known.problem if known.values is None else f"its model_type is {kind!r}"
        message = f"{name} is not a config.json of a text-to-speech model: {problem}"
        yield finding(
            config,
            "bad-model-config",
            where,
            message,
            "Take config.json from the model's own repository.",
        )


def _mimi(config: Config, where: KeyPath, name: str, header: Header) -> Findings:
    if _LM_PROBE in header:
        yield _swapped(config, where, f"{name} is a language model, and {where[-1]} wants Mimi")
    elif not _is_mimi(header):
        message = f"{name} does not hold Mimi's tensors"
        yield finding(
            config,
            "not-mimi",
            where,
            message,
            "Name the mimi-….safetensors file of the model's repository.",
        )
    elif any(header[tensor][1] != shape for tensor, shape in MIMI_TENSOR_PROBES.items()):
        message = (
            f"{name} is a Mimi with other dimensions than the released one: moshi-server does not"
            " start with it"
        )
        yield finding(
            config,
            "other-mimi",
            where,
            message,
            "Fine for `dsmops worker`, which takes them from the file.",
        )


def _language_model(
    config: Config, module: Module, where: KeyPath, name: str, header: Header
) -> Findings:
    if _is_mimi(header):
        yield _swapped(config, where, f"{name} is Mimi, and {where[-1]} wants the language model")
        return
    if module.type == "Py" and _TTS_PROBE not in header:
        message = f"{name} has no {_TTS_PROBE}: it is not a text-to-speech model"
        yield finding(
            config,
            "not-tts",
            where,
            message,
            "Name the dsm_tts_….safetensors file of the model's repository, or one made from it.",
        )
        return
    if not module.is_python and _TTS_PROBE in header:
        message = (
            f"{name} is a text-to-speech model in the form of the Python package, which no Rust"
            f" module runs, {module.type} neither"
        )
        yield finding(
            config,
            "tensor-mismatch",
            where,
            message,
            "Serve it with a module of type Py, as config-tts.toml does.",
        )
        return
    expected = expected_tensors(module, len(header))
    differences = [
        (
            f"{tensor} is missing"
            if tensor not in header
            else f"{tensor} is {header[tensor][1]}, [model] says {shape}"
        )
        for tensor, shape in expected.items()
        if tensor not in header or header[tensor][1] != shape
    ]
    if differences:
        more = len(differences) - _NAMED_DIFFERENCES
        named = "; ".join(differences[:_NAMED_DIFFERENCES]) + (
            f"; and {more} more" if more > 0 else ""
        )
        yield finding(
            config,
            "tensor-mismatch",
            where,
            f"{name} does not fit [model]: {named}",
            _model_of(header),
        )
    yield from _stored_dtypes(config, module, where, header)


def _stored_dtypes(config: Config, module: Module, where: KeyPath, header: Header) -> Findings:
    stored = {dtype for dtype, _ in header.values()}
    if StorageDType.I8 in stored:
        yield finding(
            config,
            "int8-file",
            where,
            "its matrices are in int8, which moshi-server does not read",
            "Fine for `dsmops worker`. For moshi-server name the file that it was made from.",
        )
        return
    override = module.text("dtype_override")
    f32 = sum(dtype == StorageDType.F32 for dtype, _ in header.values())
    if override == "f16" and f32 and StorageDType.F16 in stored:
        message = (
            f"{f32} of {len(header)} tensors are kept in F32, and the server casts them to f16 all"
            " the same, overflows to infinity"
        )
        yield finding(
            config,
            "kept-f32-cast",
            where,
            message,
            'Use dtype_override = "f32" if they were kept because they overflow.',
        )
    elif override == "f16" and stored & {StorageDType.BF16, StorageDType.F32}:
        message = (
            "the file is not in f16: the server casts at load, and values beyond 65,504 become"
            " infinite unseen"
        )
        yield finding(
            config,
            "cast-at-load",
            where,
            message,
            "`dsmops convert` does the same once, and reports every such value.",
        )
    elif override == "bf16" and stored == {StorageDType.F16}:
        message = (
            "the file is in f16, and the server casts it up to bf16 at load, with 3 bits less of"
            " precision"
        )
        yield finding(config, "cast-at-load", where, message, "Name the original bf16 file.")


def expected_tensors(module: Module, tensors_in_file: int) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the tensors that `[model]` needs for certain.

    Empty when not all of its sizes are there. Left out are tensors whose form depends on more than
    the sizes: LayerNorms, blocks without gating, cross-attention, biases, layer scales, the inside
    of a depformer. Counts are cut to what a file of `tensors_in_file` can hold and one more, so
    that an absurd number of layers costs nothing and is still a difference.
    """
    shape = module.lm_shape()
    if shape is None:
        return {}
    most = tensors_in_file + 1
    heads = shape.extra_heads
    shape = replace(
        shape,
        num_layers=min(shape.num_layers, most),
        audio_codebooks=min(shape.audio_codebooks, most),
        extra_heads=(min(heads[0], most), heads[1]) if heads else None,
    )
    expected = shape.tensors()
    if module.text("model", "transformer", "norm") != "RmsNorm":
        expected = {name: value for name, value in expected.items() if "norm" not in name}
    if "gating" not in (module.subtable("model", "transformer") or {}):
        expected = {name: value for name, value in expected.items() if ".gating." not in name}
    return expected | _conditioner_tensors(module, shape) | _depformer_tensors(module, shape, most)


def _conditioner_tensors(module: Module, shape: LmShape) -> dict[str, tuple[int, ...]]:
    expected: dict[str, tuple[int, ...]] = {}
    for name in module.subtable("model", "conditioners") or {}:
        prefix = f"condition_provider.conditioners.{name}"
        dim, bins = (module.whole("model", "conditioners", name, key) for key in ("dim", "n_bins"))
        if dim is not None:
            expected[f"{prefix}.output_proj.weight"] = (shape.d_model, dim)
            expected[f"{prefix}.learnt_padding"] = (1, 1, shape.d_model)
            if bins is not None:
                expected[f"{prefix}.embed.weight"] = (bins + 1, dim)
    return expected


def _depformer_tensors(module: Module, shape: LmShape, most: int) -> dict[str, tuple[int, ...]]:
    slices, width = (
        module.whole("model", "depformer", "num_slices"),
        module.whole("model", "depformer", "transformer", "d_model"),
    )
    if slices is None or width is None:
        return {}
    expected: dict[str, tuple[int, ...]] = {}
    for index in range(min(slices, most)):
        expected[f"depformer.{index}.linear_in.weight"] = (width, shape.d_model)
        expected[f"depformer.{index}.linear_out.weight"] = (shape.audio_vocab_size - 1, width)
    return expected


def _is_mimi(header: Header) -> bool:
    return all(name in header for name in MIMI_TENSOR_PROBES)


def _model_of(header: Header) -> str:
    """Say which published model the file is, when it is one."""
    for model in STT_MODELS.values():
        if all(
            name in header and header[name][1] == shape
            for name, shape in model.shape.tensors().items()
        ):
            return f"The file is {model.name}: copy the [model] tables of {model.preset}."
    return "Copy the [model] tables of the file's own config."


def _swapped(config: Config, where: KeyPath, message: str) -> ConfigFinding:
    return finding(
        config,
        "swapped-files",
        where,
        message,
        "When both keys are wrong so, exchange them; otherwise name the right file.",
    )
