"""`prep-sm75` with a text-to-speech checkpoint: its config.json says what it is, and the embedded
worker is who can serve it.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest

from dsmops.checkpoint import open_checkpoint
from dsmops.devices import Runtime
from dsmops.dtypes import ComputeDType
from dsmops.errors import CheckpointError, DsmopsError, InputError, SourceError
from dsmops.findings import Severity
from dsmops.models import MODELS
from dsmops.operations.prepare import (
    Action,
    PrepareOutcome,
    PrepareReport,
    PrepareRequest,
    plan_preparation,
    prepare,
    preview,
)
from dsmops.shipped import shipped_folder
from tests.support.cli import dsmops
from tests.support.hub_server import Content, HubServer
from tests.support.tiny_checkpoint import PUBLISHED_TTS_CONFIG, write_published_header

pytest.importorskip("torch", reason="the worker extra is not installed")

LM, MIMI, TOKENIZER = (
    "dsm_tts_tiny@1.safetensors",
    "mimi-tiny@1.safetensors",
    "tokenizer_tiny_320.model",
)
TTS = MODELS["tts-1.6b-en_fr"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model, as a repository has it."""
    from dsmops.worker.tiny.tts import write_tiny_tts

    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_tts(folder)
    return folder


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "model"))


def request(model: Path, **changes: object) -> PrepareRequest:
    values: dict[str, object] = {
        "hf_repo": TTS.hf_repo,
        "input_path": str(model / LM),
        "output": model.parent / "out.fp16.safetensors",
        "simulated": ("t4",),
    }
    return PrepareRequest(**{**values, **changes})  # type: ignore[arg-type]


def run(model: Path, **changes: object) -> PrepareReport:
    return prepare(plan_preparation(request(model, **changes)))


def module_of(path: Path) -> dict[str, object]:
    return dict(tomllib.loads(path.read_text())["modules"]["tts_py"])


def test_everything_is_made_and_fits_together(model: Path) -> None:
    """The language model is f16 but for its conditioners, the config names all four files, and
    lints without errors.
    """
    report = run(model)
    assert [item.action for item in report.items] == [
        *[Action.PRESENT] * 4,
        Action.CONVERT,
        Action.WRITE,
    ]
    stored = {
        name: tensor.dtype
        for name, tensor in open_checkpoint(model.parent / "out.fp16.safetensors").tensors.items()
    }
    assert {name.split(".")[0] for name, dtype in stored.items() if dtype == "F32"} == {
        "condition_provider"
    }
    assert set(stored.values()) == {"F16", "F32"}
    module = module_of(report.config_path)
    assert module["text_tokenizer_file"] == str(model / TOKENIZER)
    assert module["batch_size"] == report.batch_size <= report.serving.batch_size
    py = module["py"]
    assert isinstance(py, dict)
    assert (py["moshi_weight"], py["mimi_weight"]) == (
        str(model.parent / "out.fp16.safetensors"),
        str(model / MIMI),
    )
    assert (py["config_path"], py["tokenizer"]) == (
        str(model / "config.json"),
        str(model / TOKENIZER),
    )
    assert py["n_q"] == report.serving.n_q == 8, "more than the model has"
    assert "dtype_override" not in module
    assert report.lint is not None
    assert [finding for finding in report.lint.findings if finding.severity is Severity.ERROR] == []


def test_what_serves_it_on_a_turing_card_is_said_plainly(model: Path) -> None:
    """No command starts moshi-server; the worker's does, and a note says what the server cannot do,
    and that F32 tensors stay.
    """
    report = run(model)
    assert report.serving.runtime is Runtime.EMBEDDED
    assert any(command.startswith("dsmops worker --config") for command in report.next_commands)
    assert not any("moshi-server worker" in command for command in report.next_commands)
    said = " ".join(report.notes)
    for words in (
        "computes in bf16",
        "type Tts) runs no released file",
        "`dsmops worker` serves this config in f16",
        "8 tensors are F32",
    ):
        assert words in said, words
    assert (
        "moshi-server's Python module would compute in bf16"
        in report.config_path.read_text().splitlines()[1]
    )


def test_a_second_run_changes_nothing(model: Path) -> None:
    """Nothing is written, also when the folder itself is named, and edits stay: a batch size, fewer
    codebooks, which are planned with.
    """
    report = run(model)
    text = report.config_path.read_text()
    assert run(model).outcome is PrepareOutcome.UP_TO_DATE
    assert run(model, input_path=str(model)).outcome is PrepareOutcome.UP_TO_DATE
    assert report.config_path.read_text() == text
    edited = text.replace("batch_size = 8 ", "batch_size = 3 ").replace("n_q = 8 ", "n_q = 4 ")
    report.config_path.write_text(edited)
    again = run(model)
    assert (again.batch_size, again.serving.n_q) == (3, 4)
    assert report.config_path.read_text() == edited


def test_a_card_with_bf16_serves_it_either_way(model: Path) -> None:
    """On an L4 nothing is converted, and both servers can be started; asked for f16, it is made for
    the worker alone.
    """
    report = run(model, simulated=("l4",), output=None, config_out=model.parent / "l4.toml")
    assert [item.action for item in report.items if item.name == "conversion"] == [
        Action.NOT_NEEDED
    ]
    assert {command.split()[0] for command in report.next_commands} == {"dsmops", "moshi-server"}
    asked = run(
        model, simulated=("l4",), dtype=ComputeDType.F16, config_out=model.parent / "f16.toml"
    )
    assert asked.serving.runtime is Runtime.EMBEDDED
    assert not any("moshi-server" in command for command in asked.next_commands)
    with pytest.raises(InputError, match="no bf16 arithmetic") as caught:
        run(model, dtype=ComputeDType.BF16)
    assert "--dtype f16" in caught.value.hint


