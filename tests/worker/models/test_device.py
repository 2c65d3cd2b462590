"""On which cards the code in an installed torch runs."""

import pytest

from dsmops.devices import ComputeCapability
from dsmops.worker.models.device import has_kernels

CU130 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")


@pytest.mark.parametrize(
    ("card", "built_for", "expected"),
    [
        ((7, 5), CU130, True),
        ((8, 9), CU130, True),  # machine code of 8.6 runs on later minor versions
        ((6, 1), CU130, False),
        ((7, 0), CU130, False),  # that of 7.5 does not run on earlier ones
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_86",), False),  # nor on another major version
        ((12, 1), CU130, True),
        ((13, 0), CU130, True),  # translated from compute_120
        ((11, 0), ("sm_100", "compute_120"), False),
        ((9, 0), ("sm_90a",), True),
        ((7, 5), (), True),  # nothing is known
    ],
)
def test_kernels_run_where_cuda_says(
    card: tuple[int, int], built_for: tuple[str, ...], *, expected: bool
) -> None:
    assert has_kernels(ComputeCapability(*card), built_for) is expected
