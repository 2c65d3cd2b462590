"""The language model of DSM speech-to-text: codes and text so far in, the next text token out.

Weights and caches are f16, bf16 or f32. Source: `moshi` 0.2.13, `models/lm.py`; parity is tested.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.models import LmShape
from dsmops.worker.models.attention import RingState, init_ring, plan_positions
from dsmops.worker.models.backbone import Layer, RmsNorm
from dsmops.worker.models.state import RowState


class SttLm(nn.Module):
    """The network of one STT language model.

    `emb` holds all audio tables in one, [K · audio_vocab_size, D]; codebook q starts at row q · audio_vocab_size. The last row of each
    table, and of the text table, is the initial token.
    """

    emb: Tensor

    def __init__(self, shape: LmShape, max_period: float) -> None:
        super().__init__()
        self.shape = shape
        self.max_period = max_period
        self.head_dim = shape.d_model // shape.num_heads
        self.emb = nn.Parameter(torch.empty(shape.audio_codebooks * shape.audio_vocab_size, shape.d_model))
        self.text_emb = nn.Parameter(torch.empty(shape.text_in_vocab_size, shape.d_model))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.out_norm = RmsNorm(shape.d_model)
        self.text_linear = nn.Linear(shape.d_model, shape.text_out_vocab_size, bias=False)
        heads, classes = shape.extra_heads or (0, 0)
        self.extra_heads = nn.Parameter(torch.empty(heads * classes, shape.d_model)) if heads else None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights, activations and caches."""
        return self.text_emb.dtype

    @property
    def initial_text(self) -> int:
        """The text token of a stream's first step."""
        return self.shape.text_in_vocab_size - 1

    @property
    def initial_audio(self) -> int:
        """The code of every codebook at a stream's first step."""
        return self.shape.audio_vocab_size - 1

    def init_state(self, rows: RowState) -> RingState:
        """Return empty rings of `context` positions for `rows`."""
        shape = self.shape
        return init_ring(rows, shape.num_layers, shape.num_heads, self.head_dim, shape.context, self.dtype)

    def forward(self, text: Tensor, audio: Tensor, ring: RingState | None = None, exec_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return text logits [B, T, V] and the states [B, T, D] that the extra heads read, both in the model's dtype.

        Shapes (B rows, K codebooks, T steps): `text` int64 [B, T], `audio` int64 [B, K, T]; ids as in the published vocabularies, the
        initial tokens included. Without `ring` the T steps are a whole stream; with it, each row's next ones, and rows where
        `exec_mask` (bool [B]) is False stay where they are.
        """
        shape = self.shape
        first_rows = torch.arange(shape.audio_codebooks, device=audio.device)[:, None] * shape.audio_vocab_size
        x = F.embedding(audio + first_rows, self.emb).sum(1) + F.embedding(text, self.text_emb)
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
            x = layer(x, at, ring, number)
        if ring is not None and exec_mask is not None:
            ring.offset.add_(exec_mask * text.shape[1])
        x = self.out_norm(x)
        return self.text_linear(x), x

    def pause_probabilities(self, states: Tensor) -> Tensor | None:
        """Return float32 [B, T, heads], the probability of each semantic-VAD head's class 0; None for a model without heads.

        The four heads of the 1B model stand for a pause of at least 0.5, 1, 2 and 3 s.
        """
        if self.extra_heads is None or self.shape.extra_heads is None:
            return None
        logits = F.linear(states, self.extra_heads).unflatten(-1, self.shape.extra_heads)
        return logits.float().softmax(-1)[..., 0]
