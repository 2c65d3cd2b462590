"""From a name to a model: every way of naming one, and every way of getting it wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from dsmops.dtypes import ComputeDType
from dsmops.errors import CheckpointError, ConfigError, InputError, SourceError
from dsmops.models import MODELS
from dsmops.operations.models.stt import find_stt, load_stt_source
from dsmops.worker.tiny.stt import LM, TinyStt, write_tiny_stt
from tests.support.hub_server import HubServer
from tests.support.networks import write_mimi
from tests.support.progress import RecordedProgress

CONFIG = "config-stt-tiny.toml"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyStt:
    return write_tiny_stt(tmp_path_factory.mktemp("made"))


@pytest.fixture
def tiny(made: TinyStt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model of its own, in which the test runs."""
    folder = tmp_path / "model"
    shutil.copytree(made.model_config.parent, folder)
    monkeypatch.chdir(folder)
    return folder


def edit_toml(folder: Path, old: str, new: str) -> None:
    text = (folder / CONFIG).read_text()
    assert old in text
    (folder / CONFIG).write_text(text.replace(old, new, 1))


def edit_json(folder: Path, **changes: Any) -> None:
    body = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(body | changes))


def tokens_of(source: str, *, dtype: ComputeDType | None = None) -> tuple[str, int]:
    """Load what `source` names and return the language model's dtype and how many pieces its
    tokenizer has.
    """
    model = load_stt_source(find_stt(source), dtype=dtype, cpu=True)
    return str(model.lm.dtype), model.tokenizer.size


@pytest.mark.slow
@pytest.mark.parametrize("source", [".", "config.json", "../model", "../model/config.json"])
def test_a_folder_and_its_config_name_a_model(tiny: Path, source: str) -> None:
    """The files are those that config.json names, beside it; no dtype was chosen."""
    found = find_stt(source)
    assert (found.config.lm.tensors(), found.config.text_delay_steps, found.dtype) == (
        LM.tensors(),
        6,
        None,
    )
    assert {
        path.resolve().parent for path in (found.files.lm, found.files.mimi, found.files.tokenizer)
    } == {tiny}
    assert tokens_of(source) == ("torch.float32", LM.text_out_vocab_size)


def test_a_server_config_names_a_model(tiny: Path) -> None:
    """Both descriptions of the tiny model say the same, in their own words for the feed-forward.

    The module is in its name.
    """
    found, described = find_stt(CONFIG), find_stt(".")
    assert found.name == f"{CONFIG} [modules.asr]"
    assert found.config == replace(described.config, lm=LM)
    assert described.config.lm.tensors() == LM.tensors()
    assert tokens_of(CONFIG) == ("torch.float32", LM.text_out_vocab_size)


@pytest.mark.parametrize(
    ("override", "dtype"),
    [("f16", "torch.float16"), ("bf16", "torch.bfloat16"), ("f32", "torch.float32")],
)
def test_the_configs_dtype_is_taken_unless_another_is_asked(
    tiny: Path, override: str, dtype: str
) -> None:
    """`dtype_override` decides, as for the server; an explicit dtype comes first."""
    edit_toml(tiny, "batch_size = 4", f'batch_size = 4\ndtype_override = "{override}"')
    assert tokens_of(CONFIG)[0] == dtype
    assert tokens_of(CONFIG, dtype=ComputeDType.BF16)[0] == "torch.bfloat16"


def test_the_first_of_several_modules_is_taken(tiny: Path) -> None:
    """Modules of other types are passed over, and the name says which one it is."""
    module = (tiny / CONFIG).read_text().partition("[modules.asr]")[2]
    other = '[modules.tts]\ntype = "Py"\npath = "/api/tts"\n\n'
    second = f"[modules.second]{module.replace('[modules.asr.', '[modules.second.')}"
    edit_toml(tiny, "[modules.asr]", f"{other}[modules.asr]")
    (tiny / CONFIG).write_text((tiny / CONFIG).read_text() + second)
    assert find_stt(CONFIG).name == f"{CONFIG} [modules.asr]"


