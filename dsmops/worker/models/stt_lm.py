"""The language model of DSM speech-to-text: codes and text so far in, the next text token out.

Weights and caches are f16, bf16 or f32. Source: `moshi` 0.2.13, `models/lm.py`; parity is tested.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.models import LmShape
from dsmops.worker.models.attention import RingState
from dsmops.worker.models.backbone import Backbone


class SttLm(Backbone):
    """The network of one STT language model.

    `emb` holds the audio tables, [K · audio_vocab_size, D]; `text_emb` is the text table.
    """

    def __init__(self, shape: LmShape, max_period: float) -> None:
        super().__init__(shape, max_period)
        self.emb = nn.Parameter(
            torch.empty(shape.audio_codebooks * shape.audio_vocab_size, shape.d_model)
        )
        self.text_emb = nn.Parameter(torch.empty(shape.text_in_vocab_size, shape.d_model))
        heads, classes = shape.extra_heads or (0, 0)
        self.extra_heads = (
            nn.Parameter(torch.empty(heads * classes, shape.d_model)) if heads else None
        )

    def forward(
        self,
        text: Tensor,
        audio: Tensor,
        ring: RingState | None = None,
        exec_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return text logits [B, T, V] and the states [B, T, D] that the extra heads read.

        Both are in the model's dtype.

        Shapes (B rows, K codebooks, T steps): `text` int64 [B, T], `audio` int64 [B, K, T]; ids as
        in the published vocabularies, the initial tokens included. Without `ring` the T steps are a
        whole stream; with it, each row's next ones, and rows where `exec_mask` (bool [B]) is False
        stay where they are.
        """
        x = F.embedding(self.audio_rows(audio), self.emb).sum(1) + F.embedding(text, self.text_emb)
        logits, states = self.transform(x, ring)
        if ring is not None and exec_mask is not None:
            ring.offset.add_(exec_mask * text.shape[1])
        return logits, states

    def pause_probabilities(self, states: Tensor) -> Tensor | None:
        """Return float32 [B, T, heads], the probability of each semantic-VAD head's class 0.

        None for a model without heads.

        The four heads of the 1B model stand for a pause of at least 0.5, 1, 2 and 3 s.
        """
        if self.extra_heads is None or self.shape.extra_heads is None:
            return None
        logits = F.linear(states, self.extra_heads).unflatten(-1, self.shape.extra_heads)
        return logits.float().softmax(-1)[..., 0]
