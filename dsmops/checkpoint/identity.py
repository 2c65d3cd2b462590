"""Which published model a checkpoint is, judged by tensor names and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsmops.checkpoint.header import TensorInfo
from dsmops.models import MIMI_TENSOR_PROBES, MODELS

Shape = tuple[int, ...]

_TTS_PROBES: dict[str, Shape] = {
    "depformer_in.10.weight": (1024, 2048),
    "depformer_text_emb.weight": (8001, 128),
    "depformer_emb.30.weight": (2049, 128),
    "linears.31.weight": (2048, 1024),
    "text_emb.weight": (8001, 2048),
    "transformer.layers.15.cross_attention.in_proj_weight": (6144, 2048),
}
"""A few tensors by which the TTS 1.6B model is recognised."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What a checkpoint is.

    `name` is a key of `models.MODELS`, `"mimi"`, or None when it is none of them. `nearest` is then the model that it resembles, if any,
    and `differences` says in words where it departs from it.
    """

    name: str | None
    description: str
    nearest: str | None = None
    differences: tuple[str, ...] = ()


def identify(tensors: Mapping[str, TensorInfo]) -> ModelIdentity:
    """Return which published model has tensors of these names and shapes.

    A language model is recognised when every tensor that moshi-server loads is there in its shape; tensors beyond those are ignored, as
    the server ignores them. The TTS model and the Mimi codec are recognised by a few characteristic tensors.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if _share(shapes, MIMI_TENSOR_PROBES) == 1:
        return ModelIdentity("mimi", "Mimi audio codec")
    if _share(shapes, _TTS_PROBES) == 1:
        return ModelIdentity("tts-1.6b-en_fr", _described("tts-1.6b-en_fr", "text-to-speech language model"))
    candidates = {name: model.lm.tensors() for name, model in MODELS.items() if model.lm is not None}
    for name, wanted in candidates.items():
        if _share(shapes, wanted) == 1:
            return ModelIdentity(name, _described(name, "speech-to-text language model"))
    nearest = max(candidates, key=lambda name: _share(shapes, candidates[name]))
    if _share(shapes, candidates[nearest]) < 0.25:
        return ModelIdentity(None, "not a model this program knows")
    return ModelIdentity(None, f"like {nearest}, but not the same", nearest, tuple(_differences(shapes, candidates[nearest])))


def _described(name: str, kind: str) -> str:
    return f"Kyutai {name}, {kind}"


def _share(shapes: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> float:
    """Return how many of the `wanted` tensors are there in their shape, from 0 to 1."""
    return sum(shapes.get(name) == shape for name, shape in wanted.items()) / len(wanted)


def _differences(shapes: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> list[str]:
    missing = [name for name in wanted if name not in shapes]
    reshaped = [name for name, shape in wanted.items() if name in shapes and shapes[name] != shape]
    extra = [name for name in shapes if name not in wanted]
    found = []
    if missing:
        found.append(f"{len(missing)} missing: {_listed(missing)}")
    if reshaped:
        first = reshaped[0]
        found.append(f"{len(reshaped)} of another shape: {first} is {shapes[first]}, not {wanted[first]}")
    if extra:
        found.append(f"{len(extra)} more than it has: {_listed(extra)}")
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
