"""The TTS language model: from text and codes so far to the next text and codes.

It is the backbone of speech-to-text with cross-attention to the voices in every layer, and a
depformer behind it. Weights and caches are f16, bf16 or f32, conditioners float32.

Source: `moshi` 0.2.13, `models/lm.py`; parity is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.worker.models.attention import CrossAttention, KeysValues, RingState
from dsmops.worker.models.backbone import Backbone
from dsmops.worker.models.conditioning import Conditioning
from dsmops.worker.models.depformer import DemuxEmbedding, Depformer, DepformerLayer
from dsmops.worker.models.state import RowState
from dsmops.worker.models.tts_config import TtsConfig

ZERO = -1
"""A token that adds nothing to the input."""


class TtsLm(Backbone):
    """The network of one TTS language model that generates the first `codebooks` codebooks.

    `emb` holds the audio tables of all codebooks and a last row that is zero, [K · audio_vocab_size
    + 1, D].
    """

    def __init__(self, config: TtsConfig, codebooks: int) -> None:
        shape = config.shape.lm
        super().__init__(shape, config.max_period, cross=True)
        self.emb = nn.Parameter(
            torch.empty(shape.audio_codebooks * shape.audio_vocab_size + 1, shape.d_model)
        )
        self.text_emb = DemuxEmbedding(shape.text_in_vocab_size, shape.d_model, shape.d_model)
        self.depformer = Depformer(config.shape, codebooks)
        self.conditioning = Conditioning(config)

    @property
    def codebooks(self) -> int:
        """Codebooks that are generated."""
        return len(self.depformer.schedule)

    def prepare(self) -> None:
        """Fill what no file holds; to be called once the weights are loaded."""
        self.emb[-1].zero_()
        self.text_emb.prepare()
        self.depformer.prepare()

    def hold_int8(self) -> None:
        super().hold_int8()
        for layer in cast("list[DepformerLayer]", self.depformer.layers):
            layer.hold_int8()

    def init_cross(self, rows: RowState, length: int) -> list[KeysValues]:
        """Return empty keys and values of `length` positions for `rows`, one for each layer.

        A reset of rows leaves them: each new stream replaces its own.
        """
        heads, width = self.shape.num_heads, self.head_dim
        return [
            KeysValues.zeros(rows, heads, length, width, self.dtype, self.kv, is_cleared=False)
            for _ in self.layers
        ]

    def voice(self, sequence: Tensor) -> list[Tensor]:
        """Return each layer's keys and values [H, 2, L, D] of a conditioning sequence.

        `sequence` is float32 [L, width], and is cast once.
        """
        return [
            cast("CrossAttention", layer.cross_attention).project(sequence.to(self.dtype))
            for layer in self.layers
        ]

    def forward(
        self,
        text: Tensor,
        audio: Tensor,
        summed: Tensor,
        cross: Sequence[KeysValues],
        ring: RingState | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return text logits [B, T, V] and the states [B, T, D] that the depformer reads.

        Both are in the model's dtype.

        Shapes (B rows, K codebooks, T steps): `text` int64 [B, T], multiplexed; `audio` int64 [B,
        K, T]; -1 adds nothing in both. `summed` [B, D] and, per layer, `cross` of B rows condition
        each row. Without `ring` the T steps are a whole stream; with it, each row's next ones, and
        the caller moves `ring.offset` on where they count.
        """
        x = (
            F.embedding(
                torch.where(audio < 0, len(self.emb) - 1, self.audio_rows(audio)), self.emb
            ).sum(1)
            + summed[:, None]
        )
        x = torch.addmm(
            x.flatten(0, 1), self.text_emb.read(text).flatten(0, 1), self.text_emb.out.t()
        ).view_as(x)
        return self.transform(x, ring, cross)
