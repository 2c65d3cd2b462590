"""`dsmops transcribe` as a newcomer meets it: formats, forms of output, prompts, and everything
that goes wrong.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch", reason="the worker extra is not installed")

from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from dsmops.audio import write
from dsmops.cli.app import app
from dsmops.errors import DsmopsError
from dsmops.shipped import shipped_folder
from dsmops.worker.runtime.stt.engine import SttEngine
from dsmops.worker.tiny.stt import write_tiny_stt
from tests.support.cli import dsmops
from tests.support.processes import python
from tests.support.sound import encoded, piped_wav, sweep

RATE_HZ = 24_000
MODEL = ("--model", "model", "--cpu")


def speech(seconds: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return a rising tone in noise, with a pause in the second half."""
    samples = sweep(RATE_HZ, seconds) + np.random.default_rng(1).normal(
        0, 0.05, round(RATE_HZ * seconds)
    ).astype(np.float32)
    samples[len(samples) // 2 : 3 * len(samples) // 4] = 0
    return samples.astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, one without heads, one that is damaged, and recordings of 3.02 s."""
    folder = tmp_path_factory.mktemp("transcribe")
    write_tiny_stt(folder / "model")
    plain = write_tiny_stt(folder / "plain")
    save_file(
        {
            name: value
            for name, value in load_file(plain.files.lm).items()
            if not name.startswith("extra_heads")
        },
        plain.files.lm,
    )
    plain.model_config.write_text(
        json.dumps(json.loads(plain.model_config.read_text()) | {"extra_heads_num_heads": 0})
    )
    damaged = write_tiny_stt(folder / "damaged")
    tensors = load_file(damaged.files.lm)
    tensors["out_norm.alpha"][..., 3] = float("nan")
    save_file(tensors, damaged.files.lm)
    write(folder / "speech.wav", [speech(3.02)])
    write(folder / "prompt.wav", [speech(1.5)])
    write(folder / "silence.wav", [np.zeros(RATE_HZ, np.float32)])
    (folder / "text.wav").write_text("no audio")
    (folder / "empty.wav").touch()
    return folder


@pytest.fixture
def transcribe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command in this process, in the folder of the recordings."""
    monkeypatch.chdir(folder)
    return lambda *args, model=MODEL: CliRunner().invoke(app, ["transcribe", *args, *model])


@pytest.fixture(scope="module")
def said(folder: Path) -> str:
    """What the tiny model transcribes from speech.wav."""
    done = CliRunner().invoke(
        app, ["transcribe", str(folder / "speech.wav"), "--model", str(folder / "model"), "--cpu"]
    )
    assert len(done.stdout.split()) > 5
    return done.stdout


@pytest.mark.slow
def test_the_text_is_all_of_stdout(transcribe: Callable[..., Result], said: str) -> None:
    """One paragraph; how long and how fast on stderr, nothing at all with --quiet."""
    done = transcribe("speech.wav")
    assert (done.exit_code, done.stdout) == (0, said)
    assert said.count("\n") == 1
    assert done.stderr.startswith("3.0 s of audio in ")
    assert done.stderr.endswith("× real time, F32 on cpu\n")
    quiet = transcribe("speech.wav", "--quiet")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("container", "encoding", "rate_hz", "channels"),
    [
        ("WAV", "FLOAT", 48_000, 2),
        ("FLAC", "PCM_16", 24_000, 1),
        ("FLAC", "PCM_24", 44_100, 2),
        ("OGG", "VORBIS", 16_000, 1),
        ("OGG", "OPUS", 48_000, 1),
        ("MP3", "MPEG_LAYER_III", 44_100, 2),
    ],
)
def test_formats(
    folder: Path,
    transcribe: Callable[..., Result],
    container: str,
    encoding: str,
    rate_hz: int,
    channels: int,
) -> None:
    """Whatever the container, the rate and the channels: words, and the recording's length."""
    samples = sweep(rate_hz, 3.02)
    (folder / "other").write_bytes(
        encoded(np.stack([samples] * channels, axis=1), rate_hz, container, encoding)
    )
    done = transcribe("other", "--json")
    document = json.loads(done.stdout)
    assert document["audio_s"] == pytest.approx(3.02, abs=0.1)
    assert document["words"]


