"""The files of a TTS model, and the values in its `config.json` that its networks need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsmops.errors import InputError
from dsmops.models import DEFAULT_TTS, ConditionerShape, DepformerShape, LmShape, TtsShape
from dsmops.worker.models.config_values import (
    MOST_LAYERS,
    check_heads,
    finite_number,
    section,
    server_feed_forward,
    whole_number,
)
from dsmops.worker.models.conventions import END_OF_PADDING, FRAMES_PER_S, PADDING

VOICE_FRAMES = 125
"""Latents of a voice file: 10 s at 12.5 Hz."""
CONTROL, CFG, VOICE = "control", "cfg", "speaker_wavs"
"""The conditioners that are known here: two lookup tables, summed, and the speakers' voices,
attended to."""
CONTROL_VALUE = "ok"
"""What the `control` conditioner always gets."""

_REQUIRED: dict[str, tuple[Any, Any]] = {
    "model_type": ("moshi", "tts"),
    "norm": ("layer_norm", "rms_norm_f32"),
    "gating": ("none", "silu"),
    "positional_embedding": ("sin", "rope"),
    "causal": (True, True),
    "layer_scale": (None, None),
    "bias_proj": (False, False),
    "norm_emb": (False, False),
    "kv_repeat": (1, 1),
    "cross_attention": (False, True),
    "demux_second_stream": (False, True),
    "existing_text_padding_id": (3, PADDING),
    "existing_text_end_padding_id": (0, END_OF_PADDING),
    "extra_heads_num_heads": (0, 0),
    "depformer_multi_linear": (False, True),
    "depformer_weights_per_step": (False, True),
    "depformer_pos_emb": ("sin", "none"),
    "depformer_norm": (None, None),
    "depformer_gating": ("silu", "silu"),
    "depformer_layer_scale": (None, None),
    "depformer_kv_repeat": (1, 1),
    "lora": (False, False),
    "lora_name": (None, None),
    "mimi_config_name": (None, None),
}
"""Key → (value when the key is absent, the only value that the networks here take)."""

_READ = frozenset(
    {
        *("n_q", "dep_q", "card", "text_card", "text_card_out", "delays"),
        *("dim", "num_heads", "num_layers", "hidden_scale", "context", "max_period"),
        *("conditioners", "fuser", "tts_config", "model_id"),
        *(
            "depformer_dim",
            "depformer_num_heads",
            "depformer_num_layers",
            "depformer_dim_feedforward",
        ),
        *("depformer_weights_per_step_schedule", "depformer_low_rank_embeddings"),
    }
)
_WITHOUT_EFFECT = frozenset(
    {
        *("moshi_name", "mimi_name", "tokenizer_name", "lm_gen_config", "stt_config"),
        *(
            "extra_heads_dim",
            "depformer_causal",
            "depformer_context",
            "depformer_max_period",
            "lora_rank",
            "lora_scaling",
        ),
    }
)
"""File names, which the caller resolves, and keys that change nothing in a model of this kind, in
upstream's package either."""

_LUT_REQUIRED = {"tokenizer": "noop"}
_CONDITIONER_OPTIONAL = {
    "init_scale": None,
    "force_linear": True,
    "pad_empty": True,
    "output_bias": False,
    "learn_padding": True,
}
"""Key → the only value that it may have; None where any does."""
_FUSER_REQUIRED = {
    "cross_attention_pos_emb": True,
    "cross_attention_pos_emb_scale": 1,
    "prepend": [],
}

_HINT = f"Take config.json from the repository of the model, {DEFAULT_TTS.hf_repo}."
_MOST_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class TtsFiles:
    """The four local files of a model; `config` is its own `config.json`."""

    lm: Path
    mimi: Path
    tokenizer: Path
    config: Path


