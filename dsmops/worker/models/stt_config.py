"""The files of an STT model, and the values in its `config.json` that its networks need.

A moshi-server TOML says the same under other keys; its reader builds `SttConfig` directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsmops.errors import InputError
from dsmops.models import LmShape
from dsmops.worker.models.config_values import (
    MOST_LAYERS,
    check_heads,
    finite_number,
    section,
    server_feed_forward,
    whole_number,
)
from dsmops.worker.models.conventions import END_OF_PADDING, FRAMES_PER_S, PADDING

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
    "lora_name": (None, None),
}
"""Key → (value when the key is absent, the only value that STT models have)."""

_MOST_SILENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class SttFiles:
    """The three local files of a model."""

    lm: Path
    mimi: Path
    tokenizer: Path


@dataclass(frozen=True, slots=True)
class SttConfig:
    """A speech-to-text model: network dimensions and how its text relates to its audio.

    `text_delay_steps`: steps between a frame of audio and its text (moshi-server's
    `asr_delay_in_tokens`). `silence_prefix_s`: silence that the model wants before the audio.
    `temperature` 0 takes the most probable token.
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
            InputError: a key is missing, has the wrong type, or describes something that is not an
                STT model.
        """
        try:
            for key, (default, required) in _REQUIRED.items():
                if body.get(key, default) != required:
                    says = (
                        f"has {key} = {body[key]!r}"
                        if key in body
                        else f"does not say {key}, which means {default!r}"
                    )
                    raise InputError(
                        f"this config.json {says}; speech-to-text models have {required!r}",
                        hint=(
                            "Use kyutai/stt-1b-en_fr, kyutai/stt-2.6b-en or one of their -candle "
                            "repositories."
                        ),
                    )
            return _read(body)
        except ValueError as exc:
            raise InputError(
                f"this config.json cannot be used: {exc}",
                hint="Take config.json from the model's own repository.",
            ) from exc


def _read(body: Mapping[str, Any]) -> SttConfig:
    width, heads, text_card = (whole_number(body, key) for key in ("dim", "num_heads", "text_card"))
    check_heads(width, heads)
    delays = body.get("delays", [])
    if not isinstance(delays, list) or any(delay != 0 for delay in delays):
        raise ValueError(f"delays = {delays!r}; speech-to-text models have no delays")
    vad_heads = whole_number(body, "extra_heads_num_heads", 0, least=0, most=MOST_LAYERS)
    stt, generation = section(body, "stt_config"), section(body, "lm_gen_config")
    shape = LmShape(
        d_model=width,
        num_heads=heads,
        num_layers=whole_number(body, "num_layers", most=MOST_LAYERS),
        dim_feedforward=server_feed_forward(
            width, int(finite_number(body, "hidden_scale", 4, least=1, most=1024) * width)
        ),
        context=whole_number(body, "context"),
        text_in_vocab_size=text_card + 1,
        text_out_vocab_size=text_card
        if body.get("text_card_out") is None
        else whole_number(body, "text_card_out"),
        audio_vocab_size=whole_number(body, "card") + 1,
        audio_codebooks=whole_number(body, "n_q", most=MOST_LAYERS),
        extra_heads=(vad_heads, whole_number(body, "extra_heads_dim", 6)) if vad_heads else None,
    )
    return SttConfig(
        lm=shape,
        max_period=finite_number(body, "max_period", 10_000, least=1),
        text_delay_steps=int(
            finite_number(stt, "audio_delay_seconds", 0.0, most=_MOST_SILENCE_S) * FRAMES_PER_S
        ),
        silence_prefix_s=finite_number(
            stt, "audio_silence_prefix_seconds", 0.0, most=_MOST_SILENCE_S
        ),
        temperature=finite_number(generation, "temp_text", 0.0),
    )
