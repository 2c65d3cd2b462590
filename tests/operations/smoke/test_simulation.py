"""`smoke-test --simulate-success`: only the card is simulated, and every part is needed."""

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import pytest
from safetensors.torch import load_file, save_file

from dsmops.files import write_text_atomically
from dsmops.operations.prepare import PrepareReport
from dsmops.operations.smoke import CHECKS, CheckStatus, Simulation, SmokeReport
from dsmops.operations.smoke.checks import Limits
from dsmops.operations.smoke.simulate import TinyModel
from dsmops.operations.smoke.words import MOST_WER
from tests.support.smoke import RANDOM, blocked, evidence, simulate

pytestmark = pytest.mark.slow

AFTER_CONVERSION = set(list(CHECKS)[list(CHECKS).index("conversion") + 1 :]) - {"server-binary"}
WHOLE = RANDOM


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> SmokeReport:
    """The report of a simulation in which nothing is broken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("sound"))
        return replace(
            report := simulate(Path.cwd()),
            raw_log=report.raw_log and report.raw_log.absolute(),
        )


def test_the_whole_path_passes(sound: SmokeReport) -> None:
    """Every check ran; only the GPU's memory and the words of a random model do not apply."""
    assert sound.passed, sound.verdict
    skipped = {check.name for check in sound.checks if check.status is CheckStatus.SKIPPED}
    assert skipped == {"memory", "words"}
    assert sound.modules[0].words
    assert "simulated" in sound.verdict


def test_the_words_are_those_that_are_spoken() -> None:
    """Of the trained model, through conversion, config, worker and WebSocket."""
    report = simulate(Path.cwd(), Simulation(), limits=Limits(), timeout_s=150)
    assert "words" not in report.failed, report.verdict
    assert report.modules[0].wer is not None
    assert report.modules[0].wer <= MOST_WER
    assert "WER" in evidence(report, "words")


def test_the_order_of_the_modules_does_not_matter() -> None:
    """Speech to text may come last: its slots are free again when the round trip needs them."""
    turned = replace(WHOLE, generate=lambda folder: WHOLE.generate(folder)[::-1])
    report = simulate(Path.cwd(), turned)
    assert report.passed, report.verdict
    assert evidence(report, "round-trip").startswith("synthesized ")


@pytest.mark.slow
def test_what_the_server_said_is_kept(sound: SmokeReport) -> None:
    """As a raw log under logs/moshi-logs/raw that only this user can read."""
    assert sound.raw_log is not None
    assert sound.raw_log.parts[-4:-1] == ("logs", "moshi-logs", "raw")
    assert sound.raw_log.stat().st_mode & 0o077 == 0
    assert "starting asr loop 4" in sound.raw_log.read_text()


def serving_the_source(model: TinyModel, output: Path) -> PrepareReport:
    """Prepare without converting: the config serves the bf16 file."""
    report = WHOLE.prepare(model, output)
    return edited(report, str(output.absolute()), str(model.weights.absolute()))


def copying_instead(model: TinyModel, output: Path) -> PrepareReport:
    """Prepare with a conversion that does nothing."""
    report = WHOLE.prepare(model, output)
    copyfile(model.weights, output)
    return report


def with_a_dtype_of_its_own(model: TinyModel, output: Path) -> PrepareReport:
    """Write a dtype that candle does not know."""
    report = WHOLE.prepare(model, output)
    return (
        edited(report, 'dtype_override = "f16"', 'dtype_override = "float16"')
        if "stt" in model.weights.parts
        else report
    )


def cutting_the_target(model: TinyModel, output: Path) -> PrepareReport:
    report = WHOLE.prepare(model, output)
    with output.open("r+b") as file:
        file.truncate(output.stat().st_size - 100)
    return report


def changing_a_value(model: TinyModel, output: Path) -> PrepareReport:
    report = WHOLE.prepare(model, output)
    with output.open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\x00\x3c")
    return report


def edited(report: PrepareReport, old: str, new: str) -> PrepareReport:
    text = report.config_path.read_text()
    assert old in text
    write_text_atomically(report.config_path, text.replace(old, new))
    return report


@pytest.mark.parametrize(
    ("prepare", "failed", "words"),
    [
        (serving_the_source, "conversion", "holds BF16, and the card needs F16"),
        (copying_instead, "conversion", "holds BF16, and the card needs F16"),
        (changing_a_value, "conversion", "does not hold the values of"),
        (cutting_the_target, "conversion", "stt.fp16.safetensors"),
        (with_a_dtype_of_its_own, "config-lint", "float16"),
    ],
)
def test_a_preparation_that_went_wrong_is_named(
    tmp_path: Path, prepare: Callable[[TinyModel, Path], PrepareReport], failed: str, words: str
) -> None:
    """No server is started then, and every later check says why it could not run."""
    report = simulate(tmp_path, replace(WHOLE, prepare=prepare))
    assert report.failed == (failed,)
    assert words in evidence(report, failed)
    assert blocked(report) == AFTER_CONVERSION - {failed}
    assert not list(tmp_path.glob("logs/**/log.smoke-test*"))


def cut(folder: Path) -> tuple[TinyModel, ...]:
    """Generate models and lose the last bytes of one."""
    models = WHOLE.generate(folder)
    weights = models[1].weights
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size - 100)
    return models


def with_a_nan(number: int) -> Callable[[Path], tuple[TinyModel, ...]]:
    """Generate models and put one NaN into one of them."""

    def generate(folder: Path) -> tuple[TinyModel, ...]:
        models = WHOLE.generate(folder)
        weights = models[number].weights
        tensors = load_file(weights)
        tensors["out_norm.alpha"].view(-1)[0] = float("nan")
        save_file(tensors, weights)
        return models

    return generate


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    """Before anything is made of it."""
    report = simulate(tmp_path, replace(WHOLE, generate=cut))
    assert report.failed == ("tiny-checkpoint",)
    assert blocked(report) == {"preparation", "conversion"} | AFTER_CONVERSION


@pytest.mark.parametrize(
    ("number", "module", "asked"),
    [(0, "asr", "step"), (1, "tts_py", "speech")],
)
def test_a_nan_in_the_weights_is_named(
    tmp_path: Path, number: int, module: str, asked: str
) -> None:
    """It is converted, loads and warms up; the numbers of its module are not finite."""
    report = simulate(tmp_path, replace(WHOLE, generate=with_a_nan(number)))
    assert set(report.failed) == {asked, "finite-numbers", "known-failures"}
    assert "numbers that are not finite" in evidence(report, "finite-numbers", module)
    assert all(
        check.module in (None, module)
        for check in report.checks
        if check.status is CheckStatus.FAILED
    )


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """And the other process keeps it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        report = simulate(tmp_path, port=taken.getsockname()[1])
    assert report.failed == ("port-free",)
    assert blocked(report) == AFTER_CONVERSION - {"config-lint", "port-free"}
