"""How many streams would fit: the log with a card and a config beside it, through `plan`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from dsmops.config.memory import ServedModel, serving_memory
from dsmops.dtypes import ComputeDType
from dsmops.errors import InputError
from dsmops.models import DEFAULT_STT
from dsmops.operations.configs.planning import find_device, plan_model
from dsmops.operations.log_report import read_logs
from dsmops.operations.log_report.planned import served
from tests.operations.log_report.test_reading import BEGIN, made_up, write

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "configs" / "config-stt-en_fr-hf.toml"


def test_logs_without_an_answer_say_why(tmp_path: Path) -> None:
    """An empty log, bytes of no log, and a stretch of time in which nothing happened."""
    for text, since, said in (
        ("", None, "the log is empty"),
        ("\x00\x01 no log\n" * 30, None, "is this a log of moshi-server?"),
        (made_up(20), BEGIN + timedelta(days=1), "between --since and --until"),
    ):
        report = read_logs([write(tmp_path / "log.b", text)], since=since)
        assert said in report.capacity[0]


def test_a_log_alone_has_no_plan(tmp_path: Path) -> None:
    """It says what to name."""
    report = read_logs([write(tmp_path / "log.a", made_up())])
    assert report.plan is None
    assert "--gpu and --config" in " ".join(report.unknown)


def test_idle_slots_cost_memory(tmp_path: Path) -> None:
    """With a config: 2 of 8 slots were never in use; what they take is the plan's figure."""
    report = read_logs([write(tmp_path / "log.a", made_up())], known=served(None, CONFIG, None))
    assert report.plan is not None
    assert report.plan.model == DEFAULT_STT.name

    def total(slots: int) -> int:
        return serving_memory(
            ServedModel(DEFAULT_STT.shape, ComputeDType.BF16, context=report_context()), slots
        ).total_bytes

    def report_context() -> int:
        return served(None, CONFIG, None).context or DEFAULT_STT.window(None)

    assert report.plan.idle_bytes == total(8) - total(6)
    assert "You pay for 2 idle slots with" in " ".join(report.capacity)
    assert report.plan.time_batch_size is None
    assert "name the card with --gpu" in " ".join(report.unknown)
    assert f"the config {CONFIG.name}" in report.based_on


def test_a_card_says_how_many_fit(tmp_path: Path) -> None:
    """With a card: the same bounds as `dsmops plan`, and the step that it expects."""
    report = read_logs([write(tmp_path / "log.a", made_up())], known=served("t4", None, None))
    plan = plan_model(DEFAULT_STT, find_device(["t4"], None), asked_batch_size=8)
    assert report.plan is not None
    assert report.plan.time_batch_size == plan.time_batch_size
    assert report.plan.memory_batch_size == plan.memory_batch_size
    assert plan.asked is not None
    assert report.plan.planned_step_ms == plan.asked.step_ms
    said = " ".join(report.capacity)
    assert f"about {plan.time_batch_size} streams keep up at 64 ms" in said
    assert f"{plan.memory_batch_size} slots fit in memory" in said
    assert "Whether the model is stt-1b-en_fr" in " ".join(report.unknown)


def test_what_is_mistyped() -> None:
    """A card and a model that are unknown."""
    with pytest.raises(InputError):
        served("t5000", None, None)
    with pytest.raises(InputError, match="no model is called"):
        served(None, None, "stt-9b")
