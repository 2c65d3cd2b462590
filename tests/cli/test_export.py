"""`export` as a user meets it, with `inspect` and `verify` of what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dsmops.checkpoint.export import writing
from dsmops.cli.app import app
from tests.support.cli import dsmops
from tests.support.synthetic import write_checkpoint

LAYOUT = {
    "text_emb.weight": ("BF16", (9, 256)),
    "transformer.layers.0.self_attn.out_proj.weight": ("BF16", (256, 256)),
    "out_norm.alpha": ("BF16", (1, 1, 256)),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, LAYOUT)
    return path


def run(*args: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, args)])
    return done.exit_code, done.stdout


def test_export_inspect_and_verify(model: Path, tmp_path: Path) -> None:
    """The errors, the digests and the next command; `inspect` reads GGUF; a second run does
    nothing.
    """
    target = tmp_path / "model.q8.gguf"
    code, shown = run("export", "--to", "gguf", model, target)
    assert code == 0
    assert "as gguf q8_0: 3 tensors" in shown
    assert f"Next: dsmops verify {model} {target}" in shown
    assert f"sha256 of target {target.name}" in shown
    code, shown = run("verify", model, target)
    assert code == 0
    code, shown = run("inspect", target)
    assert code == 0
    assert "Q8_0" in shown
    assert "dsmops.quant" in shown
    code, shown = run("export", "--to", "gguf", model, target)
    assert code == 0
    assert "is up to date" in shown


def test_the_document_has_every_tensor(model: Path, tmp_path: Path) -> None:
    """JSON on stdout and in the report are the same; a dry run has no errors to report."""
    target, report = tmp_path / "m.q4.safetensors", tmp_path / "report.json"
    args = ("export", "--to", "mlx", "--quant", "q4", "--json")
    code, shown = run(*args, "--dry-run", model, target)
    planned = json.loads(shown)
    assert (code, planned["status"], planned["totals"]) == (0, "planned", None)
    assert not target.exists()
    code, shown = run(*args, "--report", report, model, target)
    body = json.loads(shown)
    assert code == 0
    assert body["schema"] == "dsmops.export/1"
    assert body == json.loads(report.read_text())
    assert body["target_bytes"] == planned["target_bytes"] == target.stat().st_size
    assert {one["encoding"] for one in body["tensors"]} == {"q4", "f16"}
    assert body["totals"]["elements"] == 9 * 256 + 256 * 256 + 256
    assert body["totals"]["max_error"] > 0


def test_convert_to_int8_is_the_export_for_moshi(model: Path, tmp_path: Path) -> None:
    """The same bytes and document; --verify reads them back, and a second run trusts digests."""
    by_convert, by_export = tmp_path / "c.int8.safetensors", tmp_path / "e.int8.safetensors"
    to_int8 = ("convert", "--weights", "int8", "--verify", "--json")
    code, shown = run(*to_int8, model, by_convert)
    body = json.loads(shown)
    assert code == 0
    assert (body["schema"], body["status"]) == ("dsmops.export/1", "exported")
    assert body["verification"]["differences"] == []
    assert run("export", "--to", "moshi", model, by_export)[0] == 0
    assert by_convert.read_bytes() == by_export.read_bytes()
    assert json.loads(run(*to_int8, model, by_convert)[1])["status"] == "up to date"
    by_convert.write_bytes(by_convert.read_bytes()[:-1] + b"\xff")
    assert json.loads(run(*to_int8, model, by_convert)[1])["status"] == "exported"
    assert by_convert.read_bytes() == by_export.read_bytes()


def test_options_that_int8_cannot_follow_are_refused(model: Path, tmp_path: Path) -> None:
    """What is not int8 is F16 in that file."""
    target = tmp_path / "x.safetensors"
    args = ["convert", "--weights", "int8", "--dtype", "f32", str(model), str(target)]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 2
    assert "--dtype" in done.stderr
    assert not target.exists()


def test_verify_answers_no_for_another_source(model: Path, tmp_path: Path) -> None:
    """Exit code 1, and the tensors that differ."""
    other, target = tmp_path / "other.safetensors", tmp_path / "m.gguf"
    write_checkpoint(other, LAYOUT, seed=7)
    assert run("export", "--to", "gguf", model, target)[0] == 0
    code, shown = run("verify", other, target)
    assert code == 1
    assert "text_emb.weight" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "words", "hint"),
    [
        (("--to", "gguf", "{model}", "m.safetensors"), 3, "does not end in .gguf", "m.gguf"),
        (("--to", "mlx", "{model}", "m.safetensors"), 3, "another quant", "m.q8.safetensors"),
        (("--to", "gguf", "--quant", "q3", "{model}", "m.gguf"), 3, "not available", "q8_0 or"),
        (("--to", "onnx", "{model}", "m.onnx"), 2, "onnx", ""),
        (("--to", "gguf", "nothing.safetensors", "m.gguf"), 3, "does not exist", "hf://"),
        (("--to", "gguf", "{model}", "{model}"), 3, "does not end in .gguf", "model.gguf"),
        (("--to", "moshi", "{model}", "{model}"), 3, "is the source itself", "another target"),
        (
            ("--to", "gguf", "--report", "m.gguf", "{model}", "m.gguf"),
            3,
            "the report would overwrite",
            "another file",
        ),
    ],
)
def test_mistakes_get_one_sentence_and_a_way_out(
    model: Path, tmp_path: Path, args: tuple[str, ...], code: int, words: str, hint: str
) -> None:
    """Nothing is written."""
    done = dsmops("export", *(arg.format(model=model) for arg in args), cwd=tmp_path)
    assert done.code == code
    assert words in done.stderr
    assert hint in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_ctrl_c_says_that_the_same_command_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where finished tensors are noted for this export, which the next run then keeps.

    Nothing is promised where none are: an empty journal, one of another export, or a partial file
    of another size.
    """
    promise = "the same command goes on"
    target = tmp_path / "m.gguf"
    journal, partial = (tmp_path / f".m.gguf.dsmops-{name}" for name in ("journal", "partial"))
    arguments = ["export", "--to", "gguf", str(model), str(target)]
    note = writing._Journal.note

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def note_and_stop(*args: Any) -> None:
        note(*args)
        stop()

    with monkeypatch.context() as patch:
        patch.setattr(writing, "_JOURNAL_BYTES", 1)
        patch.setattr(writing._Journal, "note", note_and_stop)
        assert promise in CliRunner().invoke(app, arguments).output
    noted, complete = journal.read_text(), partial.read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr("dsmops.checkpoint.export.outcome.carry_out", stop)
        assert promise in CliRunner().invoke(app, arguments).output
        another = noted.replace(noted.splitlines()[0], '"another key"')
        for text, data in (("", complete), (another, complete), (noted, complete[:-1])):
            journal.write_text(text)
            partial.write_bytes(data)
            assert promise not in CliRunner().invoke(app, arguments).output
        journal.unlink()
        assert promise not in CliRunner().invoke(app, arguments).output

    journal.write_text(noted)
    partial.write_bytes(complete)
    assert json.loads(run(*arguments, "--json")[1])["resumed_tensors"] == 1


def test_an_export_is_no_source_for_other_commands(model: Path, tmp_path: Path) -> None:
    """GGUF is refused by name with what to do instead."""
    target = tmp_path / "m.gguf"
    assert run("export", "--to", "gguf", model, target)[0] == 0
    done = dsmops("convert", target, tmp_path / "x.safetensors")
    assert done.code == 3
    assert "is a GGUF file" in done.stderr
    done = dsmops("inspect", "--scan", target)
    assert done.code == 2