def test_from_a_hub_with_nothing_cached_then_without_asking(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four files are downloaded, by the names in config.json, and the second run asks
    no client.
    """
    with HubServer(
        {"org/tiny-tts": {name: model / name for name in (LM, MIMI, TOKENIZER, "config.json")}}
    ) as hub:
        for name, value in hub.env(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        changes = {"hf_repo": "org/tiny-tts", "model_file": LM, "input_path": None, "output": None}
        first = run(model, **changes)
        assert [item.action for item in first.items].count(Action.DOWNLOAD) == 4
        assert first.config_path == Path("assets/fp16/tiny-tts.fp16.toml")
        asked = len(hub.requests)
        assert run(model, **changes).outcome is PrepareOutcome.UP_TO_DATE
        assert len(hub.requests) == asked


def test_the_published_model_is_planned_from_its_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run on a T4 downloads no data: sizes, 24 of 32 codebooks, the published batch size, and
    what would be converted.
    """
    files = {
        TTS.model_file: Content(
            TTS.model_file,
            write_published_header(tmp_path / "lm.safetensors", TTS.name),
            digest="0" * 64,
        ),
        TTS.mimi_file: b"codec",
        TTS.tokenizer_file: b"pieces",
        "config.json": json.dumps(PUBLISHED_TTS_CONFIG).encode(),
    }
    with HubServer({TTS.hf_repo: files}) as hub:
        for name, value in hub.env(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        shown = preview(plan_preparation(PrepareRequest(hf_repo=TTS.hf_repo, simulated=("t4",))))
        assert hub.sent_bytes() < 1 << 20
    assert (shown.outcome, shown.model, shown.dtype, shown.batch_size) == (
        PrepareOutcome.DRY_RUN,
        TTS.name,
        ComputeDType.F16,
        8,
    )
    assert shown.serving.n_q == 24
    parts = {item.name: item for item in shown.items}
    assert parts[TTS.model_file].size_bytes == 3_683_719_712
    assert parts["conversion"].action is Action.CONVERT
    assert parts["config.json"].action is Action.DOWNLOAD


def test_what_cannot_be_prepared_is_named_before_anything_is_written(model: Path) -> None:
    """No config.json, one of another checkpoint, no Mimi, a template or a config of an STT model, a
    name that leads elsewhere.
    """
    body = json.loads((model / "config.json").read_text())
    stt = shipped_folder("configs") / "config-stt-en_fr-hf.toml"
    there = model.parent / "there.toml"
    shutil.copy(stt, there)
    cases: list[tuple[type[DsmopsError], str, dict[str, object], object]] = [
        (SourceError, "config.json is not there", {}, None),
        (CheckpointError, "another checkpoint", {}, {**body, "num_layers": 3}),
        (InputError, "is not a file name", {}, {**body, "mimi_name": "../mimi.safetensors"}),
        (InputError, "model_type", {}, {**body, "model_type": "stt"}),
        (InputError, "not JSON", {}, "{"),
        (SourceError, "not beside", {}, {**body, "mimi_name": "elsewhere.safetensors"}),
        (InputError, "needs: Py", {"template": str(stt)}, body),
        (InputError, "does not serve", {"config_out": there}, body),
    ]
    for kind, words, changes, config in cases:
        (model / "config.json").unlink(missing_ok=True)
        if config is not None:
            (model / "config.json").write_text(
                config if isinstance(config, str) else json.dumps(config)
            )
        before = sorted(path.name for path in model.parent.iterdir())
        with pytest.raises(kind, match=words) as caught:
            run(model, **changes)
        assert caught.value.hint, words
        assert sorted(path.name for path in model.parent.iterdir()) == before


def test_a_hearing_checkpoint_is_not_prepared_for_a_speaking_module(tmp_path: Path) -> None:
    """The template of one kind and the weights of the other: said, with what the weights need."""
    weights = write_published_header(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="BatchedAsr"):
        plan_preparation(
            PrepareRequest(
                hf_repo="x/y", input_path=str(weights), simulated=("t4",), template="config-tts"
            )
        )


def test_the_command_from_a_terminal(model: Path) -> None:
    """As typed: exit 0 and what to run next; the second time nothing; a card that is too small
    exits 1.
    """
    arguments = ["prep-sm75", "--simulate", "t4", "--input-path", model / LM]
    first = dsmops(*arguments, cwd=model.parent)
    assert first.code == 0, first.stderr
    assert "dsmops worker --config assets/fp16/dsm_tts_tiny@1.fp16.toml" in first.stdout
    assert dsmops(*arguments, "--json", cwd=model.parent).document["outcome"] == "up to date"
    shutil.copy(model / TOKENIZER, model.parent / TTS.tokenizer_file)
    (model.parent / "config.json").write_text(json.dumps(PUBLISHED_TTS_CONFIG))
    big = write_published_header(model.parent / "big.safetensors", TTS.name)
    small = dsmops("prep-sm75", "--simulate", "gtx1050", "--input-path", big, cwd=model.parent)
    assert small.code == 1, small.stderr
    assert "Does not fit" in small.stdout