def test_a_config_without_speech_to_text_is_told(tiny: Path) -> None:
    """A TTS config has no model to transcribe with."""
    (tiny / "tts.toml").write_text('[modules.tts]\ntype = "Py"\npath = "/api/tts"\n')
    with pytest.raises(ConfigError, match="no module of type BatchedAsr or Asr"):
        find_stt("tts.toml")


@pytest.mark.parametrize("command", ["Asr", "BatchedAsr"])
def test_both_modules_of_the_server_are_known(tiny: Path, command: str) -> None:
    """One stream or many, it is the same model."""
    edit_toml(tiny, '"BatchedAsr"', f'"{command}"')
    assert find_stt(CONFIG).config.lm == LM


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "num_heads = 4\nnum_layers",
            "num_heads = 5\nnum_layers",
            "cannot be shared by 5 attention heads",
        ),
        (
            "num_heads = 4\nnum_layers",
            "num_heads = 64\nnum_layers",
            "attention heads of an even size",
        ),
        ("context = 100", "context = 4000000000", "context = 4000000000"),
        ("context = 100", "context = 0", "a dimension"),
        ("context = 100", 'context = "100"', "a dimension"),
        ("max_period = ", "max_period = 0 # ", "max_period = 0"),
        ("max_period = ", "# ", "'max_period' is missing"),
        ("asr_delay_in_tokens = 6", "", "'asr_delay_in_tokens' is missing"),
        ("asr_delay_in_tokens = 6", "asr_delay_in_tokens = -1", "asr_delay_in_tokens = -1"),
        (
            "asr_delay_in_tokens = 6",
            "asr_delay_in_tokens = 1000000",
            "asr_delay_in_tokens = 1000000",
        ),
        ("temperature = 0.0", "temperature = nan", "temperature = nan"),
        ("temperature = 0.0", "temperature = -0.5", "temperature = -0.5"),
        ("temperature = 0.0", "temperature = true", "temperature = True"),
        ("batch_size = 4", 'dtype_override = "int4"', "dtype_override = 'int4'"),
        ('norm = "RmsNorm"', 'norm = "LayerNorm"', "model.transformer.norm = 'LayerNorm'"),
        ("kv_repeat = 1", "kv_repeat = 2", "kv_repeat = 2"),
        (
            "[modules.asr.model.extra_heads]",
            "[modules.asr.model.depformer]\nnum_slices = 2\n[modules.asr.model.extra_heads]",
            "depformer",
        ),
        (
            "[modules.asr.model.extra_heads]",
            "[modules.asr.model.conditioners]\nx = 1\n[modules.asr.model.extra_heads]",
            "conditioners",
        ),
        ('lm_model_file = "model.safetensors"', "", "lm_model_file is missing"),
        ('lm_model_file = "model.safetensors"', "lm_model_file = 3", "lm_model_file is missing"),
    ],
)
def test_a_config_that_cannot_be_run_is_told(tiny: Path, old: str, new: str, reason: str) -> None:
    """One error with the module, the key and the value, and where to read more."""
    edit_toml(tiny, old, new)
    with pytest.raises(ConfigError) as caught:
        find_stt(CONFIG)
    assert "[modules.asr] cannot be run" in caught.value.message
    assert reason in caught.value.message
    assert f"dsmops check-config {CONFIG}" in caught.value.hint


