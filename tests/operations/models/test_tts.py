"""From a name to a TTS model: every way of naming one, and every way of getting it
wrong.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from dsmops.dtypes import ComputeDType
from dsmops.errors import CheckpointError, ConfigError, InputError, SourceError
from dsmops.models import MODELS
from dsmops.operations.models.tts import TtsDefaults, find_tts, load_tts_source, served_voices
from dsmops.operations.models.voices import DEFAULT_VOICE
from dsmops.shipped import shipped_folder
from dsmops.worker.tiny.tts import TinyTts, write_tiny_tts
from tests.support.hub_server import HubServer
from tests.support.progress import RecordedProgress

CONFIG = "config-tts-tiny.toml"
SUFFIX = ".7e57da7a@1.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyTts:
    return write_tiny_tts(tmp_path_factory.mktemp("made"))


@pytest.fixture
def tiny(made: TinyTts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model of its own, in which the test runs."""
    folder = tmp_path / "model"
    shutil.copytree(made.model_config.parent, folder)
    monkeypatch.chdir(folder)
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_model_without_voices_beside_it_takes_the_published_ones(tiny: Path) -> None:
    shutil.rmtree(tiny / "voices")
    assert find_tts(".").defaults == TtsDefaults()
    (tiny / "voices").mkdir()
    assert find_tts(".").defaults == TtsDefaults()


def test_the_config_of_a_model_sets_its_temperature(tiny: Path) -> None:
    edit_config(tiny, lm_gen_config={"temp": 0.25})
    assert find_tts(".").defaults.temperature == 0.25
    edit_config(tiny, lm_gen_config=None)
    assert find_tts(".").defaults.temperature == TtsDefaults().temperature


@pytest.mark.parametrize("generation", [{"temp": "warm"}, {"temp": -1}, {"temp": True}, [0.6]])
def test_a_temperature_that_is_not_a_number_is_an_error(tiny: Path, generation: object) -> None:
    edit_config(tiny, lm_gen_config=generation)
    with pytest.raises(InputError, match="lm_gen_config"):
        find_tts(".")


def edit_toml(folder: Path, old: str, new: str) -> None:
    text = (folder / CONFIG).read_text()
    assert old in text
    (folder / CONFIG).write_text(text.replace(old, new, 1))


@pytest.mark.slow
@pytest.mark.parametrize("source", [".", "config.json", "../model", "../model/config.json"])
def test_a_folder_and_its_config_name_a_model(tiny: Path, source: str) -> None:
    """The files are those that config.json names, beside it.

    It speaks as models do by default, with all its codebooks, in the first voice beside it.
    """
    found = find_tts(source)
    folder = str(Path(source).parent / "voices") if source.endswith(".json") else f"{source}/voices"
    own = TtsDefaults(voice_folder=str(Path(folder)), default_voice="tiny/first.wav")
    assert found.defaults == own
    files = found.files
    assert {
        path.resolve().parent for path in (files.lm, files.mimi, files.tokenizer, files.config)
    } == {tiny}
    assert load_tts_source(found, cpu=True).codebooks == 8
    assert (
        load_tts_source(found, cpu=True, dtype=ComputeDType.BF16, n_q=4).dtype is ComputeDType.BF16
    )


def test_a_server_config_names_a_model_and_says_how_it_speaks(tiny: Path) -> None:
    """The table `py` of its first Py module.

    What stands there as text counts as the number it means.
    """
    edit_toml(
        tiny,
        "n_q = 8",
        'n_q = "4"\ntemp = 0.3\nmax_padding = 5\ninitial_padding = 3\nfinal_padding = '
        "2\npadding_bonus = -0.5",
    )
    edit_toml(
        tiny,
        "cfg_coef = 2.0",
        'cfg_coef = 3\ninterleaved_text_only = 0\ndevice = "cpu"\ndebug = true',
    )
    found = find_tts(CONFIG)
    assert found.name == f"{CONFIG} [modules.tts_py]"
    assert found.defaults == TtsDefaults(
        n_q=4,
        voice_folder="voices",
        default_voice="tiny/first.wav",
        temperature=0.3,
        cfg=3.0,
        padding_bonus=-0.5,
        max_padding=5,
        initial_padding=3,
        final_padding=2,
        padding_between=1,
        interleaved_text_only=0,
        cpu=True,
    )
    assert load_tts_source(found).codebooks == 4


