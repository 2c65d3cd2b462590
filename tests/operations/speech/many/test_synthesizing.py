"""Many texts through the random tiny model: the sound of each alone, in every order, once."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from dsmops.audio import read, write
from dsmops.dtypes import ComputeDType
from dsmops.errors import DiskFullError, InputError
from dsmops.operations.models.tts import find_tts
from dsmops.operations.models.voices import find_voice
from dsmops.operations.speech import synthesis
from dsmops.operations.speech.many.synthesizing import (
    SynthesisJob,
    SynthesisRun,
    synthesize_many,
)
from dsmops.operations.speech.many.work import Shard
from dsmops.operations.speech.synthesis import SynthesisSettings, synthesize
from dsmops.worker.tiny.tts import VOICES, write_tiny_tts

TEXTS: tuple[dict[str, Any], ...] = (
    {"text": "One."},
    {"text": "Two and three and four."},
    {"text": "Five six.", "voice": VOICES[1]},
    {"text": "Seven.", "seed": 7, "format": "flac"},
    {"text": "Eight, nine\n\nand ten.", "voice": list(VOICES), "format": "mp3"},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, and a manifest of texts that differ in what a manifest can say."""
    folder = tmp_path_factory.mktemp("texts")
    write_tiny_tts(folder / "model")
    rows = [{"id": str(number), **row} for number, row in enumerate(TEXTS)]
    (folder / "m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What each text is as a file, synthesized by itself."""
    into = tmp_path_factory.mktemp("alone")
    for number, row in enumerate(TEXTS):
        path = into / f"{number}.{row.get('format', 'wav')}"
        voice = row.get("voice", ())
        voices = (voice,) if isinstance(voice, str) else tuple(voice)
        synthesize(
            row["text"],
            partial(write, path),
            str(folder / "model"),
            SynthesisSettings(voices, seed=row.get("seed", 0)),
            dtype=ComputeDType.F32,
            cpu=True,
            target=path,
        )
    return sounds(into)


def job(folder: Path, into: Path, *, inputs: tuple[str, ...] = (), **options: Any) -> SynthesisJob:
    return SynthesisJob(
        inputs or (str(folder / "m.jsonl"),),
        into,
        str(folder / "model"),
        dtype=ComputeDType.F32,
        cpu=True,
        **options,
    )


def run(folder: Path, into: Path, *, batch_size: int = 1, **options: Any) -> SynthesisRun:
    return synthesize_many(job(folder, into, batch_size=batch_size, **options))


def sounds(into: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in into.iterdir() if path.is_file()}


@pytest.mark.slow
def test_each_has_the_sound_that_it_has_alone(
    folder: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """To the byte, in every format; the second run does nothing."""
    done = run(folder, tmp_path)
    assert sounds(tmp_path) == alone
    assert (done.synthesized, done.failures, done.batch_size) == (len(TEXTS), (), 1)
    assert done.words == sum(len(row["text"].split()) for row in TEXTS)
    again = run(folder, tmp_path)
    assert (again.synthesized, again.done_before, again.device) == (0, len(TEXTS), None)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 8])
def test_in_a_batch_only_rounding_changes(
    folder: Path, alone: dict[str, bytes], tmp_path: Path, batch_size: int
) -> None:
    """As many samples, each the same or the next of 65,536 levels; lossy formats decode alike."""
    done = run(folder, tmp_path / "out", batch_size=batch_size)
    assert done.batch_size == min(batch_size, len(TEXTS))
    assert sounds(tmp_path / "out").keys() == alone.keys()
    for name, sound in alone.items():
        (tmp_path / name).write_bytes(sound)
        expected, got = read(tmp_path / name), read(tmp_path / "out" / name)
        assert len(got) == len(expected)
        most = 0.01 if name.endswith(".mp3") else 1.5 / 32768
        assert np.abs(got - expected).max() < most


