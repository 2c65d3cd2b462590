"""The values that packages share: dtypes, capabilities, published models."""

import math

import pytest

from dsmops.devices import ComputeCapability
from dsmops.dtypes import ComputeDType, StorageDType
from dsmops.models import MODELS, STT_MODELS, model_of_repo


@pytest.mark.parametrize("text", ["7.5", "75", "sm75", "sm_75", "SM_75", "compute_75", " 7.5 "])
def test_a_capability_is_read_in_every_spelling(text: str) -> None:
    """All spellings give the same capability, which prints as 7.5."""
    capability = ComputeCapability.parse(text)
    assert (capability.major, capability.minor, capability.sm, str(capability)) == (
        7,
        5,
        "sm_75",
        "7.5",
    )


@pytest.mark.parametrize(
    ("text", "sm"), [("10.0", "sm_100"), ("120", "sm_120"), ("sm_90a", "sm_90"), ("12.1", "sm_121")]
)
def test_newer_capabilities_have_two_digits(text: str, sm: str) -> None:
    """Blackwell's 10.0 and 12.x, and the architecture-specific suffixes, are read too."""
    assert ComputeCapability.parse(text).sm == sm


@pytest.mark.parametrize("text", ["", "7", "sm", "7.5.1", "t4", "-7.5", "7500", "sm_"])
def test_what_is_no_capability_is_refused(text: str) -> None:
    """Anything else raises, and the message shows how to write one."""
    with pytest.raises(ValueError, match=r"7\.5"):
        ComputeCapability.parse(text)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        *[
            (text, ComputeDType.BF16)
            for text in ("8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "12.0")
        ],
        *[(text, ComputeDType.F16) for text in ("7.0", "7.2", "7.5", "6.0", "6.2", "5.3")],
        *[(text, ComputeDType.F32) for text in ("6.1", "5.2", "5.0", "3.7")],
    ],
)
def test_the_serving_dtype_of_every_generation(capability: str, dtype: ComputeDType) -> None:
    """bf16 from 8.0; f16 for 7.x, 6.0, 6.2 and 5.3; f32 where fp16 arithmetic crawls or is
    absent.
    """
    assert ComputeCapability.parse(capability).serving_dtype is dtype


def test_f16_kernels_begin_with_5_3() -> None:
    """5.3 and everything after it can run candle's f16 kernels, 6.1 included, where they crawl; 5.2
    cannot.
    """
    assert [
        text
        for text in ("3.7", "5.0", "5.2", "5.3", "6.1", "7.5", "10.0")
        if ComputeCapability.parse(text).has_f16_kernels
    ] == [
        "5.3",
        "6.1",
        "7.5",
        "10.0",
    ]


def test_dtypes_are_read_in_every_spelling_and_written_as_candle_does() -> None:
    """All common spellings are accepted, only `bf16`, `f16`, `f32` come out."""
    assert {
        ComputeDType.parse(text).candle_name
        for text in ("f16", "fp16", "float16", "half", "F16", "Float16")
    } == {"f16"}
    assert ComputeDType.parse("bfloat16").itemsize == 2
    assert ComputeDType.parse("float32").itemsize == 4
    with pytest.raises(ValueError, match="f16"):
        ComputeDType.parse("int8")
    with pytest.raises(ValueError, match="f16"):
        ComputeDType.parse("f8_e4m3")


def test_storage_dtypes_are_read_by_name_and_by_every_spelling() -> None:
    """Each of the format's dtypes is found by its own name in any case, and by what people write
    for the common ones; a compute dtype is stored as the one of its name.
    """
    assert all(
        StorageDType.parse(text) is dtype
        for dtype in StorageDType
        for text in (dtype, dtype.option)
    )
    assert StorageDType.parse("half") is ComputeDType.F16.storage is StorageDType.F16
    with pytest.raises(ValueError, match="f16"):
        StorageDType.parse("int8")


@pytest.mark.parametrize(
    ("name", "tensors", "parameters"),
    [("stt-1b-en_fr", 135, 989_253_632), ("stt-2.6b-en", 323, 2_617_118_720)],
)
def test_the_published_layouts_have_the_published_sizes(
    name: str, tensors: int, parameters: int
) -> None:
    """Tensor count, the formula and the sum over shapes all give the published parameter count."""
    lm = STT_MODELS[name].shape
    assert len(lm.tensors()) == tensors
    assert lm.parameters == sum(math.prod(shape) for shape in lm.tensors().values()) == parameters


def test_a_repository_names_its_model_with_and_without_candle() -> None:
    """Both repositories of a model lead to it; another does not."""
    assert (
        model_of_repo("kyutai/stt-1b-en_fr")
        is model_of_repo("kyutai/stt-1b-en_fr-candle")
        is MODELS["stt-1b-en_fr"]
    )
    assert model_of_repo("someone/else") is None
