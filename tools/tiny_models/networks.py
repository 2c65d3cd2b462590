"""The product's networks, made trainable: weights are drawn here, and whole sequences run without
the product's streaming state.

The modules are those that the product loads, so names and shapes agree by construction; tests
compare the results.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.models import LmShape
from dsmops.worker.models.mimi import MimiConfig, MimiDecoder, MimiEncoder
from dsmops.worker.models.quantizer import ResidualQuantizer, SplitQuantizer
from dsmops.worker.models.stt_lm import SttLm
from tools.tiny_models.settings import MAX_PERIOD, MIMI


def initialise(module: nn.Module, layer_scale: float = 0.1) -> None:
    """Draw weights: fan-in scaled for products, ones for norms, zeros for biases."""
    for name, parameter in module.named_parameters():
        if name.endswith("scale"):
            nn.init.constant_(parameter, layer_scale)
        elif name.endswith("alpha") or ("norm" in name and name.endswith("weight")):
            nn.init.ones_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 3:
            transposed = "decoder.model" in name and parameter.shape[-1] in (8, 10, 12, 16)
            fan = parameter.shape[0] * 2 if transposed else parameter[0].numel()
            nn.init.normal_(parameter, std=1.2 / math.sqrt(fan))
        elif name in ("emb", "text_emb"):
            nn.init.normal_(parameter, std=0.3)
        else:
            nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[-1]))
            if name.endswith(("out_proj.weight", "linear_out.weight")):
                parameter.data *= 0.4


class Codec(nn.Module):
    """Encoder, quantiser and decoder, with the running sums that move the centroids."""

    def __init__(self, config: MimiConfig | None = None) -> None:
        super().__init__()
        config = config or MimiConfig.from_json(MIMI)
        self.config = config
        self.encoder = MimiEncoder(config)
        self.decoder = MimiDecoder(config)
        initialise(self)
        nn.init.constant_(self.decoder.upsample.weight, 0.5)
        self.decoder.quantizer = self.encoder.quantizer
        quantizer = self.encoder.quantizer
        for half in (quantizer.rvq_first, quantizer.rvq_rest):
            half.codebooks.normal_()
            half.register_buffer("usage", torch.zeros(half.codebooks.shape[:2]))
            half.register_buffer("sums", torch.zeros_like(half.codebooks))
        self.started = False

    @property
    def quantizer(self) -> SplitQuantizer:
        """The quantiser, which both halves share."""
        return self.encoder.quantizer

    def quantize(self, latents: Tensor, *, learn: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return codes [B, K, T], quantised residuals [B, K, T, dim] with straight-through
        gradients, latents again, and the commitment.
        """
        quantizer = self.quantizer
        latents = latents.float()
        codes, steps, commitments = [], [], []
        decoded = torch.zeros((), device=latents.device)
        with torch.autocast(latents.device.type, enabled=False):
            for half in (quantizer.rvq_first, quantizer.rvq_rest):
                left = half.input_proj(latents).transpose(1, 2)
                total = torch.zeros((), device=latents.device)
                for level in range(len(half.codebooks)):
                    flat = left.detach().reshape(-1, left.shape[-1])
                    code = torch.addmm(
                        half.codebooks[level].square().sum(-1) / 2,
                        flat,
                        half.codebooks[level].t(),
                        alpha=-1,
                    ).argmin(-1)
                    chosen = half.codebooks[level][code].view_as(left)
                    if learn:
                        self._move(half, level, flat, code)
                    commitments.append(F.mse_loss(left, chosen))
                    through = left + (chosen - left).detach()
                    codes.append(code.view(left.shape[:2]))
                    steps.append(through)
                    total = total + through
                    left = left - chosen
                decoded = decoded + half.output_proj(total.transpose(1, 2))
        return (
            torch.stack(codes, 1),
            torch.stack(steps, 1),
            decoded,
            torch.stack(commitments).mean(),
        )

    @torch.no_grad()
    def _move(
        self, half: ResidualQuantizer, level: int, flat: Tensor, code: Tensor, decay: float = 0.98
    ) -> None:
        bins = half.codebooks.shape[1]
        if not self.started and half.usage[level].sum() == 0:
            picked = flat[torch.randint(len(flat), (bins,), device=flat.device)]
            half.codebooks[level] = picked + 0.01 * torch.randn_like(picked)
            half.usage[level] = 1
            half.sums[level] = half.codebooks[level]
            return
        counts = torch.zeros(bins, device=flat.device).index_add_(
            0, code, torch.ones_like(code, dtype=torch.float32)
        )
        sums = torch.zeros(bins, flat.shape[1], device=flat.device).index_add_(0, code, flat)
        half.usage[level].lerp_(counts, 1 - decay)
        half.sums[level].lerp_(sums, 1 - decay)
        # A centroid that almost nothing chooses starts again at an input of this batch.
        dead = half.usage[level] < 0.03 * len(flat) / bins
        picked = flat[torch.randint(len(flat), (bins,), device=flat.device)]
        half.sums[level] = torch.where(dead[:, None], picked, half.sums[level])
        half.usage[level] = torch.where(dead, torch.ones_like(counts), half.usage[level])
        half.codebooks[level] = half.sums[level] / half.usage[level][:, None]

    def synthesise(self, decoded: Tensor, first: int, count: int, warm: int = 4) -> Tensor:
        """Return PCM [B, 1, count · 1920] of frames `first` on, from quantised latents [B, width,
        T]; `first` is at least `warm`.
        """
        decoder = self.decoder
        x = decoder.decoder_transformer(decoder.upsample(decoded))
        return decoder.decoder(x[..., 2 * (first - warm) : 2 * (first + count)])[..., warm * 1920 :]


