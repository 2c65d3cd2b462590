"""How much GPU memory a model takes, as an explained split, for each of the two runtimes.

moshi-server's BatchedAsr is derived from its and candle's sources, its Python module for
text-to-speech from the `moshi` package's; neither was measured on a device. The embedded worker is
our own, and held to measurement (`tests/bench/memory.py`). All take everything at
load: weights once, and the caches of all `batch_size` streams, so the figure does not grow while
they serve. What this module does not know: what other processes hold, which is the device's free
memory and the planner's concern.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from dsmops.devices import Runtime
from dsmops.dtypes import PLAIN, ComputeDType, Quant, Quantised
from dsmops.models import LmShape, Shape, TtsShape, model_of_shape

MIB = 2**20
Matrices = tuple[tuple[int, int], ...]
"""Rows and columns of matrices."""

RUNTIME_BYTES = 700 * MIB
"""moshi-server: CUDA context, cuBLAS workspace, loaded kernels, allocator slack.

Measured on one H200 with moshi-server 0.6.4 and the 1B model in f16: 3,151 MiB at batch 1. This is
the part that nothing else explains."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What memory and step time depend on besides the card and the number of slots.

    The model computes in `dtype`, with `context` positions for each slot. `context` None means the
    model's own, `n_q` None all codebooks of a text-to-speech model. `quantised` is what the
    embedded worker keeps in int8; it computes with it in its kernels.
    """

    shape: Shape
    dtype: ComputeDType
    context: int | None = None
    runtime: Runtime = Runtime.MOSHI_SERVER
    n_q: int | None = None
    quantised: Quantised = PLAIN


@dataclass(frozen=True, slots=True)
class _Costs:
    """What a runtime takes beyond the language model, in bytes.

    `ring_multiple`: cache positions are rounded up to a multiple of this.
    """

    mimi_weight_bytes: int
    mimi_state_bytes_per_stream: int
    workspace_bytes_per_stream: int
    runtime_bytes: int
    ring_multiple: int


_STT_COSTS = {
    Runtime.MOSHI_SERVER: _Costs(
        # Mimi with 32 codebooks, always F32: encoder and decoder, codebook tables kept beside the
        # raw ones, expanded upsampling kernel.
        mimi_weight_bytes=456_162_692,
        # Two transformers (the decoder's is never used by STT, and still allocated) × K and V × 8
        # layers × 250 positions × 512 × F32, and about 46 kB of convolution state.
        mimi_state_bytes_per_stream=2 * 2 * 8 * 250 * 512 * 4 + 46 * 1024,
        # Step activations, mostly im2col buffers of Mimi's first convolutions at 24 kHz. An
        # estimate of 3 to 5 MiB; the upper end.
        workspace_bytes_per_stream=5 * MIB,
        runtime_bytes=RUNTIME_BYTES,
        ring_multiple=1,
    ),
    Runtime.EMBEDDED: _Costs(
        # The encoder half alone, F32: SEANet, transformer, downsampling, quantiser with its half
        # norms.
        mimi_weight_bytes=4 * (12_628_256 + 25_190_400 + 1_048_576 + 524_288 + 32 * 2048 * 257),
        # K and V × 8 layers × 256 positions × 512 × F32, and 11,526 floats of convolution state.
        mimi_state_bytes_per_stream=2 * 8 * 256 * 512 * 4 + 4 * 11_526,
        # Measured: activations of the captured step, 3.5 to 3.7 MB a slot in every dtype, most of
        # it Mimi's first convolutions.
        workspace_bytes_per_stream=3_600_000,
        # Measured on one H200 with torch 2.11 for CUDA 13: context 651 MB, libraries' workspaces
        # and the graph's fixed part.
        runtime_bytes=960_000_000,
        ring_multiple=8,
    ),
}
_TTS_COSTS = {
    Runtime.MOSHI_SERVER: _Costs(
        # Both halves of Mimi, F32, and the centroids that the package keeps beside the sums that
        # they are made from.
        mimi_weight_bytes=4 * (96_151_393 + 32 * 2048 * 256),
        # Both halves' state, the encoder's for nothing: rings of 250 positions, 24,198 floats of
        # convolution state.
        mimi_state_bytes_per_stream=4 * (2 * 2 * 8 * 250 * 512 + 24_198),
        # Measured on one H200 with moshi-server 0.6.4 and `moshi` 0.2.13, 24 codebooks: 5,017 MiB
        # at batch 1, 10,693 at 32, 16,445 at 64. These are what weights and caches do not explain.
        workspace_bytes_per_stream=25_400_000,
        runtime_bytes=869_000_000,
        ring_multiple=1,
    ),
    Runtime.EMBEDDED: _Costs(
        # The decoder half alone, F32: quantiser with its half norms, upsampling, transformer,
        # SEANet.
        mimi_weight_bytes=4 * (2_048 + 25_190_400 + 14_724_641 + 524_288 + 32 * 2048 * 257),
        # K and V × 8 layers × 256 positions × 512 × F32, 12,672 floats of convolution state, the
        # position.
        mimi_state_bytes_per_stream=4 * (2 * 8 * 256 * 512 + 12_672) + 8,
        # Measured on one H200 with torch 2.11 for CUDA 13, 8 to 32 codebooks: what 1 to 400 slots
        # take beyond weights and caches.
        workspace_bytes_per_stream=4_000_000,
        # Measured there: 70 MB more than speech-to-text takes, for the fixed parts of two graphs
        # instead of one.
        runtime_bytes=1_030_000_000,
        ring_multiple=8,
    ),
}
VOICE_POSITIONS = 5 * 125
"""Keys and values of a slot's voices: five speakers, 10 s each at 12.5 Hz, whether used or not."""