@pytest.mark.slow
def test_standard_input(folder: Path, said: str) -> None:
    """A file or a pipe on stdin is transcribed as the file is, also with the header that ffmpeg
    writes into pipes.
    """
    command = [*python(), "-m", "dsmops", "transcribe", "-", *MODEL, "--quiet", "--json"]
    for given in ((folder / "speech.wav").read_bytes(), piped_wav(speech(3.02))):
        done = subprocess.run(
            command, input=given, cwd=folder, capture_output=True, check=False, timeout=60
        )
        document = json.loads(done.stdout)
        assert (document["audio"], document["audio_s"], document["text"]) == (
            "standard input",
            3.02,
            said.strip(),
        )


@pytest.mark.slow
def test_the_document_has_all(transcribe: Callable[..., Result], said: str) -> None:
    """One JSON document: text, words with times, turns, levels, figures; nothing on stderr."""
    done = transcribe("speech.wav", "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == "dsmops.transcribe/1"
    assert (document["text"], document["audio_s"], document["has_vad"]) == (
        said.strip(),
        3.02,
        True,
    )
    assert (document["model"], document["device"], document["dtype"]) == ("model", "cpu", "F32")
    assert all(set(word) == {"text", "start_s", "stop_s"} for word in document["words"])
    assert [word["start_s"] for word in document["words"]] == sorted(
        word["start_s"] for word in document["words"]
    )
    assert document["turns"]
    assert set(document["levels"]) == {"duration_s", "peak", "rms", "silent_share"}
    assert document["steps"] == 38 + 6 + 13
    assert done.stderr == ""


@pytest.mark.slow
def test_timestamps(transcribe: Callable[..., Result], said: str) -> None:
    """A line per word with start and stop; with --vad the ends of turns between them; the other
    rule gives other times.
    """
    plain = transcribe("speech.wav", "--timestamps").stdout.splitlines()
    assert " ".join(line[19:] for line in plain).replace(" ", "") == said.strip().replace(" ", "")
    starts = [float(line[:8]) for line in plain]
    assert starts == sorted(starts)
    with_turns = transcribe("speech.wav", "--timestamps", "--vad").stdout.splitlines()
    assert [line for line in with_turns if not line.endswith("(turn ends)")] == plain
    assert len(with_turns) > len(plain)
    python = transcribe("speech.wav", "--timestamps", "--timing", "python").stdout.splitlines()
    assert python != plain
    assert all(float(line[:8]) <= float(line[9:17]) for line in python)


@pytest.mark.slow
def test_turns_are_paragraphs(transcribe: Callable[..., Result], said: str) -> None:
    """--vad breaks the text where a turn ends, and keeps all of its words."""
    done = transcribe("speech.wav", "--vad")
    assert done.stdout.count("\n") > 1
    assert done.stdout.replace(" ", "").replace("\n", "") == said.strip().replace(" ", "")


@pytest.mark.slow
def test_vad_without_heads_is_told(transcribe: Callable[..., Result]) -> None:
    """A model without semantic VAD transcribes, and says that it has none."""
    done = transcribe("speech.wav", "--vad", model=("--model", "plain", "--cpu"))
    assert done.exit_code == 0
    assert "warning: plain has no semantic VAD" in done.stderr
    assert "warning" not in transcribe("speech.wav", model=("--model", "plain", "--cpu")).stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "first"), [("--srt", "1\n00:00:0"), ("--vtt", "WEBVTT\n\n00:00:0")]
)
def test_captions(folder: Path, transcribe: Callable[..., Result], form: str, first: str) -> None:
    """On stdout, or in a file: the same text."""
    shown = transcribe("speech.wav", form).stdout
    assert shown.startswith(first)
    assert " --> " in shown
    done = transcribe("speech.wav", form, "-o", "captions")
    assert done.stdout.startswith("captions: ")
    assert done.stdout.endswith(" words of 3.0 s\n")
    assert (folder / "captions").read_text() == shown


