"""The device that models run on: which one, in which dtype, on how many threads.

Errors of the device become the errors that users see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from dsmops.devices import ComputeCapability
from dsmops.dtypes import ComputeDType
from dsmops.errors import DeviceLostError, GpuMemoryError, ResourceError

_Network = TypeVar("_Network", bound=nn.Module)

_SINGLE_THREAD_PARAMETERS = 20_000_000
"""On a CPU, models smaller than this run on one thread: their kernels take microseconds, and waking
a second thread for each made a step of the tiny test model 3.2 ms on one thread and 60 ms on two,
on a machine with other work."""

REHEARSES_TURING = os.environ.get("DSMOPS_REHEARSE") == "sm_75"
"""Whether a newer card is used as a Turing card can be, for tests.

Turing has neither bf16 nor TF32, and PyTorch no flash attention for it. Kernels are compiled to PTX
for `compute_75`, which the driver translates."""
if REHEARSES_TURING:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    # What cuBLAS takes of a Turing card for each stream: 8 MiB, not the 32 of Hopper.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:2:16:8")

TORCH_DTYPES = {
    ComputeDType.BF16: torch.bfloat16,
    ComputeDType.F16: torch.float16,
    ComputeDType.F32: torch.float32,
}
"""What language models are served in."""


def dtype_of(dtype: torch.dtype) -> ComputeDType:
    """Return the name of one of `TORCH_DTYPES`."""
    return next(name for name, torchs in TORCH_DTYPES.items() if torchs is dtype)


def best_device(*, cpu: bool) -> torch.device:
    """Return CUDA device 0, or the CPU.

    moshi-server takes device 0 too. The CPU is returned with `cpu`, or where torch cannot use the
    device.
    """
    return torch.device("cpu" if cpu or why_not_cuda() else "cuda:0")


def why_not_cuda() -> str:
    """Return why torch cannot use CUDA device 0, empty where it can."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device that it can use"
    capability = capability_of(torch.device("cuda:0"))
    if has_kernels(capability, torch.cuda.get_arch_list()):
        return ""
    name = torch.cuda.get_device_name(0)
    return f"torch {torch.__version__} has no kernels for {name} ({capability.sm})"


def capability_of(device: torch.device) -> ComputeCapability:
    """Return the compute capability of a CUDA device, that of Turing in a rehearsal."""
    if REHEARSES_TURING:
        return ComputeCapability(7, 5)
    return ComputeCapability(*torch.cuda.get_device_capability(device))


def has_kernels(capability: ComputeCapability, built_for: Sequence[str]) -> bool:
    """Return whether code for `built_for`, as in `sm_75` or `compute_90`, runs on a card.

    Machine code (`sm_`) runs on its major version from its minor one on; `compute_` is translated
    by the driver for any later card. Nothing is known where the list is empty.

    Source: CUDA programming guide, binary and PTX compatibility.
    """
    for name in built_for:
        code = ComputeCapability.parse(name)
        same = code.major == capability.major and code.minor <= capability.minor
        if same if name.startswith("sm_") else code <= capability:
            return True
    return not built_for


def best_dtype(device: torch.device) -> ComputeDType:
    """Return the best dtype for a language model on `device`.

    It is f32 on a CPU. On a GPU the compute capability decides.
    """
    return ComputeDType.F32 if device.type == "cpu" else capability_of(device).serving_dtype


def use_threads_for(parameters: int, device: torch.device) -> None:
    """Set torch to one thread if a small model runs on a CPU.

    The setting is of the whole process.
    """
    if device.type == "cpu" and parameters < _SINGLE_THREAD_PARAMETERS:
        torch.set_num_threads(1)


def materialize(network: _Network, device: torch.device) -> _Network:
    """Give a network that was built on the meta device memory of its own, not filled, and return
    it, ready for inference.

    `to_empty` does the same, and imports a second's worth of torch for it.
    """
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    tensors[name] = nn.Parameter(empty, False) if is_parameter else empty  # type: ignore[assignment]
    return network.eval()


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Translate torch's errors about memory and devices in the block.

    They become `GpuMemoryError`, `ResourceError` or `DeviceLostError`.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as exc:
        free, total = torch.cuda.mem_get_info(device)
        raise GpuMemoryError(
            f"the GPU is out of memory: {free / 2**20:,.0f} of {total / 2**20:,.0f} MiB are free",
            hint=(
                "`dsmops plan --runtime embedded` shows what fits; `nvidia-smi` what uses the card."
            ),
        ) from exc
    except torch.AcceleratorError as exc:
        raise DeviceLostError(
            f"the GPU failed: {str(exc).splitlines()[0]}",
            hint="Every stream on it is lost. `nvidia-smi` and `dmesg` show why.",
        ) from exc
    except RuntimeError as exc:
        # torch has no class of its own for this.
        if "DefaultCPUAllocator" not in str(exc):
            raise
        raise ResourceError(
            "this machine is out of memory for the model and its streams",
            hint="Use a smaller batch_size, or --dtype bf16.",
            code="memory.full",
        ) from exc
