"""How much GPU memory an STT model takes, as an explained split, for each of the two runtimes.

moshi-server's BatchedAsr is derived from its and candle's sources, not measured on a device. The embedded worker is our own, and held to
measurement (`tests/bench/memory.py`). Both take everything at load: weights once, and the caches of all `batch_size` streams, so the figure
does not grow while they serve. What this module does not know: what other processes hold, which is the device's free memory and the
planner's concern.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsmops.facts import DType, Runtime
from dsmops.models import LmShape

MIB = 2**20

RUNTIME_BYTES = 600 * MIB
"""moshi-server: CUDA context, cuBLAS workspace, loaded kernels, allocator slack. Not derivable; 400 to 700 MiB are seen with other CUDA
programs."""


@dataclass(frozen=True, slots=True)
class _Costs:
    """What a runtime takes beyond the language model, in bytes. `ring_multiple`: cache positions are rounded up to a multiple of this."""

    mimi_weight_bytes: int
    mimi_state_bytes_per_stream: int
    workspace_bytes_per_stream: int
    runtime_bytes: int
    ring_multiple: int


_COSTS = {
    Runtime.MOSHI_SERVER: _Costs(
        # Mimi with 32 codebooks, always F32: encoder and decoder, codebook tables kept beside the raw ones, expanded upsampling kernel.
        mimi_weight_bytes=456_162_692,
        # Two transformers (the decoder's is never used by STT, and still allocated) × K and V × 8 layers × 250 positions × 512 × F32, and
        # about 46 kB of convolution state.
        mimi_state_bytes_per_stream=2 * 2 * 8 * 250 * 512 * 4 + 46 * 1024,
        # Step activations, mostly im2col buffers of Mimi's first convolutions at 24 kHz. An estimate of 3 to 5 MiB; the upper end.
        workspace_bytes_per_stream=5 * MIB,
        runtime_bytes=RUNTIME_BYTES,
        ring_multiple=1,
    ),
    Runtime.EMBEDDED: _Costs(
        # The encoder half alone, F32: SEANet, transformer, downsampling, quantiser with its half norms.
        mimi_weight_bytes=4 * (12_628_256 + 25_190_400 + 1_048_576 + 524_288 + 32 * 2048 * 257),
        # K and V × 8 layers × 256 positions × 512 × F32, and 11,526 floats of convolution state.
        mimi_state_bytes_per_stream=2 * 8 * 256 * 512 * 4 + 4 * 11_526,
        # Measured: activations of the captured step, 3.5 to 3.7 MB a slot in every dtype, most of it Mimi's first convolutions.
        workspace_bytes_per_stream=3_600_000,
        # Measured on one H200 with torch 2.11 for CUDA 13: context 651 MB, libraries' workspaces and the graph's fixed part.
        runtime_bytes=960_000_000,
        ring_multiple=8,
    ),
}


@dataclass(frozen=True, slots=True)
class MemorySplit:
    """Bytes of GPU memory by purpose, for one model at one batch size."""

    weights_bytes: int
    kv_bytes: int
    mimi_weights_bytes: int
    mimi_state_bytes: int
    workspace_bytes: int
    runtime_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return (
            self.weights_bytes + self.kv_bytes + self.mimi_weights_bytes + self.mimi_state_bytes + self.workspace_bytes + self.runtime_bytes
        )


def serving_memory(
    lm: LmShape, dtype: DType, batch_size: int, *, context: int | None = None, runtime: Runtime = Runtime.MOSHI_SERVER
) -> MemorySplit:
    """Return what `runtime` takes for `lm` in `dtype`, with `batch_size` slots of `context` positions each.

    `context` None means the model's own. The language model and its KV cache are in `dtype`; Mimi is always F32. A file in another
    dtype is cast tensor by tensor while loading, so no second copy of the model appears.

    Source: candle 0.9.1 and moshi-core allocation paths; see runbooks/architecture.md, "Memory model". For the embedded worker,
    measurements over model, dtype and batch size, in tests/bench/history.jsonl.
    """
    costs = _COSTS[runtime]
    positions = -(-(context or lm.context) // costs.ring_multiple) * costs.ring_multiple
    return MemorySplit(
        weights_bytes=lm.parameters * dtype.itemsize,
        kv_bytes=batch_size * lm.kv_bytes_per_stream(dtype.itemsize, positions),
        mimi_weights_bytes=costs.mimi_weight_bytes,
        mimi_state_bytes=batch_size * costs.mimi_state_bytes_per_stream,
        workspace_bytes=batch_size * costs.workspace_bytes_per_stream,
        runtime_bytes=costs.runtime_bytes,
    )


def largest_batch(
    lm: LmShape, dtype: DType, usable_bytes: int, *, context: int | None = None, runtime: Runtime = Runtime.MOSHI_SERVER
) -> int:
    """Return the largest `batch_size` whose `serving_memory` fits in `usable_bytes`; 0 when not even one slot fits."""
    fixed = serving_memory(lm, dtype, 0, context=context, runtime=runtime).total_bytes
    per_stream = serving_memory(lm, dtype, 1, context=context, runtime=runtime).total_bytes - fixed
    return max(0, (usable_bytes - fixed) // per_stream)
