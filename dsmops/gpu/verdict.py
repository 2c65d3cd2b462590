"""What a card can serve: dtypes, bf16 under moshi-server, how to build the server.

It is a pure function of its capability and driver. Facts about the server are those of moshi-server
0.6.4 as its lock file pins it: candle 0.9.1, cudarc 0.16.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dsmops.devices import ComputeCapability
from dsmops.dtypes import ComputeDType
from dsmops.gpu.torch_build import TorchBuild, TorchKernels, kernels_for

CUDA_NOT_FOUND = 'DriverError(CUDA_ERROR_NOT_FOUND, "named symbol not found")'
"""The error that ends the model loop of moshi-server where a kernel was not compiled for the card's
architecture."""

CudaVersion = tuple[int, int]

# cudarc 0.16.2 stops the build with "Unsupported cuda toolkit version" outside this range; 12.9
# came with 0.16.3, 13.0 with 0.17.3.
OLDEST_TOOLKIT: CudaVersion = (11, 4)
NEWEST_TOOLKIT: CudaVersion = (12, 8)
# Below compute_80 candle-kernels 0.9.1 defines __hmax_nan and __hmin_nan itself for toolkits older
# than 12.2, which lack them. (Its test also fires on 13.0 and 13.1, which have them: the build then
# fails.) So from 12.2 on nothing rests on that header.
TOOLKIT_WITH_NAN_OPS: CudaVersion = (12, 2)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A compute capability, the generation's name and the CUDA toolkits that compile for it.

    `embedded`: Jetson and its like.
    """

    family: str
    first_toolkit: CudaVersion
    last_toolkit: CudaVersion | None = None
    embedded: bool = False


# Source: release notes of the CUDA toolkits. CUDA 12.0 dropped Kepler, CUDA 13.0 Maxwell, Pascal
# and Volta.
ARCHITECTURES: dict[ComputeCapability, Architecture] = {
    ComputeCapability(3, 5): Architecture("Kepler", (5, 0), (11, 8)),
    ComputeCapability(3, 7): Architecture("Kepler", (6, 5), (11, 8)),
    ComputeCapability(5, 0): Architecture("Maxwell", (6, 5), (12, 9)),
    ComputeCapability(5, 2): Architecture("Maxwell", (7, 0), (12, 9)),
    ComputeCapability(5, 3): Architecture("Maxwell", (7, 0), (12, 9), embedded=True),
    ComputeCapability(6, 0): Architecture("Pascal", (8, 0), (12, 9)),
    ComputeCapability(6, 1): Architecture("Pascal", (8, 0), (12, 9)),
    ComputeCapability(6, 2): Architecture("Pascal", (8, 0), (12, 9), embedded=True),
    ComputeCapability(7, 0): Architecture("Volta", (9, 0), (12, 9)),
    ComputeCapability(7, 2): Architecture("Volta", (9, 2), (12, 9), embedded=True),
    ComputeCapability(7, 5): Architecture("Turing", (10, 0)),
    ComputeCapability(8, 0): Architecture("Ampere", (11, 0)),
    ComputeCapability(8, 6): Architecture("Ampere", (11, 1)),
    ComputeCapability(8, 7): Architecture("Ampere", (11, 4), embedded=True),
    ComputeCapability(8, 9): Architecture("Ada", (11, 8)),
    ComputeCapability(9, 0): Architecture("Hopper", (11, 8)),
    ComputeCapability(10, 0): Architecture("Blackwell", (12, 8)),
    ComputeCapability(10, 3): Architecture("Blackwell", (12, 9)),
    ComputeCapability(11, 0): Architecture("Blackwell", (13, 0), embedded=True),
    ComputeCapability(12, 0): Architecture("Blackwell", (12, 8)),
    ComputeCapability(12, 1): Architecture("Blackwell", (12, 9)),
}


class Conversion(StrEnum):
    """Whether a bf16 checkpoint should be converted for a card.

    It never must: `dtype_override` alone makes the server cast at load.
    """

    NOT_NEEDED = "not_needed"
    RECOMMENDED = "recommended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ServerBuild:
    """How to compile moshi-server for a card.

    The value of `CUDA_COMPUTE_CAP`, and the CUDA toolkits that can do it. `problem` is set, and the
    rest None, where no toolkit does. `note` says what ends the range, and what else is special
    about it.
    """

    cuda_compute_cap: str | None
    toolkit_min: str | None
    toolkit_max: str | None
    note: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceVerdict:
    """What follows from a card's capability and its driver.

    Everything is unknown (None) where the capability is.

    `native_dtypes` are those with arithmetic in the hardware. `dtype_override` is what the server's
    config must say, None when it needs nothing. `bf16_error` is the text in the server's log when
    it is left out.
    """

    family: str | None
    native_dtypes: tuple[ComputeDType, ...] | None
    serving_dtype: ComputeDType | None
    serving_reason: str
    bf16_fails: bool | None
    bf16_error: str | None
    dtype_override: str | None
    conversion: Conversion
    build: ServerBuild | None
    torch_kernels: TorchKernels


