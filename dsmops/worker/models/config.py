"""What a model's own `config.json` says about a DSM speech-to-text model, as values that the networks take.

A moshi-server TOML says the same in other words; whoever reads one builds `SttConfig` directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsmops.errors import InputError
from dsmops.models import LmShape

FRAMES_PER_S = 12.5
PADDING = 3
"""Text token of a step without text."""
END_OF_PADDING = 0
"""Text token that ends a pause: a word starts after it."""
LAST_SPECIAL = 3
"""Ids up to this one carry no text."""

# What the networks here do; a config that wants anything else is refused rather than run wrongly.
_REQUIRED: dict[str, tuple[Any, Any]] = {
    "norm": ("layer_norm", "rms_norm_f32"),
    "gating": ("none", "silu"),
    "positional_embedding": ("sin", "rope"),
    "causal": (True, True),
    "layer_scale": (None, None),
    "bias_proj": (False, False),
    "norm_emb": (False, False),
    "kv_repeat": (1, 1),
    "cross_attention": (False, False),
    "demux_second_stream": (False, False),
    "dep_q": (8, 0),
    "existing_text_padding_id": (3, PADDING),
    "existing_text_end_padding_id": (0, END_OF_PADDING),
}
"""Key → (value when the key is absent, the only value that STT models have)."""


@dataclass(frozen=True, slots=True)
class SttConfig:
    """A speech-to-text model: network dimensions and how its text relates to its audio.

    `text_delay_steps`: steps between a frame of audio and its text (moshi-server's `asr_delay_in_tokens`).
    `silence_prefix_s`: silence that the model wants before the audio. `temperature` 0 takes the most probable token.
    """

    lm: LmShape
    max_period: float
    text_delay_steps: int
    silence_prefix_s: float = 0.0
    temperature: float = 0.0

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> SttConfig:
        """Read the parsed `config.json` of a published STT repository.

        Raises:
            InputError: a key is missing, has the wrong type, or describes something that is not an STT model.
        """
        for key, (default, required) in _REQUIRED.items():
            if body.get(key, default) != required:
                raise InputError(
                    f"this config.json has {key} = {body.get(key, default)!r}; speech-to-text models have {required!r}",
                    hint="The embedded worker transcribes with kyutai/stt-1b-en_fr, kyutai/stt-2.6b-en and their -candle repositories.",
                )
        try:
            return _read(body)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            what = f"the key {exc} is missing" if isinstance(exc, KeyError) else str(exc)
            raise InputError(f"this config.json cannot be used: {what}") from exc


def _read(body: Mapping[str, Any]) -> SttConfig:
    width, n_q, text_card = (_positive(body, key) for key in ("dim", "n_q", "text_card"))
    if any(body.get("delays", ())):
        raise ValueError("its streams have delays; those of STT models have none")
    heads = int(body.get("extra_heads_num_heads", 0))
    stt = body.get("stt_config") or {}
    shape = LmShape(
        d_model=width,
        num_heads=_positive(body, "num_heads"),
        num_layers=_positive(body, "num_layers"),
        dim_feedforward=_feed_forward_like_the_servers(width, float(body.get("hidden_scale", 4))),
        context=_positive(body, "context"),
        text_in_vocab_size=text_card + 1,
        text_out_vocab_size=int(body.get("text_card_out") or text_card),
        audio_vocab_size=_positive(body, "card") + 1,
        audio_codebooks=n_q,
        extra_heads=(heads, int(body.get("extra_heads_dim", 6))) if heads else None,
    )
    return SttConfig(
        lm=shape,
        max_period=float(body.get("max_period", 10_000)),
        text_delay_steps=int(float(stt.get("audio_delay_seconds", 0.0)) * FRAMES_PER_S),
        silence_prefix_s=float(stt.get("audio_silence_prefix_seconds", 0.0)),
        temperature=float((body.get("lm_gen_config") or {}).get("temp_text", 0.0)),
    )


def _positive(body: Mapping[str, Any], key: str) -> int:
    value = body[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{key} = {value!r} is not a positive integer")
    return value


def _feed_forward_like_the_servers(width: int, hidden_scale: float) -> int:
    """Return the `dim_feedforward` from which `LmShape` derives the same hidden width as Python does from `hidden_scale`.

    Python: h = 2·⌊hidden_scale·d⌋/3, but 21·d/8 when ⌊hidden_scale·d⌋ is 4·d. moshi-server's rule differs in that case (11·d/4).
    """
    feed_forward = int(hidden_scale * width)
    if feed_forward != 4 * width:
        return feed_forward
    hidden = 21 * width // 8
    return -(-3 * hidden // 2)
