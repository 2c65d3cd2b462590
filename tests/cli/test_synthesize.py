"""`dsmops synthesize` as a user types it, with the tiny model, here and through the worker."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from typer.testing import CliRunner

from dsmops.audio import read
from dsmops.cli.app import app
from dsmops.worker.tiny.tts import API_KEY, TinyTts, write_tiny_tts
from tests.support.cli import Run, dsmops
from tests.support.processes import python
from tests.support.workers import WorkerProcess

TEXT = "She read the letter twice."
KEY = {"DSMOPS_API_KEY": API_KEY}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyTts:
    return write_tiny_tts(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def worker(tiny: TinyTts) -> Iterator[WorkerProcess]:
    with WorkerProcess(tiny.server_config.parent, tiny.server_config, "--silent") as process:
        yield process


def speak(tiny: TinyTts, *args: str | Path) -> Run:
    return dsmops(
        "synthesize", "--config", tiny.server_config, "--cpu", *args, cwd=tiny.server_config.parent
    )


@pytest.mark.slow
def test_a_text_becomes_a_file_of_the_format_in_its_name(tiny: TinyTts, tmp_path: Path) -> None:
    """The same seed gives the same sound in each, another one another; a line says how much, or
    each word when; another how fast.
    """
    sounds = []
    for name, seed in (
        ("a.wav", "7"),
        ("b.FLAC", "7"),
        ("c.wav", "8"),
        ("d.opus", "7"),
        ("e.mp3", "7"),
    ):
        run = speak(
            tiny, TEXT, tmp_path / name, "--seed", seed, *(("--timestamps",) if seed == "8" else ())
        )
        assert run.code == 0, run.stderr
        if seed == "8":
            assert [line.split()[2] for line in run.stdout.splitlines()] == TEXT.split()
        else:
            assert run.stdout.startswith(f"{tmp_path / name}: 5 words in ")
        assert f"tiny/first.wav, seed {seed}" in run.stderr
        assert "× real time, first sound after" in run.stderr
        sounds.append(read(tmp_path / name))
    assert np.array_equal(sounds[0], sounds[1])
    assert not np.array_equal(sounds[0], sounds[2])
    assert {len(sound) for sound in sounds if sound is not sounds[2]} == {len(sounds[0])}
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.slow
def test_the_document_says_how_it_can_be_said_again(tiny: TinyTts, tmp_path: Path) -> None:
    """Words with times in the sound, figures with their units, and voice, seed and guidance, which
    a second run takes.
    """
    first = speak(
        tiny,
        TEXT,
        tmp_path / "a.wav",
        "--json",
        "--cfg",
        "3",
        "--temperature",
        "0.9",
        "--voice",
        "tiny/second.wav",
    ).document
    assert first["schema"] == "dsmops.synthesize/1"
    assert [word["text"] for word in first["words"]] == TEXT.split()
    assert all(word["start_s"] < word["stop_s"] <= first["audio_s"] for word in first["words"])
    assert (first["voices"], first["cfg"], first["temperature"]) == (["tiny/second.wav"], 3.0, 0.9)
    assert first["first_audio_ms"] > 0
    assert first["speedup"] == pytest.approx(first["audio_s"] / first["compute_s"])
    assert first["audio_s"] == len(read(tmp_path / "a.wav")) / 24_000
    again = (
        "--cfg",
        "3",
        "--temperature",
        "0.9",
        "--voice",
        "tiny/second.wav",
        "--seed",
        str(first["seed"]),
    )
    assert speak(tiny, TEXT, tmp_path / "b.wav", *again).code == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.slow
def test_unknown_characters_are_skipped_here_and_through_a_server(
    tiny: TinyTts, worker: WorkerProcess, tmp_path: Path
) -> None:
    """The words before and behind are synthesized; a warning and the document name the
    characters.
    """
    text = "She read 你好 the letter\u200b twi🙂ce."
    here = speak(tiny, text, tmp_path / "a.wav", "--json").document
    there = dsmops(
        "synthesize", text, tmp_path / "b.wav", "--json", "--url", worker.url, env=KEY
    ).document
    for document in (here, there):
        assert [word["text"] for word in document["words"]] == [
            "She",
            "read",
            "the",
            "letter",
            "twice.",
        ]
        assert document["skipped"] == "你好🙂"
    noted = speak(tiny, text, tmp_path / "a.wav")
    assert (
        "warning: skipped characters that the model does not know: '你' '好' '🙂'" in noted.stderr
    )


@pytest.mark.slow
def test_a_wav_on_standard_output_has_its_length_where_that_is_a_file(
    tiny: TinyTts, tmp_path: Path
) -> None:
    """`> a.wav` is mended at the end; what is appended to, and a pipe, cannot be."""
    command = [*python(), "-m", "dsmops", "synthesize", "--cpu", "Hello you.", "-", "--config"]
    path = tmp_path / "a.wav"
    for mode in ("wb", "ab"):
        with path.open(mode) as file:
            subprocess.run(
                [*command, str(tiny.server_config)],
                stdout=file,
                stderr=subprocess.DEVNULL,
                cwd=tiny.server_config.parent,
                check=True,
            )
        if mode == "wb":
            size = path.stat().st_size
    header = path.read_bytes()[:44]
    assert struct.unpack("<I", header[40:])[0] == size - 44
    assert struct.unpack("<I", header[4:8])[0] == size - 8
    assert path.read_bytes()[size + 40 : size + 44] == b"\xff\xff\xff\xff"


@pytest.mark.slow
def test_a_file_of_that_name_is_the_text(tiny: TinyTts, tmp_path: Path) -> None:
    """With its byte order mark; and `-` is standard input."""
    script = tmp_path / "hello.txt"
    script.write_text(f"\ufeff{TEXT}\n", encoding="utf-8")
    assert speak(tiny, script, tmp_path / "a.wav", "--seed", "1").code == 0
    assert speak(tiny, TEXT, tmp_path / "b.wav", "--seed", "1").code == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    done = piped(tiny, TEXT.encode(), "-", str(tmp_path / "c.wav"), "--seed", "1")
    assert done.returncode == 0
    assert (tmp_path / "c.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def piped(tiny: TinyTts, text: bytes, *args: str) -> subprocess.CompletedProcess[bytes]:
    command = [
        *python(),
        "-m",
        "dsmops",
        "synthesize",
        "--config",
        str(tiny.server_config),
        "--cpu",
        *args,
    ]
    return subprocess.run(
        command,
        input=text,
        capture_output=True,
        cwd=tiny.server_config.parent,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_standard_output_gets_a_wav_or_bare_samples(tiny: TinyTts, tmp_path: Path) -> None:
    """Nothing else is there, and the samples are those of the file."""
    speak(tiny, TEXT, tmp_path / "a.wav", "--seed", "3")
    samples = (tmp_path / "a.wav").read_bytes()[44:]
    wav = piped(tiny, b"", TEXT, "-", "--seed", "3").stdout
    assert struct.unpack("<4sI", wav[:8]) == (b"RIFF", 0xFFFFFFFF)
    assert wav[44:] == samples
    assert np.array_equal(read(io.BytesIO(wav)), read(tmp_path / "a.wav"))
    assert piped(tiny, b"", TEXT, "-", "--seed", "3", "--format", "raw").stdout == samples


@pytest.mark.slow
def test_who_has_heard_enough_may_leave(tiny: TinyTts) -> None:
    """`| head -c 1000` is not a failure."""
    command = [
        *python(),
        "-m",
        "dsmops",
        "synthesize",
        "--config",
        str(tiny.server_config),
        "--cpu",
        f"{TEXT} " * 60,
        "-",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tiny.server_config.parent
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(1000)) == 1000
        process.stdout.close()
        errors = process.stderr.read().decode()
        assert process.wait(60) == 0
    assert "error" not in errors
    assert "the rest was not synthesized" in errors


@pytest.mark.slow
def test_two_voices_are_a_dialogue(tiny: TinyTts, tmp_path: Path) -> None:
    """Paragraphs in turn; with one voice they are one text."""
    script = tmp_path / "play.txt"
    script.write_text("Can you hear me now?\n\nYes, the weather is clear.\n \n\nWhat time is it?\n")
    both = ("--voice", "tiny/first.wav", "--voice", "tiny/second.wav", "--json", "--seed", "5")
    document = speak(tiny, script, tmp_path / "a.wav", *both).document
    assert document["voices"] == ["tiny/first.wav", "tiny/second.wav"]
    assert [word["text"] for word in document["words"]] == script.read_text().split()
    speak(tiny, script, tmp_path / "b.wav", "--voice", "tiny/first.wav", "--seed", "5")
    assert not np.array_equal(read(tmp_path / "a.wav"), read(tmp_path / "b.wav"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("你好", "x.wav"), 3, "does not know '你' '好'"),
        (("hello 你好", "x.wav", "--strict"), 3, "does not know '你' '好'"),
        (("hello.txt", "x.wav"), 3, "hello.txt: the file does not exist"),
        (("hello", "x.mp4"), 3, "End the name in .wav"),
        (("hello", "x.wav", "--voice", "tiny/frist.wav"), 3, "Near names: tiny/first.wav"),
        (("hello", "--play"), 4, "dsmops[mic]"),
    ],
)
def test_what_cannot_be_is_one_error_with_a_hint(
    tiny: TinyTts, args: tuple[str, ...], code: int, said: str
) -> None:
    """The right exit code, no traceback, and nothing is left behind."""
    folder = tiny.server_config.parent
    before = sorted(folder.rglob("*"))
    run = speak(tiny, *args)
    assert run.code == code, run.stderr
    assert said in run.stderr
    assert run.stdout == ""
    assert run.stderr.count("error: ") == run.stderr.count("hint: ") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("hello",), "name one OUT, or give --play"),
        (("hello", "x.wav", "--play"), "name one OUT, or give --play"),
        (("hello", "-", "--json"), "standard output carries the sound"),
        (("hello", "-", "--timestamps"), "standard output carries the sound"),
        (("hello", "x.wav", "--format", "raw"), "a file's name says its format"),
        (("hello", "x.wav", "--seed", "-1"), "--seed"),
        (("hello", "x.wav", *("--voice", "tiny/first.wav") * 3), "a dialogue has two voices"),
        (
            ("hello", "x.wav", "--url", "ws://127.0.0.1:9", "--voice", ""),
            "omit it for the default voice",
        ),
        (("config.json", "config.json"), "OUT is the text itself"),
        (
            ("hello", "x.wav", "--url", "ws://127.0.0.1:9", "--seed", "1", "--cpu"),
            "omit --cpu and --seed",
        ),
        (
            ("hello", "x.wav", "--url", "ws://127.0.0.1:9", "--voice", "a", "--voice", "b"),
            "a server uses one voice",
        ),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    tiny: TinyTts, args: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is read or loaded."""
    monkeypatch.chdir(tiny.server_config.parent)
    result = CliRunner().invoke(app, ["synthesize", *args])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


