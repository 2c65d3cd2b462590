"""After `prep-sm75` the next commands find its config by themselves, and say so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dsmops.operations.configs.prepared import newest_prepared
from tests.support.cli import dsmops
from tests.support.served_tiny import RECORDINGS, SPOKEN, write_config

_STT = ("BatchedAsr",)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A folder with a prepared config of both models, and an older one."""
    folder = tmp_path / "assets" / "fp16"
    folder.mkdir(parents=True)
    old = folder / "old.toml"
    old.write_text("authorized_ids = []", "utf-8")
    os.utime(old, (1, 1))
    return write_config(folder)


def test_the_newest_that_serves_it_is_found(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert newest_prepared(_STT) == prepared.relative_to(tmp_path)
    newer = prepared.with_name("broken.toml")
    newer.write_text("[modules", "utf-8")
    assert newest_prepared(_STT) == prepared.relative_to(tmp_path)
    assert newest_prepared(("LmGen",)) is None


def test_doctor_sees_it(prepared: Path, tmp_path: Path) -> None:
    shown = dsmops("doctor", "--offline", "--json", cwd=tmp_path)
    told = [one["cause"] for area in shown.document["areas"] for one in area["findings"]]
    assert any(str(prepared.name) in message for message in told)
    assert not any("no config of your own" in message for message in told)


@pytest.mark.slow
def test_a_bare_transcribe_uses_it(prepared: Path, tmp_path: Path) -> None:
    run = dsmops("transcribe", RECORDINGS / SPOKEN["audio"], cwd=tmp_path)
    assert run.code == 0, run.stderr
    assert "tiny-both.toml, the newest prepared config" in run.stderr
    assert run.stdout.split() == SPOKEN["text"].split()


def test_bare_commands_of_speech_use_it(prepared: Path, tmp_path: Path) -> None:
    """`voices`, `synthesize` and `evaluate`; a model that is named comes first."""
    said = f"model: {prepared.relative_to(tmp_path)}, the newest prepared config"
    voices = dsmops("voices", cwd=tmp_path)
    assert (voices.code, said in voices.stderr) == (0, True)
    assert voices.stdout.startswith("hibari")
    for words in (("synthesize", "hello", "x.nowhere"), ("evaluate", "no-such-manifest.csv")):
        assert said not in dsmops(*words, "--model", "tyni", cwd=tmp_path).stderr
    assert said in dsmops("evaluate", "no-such-manifest.csv", cwd=tmp_path).stderr
    assert (
        said
        in dsmops(
            "synthesize", "hello", "x.wav", "--dtype", "bf16", "--n-q", "900", cwd=tmp_path
        ).stderr
    )


def test_bare_commands_say_which_config_they_take(prepared: Path, tmp_path: Path) -> None:
    """The address and the recording end them early."""
    worker = dsmops("worker", "--addr", "nowhere", cwd=tmp_path)
    assert "tiny-both.toml, the newest prepared one" in worker.stderr
    assert worker.code == 3
    smoke = dsmops("smoke-test", "--audio", "missing.wav", cwd=tmp_path)
    assert "tiny-both.toml, the newest prepared one" in smoke.stderr
    assert smoke.code == 3


def test_a_test_that_cannot_start_leaves_its_junit(tmp_path: Path) -> None:
    """One error case, also where a package is missing: CI shows the reason instead of no file."""
    run = dsmops("smoke-test", "--config", "missing.toml", "--junit", "a.xml", cwd=tmp_path)
    assert run.code == 3
    without_aiohttp = (
        "import sys; sys.modules['aiohttp'] = None; sys.argv = ['dsmops', 'smoke-test',"
        " '--simulate-success', '--junit', 'b.xml']; from dsmops.cli.main import main;"
        " sys.exit(main())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", without_aiohttp], cwd=tmp_path, capture_output=True, check=False
    )
    assert ended.returncode == 4, ended.stderr
    for name, says in (("a.xml", "missing.toml"), ("b.xml", "aiohttp")):
        suite = ElementTree.parse(tmp_path / name).getroot()
        assert (suite.get("tests"), suite.get("errors")) == ("1", "1")
        error = suite.find("testcase/error")
        assert error is not None
        assert says in (error.get("message") or "")
