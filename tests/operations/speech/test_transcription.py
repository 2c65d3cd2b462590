"""A recording through the tiny model: its own length, its own clock, prompts that leave no trace,
values that are not numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from safetensors.torch import load_file, save_file

from dsmops.audio import write
from dsmops.dtypes import ComputeDType
from dsmops.errors import CheckpointError, InputError, SourceError
from dsmops.operations.speech.transcription import Prompting, Transcription, transcribe
from dsmops.progress import SilentProgress
from dsmops.worker.tiny.stt import TinyStt, write_tiny_stt
from tests.support.sound import encoded, sweep

RATE_HZ = 24_000
FRAME_S = 0.08


class Recorder(SilentProgress):
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.done = 0

    def start(self, label: str, total: int | None, unit: str = "bytes") -> None:
        self.seen += [label, total, unit]

    def advance(self, amount: int) -> None:
        self.done += amount

    def finish(self) -> None:
        self.seen.append("finished")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, and two recordings: 3.017 s with silence in the middle, no whole number of
    frames, and 2 s of noise.
    """
    folder = tmp_path_factory.mktemp("transcribe")
    write_tiny_stt(folder / "model")
    rng = np.random.default_rng(2)
    speech = sweep(RATE_HZ, 3.017) + rng.normal(0, 0.05, 72_408).astype(np.float32)
    speech[20_000:40_000] = 0
    write(folder / "speech.wav", [speech])
    write(folder / "other.wav", [rng.normal(0, 0.2, 2 * RATE_HZ).astype(np.float32)])
    return folder


def heard(
    folder: Path, audio: str = "speech.wav", *, model: str = "model", **options: Any
) -> Transcription:
    return transcribe(folder / audio, str(folder / model), cpu=True, **options)


def like_the_2_6b_model(folder: Path, name: str) -> TinyStt:
    """Write a tiny model without heads that wants a second of silence first and answers two and a
    half seconds late.
    """
    tiny = write_tiny_stt(folder / name)
    save_file(
        {
            key: value
            for key, value in load_file(tiny.files.lm).items()
            if not key.startswith("extra_heads")
        },
        tiny.files.lm,
    )
    body = json.loads(tiny.model_config.read_text())
    body |= {
        "extra_heads_num_heads": 0,
        "stt_config": {"audio_silence_prefix_seconds": 1.0, "audio_delay_seconds": 2.5},
    }
    tiny.model_config.write_text(json.dumps(body))
    return tiny


def test_what_is_reported_is_the_recordings_own(folder: Path) -> None:
    """Its length to the sample, as the level meter and progress have it; steps are its frames, the
    delay and a second more.
    """
    progress = Recorder()
    report = heard(folder, progress=progress)
    assert report.audio_s == report.levels.duration_s == 72_408 / RATE_HZ
    assert report.steps == 38 + 6 + 13
    assert progress.seen == [
        *(f"Opening {folder / 'model'}", None, "", "finished"),
        *(f"Loading {folder / 'model'}", None, "", "finished"),
        *(f"Transcribing {folder / 'speech.wav'}", 4, "s of audio", "finished"),
    ]
    assert progress.done == 3
    assert report.speedup == pytest.approx(report.audio_s / report.compute_s)
    assert (report.device, report.dtype, report.has_vad, report.interrupted) == (
        "cpu",
        "F32",
        True,
        False,
    )
    assert report.words
    assert report.turns
    assert 0.2 < report.levels.silent_share < 0.35


def test_another_rate_keeps_the_length(folder: Path) -> None:
    """A recording at 8 kHz lasts as long as it lasts."""
    (folder / "slow.wav").write_bytes(encoded(sweep(8_000, 1.2345), 8_000))
    assert heard(folder, "slow.wav").audio_s == pytest.approx(1.2345, abs=1e-4)


@pytest.mark.slow
def test_the_text_is_that_of_the_words(folder: Path) -> None:
    """What is written together is what is written word by word; text before the delay is in
    neither.
    """
    for audio in ("speech.wav", "other.wav"):
        report = heard(folder, audio)
        assert report.text.replace(" ", "") == "".join(word.text for word in report.words).replace(
            " ", ""
        )


@pytest.mark.slow
def test_the_two_timings_agree_on_the_text(folder: Path) -> None:
    """Other rules for times leave tokens and text alone."""
    server, python = heard(folder), heard(folder, timing="python")
    assert server.text == python.text
    assert server.words != python.words
    assert all(word.stop_s is not None for word in python.words)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ComputeDType)
