"""The ready configs by name, and which model a config serves."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.config.load import parse_config, read_config
from dsmops.config.presets import described_model, find_template, preset_names, served_model
from dsmops.config.tokenizer import count_pieces
from dsmops.errors import InputError
from dsmops.models import MODELS, TTS_MODELS, TtsModel


def test_each_model_has_its_ready_config() -> None:
    """The config that a published model names is there, and serves that model."""
    for model in MODELS.values():
        config = read_config(find_template(model.preset))
        assert served_model(config) is described_model(config) is model


OTHER = replace(
    TTS_MODELS["tts-1.6b-en_fr"],
    name="tts-0.75b-en",
    hf_repo="org/tts-0.75b-en",
    model_file="dsm_tts_other@1.safetensors",
)


@pytest.mark.parametrize(
    ("table", "model"),
    [
        ("", TTS_MODELS["tts-1.6b-en_fr"]),
        ('hf_repo = "kyutai/tts-1.6b-en_fr"', TTS_MODELS["tts-1.6b-en_fr"]),
        ('hf_repo = "org/tts-0.75b-en"', OTHER),
        ('config_path = "hf://org/tts-0.75b-en/config.json"', OTHER),
        ('moshi_weight = "assets/fp16/dsm_tts_other@1.fp16.safetensors"', OTHER),
        ('config_path = "/c/models--org--tts-0.75b-en/snapshots/1/config.json"', OTHER),
        ('hf_repo = "kyutai/tts-1.6b-en_fr"\nmoshi_weight = "hf://org/tts-0.75b-en/x"', OTHER),
        ('moshi_weight = "own.safetensors"', None),
    ],
)
def test_a_second_tts_model_is_told_apart(
    table: str, model: TtsModel | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TTS config is described as the model it names, wherever that stands in the table."""
    both = {OTHER.name: OTHER, **TTS_MODELS}  # the new one first: order must not decide
    monkeypatch.setattr("dsmops.config.presets.TTS_MODELS", both)
    config = parse_config(f'[modules.a]\ntype = "Py"\n[modules.a.py]\n{table}\n')
    assert served_model(config) == model
    shipped = read_config(find_template("config-tts"))
    assert served_model(shipped) is described_model(shipped) is MODELS["tts-1.6b-en_fr"]


def test_the_suffix_may_be_left_out() -> None:
    """A name is found with and without .toml."""
    assert find_template("config-tts") == find_template("config-tts.toml")
    assert {path.name for path in map(find_template, preset_names())} == set(preset_names())


def test_an_unknown_name_leads_to_the_near_ones() -> None:
    """A typo is answered with the name that was meant, nonsense with all of them."""
    with pytest.raises(InputError) as caught:
        find_template("config-stt-en_fr-hv")
    assert "config-stt-en_fr-hf.toml" in caught.value.hint
    with pytest.raises(InputError) as caught:
        find_template("zzz")
    assert "config-tts.toml" in caught.value.hint


def test_a_shorter_context_is_still_the_same_model() -> None:
    """Lowering the attention window changes memory, not the model; changing a dimension does."""
    text = find_template("config-stt-en_fr-hf").read_text()
    same, other = (
        parse_config(text.replace(*change))
        for change in (("context = 750", "context = 125"), ("num_layers = 16", "num_layers = 12"))
    )
    assert served_model(same) is MODELS["stt-1b-en_fr"]
    assert served_model(other) is None
    assert served_model(parse_config("")) is None


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    return bytes([number & 0x7F | 0x80]) + varint(number >> 7) if number > 0x7F else bytes([number])


def field(number: int, body: bytes) -> bytes:
    """One length-delimited field."""
    return varint(number << 3 | 2) + varint(len(body)) + body


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=40))
def test_pieces_are_counted(pieces: list[bytes]) -> None:
    """As many as there are, among the other fields of the file."""
    data = (
        b"".join(field(1, piece) for piece in pieces)
        + field(2, b"trainer")
        + varint(9 << 3)
        + b"\x01"
        + varint(10 << 3 | 5)
        + b"four"
    )
    assert count_pieces(data) == len(pieces)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain text",
        b'{"version": 1}',
        b"\x08\x01",
        field(2, b"only"),
        field(1, b"cut off")[:-1],
        b"\x0a\xff",
    ],
)
def test_other_files_have_no_pieces(data: bytes) -> None:
    """Text, JSON, another message, a truncated model: no number is made up."""
    assert count_pieces(data) is None


@given(st.binary(max_size=400))
def test_any_bytes_are_answered(data: bytes) -> None:
    """A number from 1 on, or none."""
    count = count_pieces(data)
    assert count is None or 0 < count <= len(data)


def test_a_safetensors_file_is_no_tokenizer(tmp_path: Path) -> None:
    """The commonest mix-up is seen."""
    header = b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}'
    assert count_pieces(len(header).to_bytes(8, "little") + header + b"\x00\x00") is None