@dataclass(frozen=True, slots=True)
class TtsConfig:
    """A text-to-speech model: network dimensions and how its audio relates to its text.

    `delays`: steps by which each codebook comes after the first. `delay_steps`: steps from a word
    to its audio. `cfg_values`: what the `cfg` conditioner takes, empty for a model without one,
    which is not distilled. `voice_suffix`: how names of its voice files end.
    """

    shape: TtsShape
    max_period: float
    delays: tuple[int, ...]
    delay_steps: int
    second_stream_ahead: int
    max_speakers: int = 5
    voice_frames: int = VOICE_FRAMES
    control_values: tuple[str, ...] = ()
    cfg_values: tuple[float, ...] = ()
    voice_suffix: str = ".safetensors"

    @property
    def max_delay(self) -> int:
        """Steps by which the last codebook comes after the first."""
        return max(self.delays)

    @property
    def voice_width(self) -> int:
        """Channels of a voice file."""
        return next(
            conditioner.width
            for conditioner in self.shape.conditioners
            if conditioner.name == VOICE
        )

    @property
    def voice_shape(self) -> tuple[int, int]:
        """Shape of a voice: channels, frames."""
        return self.voice_width, self.voice_frames

    @property
    def distilled(self) -> bool:
        """Whether guidance is an input of the model."""
        return bool(self.cfg_values)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> TtsConfig:
        """Read the parsed `config.json` of a published TTS repository.

        Raises:
            InputError: a key is missing, unknown or of the wrong type, or describes something that
                is not such a model.
        """
        for key, (default, required) in _REQUIRED.items():
            if body.get(key, default) != required:
                says = (
                    f"has {key} = {body[key]!r}"
                    if key in body
                    else f"does not say {key}, which means {default!r}"
                )
                raise InputError(
                    f"this config.json {says}; text-to-speech models have {required!r}", hint=_HINT
                )
        try:
            _refuse_unknown("config.json", body, _REQUIRED.keys() | _READ | _WITHOUT_EFFECT)
            return _read(body)
        except ValueError as exc:
            raise InputError(f"this config.json cannot be used: {exc}", hint=_HINT) from exc


def _refuse_unknown(what: str, body: Mapping[str, Any], known: frozenset[str] | set[str]) -> None:
    unknown = [key for key in body if key not in known]
    if unknown:
        raise ValueError(f"{what} has unknown keys: {', '.join(map(repr, unknown[:4]))}")


def _read(body: Mapping[str, Any]) -> TtsConfig:
    width, heads, text_card = (whole_number(body, key) for key in ("dim", "num_heads", "text_card"))
    check_heads(width, heads)
    codebooks = whole_number(body, "n_q", most=MOST_LAYERS)
    if whole_number(body, "dep_q") != codebooks:
        raise ValueError(f"dep_q = {body['dep_q']} is not n_q = {codebooks}")
    if body.get("text_card_out") not in (None, text_card):
        raise ValueError(f"text_card_out = {body['text_card_out']!r} is not text_card")
    hidden_scale = finite_number(body, "hidden_scale", 4, least=1, most=1024)
    backbone = LmShape(
        d_model=width,
        num_heads=heads,
        num_layers=whole_number(body, "num_layers", most=MOST_LAYERS),
        dim_feedforward=server_feed_forward(width, int(hidden_scale * width)),
        context=whole_number(body, "context"),
        text_in_vocab_size=text_card + 1,
        text_out_vocab_size=text_card,
        audio_vocab_size=whole_number(body, "card") + 1,
        audio_codebooks=codebooks,
        extra_heads=None,
    )
    conditioners, values = _read_conditioners(body)
    tts, model_id = section(body, "tts_config"), section(body, "model_id")
    _refuse_unknown(
        "tts_config", tts, {"audio_delay", "second_stream_ahead", "multistream", "max_speakers"}
    )
    if tts.get("multistream", False):
        raise ValueError(
            "tts_config.multistream is on; two speakers in separate codebooks are not supported"
        )
    ahead = whole_number(tts, "second_stream_ahead", least=1, most=MOST_LAYERS)
    return TtsConfig(
        shape=TtsShape(backbone, _read_depformer(body, codebooks, hidden_scale), conditioners),
        max_period=finite_number(body, "max_period", 10_000, least=1),
        delays=_read_delays(body, codebooks),
        delay_steps=int(finite_number(tts, "audio_delay", 0.0, most=_MOST_DELAY_S) * FRAMES_PER_S),
        second_stream_ahead=ahead,
        max_speakers=whole_number(tts, "max_speakers", 5, most=MOST_LAYERS),
        control_values=tuple(values.get(CONTROL, ())),
        cfg_values=tuple(float(value) for value in values.get(CFG, ())),
        voice_suffix=f".{model_id['sig']}@{model_id['epoch']}.safetensors"
        if {"sig", "epoch"} <= model_id.keys()
        else ".safetensors",
    )


def _read_delays(body: Mapping[str, Any], codebooks: int) -> tuple[int, ...]:
    delays = body.get("delays")
    whole = isinstance(delays, list) and all(
        type(delay) is int and 0 <= delay <= MOST_LAYERS for delay in delays
    )
    if not whole or len(delays) != codebooks + 1 or delays[0] != 0:  # type: ignore[arg-type,index]
        raise ValueError(
            f"delays = {delays!r} is not 0 for the text and then steps for {codebooks} codebooks"
        )
    return tuple(delays[1:])  # type: ignore[index]


