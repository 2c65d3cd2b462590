"""The TTS language model over whole streams, with gradients.

The weights are the product's own `TtsLm`; only the order of the work differs: all steps at once,
and the codes of a step as they are known instead of as they were drawn. A test compares the two.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.worker.models.conditioning import position_code
from dsmops.worker.models.tts_config import CONTROL, CONTROL_VALUE, VOICE, TtsConfig
from dsmops.worker.models.tts_lm import ZERO, TtsLm
from tools.tiny_models.networks import causal_mask, initialise, rotary, self_attend


class TtsNet(nn.Module):
    """A trainable TTS language model of all its codebooks."""

    def __init__(self, config: TtsConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.dropout = config, dropout
        self.lm = TtsLm(config, config.shape.lm.audio_codebooks)
        initialise(self.lm)
        with torch.no_grad():
            shape = config.shape
            for name, parameter in self.lm.named_parameters():
                if name.endswith("learnt_padding"):
                    parameter.normal_(std=0.1)
                elif name.endswith("text_emb.weight"):
                    parameter.normal_(std=0.3)
                elif name == "depformer.emb":
                    parameter.normal_(std=0.5)
            self.lm.emb.mul_(1 / math.sqrt(shape.lm.audio_codebooks))
            self.zero_rows()
        # On the device from the start: a copy at each step would wait for the device.
        self.register_buffer("delays", torch.tensor(config.delays)[:, None], persistent=False)
        self.register_buffer("schedule", torch.tensor(self.lm.depformer.schedule), persistent=False)

    @torch.no_grad()
    def zero_rows(self) -> None:
        """Keep the rows that stand for no input at zero; to be called after each update."""
        self.lm.emb[-1].zero_()
        for table in (self.lm.text_emb, self.lm.depformer.text_emb):
            table.weight[-1].zero_()

    def conditions(self, voices: Tensor, known: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is added to every step [B, D] and what every step attends to [B, L, D].

        Shapes (B streams): `voices` float32 [B, L, width] with the speakers' frames one after the
        other, `known` bool [B, L] where one is given, `told` bool [B] where the stream is
        conditioned at all.
        """
        conditioners = self.lm.conditioning.conditioners
        voice, control = conditioners[VOICE], conditioners[CONTROL]
        inputs = voice.output_proj(voices)
        sequence = torch.where((known & told[:, None])[..., None], inputs, voice.learnt_padding)
        positions = torch.arange(voices.shape[1], device=voices.device)
        sequence = sequence + position_code(positions, self.lm.conditioning.width)
        index = self.config.control_values.index(CONTROL_VALUE)
        told_vector = control.output_proj(control.lookup(index))
        return torch.where(told[:, None], told_vector, control.learnt_padding[0]), sequence

    def inputs(self, codes: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the audio inputs, the text inputs and the target codes of whole streams.

        Shapes (B streams, K codebooks, T steps, F frames): `codes` int64 [B, K, F], `tokens` int64
        [B, T], multiplexed. Returns audio inputs int64 [B, K, T], text inputs int64 [B, T], and the
        codes that each step generates, int64 [B, K, T], -1 where it generates none.
        """
        lm = self.lm
        batch, count, frames = codes.shape
        length = tokens.shape[1]
        steps = torch.arange(length, device=codes.device)
        frame = steps - self.config.delay_steps - self.delays
        made = codes.gather(2, frame.clamp(0, frames - 1).expand(batch, -1, -1))
        made = torch.where((frame >= 0) & (frame < frames), made, ZERO)
        heard = torch.cat([made.new_full((batch, count, 1), ZERO), made[..., :-1]], -1)
        heard = torch.where(steps <= self.delays, lm.initial_audio, heard)
        told = torch.cat([tokens.new_full((batch, 1), lm.initial_text), tokens[:, :-1]], 1)
        return heard, told, made

    def forward(
        self, text: Tensor, audio: Tensor, summed: Tensor, sequence: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return text logits [B, T, V] and states [B, T, D].

        Shapes as in `TtsLm.forward`; `summed` and `sequence` as `conditions` makes them.
        """
        lm = self.lm
        rows = torch.where(audio < 0, len(lm.emb) - 1, lm.audio_rows(audio))
        x = F.embedding(rows, lm.emb).sum(1) + summed[:, None]
        x = x + F.linear(lm.text_emb.read(text), lm.text_emb.out)
        x = F.dropout(x, self.dropout, self.training)
        heads, width = lm.shape.num_heads, lm.shape.d_model
        turns = rotary(x.shape[1], lm.head_dim, lm.max_period, x.device)
        mask = causal_mask(x.shape[1], lm.shape.context, x.device)
        for layer in lm.layers:
            y = self_attend(layer.self_attn, layer.norm1(x), heads, turns, mask)
            x = x + F.dropout(y, self.dropout, self.training)
            cross = layer.cross_attention
            query = F.linear(layer.norm_cross(x), cross.in_proj_weight[:width])
            packed = F.linear(sequence, cross.in_proj_weight[width:]).unflatten(-1, (2, heads, -1))
            key, value = packed.permute(2, 0, 3, 1, 4)
            query = query.unflatten(-1, (heads, -1)).transpose(1, 2)
            y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
            x = x + F.dropout(cross.out_proj(y), self.dropout, self.training)
            y = layer.gating.linear_out(layer.gating(layer.norm2(x)))
            x = x + F.dropout(y, self.dropout, self.training)
        x = lm.out_norm(x)
        return lm.text_linear(x), x

    def depform(self, states: Tensor, text: Tensor, codes: Tensor) -> Tensor:
        """Return the logits of codes [N, K, card] where the codes before each are `codes` int64
        [N, K].

        Shapes (N steps): `states` [N, D], `text` int64 [N], multiplexed.
        """
        inner = self.lm.depformer
        schedule = self.schedule
        width = inner.heads.shape[-1]
        starts = F.linear(states, inner.inputs).unflatten(-1, (-1, width))[:, schedule]
        told = F.linear(inner.text_emb.read(text), inner.text_emb.out)[:, None]
        before = codes[:, :-1].clamp(min=0)
        offsets = torch.arange(before.shape[1], device=codes.device) * inner.emb.shape[1]
        embedded = F.embedding(before + offsets, inner.emb.flatten(0, 1))
        embedded = torch.einsum("nkr,kwr->nkw", embedded, inner.low_rank.to(embedded.dtype))
        x = starts + torch.cat([told, embedded.to(told.dtype)], 1)
        for layer in inner.layers:
            packed = _per_codebook(layer.norm1(x), layer.in_proj[schedule])
            query, key, value = packed.unflatten(-1, (3, layer.heads, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + _per_codebook(y.transpose(1, 2).flatten(-2), layer.out_proj[schedule])
            gate, up = _per_codebook(layer.norm2(x), layer.linear_in[schedule]).chunk(2, -1)
            x = x + _per_codebook(F.silu(gate) * up, layer.linear_out[schedule])
        return _per_codebook(x, inner.heads)


def _per_codebook(x: Tensor, weights: Tensor) -> Tensor:
    """Return [N, K, out] of `x` [N, K, in] by a matrix of its own for each codebook."""
    return torch.einsum("nki,koi->nko", x, weights.to(x.dtype))
