"""The storage and compute dtypes, and how `convert` gets from BF16 to another one.

No I/O, no third-party imports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_SPELLINGS = {
    "bf16": "BF16",
    "bfloat16": "BF16",
    "f16": "F16",
    "fp16": "F16",
    "float16": "F16",
    "half": "F16",
    "f32": "F32",
    "fp32": "F32",
    "float32": "F32",
}


class StorageDType(StrEnum):
    """Every dtype that a safetensors file may hold, with the bits of one element.

    Source: the safetensors format as of its version 0.8.
    """

    BOOL = "BOOL", 8
    F4 = "F4", 4
    F6_E2M3 = "F6_E2M3", 6
    F6_E3M2 = "F6_E3M2", 6
    U8 = "U8", 8
    I8 = "I8", 8
    F8_E5M2 = "F8_E5M2", 8
    F8_E4M3 = "F8_E4M3", 8
    F8_E8M0 = "F8_E8M0", 8
    F8_E4M3FNUZ = "F8_E4M3FNUZ", 8
    F8_E5M2FNUZ = "F8_E5M2FNUZ", 8
    I16 = "I16", 16
    U16 = "U16", 16
    F16 = "F16", 16
    BF16 = "BF16", 16
    I32 = "I32", 32
    U32 = "U32", 32
    F32 = "F32", 32
    C64 = "C64", 64
    F64 = "F64", 64
    I64 = "I64", 64
    U64 = "U64", 64

    bits: int

    def __new__(cls, name: str, bits: int) -> StorageDType:
        member = str.__new__(cls, name)
        member._value_ = name
        member.bits = bits
        return member

    @property
    def option(self) -> str:
        """The spelling of options and hints: `f16`."""
        return self.value.lower()

    @classmethod
    def parse(cls, text: str) -> StorageDType:
        """Return the dtype of a name in any case, or of a common spelling (`fp16`, `half`, ...).

        Raises:
            ValueError: no dtype has that name; the message lists the spellings.
        """
        name = _SPELLINGS.get(text.strip().lower(), text.strip().upper())
        if name not in cls.__members__:
            raise ValueError(_unknown(text))
        return cls[name]


class GgufDType(StrEnum):
    """Every tensor type that a GGUF file may hold.

    Each has its number in the file, and the values and bytes of a block.

    Source: `ggml.h` and `GGML_QUANT_SIZES` of the `gguf` package.
    """

    F32 = "F32", 0, 1, 4
    F16 = "F16", 1, 1, 2
    Q4_0 = "Q4_0", 2, 32, 18
    Q4_1 = "Q4_1", 3, 32, 20
    Q5_0 = "Q5_0", 6, 32, 22
    Q5_1 = "Q5_1", 7, 32, 24
    Q8_0 = "Q8_0", 8, 32, 34
    Q8_1 = "Q8_1", 9, 32, 36
    Q2_K = "Q2_K", 10, 256, 84
    Q3_K = "Q3_K", 11, 256, 110
    Q4_K = "Q4_K", 12, 256, 144
    Q5_K = "Q5_K", 13, 256, 176
    Q6_K = "Q6_K", 14, 256, 210
    Q8_K = "Q8_K", 15, 256, 292
    I8 = "I8", 24, 1, 1
    I16 = "I16", 25, 1, 2
    I32 = "I32", 26, 1, 4
    I64 = "I64", 27, 1, 8
    F64 = "F64", 28, 1, 8
    BF16 = "BF16", 30, 1, 2

    number: int
    block_values: int
    block_bytes: int

    def __new__(cls, name: str, number: int, block_values: int, block_bytes: int) -> GgufDType:
        member = str.__new__(cls, name)
        member._value_ = name
        member.number = number
        member.block_values = block_values
        member.block_bytes = block_bytes
        return member


class ComputeDType(StrEnum):
    """The three dtypes that a DSM language model computes in, spelled as safetensors does."""

    BF16 = "BF16"
    F16 = "F16"
    F32 = "F32"

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.storage.bits // 8

    @property
    def storage(self) -> StorageDType:
        """The storage dtype with the same values."""
        return StorageDType[self.value]

    @property
    def candle_name(self) -> str:
        """The spelling of candle, options and hints: `bf16`, `f16` or `f32`."""
        return self.value.lower()

    @classmethod
    def parse(cls, text: str) -> ComputeDType:
        """Return the dtype named by any common spelling (`f16`, `fp16`, `float16`, `half`, ...).

        Raises:
            ValueError: no dtype has that name; the message lists the names.
        """
        name = _SPELLINGS.get(text.strip().lower())
        if name is None:
            raise ValueError(_unknown(text))
        return cls(name)


class Quant(StrEnum):
    """How values are stored: as they are computed, or in int8 with scales."""

    NONE = "none"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class Quantised:
    """What of a language model the embedded worker keeps in int8.

    weights: the matrices of its layers, with a scale for each row; None: as its file stores them.
    kv: keys and values of its streams, with a scale for each position and head.
    """

    weights: Quant | None = None
    kv: Quant = Quant.NONE

    @property
    def has_int8(self) -> bool:
        """Whether anything is asked to be in int8."""
        return Quant.INT8 in (self.weights, self.kv)

    @property
    def in_int8(self) -> str:
        """What is in int8, in words; empty where nothing is."""
        named = {"weights": self.weights, "keys and values": self.kv}
        return " and ".join(name for name, quant in named.items() if quant is Quant.INT8)

    @property
    def worker_options(self) -> list[str]:
        """The options of `dsmops worker` that say so."""
        return [
            *([] if self.weights is None else ["--weights", self.weights.value]),
            *([] if self.kv is Quant.NONE else ["--kv", self.kv.value]),
        ]


PLAIN = Quantised()
ALL_INT8 = Quantised(Quant.INT8, Quant.INT8)


def _unknown(text: str) -> str:
    return f"{text!r} is not a dtype; use one of {', '.join(sorted(_SPELLINGS))}"


@dataclass(frozen=True, slots=True)
class ConversionTarget:
    """One dtype that `convert` makes from BF16: its range, its cast, its verification.

    `encode` takes float32 values (a numpy array) and returns the bit patterns of `dtype`: rounded
    to nearest, ties to even, beyond `largest` infinite or NaN. `decode` is its inverse. The table
    that `encode` gives for all 65,536 BF16 patterns is the cast, where no faster one is written
    (`checkpoint.casts`), and is what verification compares with. `smallest_normal` and `largest`
    are magnitudes of `dtype`. `exact` are the least and the greatest magnitude between which every
    BF16 value keeps its value; 0 does everywhere.
    """

    dtype: StorageDType
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    smallest_normal: float
    largest: float
    exact: tuple[float, float]

    @property
    def overflows(self) -> bool:
        """Whether some finite BF16 values are beyond its range."""
        return self.largest < _BF16_LARGEST


_BF16_LARGEST = (2 - 2**-7) * 2.0**127

CONVERSION_TARGETS = {
    target.dtype: target
    for target in (
        ConversionTarget(
            StorageDType.F16,
            encode=lambda values: values.astype("<f2").view("<u2"),
            decode=lambda patterns: patterns.view("<f2").astype("<f4"),
            smallest_normal=2.0**-14,
            largest=65504.0,
            exact=(2.0**-17, 65280.0),
        ),
        ConversionTarget(
            StorageDType.F32,
            encode=lambda values: values.view("<u4"),
            decode=lambda patterns: patterns.view("<f4"),
            smallest_normal=2.0**-126,
            largest=(2 - 2**-23) * 2.0**127,
            exact=(2.0**-133, _BF16_LARGEST),
        ),
    )
}
"""What BF16 can become. A new dtype is one row here."""
