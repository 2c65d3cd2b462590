"""The check `words`: what a trained model transcribes is what is spoken, or the check is red."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dsmops.config.load import read_config
from dsmops.config.modules import modules
from dsmops.config.presets import find_template
from dsmops.files import write_text_atomically
from dsmops.operations.prepare import PrepareReport
from dsmops.operations.smoke import Simulation, SmokeRequest, simulate_success
from dsmops.operations.smoke.checks import CheckFailed
from dsmops.operations.smoke.simulate import TinyModel, copy_shipped
from dsmops.operations.smoke.words import (
    MOST_WER,
    SpokenRecording,
    judge_words,
    read_recordings,
    recordings_for,
)
from dsmops.protocol import Word
from tests.support.smoke import broken_worker, evidence

HEAD_WIDTH = 64
OF_SPEED = ("clip", "step-time")
"""Checks that fail on a machine that is busy with other work."""


def stt_alone(folder: Path) -> tuple[TinyModel, ...]:
    """The trained speech-to-text model, without another module."""
    return (copy_shipped("tiny", folder),)


TRAINED = Simulation(generate=stt_alone)


def words_of(recording: SpokenRecording, *, late_s: float = 0.0) -> list[Word]:
    return [
        Word(text, start_s + late_s)
        for text, start_s in zip(recording.text.split(), recording.starts_s, strict=True)
    ]


@pytest.fixture(scope="module")
def spoken() -> tuple[SpokenRecording, ...]:
    return read_recordings("recordings")


def test_the_words_as_spoken_are_right(spoken: tuple[SpokenRecording, ...]) -> None:
    """With as many times as words, in order and within the recording."""
    found, said = judge_words(spoken, [words_of(one) for one in spoken])
    assert (found.errors, found.shift_s) == (0, 0)
    assert f"0 of {found.words} words wrong in 4 recordings: WER 0.0%" in said
    for one in spoken:
        assert list(one.starts_s) == sorted(one.starts_s)
        assert one.starts_s[-1] < len(one.samples) / 24_000


def test_wrong_words_are_shown_beside_the_right_ones(spoken: tuple[SpokenRecording, ...]) -> None:
    """Above the limit the worst recording is named. Below it, errors are counted."""
    heard = [words_of(one) for one in spoken]
    few = [[Word("x", heard[0][0].start_time), *heard[0][1:]], *heard[1:]]
    found, _ = judge_words(spoken, few)
    assert 0 < found.wer < MOST_WER
    with pytest.raises(CheckFailed, match="transcribed ''") as error:
        judge_words(spoken, [[], *heard[1:]])
    assert spoken[0].text in error.value.evidence


@pytest.mark.parametrize(("late_s", "side"), [(0.08, "late"), (-0.08, "early")])
def test_one_frame_of_difference_is_too_much(
    spoken: tuple[SpokenRecording, ...], late_s: float, side: str
) -> None:
    with pytest.raises(CheckFailed, match=f"80 ms {side}"):
        judge_words(spoken, [words_of(one, late_s=late_s) for one in spoken])


def test_only_models_with_recordings_have_them() -> None:
    """The module's dimensions say which model it serves."""
    for name, expected in (("config-stt-tiny", 4), ("config-stt-en_fr-hf", 0)):
        (module,) = modules(read_config(find_template(name)))
        assert len(recordings_for(module)) == expected


def in_source(change: Callable[[Path], None]) -> Simulation:
    """The simulation with a model that was damaged before it came here, so that its conversion is
    exact.
    """

    def generate(folder: Path) -> tuple[TinyModel, ...]:
        models = stt_alone(folder)
        change(models[0].weights)
        return models

    return Simulation(generate=generate)


def swap_heads(weights: Path) -> None:
    """Exchange queries, keys and values of two heads in every layer."""
    tensors = load_file(weights)
    for name, packed in tensors.items():
        if name.endswith("in_proj_weight"):
            for part in packed.chunk(3):
                part[: 2 * HEAD_WIDTH] = part[: 2 * HEAD_WIDTH].roll(HEAD_WIDTH, 0).clone()
    save_file(tensors, weights)


def one_step_less(model: TinyModel, output: Path) -> PrepareReport:
    """Prepare with a text delay that is one step too short."""
    report = TRAINED.prepare(model, output)
    text = report.config_path.read_text()
    assert "asr_delay_in_tokens = 6 " in text
    write_text_atomically(report.config_path, text.replace("in_tokens = 6 ", "in_tokens = 5 "))
    return report


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("simulation", "words"),
    [
        pytest.param(broken_worker("swaps-heads", simulation=TRAINED), "transcribed", id="heads"),
        pytest.param(in_source(swap_heads), "transcribed", id="heads-in-source"),
        pytest.param(
            broken_worker("leaves-out-a-layer", simulation=TRAINED), "transcribed", id="layer"
        ),
        pytest.param(broken_worker("takes-frames-early", simulation=TRAINED), "early", id="early"),
        pytest.param(replace(TRAINED, prepare=one_step_less), "late", id="late"),
    ],
)
def test_a_wrong_model_is_told_by_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulation: Simulation, words: str
) -> None:
    """No other check fails, but for those of speed on a busy machine: it answers, with finite
    numbers.
    """
    monkeypatch.chdir(tmp_path)
    report = simulate_success(
        tmp_path / "files", SmokeRequest(timeout_s=150), simulation=simulation
    )
    assert {"words"} <= set(report.failed) <= {"words", *OF_SPEED}, report.verdict
    assert words in evidence(report, "words")
