"""The language model of DSM text-to-speech: text so far and codes so far in, the next text prediction and the next codes out.

The backbone of speech-to-text with cross-attention to the voices in every layer, and a depformer behind it. Weights and caches are f16,
bf16 or f32, conditioners float32. Source: `moshi` 0.2.13, `models/lm.py`; parity is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.worker.models.attention import CrossAttention, RingState, init_ring, plan_positions
from dsmops.worker.models.backbone import Layer, RmsNorm
from dsmops.worker.models.conditioning import Conditioning
from dsmops.worker.models.depformer import DemuxEmbedding, Depformer
from dsmops.worker.models.state import RowState
from dsmops.worker.models.tts_config import TtsConfig

ZERO = -1
"""A token that adds nothing to the input."""


class TtsLm(nn.Module):
    """The network of one TTS language model that generates the first `codebooks` codebooks.

    `emb` holds the audio tables of all codebooks in one, [K · audio_vocab_size + 1, D]; codebook q starts at row q · audio_vocab_size, and
    the very last row is zero. The last row of each table, and of the text table, is the initial token.
    """

    def __init__(self, config: TtsConfig, codebooks: int) -> None:
        super().__init__()
        shape = config.shape.lm
        self.shape = shape
        self.max_period = config.max_period
        self.head_dim = shape.d_model // shape.num_heads
        self.emb = nn.Parameter(torch.empty(shape.audio_codebooks * shape.audio_vocab_size + 1, shape.d_model))
        self.text_emb = DemuxEmbedding(shape.text_in_vocab_size, shape.d_model, shape.d_model)
        self.layers = nn.ModuleList(Layer(shape, cross=True) for _ in range(shape.num_layers))
        self.out_norm = RmsNorm(shape.d_model)
        self.text_linear = nn.Linear(shape.d_model, shape.text_out_vocab_size, bias=False)
        self.depformer = Depformer(config.shape, codebooks)
        self.conditioning = Conditioning(config)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights, activations and caches."""
        return self.emb.dtype

    @property
    def codebooks(self) -> int:
        """Codebooks that are generated."""
        return len(self.depformer.schedule)

    @property
    def initial_text(self) -> int:
        """The text token of a stream's first step."""
        return self.shape.text_in_vocab_size - 1

    @property
    def initial_audio(self) -> int:
        """The code of every codebook before its first own."""
        return self.shape.audio_vocab_size - 1

    def init_state(self, rows: RowState) -> RingState:
        """Return empty rings of `context` positions for `rows`."""
        shape = self.shape
        return init_ring(rows, shape.num_layers, shape.num_heads, self.head_dim, shape.context, self.dtype)

    def prepare(self) -> None:
        """Fill what no file holds; to be called once the weights are loaded."""
        self.emb[-1].zero_()
        self.text_emb.prepare()
        self.depformer.prepare()

    def voice(self, sequence: Tensor) -> list[Tensor]:
        """Return each layer's keys and values [H, 2, L, D] of a conditioning sequence, float32 [L, width], cast once."""
        return [cast("CrossAttention", layer.cross_attention).project(sequence.to(self.dtype)) for layer in self.layers]

    def forward(
        self, text: Tensor, audio: Tensor, summed: Tensor, cross: Sequence[Tensor], ring: RingState | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return text logits [B, T, V] and the states [B, T, D] that the depformer reads, both in the model's dtype.

        Shapes (B rows, K codebooks, T steps): `text` int64 [B, T], multiplexed; `audio` int64 [B, K, T]; -1 adds nothing in both.
        `summed` [B, D] and, per layer, `cross` [B, H, 2, L, Dh] condition each row. Without `ring` the T steps are a whole stream; with
        it, each row's next ones, and the caller moves `ring.offset` on where they count.
        """
        shape = self.shape
        first_rows = torch.arange(shape.audio_codebooks, device=audio.device)[:, None] * shape.audio_vocab_size
        x = F.embedding(torch.where(audio < 0, len(self.emb) - 1, audio + first_rows), self.emb).sum(1) + summed[:, None]
        x = torch.addmm(x.flatten(0, 1), self.text_emb.read(text).flatten(0, 1), self.text_emb.out.t()).view_as(x)
        at = plan_positions(
            text.shape[1],
            head_dim=self.head_dim,
            context=shape.context,
            period=self.max_period,
            dtype=x.dtype,
            device=x.device,
            ring=ring,
        )
        for number, layer in enumerate(self.layers):
            x = layer(x, at, ring, number, cross[number])
        x = self.out_norm(x)
        return self.text_linear(x), x
