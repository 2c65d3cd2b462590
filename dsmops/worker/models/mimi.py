"""Mimi: 24 kHz speech to 12.5 frames a second of 32 codes, and back. Always float32.

encode: PCM [B, 1, 1920·n] → codes int64 [B, K, n]. decode: codes → PCM. Whole, or streaming with
one row per slot. Source: the Mimi codec of `moshi` 0.2.13; parity with it is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import prod
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.errors import InputError
from dsmops.worker.models.attention import RingState, SelfAttention, init_ring, plan_positions
from dsmops.worker.models.config_values import check_heads, finite_number, section, whole_number
from dsmops.worker.models.convolution import CausalConv, CausalConvTranspose, ConvState
from dsmops.worker.models.matrix import linear
from dsmops.worker.models.quantizer import SplitQuantizer
from dsmops.worker.models.seanet import SeanetConfig, SeanetDecoder, SeanetEncoder
from dsmops.worker.models.state import RowState

_MOST = 2**14
"""Several times the largest dimension of the released model. A larger one is damage, for which no
memory must be asked."""
_MOST_LAYERS = 256
_MOST_RATIOS = 8
_MOST_SAMPLE_RATE_HZ = 2**20


@dataclass(frozen=True, slots=True)
class CodecTransformerConfig:
    """Mimi's two transformers: same shape, separate weights.

    `context` counts latents, two a frame.
    """

    d_model: int = 512
    num_heads: int = 8
    num_layers: int = 8
    dim_feedforward: int = 2048
    context: int = 250
    max_period: float = 10_000


@dataclass(frozen=True, slots=True)
class MimiConfig:
    """Dimensions of a Mimi codec. The defaults are the one released model; others exist for tests.

    `n_q` codebooks of `bins` entries of width `quantizer_dimension`.
    """

    sample_rate: int = 24_000
    frame_rate: float = 12.5
    seanet: SeanetConfig = field(default_factory=SeanetConfig)
    transformer: CodecTransformerConfig = field(default_factory=CodecTransformerConfig)
    quantizer_dimension: int = 256
    n_q: int = 32
    bins: int = 2048

    @property
    def frame_samples(self) -> int:
        """Samples of one frame: 1920."""
        return int(self.sample_rate / self.frame_rate)

    @property
    def resample_stride(self) -> int:
        """Latents of one frame: 2."""
        return self.frame_samples // prod(self.seanet.ratios)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> MimiConfig:
        """Read the JSON that `moshi` takes as `mimi_config`.

        Keys that are absent keep the released model's values.

        Raises:
            InputError: a value has the wrong type, or the frame is not a whole number of latents.
        """
        try:
            seanet, transformer, quantizer = (
                section(body, key) for key in ("seanet", "transformer", "quantizer")
            )
            config = cls(
                sample_rate=whole_number(body, "sample_rate", 24_000, most=_MOST_SAMPLE_RATE_HZ),
                frame_rate=finite_number(body, "frame_rate", 12.5, least=1),
                seanet=_pick(SeanetConfig(), seanet),
                transformer=_pick(CodecTransformerConfig(), transformer),
                quantizer_dimension=whole_number(quantizer, "dimension", 256, most=_MOST),
                n_q=whole_number(quantizer, "n_q", 32, most=_MOST_LAYERS),
                bins=whole_number(quantizer, "bins", 2048, most=_MOST),
            )
            _check_fit(config)
        except ValueError as exc:
            raise InputError(f"this Mimi config cannot be used: {exc}") from exc
        return config


_Part = TypeVar("_Part", SeanetConfig, CodecTransformerConfig)


def _pick(released: _Part, body: Mapping[str, Any]) -> _Part:
    """Return the dimensions that `body` names, those of the released model where it does not."""
    values: dict[str, Any] = {}
    for name in (entry.name for entry in fields(released)):
        default = getattr(released, name)
        if isinstance(default, float):
            values[name] = finite_number(body, name, default, least=1)
        elif isinstance(default, tuple):
            values[name] = _ratios(body.get(name, default))
        else:
            values[name] = whole_number(
                body, name, default, most=_MOST_LAYERS if name == "num_layers" else _MOST
            )
    return type(released)(**values)


def _ratios(given: Any) -> tuple[int, ...]:
    if not isinstance(given, list | tuple) or not 0 < len(given) <= _MOST_RATIOS:
        raise ValueError(f"ratios = {given!r} is not a list of 1 to {_MOST_RATIOS} numbers")
    return tuple(whole_number({"ratios": ratio}, "ratios", most=_MOST) for ratio in given)


def _check_fit(config: MimiConfig) -> None:
    """Raise ValueError where the parts of a codec do not fit together."""
    transformer, width = config.transformer, config.seanet.dimension
    check_heads(transformer.d_model, transformer.num_heads)
    if transformer.d_model != width:
        raise ValueError(f"its transformers are {transformer.d_model} wide, its latents {width}")
    if config.seanet.compress > config.seanet.n_filters:
        raise ValueError(
            f"compress = {config.seanet.compress} leaves nothing of {config.seanet.n_filters} "
            "filters"
        )
    hop = prod(config.seanet.ratios)
    if (
        config.resample_stride < 1
        or config.resample_stride * hop * config.frame_rate != config.sample_rate
    ):
        raise ValueError(
            f"at {config.sample_rate} Hz and {config.frame_rate:g} frames/s "
            f"a frame is not a whole number of latents of {hop} samples"
        )


class _LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width))


class CodecLayer(nn.Module):
    """x + s1·Attn(LN1(x)), then x + s2·W2·gelu(W1·LN2(x)); per-channel scales, exact gelu."""

    def __init__(self, config: CodecTransformerConfig) -> None:
        super().__init__()
        width = config.d_model
        self.norm1 = nn.LayerNorm(width, eps=1e-5)
        self.norm2 = nn.LayerNorm(width, eps=1e-5)
        self.self_attn = SelfAttention(width, config.num_heads)
        self.linear1 = nn.Linear(width, config.dim_feedforward, bias=False)
        self.linear2 = nn.Linear(config.dim_feedforward, width, bias=False)
        self.layer_scale_1 = _LayerScale(width)
        self.layer_scale_2 = _LayerScale(width)

    def forward(self, x: Tensor, at: Any, ring: RingState | None, layer: int) -> Tensor:
        read = self.self_attn(self.norm1(x), at, ring, layer)
        x = x + self.layer_scale_1.scale * linear(read, self.self_attn.out_proj.weight)
        inner = F.gelu(linear(self.norm2(x), self.linear1.weight))
        return x + self.layer_scale_2.scale * linear(inner, self.linear2.weight)


class CodecTransformer(nn.Module):
    """A transformer over latents [B, C, T], C = d_model."""

    def __init__(self, config: CodecTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(CodecLayer(config) for _ in range(config.num_layers))

    def init_state(self, rows: RowState) -> RingState:
        """Return empty rings for `rows`."""
        config = self.config
        return init_ring(
            rows,
            config.num_layers,
            config.num_heads,
            config.d_model // config.num_heads,
            config.context,
            torch.float32,
        )

    def forward(
        self, x: Tensor, ring: RingState | None = None, exec_mask: Tensor | None = None
    ) -> Tensor:
        config = self.config
        at = plan_positions(
            x.shape[-1],
            head_dim=config.d_model // config.num_heads,
            context=config.context,
            period=config.max_period,
            dtype=x.dtype,
            device=x.device,
            ring=ring,
        )
        x = x.transpose(1, 2)
        for number, layer in enumerate(self.layers):
            x = layer(x, at, ring, number)
        if ring is not None and exec_mask is not None:
            ring.offset.add_(exec_mask * x.shape[1])
        return x.transpose(1, 2)


@dataclass(frozen=True, slots=True)
class EncoderState:
    """Where each row's encoding stands."""

    encoder: list[Any]
    transformer: RingState
    downsample: ConvState | None


