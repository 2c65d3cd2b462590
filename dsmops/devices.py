"""GPUs and runtimes as planners need them. No I/O, no third-party imports."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from dsmops.dtypes import ComputeDType


class Runtime(StrEnum):
    """Who serves a model."""

    MOSHI_SERVER = "moshi-server"
    EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True, order=True)
class ComputeCapability:
    """The version pair of a CUDA GPU architecture, such as (7, 5) for Turing.

    `sm_75` is its spelling in build targets.
    """

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> ComputeCapability:
        """Return the capability in a text such as `7.5`, `75`, `sm75`, `sm_75`, `compute_75`.

        Letters may have any case.

        Raises:
            ValueError: the text has another form.
        """
        match = re.fullmatch(r"(?:sm_?|compute_?)?(\d{1,2})\.?(\d)[af]?", text.strip().lower())
        if match is None:
            raise ValueError(
                f"{text!r} is not a compute capability; write it like 7.5, 75, sm75 or sm_75"
            )
        return cls(int(match[1]), int(match[2]))

    @property
    def sm(self) -> str:
        """The spelling in build targets: `sm_75`."""
        return f"sm_{self.major}{self.minor}"

    @property
    def cuda_compute_cap(self) -> str:
        """The value of `CUDA_COMPUTE_CAP` when building moshi-server for this card: `75`."""
        return f"{self.major}{self.minor}"

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def native_bf16(self) -> bool:
        """Whether the hardware has bf16 arithmetic, and so candle has kernels for it.

        It does from 8.0 (Ampere) on.
        """
        return self >= ComputeCapability(8, 0)

    @property
    def has_f16_kernels(self) -> bool:
        """Whether f16 arithmetic is in the hardware, and so in candle's kernels: from 5.3 on.

        Source: CUDA C programming guide, arithmetic instructions; candle-kernels 0.9.1,
        `__CUDA_ARCH__ >= 530`.
        """
        return self >= ComputeCapability(5, 3)

    @property
    def serving_dtype(self) -> ComputeDType:
        """The dtype to serve a language model in on this architecture.

        bf16 from 8.0. f16 for 7.x and 6.0, whose fp16 arithmetic is at least as fast as fp32 (5.3
        and 6.2 likewise, untested). f32 for 6.1 and everything older, where fp16 arithmetic crawls
        (1/64 of the fp32 rate on 6.1) or is absent.

        Source: CUDA C programming guide, arithmetic throughput table.
        """
        if self.native_bf16:
            return ComputeDType.BF16
        fast_f16 = self.major == 7 or (self.major, self.minor) in {(6, 0), (6, 2), (5, 3)}
        return ComputeDType.F16 if fast_f16 else ComputeDType.F32


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU as planners need it. A reading that the machine did not give is None.

    `nvml_index` counts all GPUs of the machine; `cuda_ordinal` counts those that CUDA programs see
    (it follows `CUDA_VISIBLE_DEVICES`) and is None for a hidden one. moshi-server always takes
    ordinal 0. `memory_bandwidth_bytes_per_s` is the theoretical peak of the memory bus.
    """

    name: str
    compute_capability: ComputeCapability | None
    memory_total_bytes: int | None
    memory_free_bytes: int | None
    memory_bandwidth_bytes_per_s: int | None
    nvml_index: int | None
    cuda_ordinal: int | None
    uuid: str | None
    source: str
    """Where this was read: `nvml`, `nvidia-smi`, `device-tree` (a Jetson) or `simulated`."""
    shares_host_memory: bool = False
    """Whether the host's memory is its own: GB10, Jetson."""

    @property
    def label(self) -> str:
        """How people name it: `Tesla T4 (sm_75)`."""
        return (
            f"{self.name} ({self.compute_capability.sm})" if self.compute_capability else self.name
        )