@dataclass(frozen=True, slots=True)
class MemorySplit:
    """Bytes of GPU memory by purpose, for one model at one batch size.

    The last four are a text-to-speech model's, else 0.

    `depformer_state_bytes` are the queries, keys and values of one step's codebooks: they live
    within a step, and their memory stays allocated. `new_voice_bytes` are the keys and values of a
    voice, which are made aside for all layers and then put into its slot.
    """

    weights_bytes: int
    kv_bytes: int
    mimi_weights_bytes: int
    mimi_state_bytes: int
    workspace_bytes: int
    runtime_bytes: int
    depformer_weights_bytes: int = 0
    cross_kv_bytes: int = 0
    depformer_state_bytes: int = 0
    new_voice_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(getattr(self, part.name) for part in fields(self))


def serving_memory(model: ServedModel, batch_size: int) -> MemorySplit:
    """Return the memory that the runtime takes for a model with `batch_size` slots.

    The language model and its caches are in the model's dtype; conditioners and Mimi are always
    F32. A file in another dtype is cast tensor by tensor while loading, so no second copy of the
    model appears. A text-to-speech model that is not distilled takes two rows of each cache for a
    slot: guidance runs it twice.

    Source: candle 0.9.1, moshi-core and `moshi` 0.2.13 allocation paths; see
    runbooks/architecture.md, "Memory model". For the embedded worker, measurements over model,
    dtype, batch size and codebooks, in tests/bench/history.jsonl.
    """
    shape, dtype, quantised = model.shape, model.dtype, model.quantised
    if isinstance(shape, TtsShape):
        return _tts_memory(model, shape, batch_size)
    costs = _costs(_STT_COSTS[model.runtime], shape)
    window = _ring(model.context or shape.context, costs)
    return MemorySplit(
        weights_bytes=shape.parameters * dtype.itemsize
        - saved_bytes(shape.layer_matrices, dtype, quantised),
        kv_bytes=batch_size * stored_kv_bytes(shape, window, dtype, quantised),
        mimi_weights_bytes=costs.mimi_weight_bytes,
        mimi_state_bytes=batch_size * costs.mimi_state_bytes_per_stream,
        workspace_bytes=batch_size * costs.workspace_bytes_per_stream
        + _written_out_bytes(shape.layer_matrices, dtype, quantised),
        runtime_bytes=costs.runtime_bytes,
    )


def stored_kv_bytes(
    shape: LmShape, positions: int, dtype: ComputeDType, quantised: Quantised
) -> int:
    """Return the bytes of one stream's keys and values; int8 has a float32 for each head."""
    if quantised.kv is Quant.NONE:
        return shape.kv_bytes_per_stream(dtype.itemsize, positions)
    scales = 2 * shape.num_layers * positions * shape.num_heads * ComputeDType.F32.itemsize
    return shape.kv_bytes_per_stream(1, positions) + scales


