"""`make-config`: the plan for a card in the template's own words, linted before it is written."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dsmops.config.load import parse_config, read_config
from dsmops.config.memory import ServedModel
from dsmops.config.plan import config_runtime, plan_serving
from dsmops.config.presets import find_template
from dsmops.config.settings import serving_settings
from dsmops.config.timing import BUDGET_MS, estimate_step_ms
from dsmops.devices import Runtime
from dsmops.dtypes import ALL_INT8, PLAIN
from dsmops.gpu import choose, simulate
from dsmops.gpu.catalogue import CARDS, Card
from dsmops.models import MODELS, PublishedModel
from dsmops.operations.configs.checking import lint_config
from dsmops.operations.configs.planning import find_device
from dsmops.operations.configs.writing import ConfigRequest, make_config
from dsmops.shipped import shipped_folder
from tests.support.cli import Run, dsmops
from tests.support.tiny_checkpoint import write_tiny_template


def make(*arguments: str | Path, cwd: Path) -> Run:
    return dsmops("make-config", *arguments, cwd=cwd)


@pytest.mark.slow
def test_a_config_on_stdout_is_what_the_card_needs(tmp_path: Path) -> None:
    """stdout is a TOML with the switch, a planned batch size and a new key; the findings go to
    stderr; nothing is written.
    """
    run = make("--simulate", "rtx2070", cwd=tmp_path)
    assert run.code == 0
    values = tomllib.loads(run.stdout)
    module = values["modules"]["asr"]
    assert module["dtype_override"] == "f16"
    assert 0 < module["batch_size"] <= 64
    assert len(values["authorized_ids"][0]) >= 32
    assert "# " in run.stdout
    assert "note[" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_config_for_int8_is_planned_and_judged_for_the_embedded_worker() -> None:
    """More streams than moshi-server has room for; the first lines say who serves it."""
    card = find_device(["rtx2070"], None)
    plain, in_int8 = (
        make_config(ConfigRequest(model="stt-2.6b-en", quantised=quantised), card)
        for quantised in (PLAIN, ALL_INT8)
    )
    assert in_int8.plan is not None
    assert plain.plan is not None
    assert in_int8.plan.runtime is Runtime.EMBEDDED
    assert in_int8.plan.batch_size > 2 * plain.plan.batch_size
    assert "`dsmops worker --weights int8 --kv int8`" in in_int8.text.splitlines()[1]
    assert "memory-too-small" not in {finding.code for finding in in_int8.lint.findings}
    without = lint_config(parse_config(in_int8.text, path="made.toml"), device=card)
    assert "memory-too-small" in {finding.code for finding in without.findings}


@pytest.mark.slow
def test_a_second_run_finds_the_file_up_to_date_and_keeps_its_key(tmp_path: Path) -> None:
    """Written once with mode 0600; made again it is the same; another one is refused unless forced,
    and keeps the key.
    """
    target = tmp_path / "my.toml"
    assert "was written" in make("--simulate", "t4", "-o", target, cwd=tmp_path).stdout
    assert target.stat().st_mode & 0o077 == 0
    first = target.read_text()
    assert "up to date" in make("--simulate", "t4", "-o", target, cwd=tmp_path).stdout
    refused = make("--simulate", "t4", "-o", target, "--batch-size", "2", cwd=tmp_path)
    assert (refused.code, target.read_text()) == (3, first)
    assert "--force" in refused.stderr
    key = tomllib.loads(first)["authorized_ids"]
    shown = make("--simulate", "t4", "-o", target, "--batch-size", "2", "--dry-run", cwd=tmp_path)
    assert "+batch_size = 2" in shown.stdout
    assert key[0] not in shown.stdout
    assert (
        make("--simulate", "t4", "-o", target, "--batch-size", "2", "--force", cwd=tmp_path).code
        == 0
    )
    changed = tomllib.loads(target.read_text())
    assert (changed["authorized_ids"], changed["modules"]["asr"]["batch_size"]) == (key, 2)


def test_what_would_not_work_is_not_written(tmp_path: Path) -> None:
    """A server too old for the switch, and a card too small, are errors of the lint: exit 1 and no
    file.
    """
    for extra in (["--simulate", "t4", "--server-version", "0.6.3"], ["--simulate", "gtx1050"]):
        run = make(*extra, "-o", "new.toml", cwd=tmp_path)
        assert run.code == 1, run.stderr
        assert "not written" in run.stdout
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 3], ids=["crlf", "mixed"])
def test_any_line_ends_arrive_on_stdout_as_toml(tmp_path: Path, every: int) -> None:
    """The bytes on stdout are the bytes of the file that --output writes, in any locale."""
    lines = (shipped_folder("configs") / "config-stt-en_fr-hf.toml").read_text().splitlines()
    ends = ["\r\n" if number % every == 0 else "\n" for number in range(len(lines))]
    template = tmp_path / "template.toml"
    template.write_bytes(
        "".join(
            line + end for line, end in zip(["# Größe ✓", *lines[1:]], ends, strict=True)
        ).encode()
    )
    given = ("--template", template, "--dtype", "f16", "--batch-size", "2", "--api-key", "k" * 32)
    assert make(*given, "-o", "out.toml", cwd=tmp_path).code == 0
    done = subprocess.run(
        [sys.executable, "-m", "dsmops", "make-config", *map(str, given)],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "LC_ALL": "C"},
        check=False,
    )
    assert done.stdout == (tmp_path / "out.toml").read_bytes()
    assert done.stdout.count(b"\r\n") >= len(lines) // every
    assert tomllib.loads(done.stdout.decode())["modules"]["asr"]["batch_size"] == 2


def test_no_card_is_needed_when_everything_is_said(tmp_path: Path) -> None:
    """With dtype and batch size given, a machine without a GPU can make a config; without them it
    exits 4.
    """
    assert make("--dtype", "f16", "--batch-size", "2", cwd=tmp_path).code == 0
    assert make("--dtype", "f16", cwd=tmp_path).code == 4


@pytest.mark.slow
def test_models_of_the_package_need_no_card(tmp_path: Path) -> None:
    """Their files are named from the root on, and the key of an earlier config stays."""
    none = {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
    for name, purpose in [("tiny", "asr"), ("tiny-tts", "tts")]:
        target = tmp_path / f"{name}.toml"
        made = dsmops("make-config", "--model", name, "-o", target, env=none, cwd=tmp_path)
        assert made.code == 0, made.stderr
        values = tomllib.loads(target.read_text())
        assert list(values["modules"]) == [purpose]
        assert Path(values["modules"][purpose]["text_tokenizer_file"]).is_file()
        again = dsmops("make-config", "--model", name, "-o", target, env=none, cwd=tmp_path)
        assert "up to date" in again.stdout
    refused = dsmops("make-config", "--model", "tiny-tts", "--dtype", "f16", env=none)
    assert refused.code == 3
    assert "tiny-tts has one checkpoint, one dtype" in refused.stderr


def test_a_template_of_ones_own_keeps_its_model(tmp_path: Path) -> None:
    """Dimensions, file names and comments of the template stay."""
    template = write_tiny_template(tmp_path / "tiny.toml")
    run = make("--template", template, "--dtype", "f16", "--batch-size", "3", cwd=tmp_path)
    made, before = (
        tomllib.loads(run.stdout)["modules"]["asr"],
        tomllib.loads(template.read_text())["modules"]["asr"],
    )
    assert made["model"] == before["model"]
    assert made["text_tokenizer_file"] == before["text_tokenizer_file"]


@pytest.mark.slow
def test_a_speaking_config_has_no_dtype_and_says_who_serves_it(tmp_path: Path) -> None:
    """On a T4 it is made for the worker and opens with that; on an L4 for either.

    A card that is too small, and a context, are refused.
    """
    for card, opens in (("t4", "Serve it with `dsmops worker`"), ("l4", "#")):
        run = make(
            "--model", "tts-1.6b-en_fr", "--simulate", card, "-o", f"{card}.toml", cwd=tmp_path
        )
        assert run.code == 0, run.stderr
        text = (tmp_path / f"{card}.toml").read_text()
        assert opens in text.splitlines()[1]
        module = tomllib.loads(text)["modules"]["tts_py"]
        assert (module["batch_size"], module["py"]["n_q"], "dtype_override" in text) == (
            8,
            24,
            False,
        )
    assert (
        make(
            "--model", "tts-1.6b-en_fr", "--simulate", "gtx1060", "-o", "small.toml", cwd=tmp_path
        ).code
        == 1
    )
    assert not (tmp_path / "small.toml").exists()
    assert (
        "config.json"
        in make(
            "--model", "tts-1.6b-en_fr", "--simulate", "t4", "--context", "250", cwd=tmp_path
        ).stderr
    )
    named = make(
        "--template",
        "config-tts",
        "--dtype",
        "f16",
        "--batch-size",
        "2",
        "--lm-model-file",
        "x.safetensors",
        cwd=tmp_path,
    )
    assert tomllib.loads(named.stdout)["modules"]["tts_py"]["py"]["moshi_weight"] == "x.safetensors"


def test_strict_passes_what_is_right_and_refuses_warnings(tmp_path: Path) -> None:
    """A made config has no warnings of its own; with one, --strict exits 1 without a file and
    without claiming one.
    """
    strict = ("--simulate", "t4", "--server-version", "0.6.4", "--strict")
    run = make(*strict, "-o", "new.toml", "--addr", "0.0.0.0", cwd=tmp_path)
    assert (run.code, list(tmp_path.iterdir())) == (1, [])
    assert "was not written" in run.stdout
    assert make(*strict, "-o", "new.toml", "--addr", "127.0.0.1", cwd=tmp_path).code == 0


def test_a_ready_config_is_a_template_by_name(tmp_path: Path) -> None:
    """An installed wheel's configs can be named; an unknown name lists the near ones; quiet needs a
    file.
    """
    assert (
        "lowram"
        in make("--template", "config-stt-en_fr-lowram", "--simulate", "t4", cwd=tmp_path).stderr
    )
    assert (
        make(
            "--template",
            "config-stt-en_fr-lowram-sm75",
            "--simulate",
            "t4",
            "-o",
            "a.toml",
            cwd=tmp_path,
        ).code
        == 1
    )
    assert (
        make(
            "--template",
            "config-stt-en-hf",
            "--simulate",
            "a10",
            "-o",
            "a.toml",
            "-q",
            cwd=tmp_path,
        ).code
        == 0
    )
    assert make("--simulate", "t4", "--quiet", cwd=tmp_path).code == 2


@pytest.mark.slow
def test_keys_are_never_shown_whatever_they_look_like(tmp_path: Path) -> None:
    """A key that TOML has to escape, or that is a common word, is not in the diff."""
    for key in ('ab"cdsecret', "batch"):
        target = tmp_path / "k.toml"
        make("--simulate", "t4", "-o", target, "--api-key", key, "--force", cwd=tmp_path)
        shown = make(
            "--simulate", "t4", "-o", target, "--batch-size", "2", "--dry-run", cwd=tmp_path
        ).stdout
        assert "cdsecret" not in shown
        assert "batch_size = 2" in shown


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_default_batch_size_keeps_a_step_in_its_budget(
    card: Card, model: PublishedModel
) -> None:
    """What `make-config` and `prep-sm75` write by default takes at most 64 ms a step by the
    estimate, on every card of the catalogue; only a single slot may take longer, and then a note
    says so.
    """
    device = choose(simulate([card.name]))
    runtime = config_runtime(model, device)
    plan = plan_serving(device, model, runtime=runtime)
    template = read_config(find_template(model.preset))
    settings = serving_settings(
        template, model, plan, dtype=None, batch_size=None, api_key=None, kept_keys=()
    )
    assert settings.batch_size is not None
    step_ms = estimate_step_ms(
        ServedModel(model.shape, plan.dtype, runtime=runtime, n_q=plan.n_q),
        settings.batch_size,
        device,
    )
    assert step_ms is not None
    if settings.batch_size > 1:
        assert step_ms <= BUDGET_MS
        assert plan.batch_size >= settings.batch_size
    elif step_ms > BUDGET_MS:
        assert any("measure before relying on it" in note for note in plan.notes)