def test_dtypes(folder: Path, dtype: ComputeDType) -> None:
    """The language model runs in the dtype that was asked for, on a CPU too."""
    assert heard(folder, dtype=dtype).dtype == dtype


@pytest.mark.slow
def test_an_audio_prompt_leaves_no_trace(folder: Path) -> None:
    """Its words are not in the transcript, all times are the recording's, and it costs its own
    steps and ten more.
    """
    plain, prompted = heard(folder), heard(folder, prompting=Prompting(audio=folder / "other.wav"))
    alone = heard(folder, "other.wav")
    assert len(alone.words) > 3
    assert prompted.steps == plain.steps + 25 + 10
    assert prompted.audio_s == plain.audio_s
    assert prompted.levels == plain.levels
    assert max(word.start_s for word in prompted.words) <= plain.audio_s + 1
    assert len(prompted.words) < len(plain.words) + len(alone.words)


def test_silence_after_a_prompt_has_no_words(folder: Path) -> None:
    """With a recording of silence nothing is left of a prompt full of words."""
    write(folder / "silence.wav", [np.zeros(2 * RATE_HZ, np.float32)])
    report = heard(folder, "silence.wav", prompting=Prompting(audio=folder / "other.wav"))
    assert (report.text, report.words) == ("", ())
    assert report.levels.silent_share == 1


def test_a_text_prompt_is_written_first_and_left_out(folder: Path) -> None:
    """What of it the model did not come to write is reported, and there is then no other text."""
    through = heard(folder, "other.wav", prompting=Prompting("the"))
    assert through.unsaid_prompt == ""
    assert through.words
    stuck = heard(
        folder,
        prompting=Prompting(
            "the morning train leaves the old station at seven and it is never late " * 5
        ),
    )
    assert stuck.unsaid_prompt.endswith("it is never late")
    assert (stuck.text, stuck.words) == ("", ())


@pytest.mark.slow
def test_a_model_with_a_prefix_and_without_heads(folder: Path) -> None:
    """Thirteen frames of silence come first and 31 more last, none of which is in any time; there
    are no ends of turns.
    """
    like_the_2_6b_model(folder, "late")
    report = heard(folder, model="late")
    assert report.steps == 13 + 38 + 31 + 13
    assert (report.has_vad, report.turns) == (False, ())
    assert report.audio_s == 72_408 / RATE_HZ
    assert report.words
    assert all(
        0 <= word.start_s <= (word.stop_s or word.start_s) <= report.audio_s + 1.1
        for word in report.words
    )
    assert heard(folder, model="late", timing="python").text == report.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["text_linear.weight", "emb.0.weight", "transformer.layers.1.norm1.alpha"]
)
def test_numbers_that_are_none_are_an_error(folder: Path, name: str) -> None:
    """A damaged model has no transcript; the error counts the steps and says where to look."""
    tiny = write_tiny_stt(folder / "damaged")
    tensors = load_file(tiny.files.lm)
    tensors[name].view(-1)[:] = float("nan")
    save_file(tensors, tiny.files.lm)
    with pytest.raises(
        CheckpointError, match="57 of 57 steps gave NaN or infinity in F32"
    ) as caught:
        heard(folder, model="damaged")
    assert "verify --numerics" in caught.value.hint
    assert caught.value.code == "model.not_finite"


def test_audio_is_looked_at_before_the_model(folder: Path) -> None:
    """Which takes long to load, or to download."""
    with pytest.raises(SourceError, match=r"gone\.wav"):
        heard(folder, "gone.wav", model="gone")
    with pytest.raises(SourceError, match=r"gone\.wav"):
        heard(folder, model="gone", prompting=Prompting(audio=folder / "gone.wav"))
    (folder / "text.wav").write_text("no audio")
    with pytest.raises(InputError, match="not readable as audio"):
        heard(folder, "text.wav", model="gone")


def test_a_recording_that_is_cut_short_is_transcribed_with_a_warning(folder: Path) -> None:
    """All that is there, and how much is not."""
    (folder / "cut.flac").write_bytes(encoded(sweep(RATE_HZ, 3), container="FLAC")[:40_000])
    progress = Recorder()
    result = heard(folder, "cut.flac", progress=progress)
    assert 1.5 < result.audio_s < 2.5
    assert "cut short" in result.warnings[0]
    assert progress.seen[-1] == "finished"
