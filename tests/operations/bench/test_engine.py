"""The whole step of an engine, measured on the CPU with the shipped tiny model and tiny shapes."""

from __future__ import annotations

import html
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

import torch

from dsmops.config.timing import read_profile
from dsmops.devices import ComputeCapability, Device, Runtime
from dsmops.dtypes import PLAIN, ComputeDType, Quant, Quantised
from dsmops.errors import InputError
from dsmops.models import MODELS, STT_MODELS, TTS_MODELS
from dsmops.operations.bench import (
    EngineRequest,
    EngineTest,
    engine,
    parse_levels,
    read_rows,
    run_engine_test,
)
from dsmops.operations.bench.quality import Quality
from dsmops.operations.configs.planning import plan_model
from dsmops.worker.models.attention import RingState
from dsmops.worker.models.tts_config import TtsConfig
from dsmops.worker.runtime import measure
from dsmops.worker.tiny.stt import LM
from dsmops.worker.tiny.tts import BODY
from tests.support.cli import dsmops

STT, TTS = "stt-1b-en_fr", "tts-1.6b-en_fr"
FEW = {"cpu": True, "steps": 4, "warm_up_steps": 0}
NO_RING = RingState(torch.zeros(0, dtype=torch.int64), [])


@pytest.fixture(autouse=True)
def _tiny_shapes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The published models with tiny networks, and a state folder of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setitem(MODELS, STT, replace(STT_MODELS[STT], shape=LM))
    shape = TtsConfig.from_json(BODY).shape
    speaking = replace(TTS_MODELS[TTS], shape=shape)
    monkeypatch.setitem(MODELS, TTS, speaking)
    monkeypatch.setitem(TTS_MODELS, TTS, speaking)


def run(models: tuple[str, ...], streams: str, **changed: object) -> EngineTest:
    dtypes = (ComputeDType.F32,)
    request = EngineRequest(models, dtypes, parse_levels(streams), **(FEW | changed))  # type: ignore[arg-type]
    return run_engine_test(request)


@pytest.mark.slow
def test_each_model_and_number_of_streams_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Percentiles rise, × real time is of all streams, and speech has its first audio."""
    monkeypatch.setattr(measure, "FRAME_MS", 10_000)  # a busy machine may be slow
    test = run((STT, TTS), "1..3")
    assert [(row.model, row.streams) for row in test.rows] == [
        *((STT, streams) for streams in (1, 2, 3)),
        *((TTS, streams) for streams in (1, 2, 3)),
    ]
    for row in test.rows:
        assert 0 < row.step_p50_ms <= row.step_p95_ms <= row.step_p99_ms <= row.step_max_ms
        assert row.speedup == pytest.approx(row.streams * 80 / row.step_p50_ms, abs=0.06)
        assert row.keeps_up == (row.step_p99_ms <= 64)
        assert row.state_bytes > 0
        assert (row.first_audio_ms is not None) == (row.model == TTS)
    assert test.rows[2].state_bytes > test.rows[0].state_bytes
    assert test.profiles == ()  # of a CPU nothing is kept unless asked for


def test_percentiles_of_four_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1, 2, 3 and 10 ms p50 is 2, p95 and p99 are 10."""
    times = iter([0.0, 0.010, 1.0, 1.001, 2.0, 2.003, 3.0, 3.002])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(times))
    engine = measure.Engine(lambda: None, None, 7, NO_RING)
    [found] = measure.measure_engine(
        lambda _: engine, [5], device_name="cpu", warm_up_steps=0, timed_steps=4
    )
    assert found == measure.StepMeasurement(5, 4, 2.0, 10.0, 10.0, 10.0, None, 7, None)


def test_a_step_longer_than_a_frame_ends_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """No larger number of streams can keep up."""
    opened: list[int] = []

    def open_engine(batch_size: int) -> measure.Engine:
        opened.append(batch_size)
        return measure.Engine(lambda: None, None, 0, NO_RING)

    monkeypatch.setattr(measure, "_times_ms", lambda *_: [79.0 + opened[-1]] * 4)
    rows = list(measure.measure_engine(open_engine, [1, 2, 4], device_name="cpu", timed_steps=4))
    assert [row.batch_size for row in rows] == opened == [1, 2]


INT8 = (PLAIN, Quantised(Quant.INT8), Quantised(Quant.INT8, Quant.INT8))


