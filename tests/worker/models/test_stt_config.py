"""Reading configs: what a usable one says, and that everything else is one clear error."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.errors import InputError
from dsmops.worker.models.loading import mimi_tensors
from dsmops.worker.models.mimi import MimiConfig
from dsmops.worker.models.stt_config import SttConfig
from tests.support.networks import FULL_STT_BODY, MIMI_BODY, STT_BODY, published_shape

PUBLISHED_1B = FULL_STT_BODY | {
    "model_type": "stt",
    "mimi_name": "mimi-pytorch-e351c8d8@125.safetensors",
    "tokenizer_name": "tokenizer_en_fr_audio_8000.model",
    "stt_config": {"audio_delay_seconds": 0.5, "audio_silence_prefix_seconds": 0.0},
    "lm_gen_config": {"temp": 0, "temp_text": 0, "top_k": 250, "top_k_text": 50},
    "model_id": {},
}
PUBLISHED_2_6B = PUBLISHED_1B | {
    "num_heads": 32,
    "num_layers": 48,
    "context": 375,
    "text_card": 4000,
    "extra_heads_num_heads": 0,
    "stt_config": {"audio_delay_seconds": 2.5, "audio_silence_prefix_seconds": 1.0},
}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400, 1e308]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=6,
)


def test_published_1b() -> None:
    """The config of stt-1b-en_fr-candle gives the network that moshi-server's config of it
    gives.
    """
    config = SttConfig.from_json(PUBLISHED_1B)
    published = published_shape("stt-1b-en_fr")
    assert config.lm.tensors() == published.tensors()
    assert (config.lm.num_heads, config.lm.context, config.lm.extra_heads) == (
        published.num_heads,
        published.context,
        (4, 6),
    )
    assert (
        config.max_period,
        config.text_delay_steps,
        config.silence_prefix_s,
        config.temperature,
    ) == (100_000, 6, 0.0, 0.0)


def test_published_2_6b() -> None:
    """The config of stt-2.6b-en gives the network that moshi-server's config of it gives, without
    extra heads.
    """
    config = SttConfig.from_json(PUBLISHED_2_6B)
    published = published_shape("stt-2.6b-en")
    assert config.lm.tensors() == published.tensors()
    assert (config.lm.num_heads, config.lm.context, config.lm.extra_heads) == (
        published.num_heads,
        published.context,
        None,
    )
    assert (config.text_delay_steps, config.silence_prefix_s) == (31, 1.0)


@pytest.mark.parametrize(("heads", "parameters"), [(True, 989_253_632), (False, 989_204_480)])
def test_parameters_of_1b(heads: bool, parameters: int) -> None:
    """The 1B model has the published number of parameters, with and without the semantic-VAD
    heads.
    """
    config = SttConfig.from_json(PUBLISHED_1B | ({} if heads else {"extra_heads_num_heads": 0}))
    assert config.lm.parameters == parameters
    assert len(config.lm.tensors()) == (135 if heads else 131)


def test_parameters_of_2_6b() -> None:
    """The 2.6B model has the published number of parameters and tensors."""
    config = SttConfig.from_json(PUBLISHED_2_6B)
    assert (config.lm.parameters, len(config.lm.tensors())) == (2_617_118_720, 323)


def test_hidden_scale_of_four() -> None:
    """A hidden scale of 4 means 21·d/8 hidden units, as upstream's Python has it, not
    moshi-server's 11·d/4.
    """
    assert SttConfig.from_json(STT_BODY | {"hidden_scale": 4}).lm.ffn_hidden == 21 * 64 // 8


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm", "layer_norm"),
        ("gating", "none"),
        ("positional_embedding", "sin"),
        ("causal", False),
        ("layer_scale", 0.01),
        ("bias_proj", True),
        ("norm_emb", True),
        ("kv_repeat", 2),
        ("cross_attention", True),
        ("demux_second_stream", True),
        ("dep_q", 8),
        ("existing_text_padding_id", 0),
        ("existing_text_end_padding_id", 3),
        ("lora_name", "lora.safetensors"),
    ],
)
def test_another_kind_of_model(key: str, value: object) -> None:
    """A config that wants what these networks do not do is refused by the key that says so."""
    with pytest.raises(InputError, match=f"has {key} = ") as caught:
        SttConfig.from_json(STT_BODY | {key: value})
    assert "stt-1b-en_fr" in caught.value.hint


@pytest.mark.parametrize("key", ["norm", "gating", "positional_embedding", "dep_q"])
def test_key_with_another_default(key: str) -> None:
    """A config that leaves out a key gets upstream's default, which is not that of an STT model.

    The error says so.
    """
    with pytest.raises(InputError, match=f"does not say {key}"):
        SttConfig.from_json({name: value for name, value in STT_BODY.items() if name != key})


@pytest.mark.parametrize(
    "key", ["dim", "num_heads", "num_layers", "context", "text_card", "card", "n_q"]
)
@pytest.mark.parametrize("value", [None, 0, -1, True, 4.0, "4", [4], {}, 2**40, 10**400])
def test_dimension_of_no_use(key: str, value: object) -> None:
    """A dimension that is missing, no integer, not positive or absurd is named."""
    body = STT_BODY | {key: value}
    with pytest.raises(InputError, match=key):
        SttConfig.from_json(body)
    del body[key]
    with pytest.raises(InputError, match=key):
        SttConfig.from_json(body)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("delays", [0, 0, 2, 2, 2]),
        ("delays", 3),
        ("delays", "00000"),
        ("hidden_scale", float("inf")),
        ("hidden_scale", float("nan")),
        ("hidden_scale", "4.125"),
        ("hidden_scale", 0),
        ("max_period", 0),
        ("max_period", -1.0),
        ("max_period", 10**400),
        ("extra_heads_num_heads", -1),
        ("extra_heads_num_heads", float("inf")),
        ("extra_heads_dim", 0),
        ("text_card_out", 0),
        ("stt_config", [0.5]),
        ("lm_gen_config", "greedy"),
        ("num_heads", 3),
        ("num_heads", 64),
    ],
)
def test_value_of_no_use(key: str, value: object) -> None:
    """Any other value of the wrong type or range is an error that shows it."""
    with pytest.raises(InputError, match=r"cannot be used"):
        SttConfig.from_json(STT_BODY | {key: value})


@pytest.mark.parametrize("key", ["audio_delay_seconds", "audio_silence_prefix_seconds"])
@pytest.mark.parametrize("value", [-0.5, "0.5", None, float("inf"), float("nan"), 1e9])
def test_delay_of_no_use(key: str, value: object) -> None:
    """A delay or silence prefix that is not a reasonable number of seconds is named."""
    with pytest.raises(InputError, match=key):
        SttConfig.from_json(STT_BODY | {"stt_config": {key: value}})


def test_overlay_of_the_exporter() -> None:
    """Upstream's `configs/stt_*.json` hold only what their exporter adds to a model's config.

    Alone they are not a config.
    """
    with pytest.raises(InputError, match="does not say norm"):
        SttConfig.from_json(
            {
                "stt_config": {"audio_delay_seconds": 0.5},
                "mimi_name": "mimi.safetensors",
                "lm_gen_config": {"temp": 0.0},
            }
        )


@pytest.mark.slow
@given(
    st.dictionaries(
        st.sampled_from([*STT_BODY, "stt_config", "lm_gen_config", "text_card_out"]),
        JSON,
        max_size=3,
    )
)
def test_any_config(changes: dict[str, Any]) -> None:
    """Whatever the values of a config, it is read, or it is an `InputError`.

    What is read describes a network of bounded size.
    """
    try:
        config = SttConfig.from_json(STT_BODY | changes)
    except InputError:
        return
    assert all(0 < size < 2**40 for shape in config.lm.tensors().values() for size in shape)
    assert config.lm.d_model % (2 * config.lm.num_heads) == 0


@pytest.mark.slow
@given(JSON.filter(lambda value: isinstance(value, dict)))
def test_any_object_as_config(body: dict[str, Any]) -> None:
    """A JSON object that has nothing of a model's config is an `InputError`."""
    with pytest.raises(InputError):
        SttConfig.from_json(body)


