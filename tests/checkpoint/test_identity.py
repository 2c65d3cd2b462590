"""Recognising models by names and shapes."""

import dataclasses

import pytest

from dsmops.checkpoint import TensorInfo, identify
from dsmops.models import KNOWN, MIMI_TENSOR_PROBES, MODELS, STT_MODELS, LmShape

STT_1B = STT_MODELS["stt-1b-en_fr"].shape


def as_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, "BF16", shape, 0, 0) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_published_layouts_are_recognised(name: str) -> None:
    """Every language model is known by its own tensors, and more tensors beside them do not matter
    to the server.
    """
    shape = MODELS[name].shape
    assert identify(as_tensors(shape.tensors())).name == name
    assert identify(as_tensors({**shape.tensors(), "extra": (1,)})).name == name


@pytest.mark.parametrize("name", MODELS)
def test_a_deeper_model_of_the_same_architecture_is_told_from_the_other(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with more layers has every tensor of the one with fewer, and is not taken for it."""
    model = MODELS[name]
    lm = model.shape if isinstance(model.shape, LmShape) else model.shape.lm
    deeper = dataclasses.replace(lm, num_layers=lm.num_layers + 4)
    shape = deeper if lm is model.shape else dataclasses.replace(model.shape, lm=deeper)
    other = dataclasses.replace(model, name="deeper", shape=shape)
    monkeypatch.setitem(KNOWN, "deeper", other)
    assert identify(as_tensors(other.shape.tensors())).name == "deeper"
    assert identify(as_tensors(model.shape.tensors())).name == name


def test_mimi_is_known_by_a_few_tensors() -> None:
    """The codec is recognised by its quantiser and its ends."""
    assert identify(as_tensors(MIMI_TENSOR_PROBES)).name == "mimi"


def without_vad_heads(shape: LmShape) -> dict[str, tuple[int, ...]]:
    return dataclasses.replace(shape, extra_heads=None).tensors()


def test_a_near_miss_says_what_differs() -> None:
    """The PyTorch file of the 1B model lacks the VAD heads; a cut-down one lacks layers; a
    retrained one has another vocabulary.
    """
    found = identify(as_tensors(without_vad_heads(STT_1B)))
    assert (found.name, found.nearest) == (None, "stt-1b-en_fr")
    assert found.differences == (
        "4 missing: extra_heads.0.weight, extra_heads.1.weight, extra_heads.2.weight, ...",
    )
    found = identify(
        as_tensors({**STT_1B.tensors(), "text_emb.weight": (9001, 2048), "lora.weight": (1,)})
    )
    assert found.differences == (
        "1 of another shape: text_emb.weight is (9001, 2048), not (8001, 2048)",
        "1 more than it has: lora.weight",
    )


def test_a_speaking_model_is_not_taken_for_a_hearing_one() -> None:
    """They share a backbone; what lacks a part of the depformer is like the speaking one, whose
    missing part is named.
    """
    shape = MODELS["tts-1.6b-en_fr"].shape
    cut = {
        name: value for name, value in shape.tensors().items() if not name.startswith("linears.")
    }
    found = identify(as_tensors(cut))
    assert (found.name, found.nearest) == (None, "tts-1.6b-en_fr")
    assert found.differences == (
        "32 missing: linears.0.weight, linears.1.weight, linears.2.weight, ...",
    )


def test_a_stranger_stays_unknown() -> None:
    """Other models, and files without tensors, are not forced into a name."""
    assert identify(as_tensors({"model.embed_tokens.weight": (32_000, 4096)})).nearest is None
    assert identify({}).name is None