@pytest.mark.slow
def test_a_file_gets_the_text(folder: Path, transcribe: Callable[..., Result], said: str) -> None:
    """-o replaces what was there, in a folder that it makes; the document still goes to stdout."""
    (folder / "old.txt").write_text("old")
    assert transcribe("speech.wav", "-o", "old.txt").exit_code == 0
    assert (folder / "old.txt").read_text() == said
    done = transcribe("speech.wav", "-o", "new/text.txt", "--json")
    assert (folder / "new" / "text.txt").read_text() == said
    assert json.loads(done.stdout)["text"] == said.strip()
    assert transcribe("speech.wav", "-o", "-").stdout == said
    assert not (folder / "-").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first"),
    [("t.srt", "1\n00:00:0"), ("t.VTT", "WEBVTT\n"), ("t.json", '{\n  "schema": "dsmops.tra')],
)
def test_the_ending_of_the_output_names_its_form(
    folder: Path, transcribe: Callable[..., Result], said: str, name: str, first: str
) -> None:
    """`-o talk.srt` needs no --srt; other endings get the text, and an option decides over the
    ending.
    """
    assert transcribe("speech.wav", "-o", name).exit_code == 0
    assert (folder / name).read_text().startswith(first)
    assert transcribe("speech.wav", "-o", "t.md").exit_code == 0
    assert (folder / "t.md").read_text() == said
    assert transcribe("speech.wav", "--vtt", "-o", name).exit_code == 0
    assert (folder / name).read_text().startswith("WEBVTT\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["part.txt", "part.srt", "part.vtt", "part.json"])
def test_what_was_transcribed_before_damage_is_written(
    folder: Path, transcribe: Callable[..., Result], name: str
) -> None:
    """Text, captions and JSON, marked incomplete, and the exit code of the cause."""
    samples = speech(6.0)
    samples[100_000] = np.nan
    (folder / "damaged.wav").write_bytes(encoded(samples, container="WAV", encoding="FLOAT"))
    done = transcribe("damaged.wav", "-o", name)
    assert done.exit_code == 3
    assert "words of 4.0 s, incomplete" in done.stdout
    assert "error: damaged.wav: sample 100000 (at 4.167 s)" in done.stderr
    assert "incomplete" in (folder / name).read_text()
    assert len((folder / name).read_text().split()) > 10


@pytest.mark.slow
def test_words_come_while_a_pipe_runs_and_ctrl_c_keeps_them(folder: Path) -> None:
    """The pipe stays open: words are on stdout, then Ctrl-C ends the recording and the rest of them
    comes.
    """
    command = [*python(), "-m", "dsmops", "transcribe", "-", *MODEL]
    with subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=False,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdin.write(piped_wav(speech(4.0)))
        running.stdin.flush()
        first = running.stdout.read(6)
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
        notes = running.stderr.read().decode()
        running.wait(timeout=30)
    assert running.returncode == 130
    assert len((first + rest).split()) > 5
    assert rest.endswith(b"\n")
    assert "ended early" in notes
    assert "Traceback" not in notes


@pytest.mark.slow
def test_prompts(transcribe: Callable[..., Result], said: str) -> None:
    """A prompt is processed and not written. One that the model never wrote is reported, since
    nothing else was written either.
    """
    done = transcribe("silence.wav", "--prompt-audio", "prompt.wav")
    assert (done.exit_code, done.stdout) == (0, "\n")
    done = transcribe("silence.wav", "--prompt-text", "a prompt of many words")
    assert "warning: the model never wrote all of the prompt (" in done.stderr
    assert transcribe("speech.wav", "--prompt-text", "").stdout == said
    assert (
        len(transcribe("silence.wav", "--prompt-text", "a prompt of many words " * 500).stderr)
        < 500
    )


def test_silence_is_told(transcribe: Callable[..., Result]) -> None:
    """No words is not an error, but a muted microphone should be noticed."""
    done = transcribe("silence.wav")
    assert (done.exit_code, done.stdout) == (0, "\n")
    assert "warning: silence.wav is silent (peak 0.0000 of 1)" in done.stderr
    assert transcribe("silence.wav", "--srt").exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "shown"), [("f16", "F16"), ("bfloat16", "BF16"), ("float32", "F32")]
)
def test_dtypes(transcribe: Callable[..., Result], dtype: str, shown: str) -> None:
    """By any of their names, on a CPU too."""
    done = transcribe("speech.wav", "--dtype", dtype, "--json")
    assert json.loads(done.stdout)["dtype"] == shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["gone.wav"], 3, "error: gone.wav: No such file or directory"),
        (["~nobody-here/x.wav"], 3, "error: ~nobody-here/x.wav: No such file or directory"),
        (["empty.wav"], 3, "error: empty.wav is empty"),
        (["text.wav"], 3, "error: text.wav: not readable as audio"),
        (["."], 3, "error: . is a folder"),
        (["speech.wav", "--prompt-audio", "text.wav"], 3, "error: text.wav: not readable as audio"),
        (["speech.wav", "--prompt-audio", "gone.wav"], 3, "error: gone.wav: No such file"),
        (["speech.wav", "--prompt-audio", "-"], 2, "--prompt-audio"),
        (["speech.wav", "--model", "stt-1b-en-fr"], 3, "hint: Did you mean stt-1b-en_fr?"),
        (["speech.wav", "--model", "tts-1.6b-en_fr"], 3, "is a text-to-speech model"),
        (["speech.wav", "--model", "gone.toml"], 3, "error: gone.toml: No such file"),
        (["speech.wav", "--model", ""], 3, "error: an empty name names no model"),
        (["speech.wav", "--model", "damaged"], 3, "57 of 57 steps gave NaN or infinity in F32"),
        (
            ["speech.wav", "--model", "damaged"],
            3,
            "`dsmops verify --numerics` shows in which layer it begins",
        ),
        (["speech.wav", "-o", "text.wav/x"], 3, "error: text.wav/x"),
        (["speech.wav", "-o", "."], 3, "error: . is a folder"),
        (["speech.wav", "-o", "./speech.wav"], 2, "--output is the recording itself"),
        (["speech.wav", "-o", "link.wav"], 2, "--output is the recording itself"),
        (
            ["speech.wav", "--prompt-audio", "prompt.wav", "-o", "prompt.wav"],
            2,
            "--output is the prompt itself",
        ),
        (
            ["speech.wav", "--model", "model/config.json", "-o", "model/config.json"],
            2,
            "--output is the model itself",
        ),
        (
            ["speech.wav", "--model", "model", "-o", "model/config.json"],
            2,
            "--output is the model's config itself",
        ),
        (
            ["speech.wav", "--model", "model", "-o", "model/model.safetensors"],
            3,
            "model/model.safetensors is a file of the model itself",
        ),
        (
            ["speech.wav", "--model", "model", "-o", "model/tokenizer_tiny_320.model"],
            3,
            "is a file of the model itself",
        ),
        (["speech.wav", "-o", "/dev/full"], 3, "error: /dev/full is not a regular file"),
        (["speech.wav", "--prompt-text", "caf\udce9"], 2, "--prompt-text"),
        (["", "--cpu"], 2, "name one AUDIO"),
        (["speech.wav", "--srt", "--vtt"], 2, "choose one"),
        (["speech.wav", "--srt", "--json"], 2, "choose one"),
        (["speech.wav", "--dtype", "int8"], 2, "--dtype"),
        (["speech.wav", "--timing", "candle"], 2, "--timing"),
        ([], 2, "AUDIO"),
    ],
)
def test_wrong_input_is_told(
    folder: Path, transcribe: Callable[..., Result], args: list[str], code: int, message: str
) -> None:
    """A clear error, its class's exit code, nothing on stdout, and nothing left behind."""
    if not (folder / "link.wav").exists():
        (folder / "link.wav").symlink_to("speech.wav")
    before = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    done = transcribe(*args, model=() if "--model" in args else MODEL)
    error = done.exception
    if isinstance(error, DsmopsError):
        assert (error.exit_code, message in f"error: {error.message}\nhint: {error.hint}\n") == (
            code,
            True,
        ), str(error)
    else:
        assert (done.exit_code, message in done.stderr) == (code, True), done.output
    assert done.stdout == ""
    assert {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("https://example.com/talk.mp3", "is an address, not a file: curl -LO https://example.com"),
        ("ws://127.0.0.1:8080", "a server goes behind --url: --url ws://127.0.0.1:8080"),
        ("-lead.wav", "-lead.wav begins with a dash and is read as options; write ./-lead.wav"),
        ("-o.wav", "-o.wav begins with a dash and is read as options; write ./-o.wav"),
    ],
)
def test_what_is_mistaken_for_a_file_is_told(
    folder: Path, transcribe: Callable[..., Result], argument: str, message: str
) -> None:
    """One sentence with what to type instead."""
    (folder / "-o.wav").write_bytes((folder / "speech.wav").read_bytes())
    done = transcribe(argument)
    assert done.exit_code == 2
    assert message in done.stderr
    assert transcribe("./-o.wav").exit_code == 0