def saved_bytes(matrices: Matrices, dtype: ComputeDType, quantised: Quantised) -> int:
    """Return what int8 saves of these matrices: their items, but for a float32 for each row."""
    if quantised.weights is not Quant.INT8:
        return 0
    return sum(
        rows * columns * (dtype.itemsize - 1) - rows * ComputeDType.F32.itemsize
        for rows, columns in matrices
    )


def _written_out_bytes(matrices: Matrices, dtype: ComputeDType, quantised: Quantised) -> int:
    """Return what a product with int8 takes for many streams: the largest matrix in `dtype`."""
    if quantised.weights is not Quant.INT8:
        return 0
    return max(rows * columns for rows, columns in matrices) * dtype.itemsize


def _tts_memory(model: ServedModel, shape: TtsShape, batch_size: int) -> MemorySplit:
    dtype, runtime, quantised = model.dtype, model.runtime, model.quantised
    costs, item = _costs(_TTS_COSTS[runtime], shape), dtype.itemsize
    n_q = model.n_q or shape.lm.audio_codebooks
    rows = batch_size if shape.distilled else 2 * batch_size
    window = _ring(shape.lm.context, costs)
    voice_bytes = shape.lm.kv_bytes_per_stream(item, VOICE_POSITIONS)
    # The package loads all weight sets and runs as many passes as n_q says; the embedded worker
    # leaves out what it does not read.
    loaded = n_q if runtime is Runtime.EMBEDDED else shape.lm.audio_codebooks
    # The embedded worker also keeps the embeddings of all codebooks but the last multiplied out,
    # which saves it a product a codebook.
    tables = (
        (n_q - 1) * shape.lm.audio_vocab_size * shape.depformer.d_model
        if runtime is Runtime.EMBEDDED
        else 0
    )
    return MemorySplit(
        weights_bytes=shape.backbone_parameters * item
        - saved_bytes(shape.layer_matrices, dtype, quantised)
        + shape.conditioner_parameters * ComputeDType.F32.itemsize,
        kv_bytes=rows * stored_kv_bytes(shape.lm, window, dtype, quantised),
        mimi_weights_bytes=costs.mimi_weight_bytes,
        mimi_state_bytes=batch_size * costs.mimi_state_bytes_per_stream,
        workspace_bytes=batch_size * costs.workspace_bytes_per_stream
        + _written_out_bytes(shape.layer_matrices, dtype, quantised),
        runtime_bytes=costs.runtime_bytes,
        depformer_weights_bytes=(shape.depformer_parameters(loaded) + tables) * item
        - saved_bytes(shape.depformer_matrices(loaded), dtype, quantised),
        cross_kv_bytes=rows * stored_kv_bytes(shape.lm, VOICE_POSITIONS, dtype, quantised),
        depformer_state_bytes=rows
        * 3
        * shape.depformer.num_layers
        * loaded
        * shape.depformer.d_model
        * item,
        new_voice_bytes=voice_bytes,
    )


def _costs(published: _Costs, shape: Shape) -> _Costs:
    """Return the costs with the Mimi of the model that has this shape."""
    model = model_of_shape(shape)
    mimi = model.mimi if model else None
    if mimi is None:
        return published
    return replace(
        published,
        mimi_weight_bytes=mimi.weight_bytes,
        mimi_state_bytes_per_stream=mimi.state_bytes_per_stream,
        workspace_bytes_per_stream=mimi.workspace_bytes_per_stream,
    )


def _ring(context: int, costs: _Costs) -> int:
    return -(-context // costs.ring_multiple) * costs.ring_multiple


def largest_batch(model: ServedModel, usable_bytes: int) -> int:
    """Return the largest `batch_size` whose `serving_memory` fits in `usable_bytes`.

    0 when not even one slot fits.
    """
    fixed, one = (serving_memory(model, slots).total_bytes for slots in (0, 1))
    return max(0, (usable_bytes - fixed) // (one - fixed))