def test_names_in_a_server_config_count_from_the_working_folder(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From elsewhere the files are not there, and the error says why.

    An environment variable may lead to them, as for the server.
    """
    monkeypatch.chdir(tiny.parent)
    with pytest.raises(
        SourceError, match=r"the audio_tokenizer_file of model/config-stt-tiny\.toml, is not there"
    ) as caught:
        find_stt(f"model/{CONFIG}")
    assert str(tiny.parent) in caught.value.hint
    monkeypatch.setenv("TINY", str(tiny))
    for name in ("model.safetensors", "mimi-tiny@1.safetensors", "tokenizer_tiny_320.model"):
        edit_toml(tiny, f'"{name}"', f'"$TINY/{name}"')
    assert find_stt(f"model/{CONFIG}").files.lm == tiny / "model.safetensors"


@pytest.mark.parametrize(
    ("source", "near"),
    [
        ("stt-1b", "Did you mean stt-1b-en_fr?"),
        ("stt-2.6b-en_fr", "Did you mean stt-2.6b-en?"),
        ("zzz", "hf://org/repo"),
        ("", "hf://org/repo"),
    ],
)
def test_a_name_of_nothing_is_told_with_what_is_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, near: str
) -> None:
    """The hint has the nearest published name and all the ways of naming a model."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="names no model") as caught:
        find_stt(source)
    assert near in caught.value.hint
    assert "tts" not in caught.value.hint


@pytest.mark.parametrize(
    "source", ["gone.toml", "gone.json", "gone/config.json", "~nobody-here/m.toml", "."]
)
def test_a_file_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Including a folder without a config."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="No such file"):
        find_stt(source)


def test_a_text_to_speech_model_is_told() -> None:
    """By its published name, with one that transcribes."""
    with pytest.raises(InputError, match="is a text-to-speech model") as caught:
        find_stt("tts-1.6b-en_fr")
    assert "stt-1b-en_fr" in caught.value.hint


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a model config"),
        (b'"' + b"x" * (1 << 20) + b'"', "is not a model config"),
        (b"{}", "does not say norm"),
    ],
)
def test_a_config_json_that_is_none_is_told(tiny: Path, body: bytes, reason: str) -> None:
    """Whatever the bytes are."""
    (tiny / "config.json").write_bytes(body)
    with pytest.raises(InputError, match=reason) as caught:
        find_stt(".")
    assert caught.value.hint


@pytest.mark.parametrize("key", ["moshi_name", "mimi_name", "tokenizer_name"])
@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "sub/../../x", "", 3, None]
)
def test_names_that_lead_out_of_a_repository_are_refused(
    tiny: Path, key: str, name: object
) -> None:
    """A config.json from anywhere cannot have a file of the machine read as weights."""
    edit_json(tiny, **{key: name})
    with pytest.raises(InputError, match="is not a file name"):
        find_stt(".")


@pytest.mark.parametrize("name", ["gone.safetensors", "a\0b", "\ud800"])
def test_a_file_that_config_json_names_in_vain_is_told(tiny: Path, name: str) -> None:
    """With both names, before anything is loaded."""
    edit_json(tiny, mimi_name=name)
    with pytest.raises(SourceError, match=r"which config\.json names, is not there"):
        find_stt(".")


def test_an_own_language_model_takes_the_place_of_the_named_one(tiny: Path) -> None:
    """`lm` is what another command has available: the file that is named is then not looked for."""
    own = tiny / "own.safetensors"
    (tiny / "model.safetensors").rename(own)
    assert find_stt(".", lm=own).files.lm == own
    assert find_stt(CONFIG, lm=own).files.lm == own
    with pytest.raises(SourceError):
        find_stt(".")


def test_another_models_tokenizer_is_refused(tiny: Path, made: TinyStt) -> None:
    """Its number of pieces gives it away; with both numbers."""
    edit_toml(tiny, "text_in_vocab_size = 321", "text_in_vocab_size = 301")
    edit_toml(tiny, "text_out_vocab_size = 320", "text_out_vocab_size = 300")
    with pytest.raises(InputError, match="has 320 pieces; the model has 300 text tokens"):
        load_stt_source(find_stt(CONFIG), cpu=True)


def test_another_models_codec_is_refused(tiny: Path) -> None:
    """Codes that the language model does not know."""
    (tiny / "mimi-tiny@1.safetensors").unlink()
    write_mimi(tiny / "mimi-tiny@1.safetensors")
    with pytest.raises(InputError, match="has 8 codebooks of 32"):
        load_stt_source(find_stt("."), cpu=True)