@pytest.mark.slow
@pytest.mark.parametrize("remote", [False, True], ids=["here", "server"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_keeps_what_was_made(
    tiny: TinyTts, worker: WorkerProcess, tmp_path: Path, number: signal.Signals, remote: bool
) -> None:
    """The file holds the sound until then, the JSON says that it is incomplete, and the exit code
    is the signal's; no partial file is left. Here and through a running worker.
    """
    here = ("--config", str(tiny.server_config), "--cpu")
    target = tmp_path / "a.wav"
    target.write_bytes(b"old")
    command = [
        *python(),
        "-m",
        "dsmops",
        "synthesize",
        *(("--url", worker.url) if remote else here),
        "--json",
        f"{TEXT} " * 1100,
        str(target),
    ]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tiny.server_config.parent,
        env={**os.environ, **KEY},
    ) as process:
        try:
            partial = tmp_path / ".a.wav.dsmops-partial"
            until_s = time.monotonic() + 60
            while not (partial.exists() and partial.stat().st_size > 10_000):
                assert time.monotonic() < until_s
                assert process.poll() is None
                time.sleep(0.01)
            assert target.read_bytes() == b"old"
            process.send_signal(number)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, bool(output)) == (128 + number, True), errors
    document = json.loads(output)
    assert document["incomplete"]["code"] == "interrupted"
    assert document["audio_s"] == len(read(target)) / 24_000 > 0
    assert list(tmp_path.iterdir()) == [target]


