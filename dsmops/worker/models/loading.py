"""Strict loading: every tensor of a file is expected, every expected tensor is there, shapes agree.

Or one error names them.

Accepts the spellings that published files and live modules use: attention packed (`in_proj_weight`)
or split (`in_projs.0.weight`), and the older names of Mimi's codebook buffers. int8 weights have a
scale for each row (`weight_scb`), as `dsmops export --to moshi` writes them. A model keeps those of
its layers in int8 if told so; the others are read as floating point.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dsmops.dtypes import PLAIN, Quant, Quantised
from dsmops.errors import CheckpointError, InputError
from dsmops.files import os_errors
from dsmops.models import LmShape
from dsmops.worker.models.backbone import Backbone
from dsmops.worker.models.convolution import CausalConv, CausalConvTranspose
from dsmops.worker.models.depformer import DepformerLayer
from dsmops.worker.models.device import materialize
from dsmops.worker.models.matrix import Int8Matrix, quantise, values
from dsmops.worker.models.mimi import MimiConfig, MimiDecoder, MimiEncoder
from dsmops.worker.models.quantizer import ResidualQuantizer, centroids
from dsmops.worker.models.stt_lm import SttLm
from dsmops.worker.models.tts_config import TtsConfig
from dsmops.worker.models.tts_lm import TtsLm

MIMI_CONFIG_KEY = "mimi_config"
"""Metadata key of a Mimi file that is not the released model: its config, in the JSON that `moshi`
takes. moshi-server ignores it."""

_SPELLINGS = (
    (re.compile(r"\.in_proj\.weight$"), ".in_proj_weight"),
    (re.compile(r"\._codebook\.inited$"), "._codebook._initialized"),
    (re.compile(r"\._codebook\.cluster_size$"), "._codebook.cluster_usage"),
    (re.compile(r"\._codebook\.embed(_avg|_sum)$"), "._codebook.embedding_sum"),
)
_SPLIT = re.compile(r"\.(in|out)_projs\.(\d{1,9})\.weight$")
"""Attention weights as a live module names them: one part for each weight set, one in all where
there are no sets."""
_INT8_SCALE = "_scb"
"""Suffix of the scales of an int8 weight: value = code × scale / 127. Source: bitsandbytes."""
_LAYERS = ("transformer.layers.", "depformer.layers.")
_DEPFORMER_MATRIX = re.compile(r"depformer\.(layers\.\d+)\.(\w+)\.(\d+)")
"""An int8 matrix in memory: layer, part, weight set."""
_PACKED = {"in": ".in_proj_weight", "out": ".out_proj.weight"}
_Half = TypeVar("_Half", MimiEncoder, MimiDecoder)

_WEIGHT_DTYPES = frozenset({"BF16", "F16", "F32", "F64"})

_SHOWN = 4
"""How many tensors of a kind an error names."""


class TensorFile:
    """An open safetensors file whose names are read in their published spelling."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with os_errors(path), path.open("rb") as opened:
            if opened.read(4) == b"GGUF":
                raise _of_another_program(path, "a GGUF file")
        try:
            self._file = safe_open(str(path), framework="pt")
        except (SafetensorError, OSError) as exc:
            raise CheckpointError(
                f"{path} is not a complete safetensors file: {exc}",
                hint=f"`dsmops inspect {path}` shows what it holds.",
            ) from exc
        self._stored: dict[str, dict[int, str]] = {}
        """Published name → number of a part → its name in the file. The parts follow each other in
        the first dimension."""
        names = list(self._file.keys())
        if any(name.startswith("audio_embs.") for name in names):
            raise _of_another_program(path, "a file for moshi_mlx")
        self._scales = {
            name.removesuffix(_INT8_SCALE): name for name in names if name.endswith(_INT8_SCALE)
        }
        """Stored name of an int8 weight → the name of its scales."""
        for name in names:
            if name.endswith(_INT8_SCALE):
                continue
            published, part = _published(name)
            twin = self._stored.setdefault(published, {}).setdefault(part, name)
            if twin != name:
                raise CheckpointError(
                    f"{path} holds one tensor under two names: {twin} and {name}",
                    hint="Write the file with one of the two names.",
                )
        for published, parts in self._stored.items():
            if sorted(parts) != list(range(len(parts))):
                raise CheckpointError(
                    f"{path} holds {published} in parts, and some are missing: "
                    f"{', '.join(parts.values())}",
                    hint="Write the file again.",
                )
        self.metadata: Mapping[str, str] = self._file.metadata() or {}

    def __enter__(self) -> TensorFile:
        self._file.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def expect(self, shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
        """Check that the file holds exactly the tensors `shapes`.

        Raises:
            CheckpointError: one is missing, unexpected, has another shape or no floating-point
                dtype; the message names the first few.
        """
        missing = [f"{name} {_shape(shapes[name])}" for name in shapes if name not in self._stored]
        extra = [
            f"{name} {_shape(self._shape(name))}" for name in self._stored if name not in shapes
        ]
        wrong = [
            f"{name} is {_shape(self._shape(name))}, not {_shape(shapes[name])}"
            for name in shapes
            if name in self._stored and self._shape(name) != shapes[name]
        ]
        kinds = [
            (name, self._file.get_slice(stored).get_dtype())
            for name in shapes
            for stored in self._stored.get(name, {}).values()
            if not self._is_int8(stored)
        ]
        wrong += [
            f"{name} is {kind}, not floating point"
            for name, kind in kinds
            if kind not in _WEIGHT_DTYPES
        ]
        findings = [
            _listed(label, names)
            for label, names in (("missing", missing), ("wrong", wrong), ("unexpected", extra))
            if names
        ]
        if findings:
            heads = any(name.startswith("extra_heads.") for name in (*missing, *extra))
            raise CheckpointError(
                f"{self.path} does not hold {what}: {'; '.join(findings)}",
                hint=(
                    "Only stt-1b-en_fr-candle has extra heads. Take config and weights from one "
                    "repository."
                )
                if heads
                else (
                    "Take config and weights from one repository; `dsmops inspect` shows a file's "
                    "model."
                ),
            )

    def read(self, name: str) -> Tensor:
        """Return the tensor of this published name, on the CPU."""
        parts = self._stored[name]
        tensors = [self._read_stored(parts[number]) for number in sorted(parts)]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    @property
    def has_int8_layers(self) -> bool:
        """Whether matrices of layers are int8."""
        return any(
            name.startswith(_LAYERS) and self._is_int8(stored)
            for name, parts in self._stored.items()
            for stored in parts.values()
        )

    def read_int8(self, name: str) -> tuple[Tensor, Tensor]:
        """Return codes and scales of a matrix, as `matrix.quantise` makes them.

        What is stored in int8 is returned as it is.
        """
        codes, scales = [], []
        for _, stored in sorted(self._stored[name].items()):
            tensor: Tensor = self._file.get_tensor(stored)
            part = (
                (tensor, self._file.get_tensor(self._scales[stored]))
                if self._is_int8(stored)
                else quantise(tensor)
            )
            codes.append(part[0])
            scales.append(part[1])
        return torch.cat(codes), torch.cat(scales).float()

    def _read_stored(self, stored: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(stored)
        if not self._is_int8(stored):
            return tensor
        return values(tensor, self._file.get_tensor(self._scales[stored]))

    def _is_int8(self, stored: str) -> bool:
        """Return whether a tensor is int8 with one scale for each row."""
        if stored not in self._scales:
            return False
        tensor, scales = (self._file.get_slice(name) for name in (stored, self._scales[stored]))
        return bool(tensor.get_dtype() == "I8" and scales.get_shape() == tensor.get_shape()[:1])

    def _shape(self, name: str) -> tuple[int, ...]:
        first, *others = [
            tuple(self._file.get_slice(stored).get_shape())
            for stored in self._stored[name].values()
        ]
        if not others:
            return first
        # Parts that do not fit together give a shape that matches nothing.
        same = all(shape[1:] == first[1:] and shape for shape in (first, *others))
        return (sum(shape[0] for shape in (first, *others)), *first[1:]) if same else ()


def _of_another_program(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is {what}, which the worker does not load",
        hint=(
            "Give it the safetensors file that this one was made from, or what `dsmops convert` or"
            " `dsmops export --to moshi` makes of that."
        ),
        code="checkpoint.other_program",
    )


def load_stt_lm(
    path: Path,
    shape: LmShape,
    max_period: float,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantised: Quantised = PLAIN,
) -> SttLm:
    """Return the language model in `path`, weights cast to `dtype`, on `device`.

    `quantised` says what is in int8 instead.

    Raises:
        CheckpointError: the file is not a safetensors file, or its tensors are not those of
            `shape`.
        SourceError: it is not there.
    """
    # The file first: dimensions from a damaged config would ask for any amount of memory.
    with TensorFile(path) as file:
        file.expect(shape.tensors(), "the language model that its config describes")
        with torch.device("meta"):
            lm = SttLm(shape, max_period).to(dtype)
        _quantise(lm, file, quantised)
        lm = materialize(lm, device)
        for name, target in published_tables(lm).items():
            target.copy_(file.read(name))
        _fill_int8(lm, file)
    return lm


def _quantise(lm: Backbone, file: TensorFile, quantised: Quantised) -> None:
    """Let `lm`, on the meta device, hold in int8 what `quantised` says."""
    lm.kv = quantised.kv
    stored = Quant.INT8 if file.has_int8_layers else Quant.NONE
    if (quantised.weights or stored) is Quant.INT8:
        lm.hold_int8()


def _fill_int8(lm: Backbone, file: TensorFile) -> None:
    for name, matrices in int8_tables(lm).items():
        # Of a stack of weight sets a model may hold only the first ones.
        codes, scales = file.read_int8(name)
        at = 0
        for matrix in matrices:
            rows = slice(at, at + matrix.rows)
            matrix.fill(codes[rows], scales[rows])
            at = rows.stop


def int8_tables(lm: Backbone) -> dict[str, list[Int8Matrix]]:
    """Return published name → the int8 matrices that hold its rows, in order."""
    tables: dict[str, list[Int8Matrix]] = {}
    for name, module in lm.named_modules():
        if isinstance(module, Int8Matrix):
            tables.setdefault(_published_matrix(name), []).append(module)
    return tables


def _published_matrix(name: str) -> str:
    """Return the published name of an int8 matrix in memory, or of the stack that it is part of."""
    depformer = _DEPFORMER_MATRIX.fullmatch(name)
    if depformer is None:
        return "transformer." + re.sub(r"(in_proj_weight)\.\d$", r"\1", name)
    layer, part, weight_set = depformer.groups()
    if part.startswith("linear"):
        return f"depformer.{layer}.gating.{weight_set}.{part}.weight"
    leaf = {"in_proj": "in_proj_weight", "out_proj": "out_proj.weight"}[part]
    return f"depformer.{layer}.self_attn.{leaf}"


def published_tables(lm: SttLm) -> dict[str, Tensor]:
    """Return published name → the floating-point weights in memory that it fills."""
    shape = lm.shape
    tables = {
        f"emb.{number}.weight": table
        for number, table in enumerate(
            lm.emb.view(shape.audio_codebooks, shape.audio_vocab_size, -1)
        )
    }
    if lm.extra_heads is not None and shape.extra_heads is not None:
        heads = lm.extra_heads.view(*shape.extra_heads, -1)
        tables |= {f"extra_heads.{number}.weight": head for number, head in enumerate(heads)}
    tables |= {"text_emb.weight": lm.text_emb}
    for name, parameter in lm.named_parameters():
        if name not in ("emb", "text_emb", "extra_heads"):
            tables[f"transformer.{name}" if name.startswith("layers.") else name] = parameter
    return tables


def load_tts_lm(
    path: Path,
    config: TtsConfig,
    codebooks: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantised: Quantised = PLAIN,
) -> TtsLm:
    """Return the TTS language model in `path` for the first `codebooks` codebooks.

    It is on `device`, cast to `dtype` but for what `quantised` says; its conditioners stay float32.
    The whole file is checked; what only the other codebooks need is not kept.

    Raises:
        CheckpointError: the file is not a safetensors file, or its tensors are not those of
            `config`.
        SourceError: it is not there.
    """
    with TensorFile(path) as file:
        file.expect(config.shape.tensors(), "the text-to-speech model that its config describes")
        with torch.device("meta"):
            lm = TtsLm(config, codebooks).to(dtype)
            lm.conditioning.float()
        _quantise(lm, file, quantised)
        lm = materialize(lm, device)
        for name, target in published_tts_tables(lm).items():
            target.copy_(file.read(name)[: len(target)])
        _fill_int8(lm, file)
        lm.prepare()
    return lm


def published_tts_tables(lm: TtsLm) -> dict[str, Tensor]:
    """Return published name → the floating-point weights in memory that it fills.

    Of a stack of weight sets a model may hold only the first ones.
    """
    shape, inner = lm.shape, lm.depformer
    tables = {
        f"emb.{number}.weight": table
        for number, table in enumerate(
            lm.emb[:-1].view(shape.audio_codebooks, shape.audio_vocab_size, -1)
        )
    }
    for prefix, embedding in (("text_emb", lm.text_emb), ("depformer_text_emb", inner.text_emb)):
        tables[f"{prefix}.weight"] = embedding.weight[:-1]
        tables[f"{prefix}.out1.weight"], tables[f"{prefix}.out2.weight"] = embedding.out.chunk(
            2, dim=1
        )
    width = inner.heads.shape[-1]
    tables |= {
        f"depformer_in.{number}.weight": weight
        for number, weight in enumerate(inner.inputs.split(width))
    }
    tables |= {f"depformer_emb.{number}.weight": table for number, table in enumerate(inner.emb)}
    tables |= {
        f"depformer_emb.{number}.low_rank.weight": weight
        for number, weight in enumerate(inner.low_rank)
    }
    tables |= {f"linears.{number}.weight": weight for number, weight in enumerate(inner.heads)}
    for number, module in enumerate(inner.layers):
        layer, prefix = cast("DepformerLayer", module), f"depformer.layers.{number}"
        for leaf, stack in (("in_proj_weight", layer.in_proj), ("out_proj.weight", layer.out_proj)):
            if isinstance(stack, Tensor):
                tables[f"{prefix}.self_attn.{leaf}"] = stack.flatten(0, 1)
        for part, stack in (("linear_in", layer.linear_in), ("linear_out", layer.linear_out)):
            if isinstance(stack, Tensor):
                tables |= {
                    f"{prefix}.gating.{weight_set}.{part}.weight": weight
                    for weight_set, weight in enumerate(stack)
                }
        tables |= {
            f"{prefix}.norm1.alpha": layer.norm1.alpha,
            f"{prefix}.norm2.alpha": layer.norm2.alpha,
        }
    tables |= {
        f"condition_provider.{name}": weight for name, weight in lm.conditioning.named_parameters()
    }
    for name, parameter in lm.named_parameters():
        if name.startswith("layers."):
            tables[f"transformer.{name}"] = parameter
    return tables | {
        "out_norm.alpha": lm.out_norm.alpha,
        "text_linear.weight": lm.text_linear.weight,
    }


def load_mimi_encoder(path: Path, *, device: torch.device) -> MimiEncoder:
    """Return the encoder half of the Mimi codec in `path`, in float32 on `device`.

    The whole file is checked.

    Raises:
        CheckpointError: the file is not a safetensors file, or not a Mimi codec.
        SourceError: it is not there.
    """
    with TensorFile(path) as file:
        config = _mimi_config(file)
        return _fill(_on_meta(MimiEncoder, config), file, device)


def load_mimi_decoder(path: Path, *, device: torch.device) -> MimiDecoder:
    """Return the decoder half of the Mimi codec in `path`, in float32 on `device`.

    Otherwise as `load_mimi_encoder`.
    """
    with TensorFile(path) as file:
        config = _mimi_config(file)
        return _fill(_on_meta(MimiDecoder, config), file, device)


def require_codebooks(path: Path, codec: MimiConfig, shape: LmShape, codebooks: int) -> None:
    """Check that the Mimi codec in `path` has the first `codebooks` codebooks of a model.

    Raises:
        InputError: it has fewer codebooks, or others.
    """
    if codec.n_q < codebooks or codec.bins != shape.audio_vocab_size - 1:
        raise InputError(
            f"{path} has {codec.n_q} codebooks of {codec.bins}; "
            f"the model needs {codebooks} of {shape.audio_vocab_size - 1}",
            hint="Take Mimi from the model's own repository.",
            code="mimi.mismatch",
        )


def mimi_tensors(config: MimiConfig) -> dict[str, tuple[int, ...]]:
    """Return name → shape of every tensor that a Mimi file of this config holds."""
    halves = (_on_meta(MimiEncoder, config), _on_meta(MimiDecoder, config))
    return {
        name: tuple(tensor.shape)
        for half in halves
        for name, tensor in published_mimi_tables(half).items()
    }


def published_mimi_tables(half: MimiEncoder | MimiDecoder) -> dict[str, Tensor]:
    """Return published name → tensor of everything that a Mimi file holds of this half.

    Parameters are those in memory. A codebook is stored as its centroids with a usage of one each.
    """
    tables: dict[str, Tensor] = {
        _published_parameter(half, name): parameter for name, parameter in half.named_parameters()
    }
    for prefix, codebook in _codebooks(half):
        tables[f"{prefix}._initialized"] = torch.ones(1, device=codebook.device)
        tables[f"{prefix}.cluster_usage"] = torch.ones(len(codebook), device=codebook.device)
        tables[f"{prefix}.embedding_sum"] = codebook
    return tables


def _codebooks(half: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield each codebook [bins, D] with the prefix of its published names."""
    for name, module in half.named_modules():
        if isinstance(module, ResidualQuantizer):
            for number, codebook in enumerate(module.codebooks):
                yield f"{name}.vq.layers.{number}._codebook", codebook


def _on_meta(kind: type[_Half], config: MimiConfig) -> _Half:
    with torch.device("meta"):
        return kind(config)


def _mimi_config(file: TensorFile) -> MimiConfig:
    """Return the codec config in the file's metadata, once its tensors are checked.

    Without one, it is the released model's.
    """
    text = file.metadata.get(MIMI_CONFIG_KEY, "{}")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise CheckpointError(
            f"{file.path}: the {MIMI_CONFIG_KEY} in its metadata is not JSON: {exc}"
        ) from exc
    if not isinstance(body, dict):
        raise CheckpointError(
            f"{file.path}: the {MIMI_CONFIG_KEY} in its metadata is not a JSON object: {body!r}"
        )
    try:
        config = MimiConfig.from_json(body)
    except InputError as exc:
        raise CheckpointError(f"{file.path}: {exc}") from exc
    file.expect(mimi_tensors(config), "a Mimi codec")
    return config


def _fill(half: _Half, file: TensorFile, device: torch.device) -> _Half:
    half = materialize(half, device)
    for name, parameter in half.named_parameters():
        parameter.copy_(file.read(_published_parameter(half, name)))
    for prefix, codebook in _codebooks(half):
        sums = file.read(f"{prefix}.embedding_sum").float()
        codebook.copy_(centroids(sums, file.read(f"{prefix}.cluster_usage").float()))
    for module in half.modules():
        if isinstance(module, CausalConv | CausalConvTranspose | ResidualQuantizer):
            module.prepare()
    return half


def _published_parameter(half: nn.Module, name: str) -> str:
    """Return a parameter's name in published files.

    They wrap each convolution twice, and the two that resample three times.
    """
    owner, _, leaf = name.rpartition(".")
    module = half.get_submodule(owner)
    if isinstance(module, CausalConv):
        owner += ".conv" * (3 if owner == "downsample" else 2)
    elif isinstance(module, CausalConvTranspose):
        owner += ".convtr" * (3 if owner == "upsample" else 2)
    return f"{owner}.{leaf}".replace("_transformer.layers.", "_transformer.transformer.layers.")


def _published(name: str) -> tuple[str, int]:
    """Return a tensor's published name and which part of that tensor it is."""
    for pattern, spelling in _SPELLINGS:
        name = pattern.sub(spelling, name)
    split = _SPLIT.search(name)
    return (name[: split.start()] + _PACKED[split[1]], int(split[2])) if split else (name, 0)


def _shape(shape: Iterable[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def _listed(label: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{label}: {', '.join(names[:_SHOWN])}{more}"
