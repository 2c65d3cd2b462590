"""CUDA kernels of our own, compiled for the card when a model needs them, and launched.

NVRTC compiles them, which torch brings, so that no machine needs a compiler. Its official interface
for Python is `cuda.core`, of the extra `kernels`. Without it models compute the same in PyTorch.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from dsmops.worker.models.device import REHEARSES_TURING, capability_of

_HEADER = "values.cuh"
C_NAMES = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "float"}
"""What the kernels call the compute dtypes."""


@cache
def why_not(device: torch.device) -> str:
    """Return why kernels cannot run on `device`, empty where they can."""
    if device.type != "cuda":
        return "it is not a CUDA device"
    try:
        with torch.cuda.device(device):
            _kernel(device, "", "nothing")
    except ImportError as exc:
        return f"{exc}; `pip install 'dsmops[{extra()}]'` installs it"
    except Exception as exc:  # noqa: BLE001 - whatever NVRTC or the driver say
        return f"{type(exc).__name__}: {exc}"
    return ""


def extra() -> str:
    """Return the name of the extra with what goes with this torch's CUDA."""
    return "kernels-cu12" if str(torch.version.cuda).startswith("12.") else "kernels"


def compile_for(target: str, source: str, name: str) -> Any:
    """Return the `cuda.core` object of one kernel: PTX for `compute_75`, machine code for `sm_75`.

    `source` is a file beside this one, and `name` a kernel in it, with its template's arguments.
    """
    from cuda.core import Program, ProgramOptions

    folder = files(__package__)
    code = "".join((folder / file).read_text("utf-8") for file in (_HEADER, source) if file)
    format_ = "ptx" if target.startswith("compute") else "cubin"
    program = Program(code, "c++", ProgramOptions(arch=target))
    return program.compile(format_, name_expressions=(name,))


@cache
def _kernel(device: torch.device, source: str, name: str) -> Any:
    """Return a kernel, compiled for `device` and loaded."""
    from cuda.core import Device

    Device(device.index or 0).set_current()
    target = "compute_75" if REHEARSES_TURING else capability_of(device).sm
    return compile_for(target, source, name).get_kernel(name)


@cache
def _stream(device: torch.device, handle: int) -> Any:  # noqa: ARG001 - each has a stream 0
    from cuda.core import Stream

    return Stream.from_handle(handle)


def launch(
    source: str, name: str, grid: tuple[int, ...], threads: int, *arguments: Tensor | int
) -> None:
    """Launch a kernel on torch's current stream, with tensors as pointers and numbers as `int`.

    Tensors are contiguous, on one device.

    Raises:
        ValueError: a tensor is not contiguous (a bug in the caller).
    """
    from cuda.core import LaunchConfig
    from cuda.core import launch as launch_kernel

    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError(f"{name} takes contiguous tensors")
    device = tensors[0].device
    given = [
        argument.data_ptr() if isinstance(argument, Tensor) else ctypes.c_int(argument)
        for argument in arguments
    ]
    with torch.cuda.device(device):
        stream = _stream(device, torch.cuda.current_stream(device).cuda_stream)
        config = LaunchConfig(grid=grid, block=threads)
        launch_kernel(stream, config, _kernel(device, source, name), *given)


@cache
def processors(device: torch.device) -> int:
    """Return how many multiprocessors `device` has."""
    return torch.cuda.get_device_properties(device).multi_processor_count