def rotary(
    length: int, head_dim: int, period: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [T, D / 2] of the positions."""
    frequency = torch.exp(
        torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
        / head_dim
        * -math.log(period)
    )
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency
    return angle.cos(), angle.sin()


def turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return `x` [..., T, D] with adjacent pairs turned."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return (
        torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1)
        .flatten(-2)
        .to(x.dtype)
    )


def causal_mask(length: int, context: int, device: torch.device) -> Tensor | None:
    """Return bool [T, T], True where a query sees a key; None where plain causality says the
    same.
    """
    if length <= context:
        return None
    steps = torch.arange(length, device=device)
    distance = steps[:, None] - steps
    return (distance >= 0) & (distance < context)


def self_attend(
    layer: nn.Module, x: Tensor, heads: int, turns: tuple[Tensor, Tensor], mask: Tensor | None
) -> Tensor:
    """Return the attention of one layer of the backbone, output projection included."""
    packed = F.linear(x, layer.in_proj_weight).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = turn(packed[0], *turns), turn(packed[1], *turns), packed[2]
    y = F.scaled_dot_product_attention(
        query, key.to(query.dtype), value.to(query.dtype), attn_mask=mask, is_causal=mask is None
    )
    return layer.out_proj(y.transpose(1, 2).flatten(-2))


class SttNet(nn.Module):
    """The STT language model over whole streams."""

    def __init__(
        self, shape: LmShape, max_period: float = MAX_PERIOD, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.lm = SttLm(shape, max_period)
        self.dropout = dropout
        initialise(self.lm)
        with torch.no_grad():
            self.lm.emb.mul_(1 / math.sqrt(shape.audio_codebooks))

    def audio(self, codes: Tensor) -> Tensor:
        """Return the sum of the audio embeddings [B, T, D] of `codes` [B, K, T]."""
        return F.embedding(self.lm.audio_rows(codes), self.lm.emb).sum(1)

    def forward(self, audio: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return text logits [B, T, V] and head logits [B, T, heads, classes] from audio embeddings
        [B, T, D] and text int64 [B, T].
        """
        lm = self.lm
        x = audio + F.embedding(text, lm.text_emb)
        x = F.dropout(x, self.dropout, self.training)
        turns = rotary(x.shape[1], lm.head_dim, lm.max_period, x.device)
        mask = causal_mask(x.shape[1], lm.shape.context, x.device)
        for layer in lm.layers:
            x = x + F.dropout(
                self_attend(layer.self_attn, layer.norm1(x), lm.shape.num_heads, turns, mask),
                self.dropout,
                self.training,
            )
            x = x + F.dropout(
                layer.gating.linear_out(layer.gating(layer.norm2(x))), self.dropout, self.training
            )
        x = lm.out_norm(x)
        return lm.text_linear(x), F.linear(x, lm.extra_heads).unflatten(-1, lm.shape.extra_heads)


def stt_inputs(codes: Tensor, tokens: Tensor, lm: SttLm) -> tuple[Tensor, Tensor]:
    """Return the codes and the text that the steps hear: those of the step before, initial tokens
    at the first.
    """
    audio = torch.cat([torch.full_like(codes[..., :1], lm.initial_audio), codes[..., :-1]], -1)
    text = torch.cat([torch.full_like(tokens[:, :1], lm.initial_text), tokens[:, :-1]], 1)
    return audio, text


@torch.no_grad()
def greedy(net: SttNet, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most probable tokens [B, T] and pause probabilities [B, T, heads] for `codes` [B,
    K, T], step by step.
    """
    lm = net.lm
    batch, _, length = codes.shape
    audio = net.audio(
        torch.cat([torch.full_like(codes[..., :1], lm.initial_audio), codes[..., :-1]], -1)
    )
    heads, depth = lm.shape.num_heads, lm.head_dim
    cosine, sine = rotary(length, depth, lm.max_period, codes.device)
    keys = [audio.new_zeros(batch, heads, length, depth) for _ in lm.layers]
    values = [audio.new_zeros(batch, heads, length, depth) for _ in lm.layers]
    token = torch.full((batch,), lm.initial_text, device=codes.device)
    tokens, pauses = [], []
    for step in range(length):
        x = (audio[:, step] + lm.text_emb[token])[:, None]
        low = max(0, step + 1 - lm.shape.context)
        for layer, key, value in zip(lm.layers, keys, values, strict=True):
            packed = (
                F.linear(layer.norm1(x), layer.self_attn.in_proj_weight)
                .unflatten(-1, (3, heads, -1))
                .permute(2, 0, 3, 1, 4)
            )
            query = turn(packed[0], cosine[step : step + 1], sine[step : step + 1])
            key[:, :, step : step + 1] = turn(
                packed[1], cosine[step : step + 1], sine[step : step + 1]
            )
            value[:, :, step : step + 1] = packed[2]
            y = F.scaled_dot_product_attention(
                query, key[:, :, low : step + 1], value[:, :, low : step + 1]
            )
            x = x + layer.self_attn.out_proj(y.transpose(1, 2).flatten(-2))
            x = x + layer.gating.linear_out(layer.gating(layer.norm2(x)))
        x = lm.out_norm(x)
        token = lm.text_linear(x)[:, 0].argmax(-1)
        tokens.append(token)
        pauses.append(
            F.linear(x, lm.extra_heads)
            .unflatten(-1, lm.shape.extra_heads)[:, 0]
            .float()
            .softmax(-1)[..., 0]
        )
    return torch.stack(tokens, 1), torch.stack(pauses, 1)