def _read_depformer(body: Mapping[str, Any], codebooks: int, hidden_scale: float) -> DepformerShape:
    width, heads = whole_number(body, "depformer_dim"), whole_number(body, "depformer_num_heads")
    check_heads(width, heads)
    schedule = body.get("depformer_weights_per_step_schedule")
    schedule = list(range(codebooks)) if schedule is None else schedule
    if (
        not isinstance(schedule, list)
        or len(schedule) != codebooks
        or not all(type(number) is int and 0 <= number < codebooks for number in schedule)
        or sorted(set(schedule)) != list(range(max(schedule) + 1))
    ):
        raise ValueError(
            f"depformer_weights_per_step_schedule = {schedule!r} "
            "does not name a weight set, counted from 0, for every codebook"
        )
    given = body.get("depformer_dim_feedforward")
    feed_forward = (
        int(hidden_scale * width)
        if given is None
        else whole_number(body, "depformer_dim_feedforward")
    )
    return DepformerShape(
        d_model=width,
        num_heads=heads,
        num_layers=whole_number(body, "depformer_num_layers", most=MOST_LAYERS),
        ffn_hidden=2 * server_feed_forward(width, feed_forward) // 3,
        schedule=tuple(schedule),
        low_rank=whole_number(body, "depformer_low_rank_embeddings"),
    )


def _read_conditioners(
    body: Mapping[str, Any],
) -> tuple[tuple[ConditionerShape, ...], dict[str, list[str]]]:
    """Return the conditioners, and the values of those that are lookup tables.

    Checks that the fuser puts each where it belongs.
    """
    given, fuser = section(body, "conditioners"), section(body, "fuser")
    _refuse_unknown("conditioners", given, {CONTROL, CFG, VOICE})
    if VOICE not in given:
        raise ValueError(
            f"the conditioner {VOICE!r} is missing; models without it are not supported"
        )
    summed = [name for name in given if name != VOICE]
    _refuse_unknown("fuser", fuser, {"sum", "cross", *_FUSER_REQUIRED})
    sums = fuser.get("sum", [])
    if not isinstance(sums, list) or not all(isinstance(name, str) for name in sums):
        raise ValueError(f"fuser.sum = {sums!r} is not a list of names")
    wrong = [
        key
        for key, value in _FUSER_REQUIRED.items()
        if fuser.get(key, value if key == "prepend" else None) != value
    ]
    if wrong or sorted(sums) != sorted(summed) or fuser.get("cross") != [VOICE]:
        raise ValueError(
            f"fuser = {dict(fuser)!r} does not sum {summed} "
            f"and attend to {VOICE!r} with its positions encoded"
        )
    shapes, values = [], {}
    for name, entry in ((name, section(given, name)) for name in given):
        kind = "tensor" if name == VOICE else "lut"
        if entry.get("type") != kind:
            raise ValueError(
                f"the conditioner {name!r} is of type {entry.get('type')!r}, not {kind!r}"
            )
        inner = section(entry, kind)
        _refuse_unknown(f"the conditioner {name!r}", entry, {"type", kind})
        expected = {**_CONDITIONER_OPTIONAL, **(_LUT_REQUIRED if kind == "lut" else {})}
        _refuse_unknown(
            f"the conditioner {name!r}",
            inner,
            {"dim", *expected, *(("n_bins", "possible_values") if kind == "lut" else ())},
        )
        for key, value in expected.items():
            if value is not None and inner.get(key, value) != value:
                raise ValueError(
                    f"the conditioner {name!r} has {key} = {inner[key]!r}, not {value!r}"
                )
        bins = whole_number(inner, "n_bins") if kind == "lut" else None
        shapes.append(ConditionerShape(name, whole_number(inner, "dim"), bins))
        if bins is not None:
            values[name] = _read_values(name, inner.get("possible_values"), bins)
    return tuple(shapes), values


def _read_values(name: str, values: Any, bins: int) -> list[str]:
    if (
        not isinstance(values, list)
        or not 0 < len(values) <= bins
        or not all(isinstance(value, str) for value in values)
    ):
        raise ValueError(
            f"the conditioner {name!r} has possible_values = {values!r}, "
            f"not a list of at most {bins} texts"
        )
    if name == CONTROL and CONTROL_VALUE not in values:
        raise ValueError(f"the conditioner {name!r} does not know {CONTROL_VALUE!r}")
    if name == CFG:
        for value in values:
            if not math.isfinite(float(value)):
                raise ValueError(
                    f"the conditioner {name!r} has {value!r} among its possible_values"
                )
    return values
