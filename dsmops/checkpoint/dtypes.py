"""The dtypes a safetensors file may hold, and which of them `convert` changes.

No numpy here: reading a header needs none.
"""

from __future__ import annotations

from dsmops.dtypes import DType
from dsmops.errors import InputError

ITEM_BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one element by dtype name. Source: the safetensors format as of its version 0.8."""

CASTABLE = DType.BF16
"""The one dtype that `convert` changes; tensors of every other dtype are copied as they are."""

TARGET_DTYPES = (DType.F16, DType.F32)
"""What BF16 can become.

A new one is a `casts.Cast`, a line in `casts.make_cast` and an entry here.
"""


def require_target(dtype: DType) -> None:
    """Check that `convert` can make `dtype`.

    Raises:
        InputError: it cannot; the message lists what it can make.
    """
    if dtype not in TARGET_DTYPES:
        raise InputError(
            f"convert makes {' or '.join(TARGET_DTYPES)} from {CASTABLE}, not {dtype}",
            hint=f"Use --dtype {TARGET_DTYPES[0].candle_name}.",
            code="checkpoint.dtype",
        )