@dataclass(frozen=True, slots=True)
class DecoderState:
    """Where each row's decoding stands."""

    upsample: Tensor
    transformer: RingState
    decoder: list[Any]


class MimiEncoder(nn.Module):
    """The half that speech-to-text needs."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self.config = config
        width, stride = config.seanet.dimension, config.resample_stride
        self.encoder = SeanetEncoder(config.seanet)
        self.encoder_transformer = CodecTransformer(config.transformer)
        self.downsample = CausalConv(
            width, width, 2 * stride, stride, bias=False, repeat_first=True
        )
        self.quantizer = SplitQuantizer(width, config.quantizer_dimension, config.n_q, config.bins)

    def init_state(self, rows: RowState, *, zero_start: bool = False) -> EncoderState:
        """Return the state of fresh streams for `rows`.

        With `zero_start` the downsampling begins with zeros, as in moshi-server; otherwise it
        repeats its first input, as PyTorch's Mimi does. The codes of the first frame differ in
        nearly every codebook, those of later frames in a few.
        """
        return EncoderState(
            self.encoder.init_state(rows),
            self.encoder_transformer.init_state(rows),
            self.downsample.init_state(rows, zero_start=zero_start),
        )

    def latents(
        self, pcm: Tensor, state: EncoderState | None = None, exec_mask: Tensor | None = None
    ) -> Tensor:
        """Return latents [B, dimension, n], before quantisation.

        `pcm` is [B, 1, frame_samples · n].
        """
        x = self.encoder(pcm, state and state.encoder, exec_mask)
        x = self.encoder_transformer(x, state and state.transformer, exec_mask)
        return self.downsample(x, state and state.downsample, exec_mask)

    def encode(
        self,
        pcm: Tensor,
        count: int,
        state: EncoderState | None = None,
        exec_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the first `count` codes, int64 [B, count, n], of `pcm`.

        `pcm` is float32 [B, 1, frame_samples · n]. Without `state`, `pcm` is a whole signal; with
        it, the next frames of each row that `exec_mask` marks.
        """
        return self.quantizer.encode(self.latents(pcm, state, exec_mask), count)


class MimiDecoder(nn.Module):
    """The half that text-to-speech needs."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self.config = config
        width, stride = config.seanet.dimension, config.resample_stride
        self.quantizer = SplitQuantizer(width, config.quantizer_dimension, config.n_q, config.bins)
        self.upsample = CausalConvTranspose(width, width, stride, bias=False, depthwise=True)
        self.decoder_transformer = CodecTransformer(config.transformer)
        self.decoder = SeanetDecoder(config.seanet)

    def init_state(self, rows: RowState) -> DecoderState:
        """Return the state of fresh streams for `rows`."""
        return DecoderState(
            self.upsample.init_state(rows),
            self.decoder_transformer.init_state(rows),
            self.decoder.init_state(rows),
        )

    def decode(
        self, codes: Tensor, state: DecoderState | None = None, exec_mask: Tensor | None = None
    ) -> Tensor:
        """Return PCM float32 [B, 1, frame_samples · n] of `codes`.

        `codes` is int64 [B, K, n], each in 0..bins-1. K may be less than `n_q`.
        """
        x = self.upsample(self.quantizer.decode(codes), state and state.upsample, exec_mask)
        x = self.decoder_transformer(x, state and state.transformer, exec_mask)
        return self.decoder(x, state and state.decoder, exec_mask)