def test_a_signal_before_the_first_sound_leaves_an_old_file(
    tiny: TinyTts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was made, so nothing replaces what is there."""
    target = tmp_path / "a.wav"
    target.write_bytes(b"old")

    def stopped(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("dsmops.operations.speech.synthesis.load_tts_source", stopped)
    monkeypatch.chdir(tiny.server_config.parent)
    args = ["synthesize", "--config", str(tiny.server_config), "--cpu", "hello", str(target)]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 130
    assert f"stopped; {target} is as it was" in result.stderr
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.slow
def test_a_server_says_it_too(worker: WorkerProcess, tmp_path: Path) -> None:
    """Words, times and figures; what the server decides is not known."""
    args = ("--url", worker.url, "--json", "--voice", "tiny/second.wav")
    document = dsmops("synthesize", TEXT, tmp_path / "a.wav", *args, env=KEY).document
    assert document["model"] == f"ws://{worker.url.removeprefix('http://')}/api/tts_streaming"
    assert [word["text"] for word in document["words"]] == TEXT.split()
    assert document["audio_s"] == len(read(tmp_path / "a.wav")) / 24_000
    assert document["voices"] == ["tiny/second.wav"]
    assert [document[key] for key in ("device", "dtype", "seed", "cfg", "temperature")] == [
        None
    ] * 5


@pytest.mark.slow
def test_a_server_says_100_kb_of_text(worker: WorkerProcess, tmp_path: Path) -> None:
    """All of it, into a pipe that somebody leaves in the middle, and the server has its slot
    back.
    """
    script = tmp_path / "long.txt"
    script.write_text(f"{TEXT}\n" * 3800)
    command = [
        *python(),
        "-m",
        "dsmops",
        "synthesize",
        "--url",
        worker.url,
        str(script),
        "-",
        "--format",
        "raw",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **KEY}
    ) as process:
        assert process.stdout is not None
        assert len(process.stdout.read(1_000_000)) == 1_000_000
        process.stdout.close()
        assert process.wait(60) == 0
    assert (
        dsmops("synthesize", "hello there", tmp_path / "a.wav", "--url", worker.url, env=KEY).code
        == 0
    )


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--api-key", "wrong"), 4, "refused the key"),
        (("--voice", "nobody.wav"), 3, "this server has no voice 'nobody.wav'"),
    ],
)
def test_what_a_server_refuses_is_told(
    worker: WorkerProcess, tmp_path: Path, args: tuple[str, ...], code: int, said: str
) -> None:
    """One error with the right exit code, and no file."""
    run = dsmops(
        "synthesize",
        "hello there my friend",
        tmp_path / "a.wav",
        "--url",
        worker.url,
        *args,
        env=KEY,
    )
    assert run.code == code, run.stderr
    assert said in run.stderr
    assert list(tmp_path.iterdir()) == []
