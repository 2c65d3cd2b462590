"""`dsmops worker` with modules that speak, as an operator starts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from dsmops.models import MODELS
from dsmops.operations.models.voices import DEFAULT_VOICE
from dsmops.shipped import shipped_folder
from dsmops.worker.tiny.stt import write_tiny_stt
from dsmops.worker.tiny.tts import API_KEY, TinyTts, write_tiny_tts
from tests.support.cli import dsmops
from tests.support.hub_server import HubServer
from tests.support.stt_client import SttClient
from tests.support.tts_client import TtsClient, audio, words
from tests.support.workers import WorkerProcess, request

TEXT = "There are three bridges over the water, and the second one is closed."
SUFFIX = ".7e57da7a@1.safetensors"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyTts:
    return write_tiny_tts(tmp_path_factory.mktemp("tiny"))


def said(url: str, key: str, text: str = TEXT, **query: str) -> list[str]:
    """Say a text, and return its words as they came back, with sound."""
    with TtsClient(url, key, **query) as client:
        assert client.receive() == {"type": "Ready"}
        client.say(text)
        messages = client.rest()
        assert client.close_code == 1000, messages[-1]
    assert len(audio(messages)) > 24_000
    return [text for text, _, _ in words(messages)]


@pytest.mark.slow
def test_the_shipped_config_is_served(
    tiny: TinyTts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is, but for the codebooks, of which the tiny model in the place of the published one
    has fewer.
    """
    files = {
        path.name: path.read_bytes()
        for path in tiny.model_config.parent.iterdir()
        if path.is_file()
    }
    files["tokenizer_spm_8k_en_fr_audio.model"] = tiny.files.tokenizer.read_bytes()
    voice = (tiny.voice_folder / f"{tiny.voice_name}{SUFFIX}").read_bytes()
    voices = {f"{name}{SUFFIX}": voice for name in (DEFAULT_VOICE, "expresso/happy.wav")}
    config = tmp_path / "config-tts.toml"
    shipped = (shipped_folder("configs") / "config-tts.toml").read_text()
    assert "n_q = 24 " in shipped
    config.write_text(shipped.replace("n_q = 24 ", "n_q = 8 "))
    monkeypatch.setenv("HOME", str(tmp_path))
    with HubServer({MODELS["tts-1.6b-en_fr"].hf_repo: files, "kyutai/tts-voices": voices}) as hub:
        for name, value in hub.env(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        with WorkerProcess(tmp_path, config) as running:
            assert said(running.url, "public_token") == TEXT.split()
            assert said(running.url, "public_token", voice="expresso/happy.wav") == TEXT.split()
            with TtsClient(running.url, "public_token", voice="expresso/sad.wav") as client:
                assert "expresso/happy.wav" in client.rest()[-1]["message"]
            assert json.loads(request(running.url, "GET", "/api/modules_info").body) == [
                {
                    "type": "py",
                    "path": "/api/tts_streaming",
                    "script": "tts.py",
                    "used_slots": "0",
                    "total_slots": "8",
                }
            ]
            running.process.terminate()
            assert running.end() == 0
    assert "bridges" not in running.errors
    assert list((tmp_path / "tmp" / "tts-logs").glob("log.tts.*"))


@pytest.mark.slow
def test_a_server_may_hear_and_speak(tmp_path: Path) -> None:
    """Both kinds of modules in one config, at their own paths, with one set of keys."""
    stt, tts = write_tiny_stt(tmp_path), write_tiny_tts(tmp_path)
    both = tmp_path / "both.toml"
    both.write_text(
        stt.server_config.read_text()
        + tts.server_config.read_text().partition("authorized_ids")[2].partition("\n")[2]
    )
    with WorkerProcess(tmp_path, both, "--silent") as running:
        with SttClient(running.url, API_KEY) as client:
            assert client.hello == {"type": "Ready"}
            assert said(running.url, API_KEY) == TEXT.split()
            assert [
                (module["type"], module["used_slots"])
                for module in json.loads(request(running.url, "GET", "/api/modules_info").body)
            ] == [
                ("batched_asr", "1"),
                ("py", "0"),
            ]
        running.process.terminate()
        assert running.end() == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'type = "Py"',
            'type = "Py"\nscript = "mine.py"',
            "script = 'mine.py' is not supported",
        ),
        ('type = "Py"', 'type = "PyPost"', "this worker serves BatchedAsr, Asr and Py"),
        ('default_voice = "tiny/first.wav"', 'default_voice = "tiny/frist.wav"', "tiny/frist.wav"),
        ("n_q = 8", "n_q = 9", "n_q"),
        ("cfg_coef = 2.0", "cfg_coef = 2.2", "2.2"),
    ],
    ids=["script", "kind", "voice", "codebooks", "guidance"],
)
def test_what_cannot_be_served_is_told_before_it_listens(
    tiny: TinyTts, old: str, new: str, said: str
) -> None:
    """One error, exit 3."""
    text = tiny.server_config.read_text()
    assert old in text
    (tiny.server_config.parent / "mine.py").touch()
    config = tiny.server_config.parent / "other.toml"
    config.write_text(text.replace(old, new))
    run = dsmops(
        "worker", "--config", config, "--cpu", "--port", "0", "--silent", cwd=config.parent
    )
    assert run.code == 3, run.stderr
    assert said in run.stderr
    assert "hint: " in run.stderr
    assert "Traceback" not in run.stderr