@pytest.mark.slow
def test_ways_of_storing_stand_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its rows. What is less exact is further off; less memory shows as such."""
    monkeypatch.setattr(measure, "FRAME_MS", 10_000)
    test = run((STT,), "1,2", quantised=INT8, quality=True)
    assert [(row.weights, row.kv, row.streams) for row in test.rows] == [
        (weights, kv, streams)
        for weights, kv in ((None, "none"), ("int8", "none"), ("int8", "int8"))
        for streams in (1, 2)
    ]
    by_storing = test.rows[::2]
    errors = [row.quality.logits_error or 0 for row in by_storing if row.quality is not None]
    assert errors[0] < 1e-6 < min(errors[1:]) < max(errors) < 0.1
    assert by_storing[2].state_bytes < by_storing[1].state_bytes == by_storing[0].state_bytes
    assert {row.seed for row in test.rows} == {0}
    assert test.rows[5].command == (
        f"dsmops bench --engine --model {STT} --dtype f32 --weights int8 --kv int8 --streams 2 "
        "--quality --cpu"
    )
    (spoken,) = run((TTS,), "1", quantised=INT8[2:], quality=True).rows
    assert (spoken.weights, spoken.kv, spoken.quality) == ("int8", "int8", Quality())


@pytest.mark.slow
def test_a_run_goes_on_where_another_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that a file holds are not measured again; those of another device are refused."""
    for module in (measure, engine):
        monkeypatch.setattr(module, "FRAME_MS", 10_000)
    first = run((STT,), "2")
    file = tmp_path / "grid.json"
    file.write_text(json.dumps(asdict(first), default=str))
    request = EngineRequest((STT,), (), parse_levels("1"), cpu=True)
    kept = read_rows(file, request)
    assert kept == first.rows
    seen: list[EngineTest] = []
    whole = EngineRequest(
        (STT,), (ComputeDType.F32,), parse_levels("1,2"), cpu=True, steps=4, warm_up_steps=0,
        kept=kept,
    )  # fmt: skip
    test = run_engine_test(whole, on_row=seen.append)
    assert [row.streams for row in test.rows] == [2, 1]
    assert test.rows[0] == first.rows[0]
    assert [len(so_far.rows) for so_far in seen] == [1, 2]
    assert all(so_far.interrupted for so_far in seen)
    assert not test.interrupted
    assert read_rows(tmp_path / "none.json", request) == ()
    for text, said in (
        (file.read_text().replace(first.device, "another"), "was measured on another by"),
        ("{}", "is not a result"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=said):
            read_rows(file, request)


@pytest.mark.slow
def test_the_profile_is_what_a_plan_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan for a card of that name takes its step times."""
    path = tmp_path / "profile.json"
    monkeypatch.setattr(measure, "FRAME_MS", 10_000)
    test = run((STT,), "1,2", profile=path)
    assert test.profiles == (path,)
    profile = read_profile(path)
    assert [point.batch_size for point in profile.points] == [1, 2]
    assert [point.step_p99_ms for point in profile.points] == [row.step_p99_ms for row in test.rows]
    card = Device(
        *(test.device, ComputeCapability(7, 5), 2**34, 2**34, 320_000_000_000, 0, 0, "GPU", "nvml")
    )
    plan = plan_model(
        STT_MODELS[STT],
        card,
        runtime=Runtime.EMBEDDED,
        dtype=ComputeDType.F32,
        profile_file=path,
    )
    assert plan.step_ms == pytest.approx(profile.step_p99_ms(plan.batch_size or 1) or 0, rel=0.01)


def test_a_profile_is_of_one_model(tmp_path: Path) -> None:
    """Two models cannot share a file; codebooks are of speech."""
    with pytest.raises(InputError, match="one model in one dtype"):
        run((STT, TTS), "1", profile=tmp_path / "p.json")
    with pytest.raises(InputError, match="speech-to-text"):
        run((STT,), "1", n_q=4)
    with pytest.raises(InputError):
        run((TTS,), "1", n_q=10_000)


@pytest.mark.slow
def test_the_command_measures_the_shipped_model(tmp_path: Path) -> None:
    """Real weights, on the CPU: a table, a document in a file, and usage errors."""
    target = tmp_path / "engine.json"
    run = dsmops(
        "bench",
        "--engine",
        "--cpu",
        "--model",
        "tiny",
        "--kv",
        "int8",
        "--streams",
        "1",
        "--quality",
        "-o",
        target,
        "-o",
        tmp_path / "engine.html",
        timeout_s=110,
    )
    assert run.code == 0, run.stderr
    assert "tiny in f32 with keys and values in int8: " in run.stdout
    document = json.loads(target.read_text())
    assert (document["schema"], document["kind"]) == ("dsmops.bench/1", "engine")
    (row,) = document["rows"]
    assert 20 <= row["steps"] <= 200
    assert row["seed"] is None
    assert 0 < row["quality"]["logits_error"] < 0.02
    assert row["quality"]["wer"] < 0.1
    assert row["command"] in html.unescape((tmp_path / "engine.html").read_text())
    again = dsmops(
        *("bench", "--engine", "--cpu", "--model", "tiny", "--kv", "int8", "--streams", "1"),
        *("--resume", "-o", target),
    )
    assert again.code == 0, again.stderr
    assert json.loads(target.read_text())["rows"] == document["rows"]
    for wrong, said in (
        (["--engine", "ws://127.0.0.1:9"], "measures this machine"),
        (["ws://127.0.0.1:9", "--cpu"], "needs --engine"),
        (["ws://127.0.0.1:9", "--kv", "int8"], "needs --engine"),
        (["--engine", "--resume"], "needs one -o FILE.json"),
        (["--engine", "-o", "grid.txt"], "must end in"),
        ([], "or give --engine"),
    ):
        failed = dsmops("bench", *wrong)
        assert failed.code == 2
        assert said in " ".join(failed.stderr.split())