def test_the_scripts_defaults_count_where_its_table_is_silent(tiny: Path) -> None:
    """Codebooks as many as the script generates, or as there are.

    Paths with variables as the server expands them.
    """
    edit_toml(tiny, "n_q = 8\n", "")
    edit_toml(tiny, 'voice_folder = "voices"', 'voice_folder = "$NO_SUCH_VARIABLE./voices"')
    found = find_tts(CONFIG)
    assert (found.defaults.n_q, found.defaults.voice_folder) == (8, "./voices")
    edit_toml(
        tiny, 'voice_folder = "$NO_SUCH_VARIABLE./voices"\ndefault_voice = "tiny/first.wav"\n', ""
    )
    assert find_tts(CONFIG).defaults.default_voice == "barack_demo.wav"


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (
            'type = "Py"',
            'type = "Py"\nscript = "mine.py"',
            ConfigError,
            "script = 'mine.py' is not supported",
        ),
        ("n_q = 8", 'n_q = "many"', ConfigError, "n_q = 'many' is not a number"),
        ("n_q = 8", "n_q = inf", ConfigError, "n_q = inf is not a number"),
        ("n_q = 8", "temp = nan", ConfigError, "temp = nan is not a number"),
        ("n_q = 8", "temp = -1.0", ConfigError, "temp = -1.0 is not a number of at least 0"),
        (
            "n_q = 8",
            "final_padding = -50",
            ConfigError,
            "final_padding = -50 is not a number of at least 0",
        ),
        ("n_q = 8", 'device = "cuda:1"', ConfigError, "runs on CUDA device 0 or the CPU"),
        ('type = "Py"', 'type = "Tts"', ConfigError, "no module of type Py"),
        (
            'text_tokenizer_file = "tok',
            'text_tokenizer_file = "token',
            SourceError,
            "text_tokenizer_file",
        ),
        ('moshi_weight = "dsm', 'moshi_weight = "gone/dsm', SourceError, "the py.moshi_weight of"),
    ],
    ids=[
        "script",
        "number",
        "infinity",
        "nan",
        "temperature",
        "padding",
        "device",
        "kind",
        "tokenizer",
        "weights",
    ],
)
def test_a_server_config_that_cannot_be_run_is_told(
    tiny: Path, old: str, new: str, error: type[InputError], message: str
) -> None:
    """What is wrong, where, and a hint."""
    edit_toml(tiny, old, new)
    with pytest.raises(error, match=message) as caught:
        find_tts(CONFIG)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("stt-1b-en_fr", "is a speech-to-text model"),
        ("tts-1.6b", "names no model"),
        ("", "an empty name names no model"),
        ("nowhere.json", "nowhere.json"),
    ],
)
def test_what_names_no_model_is_told(tiny: Path, source: str, message: str) -> None:
    """With the names near to it."""
    with pytest.raises(InputError, match=message) as caught:
        find_tts(source)
    assert caught.value.hint


def test_a_config_of_another_kind_of_model_is_told(tiny: Path) -> None:
    """The published STT config.json, say."""
    (tiny / "config.json").write_text(json.dumps({"model_type": "stt"}))
    with pytest.raises(InputError, match=r"config\.json"):
        find_tts(".")


def test_a_servers_clients_name_voices(tiny: Path) -> None:
    """Once for each of two speakers.

    Read once; an empty name is the default; others are refused without telling where they are kept.
    """
    voices = served_voices(find_tts(CONFIG))
    first, second = voices("tiny/first.wav"), voices("tiny/second.wav")
    assert [voice.shape for voice in first] == [(512, 125)] * 2
    assert voices("") is first
    assert not np.array_equal(first[0], second[0])
    for name in ("tiny/frist.wav", "../model/voices/tiny/first.wav", "/etc/passwd"):
        with pytest.raises(InputError, match="this server has no voice") as caught:
            voices(name)
        assert "tiny/first.wav" in caught.value.hint
        assert str(tiny) not in caught.value.message + caught.value.hint
    (tiny / "voices" / f"broken.wav{SUFFIX}").write_bytes(b"no voice")
    with pytest.raises(
        InputError, match=r"voice 'broken\.wav' was not made for its model"
    ) as caught:
        voices("broken.wav")
    assert "/" not in caught.value.message


def test_a_default_voice_that_is_not_there_is_known_at_once(tiny: Path) -> None:
    """And one that is invalid."""
    path = tiny / "voices" / f"tiny/first.wav{SUFFIX}"
    path.write_bytes(b"no voice")
    with pytest.raises(CheckpointError, match="is not a voice"):
        served_voices(find_tts(CONFIG))
    path.unlink()
    with pytest.raises(SourceError, match=r"tiny/first\.wav"):
        served_voices(find_tts(CONFIG))


@pytest.fixture
def hub(made: TinyTts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Start a hub on which the published model and its voices are the tiny ones."""
    folder = made.model_config.parent
    files: dict[str, Any] = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()
    }
    files["tokenizer_spm_8k_en_fr_audio.model"] = made.files.tokenizer.read_bytes()
    voice = (made.voice_folder / f"{made.voice_name}{SUFFIX}").read_bytes()
    voices = {f"{DEFAULT_VOICE}{SUFFIX}": voice, f"expresso/happy.wav{SUFFIX}": voice}
    with HubServer(
        {MODELS["tts-1.6b-en_fr"].hf_repo: files, "kyutai/tts-voices": voices}
    ) as server:
        for name, value in server.env(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.mark.parametrize("source", ["tts-1.6b-en_fr", "hf://kyutai/tts-1.6b-en_fr"])
def test_a_repository_names_a_model(hub: HubServer, source: str) -> None:
    """Config first, then the three files that it names, announced.

    A second time nothing is asked.
    """
    progress = RecordedProgress()
    found = find_tts(source, progress=progress)
    assert [len(lines) - 1 for lines in progress.announced] == [1, 3]
    hub.requests.clear()
    assert find_tts(source, progress=progress) == found
    assert (hub.requests, len(progress.announced)) == ([], 2)
    assert load_tts_source(found, cpu=True).codebooks == 8


def test_the_shipped_config_is_at_hand_as_it_is(hub: HubServer, tmp_path: Path) -> None:
    """Its model, its one default voice, and others when they are asked for."""
    path = tmp_path / "config-tts.toml"
    path.write_text((shipped_folder("configs") / "config-tts.toml").read_text())
    progress = RecordedProgress()
    found = find_tts(str(path), progress=progress)
    assert (found.defaults.n_q, found.defaults.cfg, found.files.tokenizer.name) == (
        24,
        2.0,
        "tokenizer_spm_8k_en_fr_audio.model",
    )
    progress.announced.clear()
    voices = served_voices(found, progress=progress)
    ((_, file),) = progress.announced
    assert f"{DEFAULT_VOICE}{SUFFIX}" in file
    assert voices("expresso/happy.wav")[0].shape == (512, 125)
    with pytest.raises(InputError, match=r"no voice 'expresso/hapy\.wav'") as caught:
        voices("expresso/hapy.wav")
    assert "expresso/happy.wav" in caught.value.hint
