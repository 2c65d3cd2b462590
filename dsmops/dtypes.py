"""The dtypes that weights are stored in and models compute in. No I/O, no third-party imports."""

from __future__ import annotations

from enum import StrEnum


class DType(StrEnum):
    """The three dtypes a DSM language model is served in, spelled as safetensors does."""

    BF16 = "BF16"
    F16 = "F16"
    F32 = "F32"

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return 4 if self is DType.F32 else 2

    @property
    def candle_name(self) -> str:
        """The spelling that moshi-server's `dtype_override` accepts: `bf16`, `f16` or `f32`, lower
        case only.
        """
        return self.value.lower()

    @classmethod
    def parse(cls, text: str) -> DType:
        """Return the dtype named by any common spelling (`f16`, `fp16`, `float16`, `half`, ...).

        Raises:
            ValueError: no dtype has that name; the message lists the names.
        """
        found = _DTYPE_ALIASES.get(text.strip().lower())
        if found is None:
            raise ValueError(
                f"{text!r} is not a dtype; use one of {', '.join(sorted(_DTYPE_ALIASES))}"
            )
        return found


_DTYPE_ALIASES = {
    "bf16": DType.BF16,
    "bfloat16": DType.BF16,
    "f16": DType.F16,
    "fp16": DType.F16,
    "float16": DType.F16,
    "half": DType.F16,
    "f32": DType.F32,
    "fp32": DType.F32,
    "float32": DType.F32,
}
