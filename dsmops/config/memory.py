"""How much GPU memory moshi-server takes for an STT model, as an explained split.

Derived from the server's and candle's sources, not measured on a device. BatchedAsr takes everything at load: weights once, and both caches
for all `batch_size` streams, so the figure does not grow while it serves. What this module does not know: what other processes
hold, which is the device's free memory and the planner's concern.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsmops.facts import DType
from dsmops.models import LmShape

MIB = 2**20

MIMI_WEIGHT_BYTES = 456_162_692
"""Mimi with 32 codebooks, always F32: encoder and decoder, codebook tables kept beside the raw ones, expanded upsampling kernel."""
MIMI_KV_BYTES_PER_STREAM = 2 * 2 * 8 * 250 * 512 * 4
"""Two transformers (the decoder's is never used by STT, and still allocated) × K and V × 8 layers × 250 positions × 512 × F32."""
MIMI_CONV_BYTES_PER_STREAM = 46 * 1024
"""Encoder convolution state; about 46 kB."""
WORKSPACE_BYTES_PER_STREAM = 5 * MIB
"""Step activations, mostly im2col buffers of Mimi's first convolutions at 24 kHz. An estimate of 3 to 5 MiB; the upper end is used."""
RUNTIME_BYTES = 600 * MIB
"""CUDA context, cuBLAS workspace, loaded kernels, allocator slack. Not derivable; 400 to 700 MiB are seen with other CUDA programs."""


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


def serving_memory(lm: LmShape, dtype: DType, batch_size: int, *, context: int | None = None) -> MemorySplit:
    """Return what moshi-server's BatchedAsr takes for `lm` in `dtype`, with `batch_size` slots of `context` positions each.

    `context` None means the model's own. The language model and its KV cache are in `dtype`; Mimi is always F32. A file in another
    dtype is cast tensor by tensor while loading, so no second copy of the model appears.

    Source: candle 0.9.1 and moshi-core allocation paths; see runbooks/architecture.md, "Memory model".
    """
    return MemorySplit(
        weights_bytes=lm.parameters * dtype.itemsize,
        kv_bytes=batch_size * lm.kv_bytes_per_stream(dtype.itemsize, context),
        mimi_weights_bytes=MIMI_WEIGHT_BYTES,
        mimi_state_bytes=batch_size * (MIMI_KV_BYTES_PER_STREAM + MIMI_CONV_BYTES_PER_STREAM),
        workspace_bytes=batch_size * WORKSPACE_BYTES_PER_STREAM,
        runtime_bytes=RUNTIME_BYTES,
    )


def largest_batch(lm: LmShape, dtype: DType, usable_bytes: int, *, context: int | None = None) -> int:
    """Return the largest `batch_size` whose `serving_memory` fits in `usable_bytes`; 0 when not even one slot fits."""
    fixed = serving_memory(lm, dtype, 0, context=context).total_bytes
    per_stream = serving_memory(lm, dtype, 1, context=context).total_bytes - fixed
    return max(0, (usable_bytes - fixed) // per_stream)
