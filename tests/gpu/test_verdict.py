"""What follows from a compute capability and a driver."""

from __future__ import annotations

import pytest

from dsmops.devices import ComputeCapability
from dsmops.dtypes import ComputeDType
from dsmops.gpu.torch_build import TorchKernels
from dsmops.gpu.verdict import ARCHITECTURES, CUDA_NOT_FOUND, Conversion, judge, plan_build

F32, F16, BF16 = ComputeDType.F32, ComputeDType.F16, ComputeDType.BF16


@pytest.mark.parametrize(
    ("sm", "family", "native", "serving", "conversion"),
    [
        ("3.7", "Kepler", (F32,), F32, Conversion.NOT_NEEDED),
        ("5.2", "Maxwell", (F32,), F32, Conversion.NOT_NEEDED),
        ("5.3", "Maxwell", (F32, F16), F16, Conversion.RECOMMENDED),
        ("6.0", "Pascal", (F32, F16), F16, Conversion.RECOMMENDED),
        ("6.1", "Pascal", (F32, F16), F32, Conversion.NOT_NEEDED),
        ("7.0", "Volta", (F32, F16), F16, Conversion.RECOMMENDED),
        ("7.5", "Turing", (F32, F16), F16, Conversion.RECOMMENDED),
        ("8.0", "Ampere", (F32, F16, BF16), BF16, Conversion.NOT_NEEDED),
        ("8.6", "Ampere", (F32, F16, BF16), BF16, Conversion.NOT_NEEDED),
        ("8.9", "Ada", (F32, F16, BF16), BF16, Conversion.NOT_NEEDED),
        ("9.0", "Hopper", (F32, F16, BF16), BF16, Conversion.NOT_NEEDED),
        ("10.0", "Blackwell", (F32, F16, BF16), BF16, Conversion.NOT_NEEDED),
        ("12.0", "Blackwell", (F32, F16, BF16), BF16, Conversion.NOT_NEEDED),
    ],
)
def test_dtypes_of_every_generation(
    sm: str,
    family: str,
    native: tuple[ComputeDType, ...],
    serving: ComputeDType,
    conversion: Conversion,
) -> None:
    """Each generation has its native dtypes, its serving dtype, and a dtype_override exactly where
    bf16 fails.
    """
    verdict = judge(ComputeCapability.parse(sm), (12, 8), None)
    assert (verdict.family, verdict.native_dtypes, verdict.serving_dtype, verdict.conversion) == (
        family,
        native,
        serving,
        conversion,
    )
    if serving is BF16:
        assert (verdict.bf16_fails, verdict.bf16_error, verdict.dtype_override) == (
            False,
            None,
            None,
        )
    else:
        assert (verdict.bf16_fails, verdict.bf16_error, verdict.dtype_override) == (
            True,
            CUDA_NOT_FOUND,
            serving.candle_name,
        )


@pytest.mark.parametrize(
    ("sm", "driver", "cap", "oldest", "newest"),
    [
        ("7.5", None, "75", "12.2", "12.8"),
        ("7.5", (13, 0), "75", "12.2", "12.8"),
        ("7.5", (12, 4), "75", "12.2", "12.4"),
        ("7.5", (12, 1), "75", "11.4", "12.1"),
        ("7.5", (11, 4), "75", "11.4", "11.4"),
        ("7.5", (11, 0), None, None, None),
        ("6.1", (12, 8), "61", "12.2", "12.8"),
        ("7.0", (13, 0), "70", "12.2", "12.8"),
        ("3.7", (11, 4), "37", "11.4", "11.4"),
        ("3.7", None, "37", "11.4", "11.8"),
        ("8.0", (12, 8), "80", "11.4", "12.8"),
        ("8.6", (11, 6), "86", "11.4", "11.6"),
        ("8.9", (12, 4), "89", "11.8", "12.4"),
        ("8.9", (11, 6), "86", "11.4", "11.6"),
        ("9.0", (12, 2), "90", "11.8", "12.2"),
        ("10.0", (13, 0), "100", "12.8", "12.8"),
        ("10.3", (13, 0), "100", "12.8", "12.8"),
        ("11.0", (13, 0), "100", "12.8", "12.8"),
        ("12.0", (12, 8), "120", "12.8", "12.8"),
        ("12.1", (13, 1), "120", "12.8", "12.8"),
        ("12.0", (12, 6), "90", "11.8", "12.6"),
        ("13.5", (13, 1), "120", "12.8", "12.8"),
        ("3.0", None, None, None, None),
    ],
)
def test_toolkits_that_build_the_server(
    sm: str, driver: tuple[int, int] | None, cap: str | None, oldest: str | None, newest: str | None
) -> None:
    """The range ends at the driver's CUDA or at the newest that the pinned cudarc takes; a card
    that no toolkit knows takes older PTX.
    """
    build = plan_build(ComputeCapability.parse(sm), driver)
    assert (build.cuda_compute_cap, build.toolkit_min, build.toolkit_max) == (cap, oldest, newest)
    assert (build.problem is None) == (cap is not None)
    assert (build.note is None) == (cap is None)


@pytest.mark.parametrize("capability", list(ARCHITECTURES), ids=str)
def test_every_known_card_can_be_built_for_under_a_recent_driver(
    capability: ComputeCapability,
) -> None:
    """There is a build for every architecture, never for one newer than the card, and the range is
    not turned round.
    """
    build = plan_build(capability, (12, 8))
    assert build.cuda_compute_cap is not None
    assert ComputeCapability.parse(build.cuda_compute_cap) <= capability
    assert build.toolkit_min is not None
    assert build.toolkit_max is not None
    assert tuple(map(int, build.toolkit_min.split("."))) <= tuple(
        map(int, build.toolkit_max.split("."))
    )


def test_an_unknown_capability_gives_an_unknown_verdict() -> None:
    """Nothing is guessed about a card of unknown capability."""
    verdict = judge(None, (12, 4), None)
    assert verdict.serving_dtype is None
    assert verdict.bf16_fails is None
    assert verdict.build is None
    assert verdict.conversion is Conversion.UNKNOWN
    assert verdict.torch_kernels is TorchKernels.NOT_INSTALLED