def test_mimi_as_published() -> None:
    """An empty Mimi config is the released model: 318 tensors, 96,151,393 values, in frames of 1920
    samples and two latents.
    """
    config = MimiConfig.from_json({})
    assert config == MimiConfig()
    shapes = mimi_tensors(config)
    assert len(shapes) == 318
    assert sum(math.prod(shape) for shape in shapes.values()) == 96_151_393
    assert (config.frame_samples, config.resample_stride) == (1920, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder.model.14.conv.conv.weight", (512, 1024, 3)),
        ("encoder.model.10.block.1.conv.conv.weight", (256, 512, 3)),
        ("encoder.model.10.block.3.conv.conv.bias", (512,)),
        ("decoder.model.0.conv.conv.weight", (1024, 512, 7)),
        ("decoder.model.2.convtr.convtr.weight", (1024, 512, 16)),
        ("decoder.model.14.conv.conv.weight", (1, 64, 3)),
        ("encoder_transformer.transformer.layers.7.self_attn.in_proj_weight", (1536, 512)),
        ("decoder_transformer.transformer.layers.0.linear2.weight", (512, 2048)),
        ("decoder_transformer.transformer.layers.0.layer_scale_2.scale", (512,)),
        ("downsample.conv.conv.conv.weight", (512, 512, 4)),
        ("upsample.convtr.convtr.convtr.weight", (512, 1, 4)),
        ("quantizer.rvq_rest.input_proj.weight", (256, 512, 1)),
        ("quantizer.rvq_first.vq.layers.0._codebook._initialized", (1,)),
        ("quantizer.rvq_rest.vq.layers.30._codebook.embedding_sum", (2048, 256)),
    ],
)
def test_mimi_tensor(name: str, shape: tuple[int, ...]) -> None:
    """Tensors of the released Mimi have their published names and shapes, one of each kind."""
    assert mimi_tensors(MimiConfig())[name] == shape