@pytest.mark.slow
def test_only_what_is_missing_is_done_again(
    folder: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """In shards first, then what was removed and what has other words."""
    parts = [run(folder, tmp_path, shard=Shard(number, 2)) for number in (1, 2)]
    assert sum(one.synthesized for one in parts) == len(TEXTS)
    assert sounds(tmp_path) == alone
    (tmp_path / "0.wav").unlink()
    changed = tmp_path / "changed.jsonl"
    changed.write_text((folder / "m.jsonl").read_text().replace("Two and", "Two or"))
    done = run(folder, tmp_path, inputs=(str(changed),))
    assert (done.synthesized, done.done_before) == (2, len(TEXTS) - 2)
    after = {name: sound for name, sound in sounds(tmp_path).items() if name != changed.name}
    assert {name for name in alone if after[name] != alone[name]} == {"1.wav"}


@pytest.mark.slow
def test_a_text_that_cannot_be_used_fails_alone(folder: Path, tmp_path: Path) -> None:
    """Each is named with its reason; the good one is there, and characters are reported."""
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    rows = [
        {"id": "good", "text": "One 你 two."},
        {"id": "none", "text": "你好"},
        {"id": "blank", "text": " "},
        {"id": "voice", "text": "One.", "voice": "tiny/frist.wav"},
        {"id": "gone", "path": "gone.txt"},
        {"id": "latin", "path": "latin.txt"},
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = run(folder, tmp_path / "out", inputs=(str(manifest),))
    assert (done.synthesized, done.skipped) == (1, "你")
    assert set(sounds(tmp_path / "out")) == {"good.wav"}
    errors = "\n".join(failure.error for failure in done.failures)
    assert len(done.failures) == 5
    for part in (
        f"{manifest}, line 2: the model's tokenizer does not know '你' '好'",
        f"there is nothing to synthesize: {manifest}, line 3 is empty",
        "has no voice 'tiny/frist.wav'",
        f"{tmp_path}/gone.txt: No such file",
        f"{tmp_path}/latin.txt is not UTF-8 (byte 3)",
    ):
        assert part in errors


@pytest.mark.slow
def test_threads_look_for_a_voice_one_after_another_and_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that fetched one file at a time would be in each other's way."""
    searching = threading.Lock()
    found = []

    def find(name: str, *args: Any, **options: Any) -> Path:
        assert searching.acquire(blocking=False)
        time.sleep(0.05)
        found.append(name)
        searching.release()
        return find_voice(name, *args, **options)

    monkeypatch.setattr(synthesis, "find_voice", find)
    requests = synthesis.Requests(find_tts(str(folder / "model")), SynthesisSettings())
    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(lambda number: requests.make((VOICES[number % 2],), 0), range(6)))
    assert sorted(found) == sorted(VOICES)
    assert len({id(one.voices[0]) for one in made}) == 2


@pytest.mark.slow
def test_what_a_run_was_begun_with_stays(folder: Path, tmp_path: Path) -> None:
    """Another seed or voice for all is refused, and so is the folder of transcripts."""
    one = tmp_path / "list"
    one.write_text("One.\n")
    run(folder, tmp_path / "out", inputs=(f"@{one}",))
    for settings, what in (
        (SynthesisSettings(seed=1), "was begun with seed 0, not 1"),
        (SynthesisSettings((VOICES[1],)), "was begun with voices the model's"),
    ):
        with pytest.raises(InputError, match=what):
            run(folder, tmp_path / "out", inputs=(f"@{one}",), settings=settings)
    state = tmp_path / "out" / ".dsmops-run" / "run.json"
    state.write_text(state.read_text().replace("synthesis-run", "transcription-run"))
    with pytest.raises(InputError, match="is the folder of another kind of run"):
        run(folder, tmp_path / "out", inputs=(f"@{one}",))


@pytest.mark.fault
def test_a_full_disk_ends_the_run_and_loses_nothing(
    folder: Path, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file does not fit, nothing of it is left; once there is space the run goes on."""
    import dsmops.files

    real, written = os.write, 0

    def write_some(fd: int, data: Any) -> int:
        nonlocal written
        if written > 60_000:
            raise OSError(28, "No space left on device")
        count = real(fd, data)
        written += count
        return count

    with monkeypatch.context() as patched:
        patched.setattr(dsmops.files.os, "write", write_some)
        with pytest.raises(DiskFullError):
            run(folder, tmp_path)
    assert set(sounds(tmp_path).items()) < set(alone.items())
    run(folder, tmp_path)
    assert sounds(tmp_path) == alone


@pytest.mark.fault
def test_killed_at_any_moment_nothing_is_lost_or_done_twice(folder: Path, tmp_path: Path) -> None:
    """Killed again and again while it works; in the end all is there, with the sound of a quiet
    run.
    """
    letters = "abcdefghijklmnopqrstuvwx"
    count = len(letters)
    (tmp_path / "list").write_text("".join(f"{one} again.\n" for one in letters))
    inputs = (f"@{tmp_path}/list",)
    run(folder, tmp_path / "quiet", inputs=inputs)
    rng = random.Random(3)
    for _ in range(5):
        child = os.fork()
        if child == 0:
            try:
                run(folder, tmp_path / "out", inputs=inputs)
            finally:
                os._exit(0)
        deadline = time.monotonic() + 60
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            assert time.monotonic() < deadline
            if any(f"-{child}-" in file.name for file in notes(tmp_path / "out")):
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run(folder, tmp_path / "out", inputs=inputs)
    assert sounds(tmp_path / "out") == sounds(tmp_path / "quiet")
    files = notes(tmp_path / "out")
    keys = [json.loads(line)["key"] for file in files for line in file.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == count
    assert len(files) > 2, "kills hit no work"


def notes(into: Path) -> list[Path]:
    return list((into / ".dsmops-run" / "notes").glob("*"))
