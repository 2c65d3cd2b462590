"""Find out which known model a checkpoint is, by tensor names and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsmops.checkpoint.header import TensorInfo
from dsmops.models import KNOWN, MIMI_TENSOR_PROBES

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What a checkpoint is.

    `name` is a key of `models.KNOWN`, `"mimi"`, or None for an unknown model. `nearest` is then
    the model that it resembles, if any, and `differences` says in words where it departs from it.
    """

    name: str | None
    description: str
    nearest: str | None = None
    differences: tuple[str, ...] = ()


def identify(tensors: Mapping[str, TensorInfo]) -> ModelIdentity:
    """Return which known model has tensors of these names and shapes.

    A language model is recognised when every tensor that is loaded of it is there in its shape;
    tensors beyond those are ignored, as moshi-server ignores them. The Mimi codec is recognised by
    a few characteristic tensors.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if _share(shapes, MIMI_TENSOR_PROBES) == 1:
        return ModelIdentity("mimi", "Mimi audio codec")
    candidates = {name: model.shape.tensors() for name, model in KNOWN.items()}
    # A deeper model has all tensors of a shallower one: the largest that is complete is meant.
    for name, wanted in sorted(candidates.items(), key=lambda candidate: -len(candidate[1])):
        if _share(shapes, wanted) == 1:
            model = KNOWN[name]
            whose = "Kyutai" if model.hf_repo else "dsmops"
            return ModelIdentity(name, f"{whose} {name}, {model.purpose} language model")
    # By what is missing and what is too much: a TTS model has all tensors of an STT model and
    # more.
    nearest = max(candidates, key=lambda name: _likeness(shapes, candidates[name]))
    if _share(shapes, candidates[nearest]) < 0.25:
        return ModelIdentity(None, "not a model this program knows")
    return ModelIdentity(
        None,
        f"like {nearest}, but not the same",
        nearest,
        tuple(_differences(shapes, candidates[nearest])),
    )


def _share(shapes: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> float:
    """Return how many of the `wanted` tensors are there in their shape, from 0 to 1."""
    return sum(shapes.get(name) == shape for name, shape in wanted.items()) / len(wanted)


def _likeness(shapes: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> float:
    """Return how many of all tensors of both are in both in the same shape, from 0 to 1."""
    same = sum(shapes.get(name) == shape for name, shape in wanted.items())
    return same / (len(shapes) + len(wanted) - same)


def _differences(shapes: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> list[str]:
    missing = [name for name in wanted if name not in shapes]
    reshaped = [name for name, shape in wanted.items() if name in shapes and shapes[name] != shape]
    extra = [name for name in shapes if name not in wanted]
    found = []
    if missing:
        found.append(f"{len(missing)} missing: {_listed(missing)}")
    if reshaped:
        first = reshaped[0]
        found.append(
            f"{len(reshaped)} of another shape: {first} is {shapes[first]}, not {wanted[first]}"
        )
    if extra:
        found.append(f"{len(extra)} more than it has: {_listed(extra)}")
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