def _mimi(part: str | None, key: str, value: object) -> dict[str, Any]:
    return MIMI_BODY | ({key: value} if part is None else {part: MIMI_BODY[part] | {key: value}})


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        (None, "sample_rate", "1200"),
        (None, "sample_rate", 0),
        (None, "sample_rate", 1201),
        (None, "frame_rate", 0),
        (None, "frame_rate", float("nan")),
        (None, "frame_rate", 12.4),
        (None, "seanet", []),
        (None, "transformer", "big"),
        (None, "quantizer", 8),
        ("seanet", "ratios", []),
        ("seanet", "ratios", 5),
        ("seanet", "ratios", [4, 3, 0]),
        ("seanet", "ratios", [4, 3, -2, -2]),
        ("seanet", "ratios", [4, 3, 2.0, 2]),
        ("seanet", "ratios", [1] * 40),
        ("seanet", "ratios", [25, 4]),
        ("seanet", "n_filters", "4"),
        ("seanet", "n_filters", 2**40),
        ("seanet", "kernel_size", -7),
        ("seanet", "compress", 8),
        ("transformer", "num_layers", 10**9),
        ("transformer", "context", 10**12),
        ("transformer", "num_heads", 5),
        ("transformer", "max_period", 0),
        ("transformer", "d_model", 64),
        ("quantizer", "n_q", 10**6),
        ("quantizer", "bins", -1),
        ("quantizer", "dimension", None),
    ],
)
def test_mimi_config_of_no_use(part: str | None, key: str, value: object) -> None:
    """A Mimi config of wrong types, absurd sizes or parts that do not fit is refused before
    anything is built.
    """
    with pytest.raises(InputError, match="this Mimi config cannot be used"):
        MimiConfig.from_json(_mimi(part, key, value))


MIMI_CHANGE = st.one_of(
    st.tuples(st.just(part), st.sampled_from(sorted(MIMI_BODY[part])), JSON)
    for part in ("seanet", "transformer", "quantizer")
) | st.tuples(st.none(), st.sampled_from(sorted(MIMI_BODY)), JSON)


@pytest.mark.slow
@given(MIMI_CHANGE)
def test_any_mimi_config(change: tuple[str | None, str, object]) -> None:
    """Whatever one value of a Mimi config is, its tensors can be named, or it is an
    `InputError`.
    """
    try:
        config = MimiConfig.from_json(_mimi(*change))
    except InputError:
        return
    assert mimi_tensors(config)