@pytest.mark.parametrize("name", ["model.safetensors", "mimi-tiny@1.safetensors"])
def test_weights_that_are_none_are_told(tiny: Path, name: str) -> None:
    """Text, a cut file, the other file."""
    other = next(path for path in tiny.glob("*.safetensors") if path.name != name)
    for content in (b"no weights", (tiny / name).read_bytes()[:5000], other.read_bytes()):
        (tiny / name).unlink()
        (tiny / name).write_bytes(content)
        with pytest.raises((CheckpointError, InputError), match=name):
            load_stt_source(find_stt("."), cpu=True)


def test_a_tokenizer_that_is_none_is_told(tiny: Path) -> None:
    """A text in its place."""
    (tiny / "tokenizer_tiny_320.model").write_text("no pieces")
    with pytest.raises(InputError, match="is not a SentencePiece model"):
        load_stt_source(find_stt("."), cpu=True)


@pytest.fixture
def hub(made: TinyStt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Start a hub that has the tiny model as `org/tiny`, and as the published 1B one."""
    files = {path.name: path.read_bytes() for path in made.model_config.parent.iterdir()}
    with HubServer(
        {
            "org/tiny": files,
            MODELS["stt-1b-en_fr"].hf_repo: files,
            "org/weights": {"model.safetensors": b""},
        }
    ) as server:
        for name, value in server.env(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.mark.parametrize(
    "source",
    [
        "hf://org/tiny",
        "hf://org/tiny/",
        "hf://org/tiny@main",
        "hf://org/tiny/config.json",
        "stt-1b-en_fr",
    ],
)
def test_a_repository_names_a_model(hub: HubServer, source: str) -> None:
    """Config first, then the three files that it names, announced once.

    A second time nothing is asked.
    """
    progress = RecordedProgress()
    found = find_stt(source, progress=progress)
    assert found.config.lm.tensors() == LM.tensors()
    assert [len(lines) - 1 for lines in progress.announced] == [1, 3]
    hub.requests.clear()
    assert find_stt(source, progress=progress) == found
    assert (hub.requests, len(progress.announced)) == ([], 2)
    assert tokens_of(source) == ("torch.float32", LM.text_out_vocab_size)


def test_a_server_config_may_name_hub_files(hub: HubServer, tiny: Path) -> None:
    """As the published configs do."""
    for name in ("model.safetensors", "mimi-tiny@1.safetensors", "tokenizer_tiny_320.model"):
        edit_toml(tiny, f'"{name}"', f'"hf://org/tiny/{name}"')
        (tiny / name).unlink()
    assert tokens_of(CONFIG) == ("torch.float32", LM.text_out_vocab_size)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://org/tiny/model.safetensors", "is a single file"),
        ("hf://org/gone", "org/gone"),
        ("hf://org/weights", "config.json"),
        ("hf://", "hf://"),
        ("hf://tiny", "hf://tiny"),
    ],
)
def test_a_hub_name_that_leads_nowhere_is_told(hub: HubServer, source: str, message: str) -> None:
    """With the name, and a hint."""
    with pytest.raises(SourceError) as caught:
        find_stt(source)
    assert message in caught.value.message
    assert caught.value.hint


def test_a_blob_that_changed_in_the_cache_is_not_loaded(tiny: Path, tmp_path: Path) -> None:
    """A file of the Hugging Face cache is compared with its name, again when it changed."""
    stored = tmp_path / "blobs"
    stored.mkdir()
    lm = find_stt(".").files.lm
    blob = lm.rename(stored / hashlib.sha256(lm.read_bytes()).hexdigest())
    lm.symlink_to(blob)
    assert tokens_of(".")[1] > 0
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(CheckpointError, match="changed since it was downloaded"):
        tokens_of(".")
