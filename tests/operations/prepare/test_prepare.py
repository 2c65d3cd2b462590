"""`prep-sm75` from card to config: what is needed is done once, what was edited stays, what cannot
work is said first.
"""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dsmops.checkpoint import open_checkpoint
from dsmops.cli.app import app
from dsmops.devices import Runtime
from dsmops.dtypes import ALL_INT8, ComputeDType
from dsmops.errors import (
    CheckpointError,
    ConfigError,
    DriverMissingError,
    InputError,
    TensorRangeError,
)
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
from tests.gpu.hosts import PlayedHost, load_host
from tests.support.cli import dsmops
from tests.support.hub_server import HubServer
from tests.support.synthetic import write_checkpoint
from tests.support.tiny_checkpoint import (
    TINY,
    write_published_header,
    write_tiny_companions,
    write_tiny_template,
    write_tiny_weights,
)

REPO = "kyutai/stt-1b-en_fr-candle"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with the tiny model: weights, tokenizer, Mimi, template."""
    folder = tmp_path / "source"
    folder.mkdir()
    write_tiny_weights(folder / "model.safetensors")
    write_tiny_companions(folder)
    write_tiny_template(folder / "template.toml")
    return folder


def request(source: Path, **changes: object) -> PrepareRequest:
    values: dict[str, object] = {
        "hf_repo": REPO,
        "input_path": str(source / "model.safetensors"),
        "output": source.parent / "out" / "tiny.fp16.safetensors",
        "template": str(source / "template.toml"),
        "simulated": ("t4",),
    }
    return PrepareRequest(**{**values, **changes})  # type: ignore[arg-type]


def run(source: Path, **changes: object) -> PrepareReport:
    return prepare(plan_preparation(request(source, **changes)))


def steps(report: PrepareReport) -> dict[str, Action]:
    return {item.name: item.action for item in report.items}


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_everything_is_made_and_fits_together(source: Path) -> None:
    """The file is f16, the config names it absolutely, switches to f16 and lints without errors."""
    report = run(source)
    assert steps(report) == {
        "weights": Action.PRESENT,
        "tokenizer": Action.PRESENT,
        "Mimi": Action.PRESENT,
        "conversion": Action.CONVERT,
        "config": Action.WRITE,
    }
    output = source.parent / "out" / "tiny.fp16.safetensors"
    assert {tensor.dtype for tensor in open_checkpoint(output).tensors.values()} == {"F16"}
    module = tomllib.loads(report.config_path.read_text())["modules"]["asr"]
    assert module["lm_model_file"] == str(output)
    assert module["text_tokenizer_file"] == str(source / "tokenizer_tiny_40.model")
    assert module["dtype_override"] == "f16"
    assert module["batch_size"] == report.batch_size <= report.serving.batch_size
    assert report.lint is not None
    assert [finding for finding in report.lint.findings if finding.severity is Severity.ERROR] == []


def test_int8_is_planned_for_the_embedded_worker(source: Path) -> None:
    """The next commands take the same options, and none starts moshi-server."""
    report = run(source, quantised=ALL_INT8)
    assert report.serving.runtime is Runtime.EMBEDDED
    assert report.serving.quantised == ALL_INT8
    assert report.serving.batch_size > run(source, force=True).serving.batch_size
    in_int8 = [line for line in report.next_commands if "--weights int8 --kv int8" in line]
    assert [line.split()[1] for line in in_int8] == ["check-config", "smoke-test", "worker"]
    assert not any("moshi-server worker" in line for line in report.next_commands)


def test_a_second_run_changes_nothing(source: Path) -> None:
    """Nothing is written, and the report says so."""
    run(source)
    before = tree(source.parent)
    again = run(source)
    assert again.outcome is PrepareOutcome.UP_TO_DATE
    assert {steps(again)[name] for name in ("conversion", "config")} == {Action.UP_TO_DATE}
    assert tree(source.parent) == before


def test_a_dry_run_writes_nothing_and_tells_the_same(source: Path) -> None:
    """The preview has the steps of the real run, and the folder stays as it was."""
    before = tree(source.parent)
    shown = preview(plan_preparation(request(source)))
    assert tree(source.parent) == before
    assert shown.outcome is PrepareOutcome.DRY_RUN
    assert steps(shown) == steps(run(source))


def test_edits_in_the_config_stay(source: Path) -> None:
    """A comment, a batch size and a log folder of the operator survive; a moved checkpoint is
    followed.
    """
    report = run(source)
    edited = (
        report.config_path.read_text()
        .replace("batch_size = ", "# mine\nbatch_size = 3 #", 1)
        .replace("moshi-logs/raw", "elsewhere")
    )
    report.config_path.write_text(edited)
    assert run(source).batch_size == 3
    assert report.config_path.read_text() == edited
    moved = run(
        source,
        output=source.parent / "out2" / "tiny.fp16.safetensors",
        config_out=report.config_path,
    )
    assert steps(moved)["config"] is Action.CHANGE
    text = report.config_path.read_text()
    assert "# mine" in text
    assert "out2" in text


def test_the_key_is_new_kept_and_never_shown(source: Path) -> None:
    """A generated config has a key of its own and mode 0600; later runs keep it; no report contains
    it.
    """
    report = run(source)
    (key,) = tomllib.loads(report.config_path.read_text())["authorized_ids"]
    assert len(key) >= 32
    assert report.config_path.stat().st_mode & 0o077 == 0
    changed = run(source, batch_size=2)
    assert key in report.config_path.read_text()
    assert changed.config_diff
    assert key not in changed.config_diff
    forced = run(source, force=True)
    assert tomllib.loads(forced.config_path.read_text())["authorized_ids"] == [key]
    assert key in forced.config_path.with_name(forced.config_path.name + ".bak").read_text()


def test_a_changed_source_is_converted_again(source: Path) -> None:
    """Other weights under the same name are noticed."""
    run(source)
    write_tiny_weights(source / "model.safetensors", seed=8)
    assert steps(run(source))["conversion"] is Action.CONVERT
    assert steps(run(source))["conversion"] is Action.UP_TO_DATE


def test_a_card_that_computes_bf16_needs_no_conversion(source: Path) -> None:
    """On an L4 the original is served, without dtype_override and without a second file."""
    report = run(source, simulated=("l4",), output=None, config_out=source.parent / "l4.toml")
    assert steps(report)["conversion"] is Action.NOT_NEEDED
    module = tomllib.loads((source.parent / "l4.toml").read_text())["modules"]["asr"]
    assert "dtype_override" not in module
    assert module["lm_model_file"] == str(source / "model.safetensors")


def test_a_card_without_fast_f16_serves_the_original_in_f32(source: Path) -> None:
    """On a GTX 1060 the switch says f32 and no file is made; --dtype f32 asks for one."""
    config = source.parent / "gtx.toml"
    report = run(source, simulated=("gtx1060",), output=None, config_out=config)
    assert steps(report)["conversion"] is Action.NOT_NEEDED
    module = tomllib.loads(config.read_text())["modules"]["asr"]
    assert (module["dtype_override"], module["lm_model_file"]) == (
        "f32",
        str(source / "model.safetensors"),
    )
    run(source, simulated=("gtx1060",), dtype=ComputeDType.F32)
    output = source.parent / "out" / "tiny.fp16.safetensors"
    assert {tensor.dtype for tensor in open_checkpoint(output).tensors.values()} == {"F32"}


def test_a_template_for_an_old_card_is_set_right_for_a_new_one(source: Path) -> None:
    """A dtype_override that the template brings is replaced by bf16 where the card computes it."""
    template = source / "template.toml"
    template.write_text(
        template.read_text().replace("batch_size =", 'dtype_override = "f16"\nbatch_size =', 1)
    )
    report = run(source, simulated=("l4",), output=None, config_out=source.parent / "l4.toml")
    assert (
        tomllib.loads(report.config_path.read_text())["modules"]["asr"]["dtype_override"] == "bf16"
    )


def test_from_a_hub_with_nothing_cached_then_without_a_network(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is downloaded, prepared, and later ready offline; a cache that lost its links, not
    its contents, is mended.
    """
    files = {
        name: source / name
        for name in ("model.safetensors", "tokenizer_tiny_40.model", "mimi-tiny.safetensors")
    }
    with HubServer({"org/tiny": files}) as hub:
        for name, value in hub.env(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        changes = {
            "hf_repo": "org/tiny",
            "input_path": None,
            "output": None,
            "config_out": tmp_path / "hub.toml",
        }
        monkeypatch.chdir(tmp_path)
        first = run(source, **changes)
        assert [step for step in steps(first).values() if step is Action.DOWNLOAD] == [
            Action.DOWNLOAD
        ] * 3
        asked = len(hub.requests)
        assert run(source, **changes).outcome is PrepareOutcome.UP_TO_DATE
        assert len(hub.requests) == asked
        shutil.rmtree(next((tmp_path / "hf").rglob("snapshots")))
        assert run(source, **changes).lint is not None
        assert hub.sent_bytes() < 1.5 * sum(path.stat().st_size for path in files.values()), (
            "the contents were sent twice"
        )


def test_weights_that_do_not_fit_stop_everything(source: Path) -> None:
    """A value beyond 65,504 is named, and neither file nor config appears."""
    write_tiny_weights(source / "model.safetensors", plant={"text_emb.weight": {3: 0x4780}})
    with pytest.raises(TensorRangeError, match=r"text_emb\.weight"):
        run(source)
    assert not (source.parent / "out").exists() or tree(source.parent / "out") == {}


def test_a_published_model_is_recognised_by_its_header(tmp_path: Path) -> None:
    """The 1B layout needs no template; its preset, delay and published batch size are used."""
    weights = write_published_header(tmp_path / "model.safetensors")
    plan = plan_preparation(
        PrepareRequest(hf_repo=REPO, input_path=str(weights), simulated=("t4",))
    )
    assert plan.model.name == "stt-1b-en_fr"
    assert plan.output == Path("assets/fp16/model.fp16.safetensors")
    assert "asr_delay_in_tokens = 6" in plan.config.text
    assert "Tesla T4" in plan.config.text.splitlines()[0]


def test_an_unknown_checkpoint_is_refused_with_what_differs(source: Path) -> None:
    """Without a template the tiny model cannot be served, and the error says how to describe it."""
    with pytest.raises(CheckpointError, match="not a published model") as caught:
        plan_preparation(request(source, template=None))
    assert "--template" in caught.value.hint


def test_without_a_gpu_it_stops_unless_told(source: Path) -> None:
    """This machine without a driver: exit 4 with a hint, or exit 0 when that was asked for."""
    with pytest.raises(DriverMissingError):
        plan_preparation(request(source, simulated=()))


def test_a_config_that_is_no_toml_is_not_overwritten(source: Path) -> None:
    """A file that dsmops cannot read is somebody's; it stays, and the error names the line."""
    target = source.parent / "mine.toml"
    target.write_text("a = 1\nnot toml")
    with pytest.raises(ConfigError, match=":2"):
        run(source, config_out=target)
    assert target.read_text() == "a = 1\nnot toml"


def test_a_missing_input_is_named(source: Path) -> None:
    """A path that is not there is an input error, before anything is looked up elsewhere."""
    with pytest.raises(InputError, match="nowhere"):
        plan_preparation(request(source, input_path="nowhere.safetensors"))


@pytest.mark.parametrize(
    ("named", "hint"),
    [
        ("stt-1b-en_fr", "Did you mean kyutai/stt-1b-en_fr-candle?"),
        (
            "nonsense",
            "kyutai/stt-1b-en_fr-candle or kyutai/stt-2.6b-en-candle or kyutai/tts-1.6b-en_fr",
        ),
        ("./model.safetensors", "--input-path"),
        ("", "--input-path"),
    ],
)
def test_what_is_no_repository_is_told_before_the_hub_is_asked(
    source: Path, named: str, hint: str
) -> None:
    """With the names of the published ones, and of the option for a file that is here."""
    with pytest.raises(InputError, match="is not a repository") as caught:
        plan_preparation(request(source, input_path=None, hf_repo=named))
    assert hint in caught.value.hint


def test_nothing_of_somebody_elses_is_replaced(source: Path) -> None:
    """A checkpoint that dsmops did not make, a source, and another model's config stay as they are,
    and the error names them.
    """
    foreign = source.parent / "foreign.safetensors"
    foreign.write_bytes((source / "mimi-tiny.safetensors").read_bytes())
    other = source.parent / "other.toml"
    other.write_text((shipped_folder("configs") / "config-stt-en-hf.toml").read_text())
    before = tree(source.parent)
    for changes, words in (
        ({"output": foreign}, "did not make"),
        ({"output": source / "mimi-tiny.safetensors", "force": True}, "one of the sources"),
        ({"config_out": other}, "does not serve"),
        ({"output": foreign, "config_out": foreign, "force": True}, "same file"),
        ({"config_out": source / "template.toml"}, "same file"),
        ({"output": source.parent / "name.bin"}, "end in"),
        ({"output": source.parent / "$HOME" / "a.safetensors"}, "expands"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            run(source, **changes)
        assert caught.value.hint
        assert tree(source.parent) == before
    assert run(source, output=foreign, force=True).outcome is PrepareOutcome.DONE


def test_a_broken_config_is_replaced_only_by_force_and_kept(source: Path) -> None:
    """--force writes it afresh and keeps what was there as .bak."""
    target = source.parent / "mine.toml"
    target.write_text("[[[")
    run(source, config_out=target, force=True)
    assert target.with_name("mine.toml.bak").read_text() == "[[["
    assert tomllib.loads(target.read_text())["modules"]["asr"]["dtype_override"] == "f16"


def test_another_card_than_the_first_is_made_visible(source: Path) -> None:
    """The server takes CUDA device 0, so for --device 1 the command to start it says which."""
    report = run(source, simulated=("a100", "t4"), ordinal=1)
    assert any(
        command.startswith("CUDA_VISIBLE_DEVICES=1 moshi-server")
        for command in report.next_commands
    )
    assert any("CUDA device 0" in note for note in report.notes)


def test_f32_tensors_under_f16_are_not_passed_over(source: Path) -> None:
    """What the server would cast unchecked is said."""
    write_checkpoint(
        source / "model.safetensors",
        {name: ("F32", shape) for name, shape in TINY.tensors().items()},
    )
    assert any(
        "F32" in note and "65504" in note
        for note in run(source, output=None, config_out=source.parent / "f.toml").notes
    )


def test_the_command_from_a_terminal(source: Path) -> None:
    """As typed: exit 0 twice, the second run says that nothing was done; JSON has the parts; a card
    too small exits 1.
    """
    arguments = [
        "prep-sm75",
        "--simulate",
        "t4",
        "--input-path",
        source / "model.safetensors",
        "--template",
        source / "template.toml",
    ]
    first = dsmops(*arguments, cwd=source.parent)
    assert first.code == 0, first.stderr
    assert "converted" in first.stdout
    assert (source.parent / "assets" / "fp16" / "model.fp16.safetensors").exists()
    second = dsmops(*arguments, cwd=source.parent)
    assert "nothing was done" in second.stdout
    document = dsmops(*arguments, "--json", cwd=source.parent).document
    assert document["schema"] == "dsmops.prep-sm75/1"
    assert document["outcome"] == "up to date"
    assert {item["name"] for item in document["parts"]} >= {"weights", "conversion", "config"}
    small = dsmops(
        "prep-sm75",
        "--simulate",
        "gtx1050",
        "--input-path",
        write_published_header(source.parent / "big.safetensors"),
    )
    assert small.code == 1, small.stderr
    assert "Does not fit" in small.stdout


def test_skip_when_undetected_exits_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a GPU the flag makes it a success that did nothing; without the flag it
    is an error.
    """
    monkeypatch.setattr(
        "dsmops.operations.configs.planning.probe",
        PlayedHost(load_host("no_driver"), tmp_path, monkeypatch).probe,
    )
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    skipped = CliRunner().invoke(app, ["prep-sm75", "--skip-when-undetected"])
    assert skipped.exit_code == 0
    assert "Nothing done" in skipped.stdout
    assert list(Path().iterdir()) == []
    assert isinstance(CliRunner().invoke(app, ["prep-sm75"]).exception, DriverMissingError)


def test_a_hidden_card_is_not_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that the mask hides is there and cannot be used: the flag does not make that a
    success.
    """
    monkeypatch.setattr(
        "dsmops.operations.configs.planning.probe",
        PlayedHost(load_host("all_hidden_empty"), tmp_path, monkeypatch).probe,
    )
    refused = CliRunner().invoke(app, ["prep-sm75", "--skip-when-undetected"])
    assert isinstance(refused.exception, DriverMissingError)
    assert refused.exception.code == "gpu.all_hidden"


@pytest.mark.slow
@pytest.mark.parametrize("repo", [REPO, "kyutai/stt-2.6b-en-candle", "kyutai/tts-1.6b-en_fr"])
def test_a_dry_run_without_a_network_tells_the_published_facts(tmp_path: Path, repo: str) -> None:
    """Offline and with nothing cached, a dry run shows files, dtype and batch size, and says that
    the hub was not reached; the work itself, and models that were never published, stay errors.
    """
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    given = ("prep-sm75", "--simulate", "t4", "--hf-repo", repo)
    run = dsmops(*given, "--dry-run", "--json", env=offline, cwd=tmp_path)
    assert run.code == 0, run.stderr
    document = run.document
    assert document["outcome"] == "dry run"
    assert document["notes"][0].startswith("From the published facts; the hub was not reached")
    assert document["batch_size"] >= 1
    assert [item["step"] for item in document["parts"]][-2:] == ["convert", "write"]
    model = next(model for model in MODELS.values() if model.hf_repo == repo)
    assert document["parts"][0]["size_bytes"] == 2 * model.shape.parameters
    assert dsmops(*given, env=offline, cwd=tmp_path).code == 3
    other = ("prep-sm75", "--simulate", "t4", "--hf-repo", "someone/else", "--dry-run")
    assert dsmops(*other, env=offline, cwd=tmp_path).code == 3
    assert not list(tmp_path.iterdir())