def test_the_recording_on_stdin_is_not_replaced(folder: Path) -> None:
    """`transcribe - -o talk.wav < talk.wav` would lose it."""
    with (folder / "speech.wav").open("rb") as stdin:
        command = [*python(), "-m", "dsmops", "transcribe", "-", *MODEL, "-o", "speech.wav"]
        done = subprocess.run(
            command,
            stdin=stdin,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 2
    assert "--output is the recording itself" in done.stderr


@pytest.mark.slow
def test_what_ends_it_is_told_in_words_or_json(folder: Path) -> None:
    """A damaged model ends the process with exit 3 and two lines, with --json one document, on
    stderr.
    """
    done = dsmops("transcribe", "speech.wav", "--model", "damaged", "--cpu", cwd=folder)
    assert (done.code, done.stdout) == (3, "")
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    done = dsmops("transcribe", "speech.wav", "--model", "damaged", "--cpu", "--json", cwd=folder)
    assert (done.code, done.stdout) == (3, "")
    assert json.loads(done.stderr)["error"]["code"] == "model.not_finite"


@pytest.mark.slow
@pytest.mark.parametrize("package", ["torch", "sentencepiece", "safetensors", "soundfile"])
def test_without_the_worker_extra_it_says_what_to_install(folder: Path, package: str) -> None:
    """Exit 4 and the command, whichever part is missing."""
    code = (
        f"import sys; sys.modules[{package!r}] = None; from dsmops.cli.main import main;"
        " sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "transcribe", "speech.wav", *MODEL]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 4, done.stderr
    assert package in done.stderr
    assert "dsmops[worker]" in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("package", ["aiohttp", "msgspec"])
def test_without_what_talks_to_servers_it_says_what_to_install(folder: Path, package: str) -> None:
    """Exit 4 and the command."""
    code = (
        f"import sys; sys.modules[{package!r}] = None; from dsmops.cli.main import main;"
        " sys.exit(main())"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "transcribe",
        "speech.wav",
        "--url",
        "ws://127.0.0.1:1",
        "--json",
    ]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 4, done.stderr
    assert package in json.loads(done.stderr)["error"]["message"]


def test_ctrl_c_while_it_listens(
    folder: Path, transcribe: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 130; what -o names stays as it was, and nothing lies beside it."""
    (folder / "kept.txt").write_text("kept")
    launch, steps = SttEngine.launch, iter(range(20))

    def interrupted(engine: SttEngine, *args: object) -> object:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return launch(engine, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(SttEngine, "launch", interrupted)
    done = transcribe("speech.wav", "-o", "kept.txt")
    assert (done.exit_code, done.stdout) == (130, "")
    assert (folder / "kept.txt").read_text() == "kept"
    assert not list(folder.glob(".*partial*"))


def test_ctrl_c_while_it_reads(folder: Path) -> None:
    """A pipe that stays open can be left."""
    command = [*python(), "-m", "dsmops", "transcribe", "-", *MODEL]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdin is not None
        # More than a pipe holds: once it is written, the command reads.
        running.stdin.write(bytes(1 << 20))
        running.stdin.flush()
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
        assert running.stdout is not None
        assert running.stderr is not None
        assert (running.stdout.read(), b"Traceback" in running.stderr.read()) == (b"", False)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_the_words_of_a_pipe_that_still_runs(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Words of an MP3 come while the pipe runs, and are all there when a signal ends the wait."""
    sentence = min((shipped_folder("models") / "recordings").glob("*.flac"))
    samples, rate_hz = soundfile.read(sentence, dtype="float32")
    data = encoded(np.tile(samples, 3), rate_hz, "MP3", "MPEG_LAYER_III")
    command = [*python(), "-m", "dsmops", "transcribe", "-", "--model", "tiny", "--cpu"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(data)
        running.stdin.flush()
        first = running.stdout.read(1)
        running.send_signal(number)
        output, errors = running.communicate(timeout=30)
    assert running.returncode == 128 + number, errors
    assert len((first + output).split()) >= 1
    assert b"ended early" in errors
    assert b"Traceback" not in errors


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    """`| head -0` ends it quietly, with exit 0."""
    command = [
        *python(),
        "-m",
        "dsmops",
        "transcribe",
        "speech.wav",
        *MODEL,
        "--quiet",
        "--json",
    ]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        assert running.stderr.read() == b""
        assert running.wait(30) == 0


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_recording(folder: Path) -> None:
    """Ten minutes, 58 MB as samples, take as much memory as one: at most 8 MiB more."""
    code = (
        "import sys, resource; from dsmops.cli.main import main; code = main(); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    minute = speech(60)
    peaks_kib = []
    for minutes in (1, 10):
        write(folder / "long.wav", [minute] * minutes)
        command = [*python(), "-c", code, "transcribe", "long.wav", *MODEL, "--quiet"]
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=110,
            env=dict(os.environ),
        )
        peaks_kib.append(int(done.stderr))
    assert peaks_kib[1] - peaks_kib[0] < 8 * 1024