def judge(
    capability: ComputeCapability | None,
    cuda_driver_version: CudaVersion | None,
    torch: TorchBuild | None,
) -> DeviceVerdict:
    """Return the verdict on a card of this capability under this driver.

    The driver runs CUDA up to the given version; None: unknown.
    """
    kernels = kernels_for(torch, capability, cuda_driver_version)
    if capability is None:
        reason = "the compute capability is unknown"
        return DeviceVerdict(
            None, None, None, reason, None, None, None, Conversion.UNKNOWN, None, kernels
        )
    serving = capability.serving_dtype
    known = ARCHITECTURES.get(capability)
    return DeviceVerdict(
        family=known.family if known else None,
        native_dtypes=_native_dtypes(capability),
        serving_dtype=serving,
        serving_reason=_serving_reason(capability),
        bf16_fails=not capability.native_bf16,
        bf16_error=None if capability.native_bf16 else CUDA_NOT_FOUND,
        dtype_override=None if capability.native_bf16 else serving.candle_name,
        # To f16 the conversion proves that every weight fits; to f32 it proves nothing and doubles
        # the file.
        conversion=Conversion.RECOMMENDED if serving is ComputeDType.F16 else Conversion.NOT_NEEDED,
        build=plan_build(capability, cuda_driver_version),
        torch_kernels=kernels,
    )


def _native_dtypes(capability: ComputeCapability) -> tuple[ComputeDType, ...]:
    f16 = (ComputeDType.F16,) if capability.has_f16_kernels else ()
    bf16 = (ComputeDType.BF16,) if capability.native_bf16 else ()
    return (ComputeDType.F32, *f16, *bf16)


def _serving_reason(capability: ComputeCapability) -> str:
    if capability.native_bf16:
        return "bf16 is in the hardware"
    if capability.serving_dtype is ComputeDType.F16:
        return "no bf16 in the hardware; f16 is, at full speed"
    if capability.has_f16_kernels:
        return "no bf16 in the hardware, and f16 arithmetic runs at 1/64 of the f32 rate"
    return "neither bf16 nor f16 arithmetic in the hardware"


def plan_build(
    capability: ComputeCapability, cuda_driver_version: CudaVersion | None
) -> ServerBuild:
    """Return how to build moshi-server for a card.

    The server's kernels are PTX, which the driver compiles when it loads them. So a toolkit may not
    be newer than the CUDA that the driver runs (else CUDA_ERROR_UNSUPPORTED_PTX_VERSION), and where
    no accepted toolkit knows a card yet, an older architecture of it will do.
    """
    newest = min(NEWEST_TOOLKIT, cuda_driver_version or NEWEST_TOOLKIT)
    if newest < OLDEST_TOOLKIT:
        return ServerBuild(
            None,
            None,
            None,
            problem=(
                f"the driver runs CUDA up to {_dotted(newest)}; the server builds with"
                f" {_dotted(OLDEST_TOOLKIT)} or newer: update the driver"
            ),
        )
    fitting = [
        arch
        for arch, known in ARCHITECTURES.items()
        if (arch == capability or (arch < capability and not known.embedded))
        and known.first_toolkit <= newest
        and (known.last_toolkit or newest) >= OLDEST_TOOLKIT
    ]
    if not fitting:
        return ServerBuild(
            None,
            None,
            None,
            problem=f"no CUDA toolkit that the server accepts compiles for {capability.sm}",
        )
    target = max(fitting)
    known = ARCHITECTURES[target]
    oldest = max(OLDEST_TOOLKIT, known.first_toolkit)
    notes = []
    if target != capability:
        notes.append(
            f"no accepted toolkit compiles for {capability.sm}; kernels for {target.sm} run on it"
        )
    if known.last_toolkit and known.last_toolkit < newest:
        newest = known.last_toolkit
        notes.append(f"later toolkits dropped {known.family}")
    elif newest < NEWEST_TOOLKIT:
        notes.append("the driver runs no newer CUDA")
    else:
        notes.append("newer ones are refused by cudarc 0.16.2, which --locked pins")
    if target < ComputeCapability(8, 0):
        if newest >= TOOLKIT_WITH_NAN_OPS:
            oldest = TOOLKIT_WITH_NAN_OPS
        else:
            notes.append(
                f"below {_dotted(TOOLKIT_WITH_NAN_OPS)} is not tried; a newer driver allows the"
                " range that is"
            )
    return ServerBuild(target.cuda_compute_cap, _dotted(oldest), _dotted(newest), "; ".join(notes))


def _dotted(version: CudaVersion) -> str:
    return f"{version[0]}.{version[1]}"
