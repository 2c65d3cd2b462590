"""`verify --numerics`: what it says about sound and broken conversions, and about what it cannot be
run on.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from safetensors.torch import load_file, save_file

from dsmops import extras
from dsmops.checkpoint import OverflowPolicy, convert, plan_conversion
from dsmops.cli.views.numerics import show_numerics
from dsmops.dtypes import ComputeDType, StorageDType
from dsmops.errors import CheckpointError, ExtraMissingError, InputError, SourceError
from dsmops.operations.speech import numerics
from dsmops.operations.speech.numerics import compare_numerics, plan_numerics
from dsmops.operations.speech.numerics_verdict import (
    F16_MAX,
    LEAST_HEADROOM,
    NumericsReport,
    NumericsVerdict,
)
from dsmops.worker.tiny.stt import LM_FILE, TinyStt, write_tiny_stt
from tests.support.cli import Run, dsmops
from tests.support.sound import encoded, sweep
from tests.support.tiny_checkpoint import write_tiny_weights

GATES = "transformer.layers.1.gating.linear_in.weight"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStt:
    """A sound model, and two seconds of sound beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "speech.wav").write_bytes(encoded(sweep(24_000, 2.0)))
    return write_tiny_stt(folder)


@pytest.fixture
def folder(tiny: TinyStt, tmp_path: Path) -> Path:
    """A copy to break things in."""
    shutil.copytree(tiny.model_config.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path


def change(path: Path, name: str, at: Any, value: float, *, factor: float = 0.0) -> None:
    """Set or multiply weights of a checkpoint in place."""
    weights = load_file(path)
    weights[name][at] = weights[name][at] * factor + value
    save_file(weights, path)


def converted(
    folder: Path,
    policy: OverflowPolicy = OverflowPolicy.FAIL,
    dtype: StorageDType = StorageDType.F16,
) -> Path:
    """Convert the model in `folder` and return the new file."""
    target = folder / "converted.safetensors"
    convert(
        plan_conversion(folder / LM_FILE, target, dtype, on_overflow=policy),
        digest=False,
        fsync=False,
    )
    return target


def judged(folder: Path, target: Path, **options: Any) -> NumericsReport:
    source = folder / LM_FILE
    return compare_numerics(
        plan_numerics(str(source), (source, target), folder / "speech.wav", **options), cpu=True
    )


def said(report: NumericsReport) -> str:
    """What people read, without the tables."""
    return "\n".join(block for block in show_numerics(report) if isinstance(block, str))


def test_a_clean_conversion_says_what_the_original_says(folder: Path) -> None:
    """Yes, with headroom, small errors, and nearly the same tokens; every figure is there."""
    report = judged(folder, converted(folder))
    assert (report.verdict, report.findings) == (NumericsVerdict.YES, ())
    assert (report.source.dtype, report.target.dtype) == (ComputeDType.F32, ComputeDType.F16)
    assert report.audio_s == pytest.approx(2.0)
    assert report.steps == 25 + 6 + 13  # the recording, the delay of the text, the closing silence
    assert report.agreement.share > 0.8
    assert report.logits.relative_rms is not None
    assert 0 < report.logits.relative_rms < 0.003
    assert all(place.headroom is not None and place.headroom > 100 for place in report.places)
    assert "? yes" in said(report)


def test_long_texts_are_shown_where_they_begin_to_differ(folder: Path) -> None:
    """What both wrote alike for minutes does not hide the word that is different."""
    report = judged(folder, converted(folder))
    alike = "the same " * 200
    for one, other, shown in (("here", "there", "here"), ("here", "here", "the same the")):
        sides = (
            replace(report.source, text=alike + one),
            replace(report.target, text=alike + other),
        )
        agreement = replace(report.agreement, same_text=one == other)
        (line, *_) = [
            line
            for line in said(
                replace(report, source=sides[0], target=sides[1], agreement=agreement)
            ).split("\n")
            if " wrote: " in line
        ]
        assert shown in line
        assert "…" in line
        assert len(line) < 450


def test_f32_differs_in_nothing(folder: Path) -> None:
    """The conversion to F32 is exact, so the two say the same, and the headroom of f16 is reported
    but not judged.
    """
    change(folder / LM_FILE, GATES, slice(None), 0.0, factor=300.0)
    report = judged(folder, converted(folder, dtype=StorageDType.F32))
    assert report.verdict is NumericsVerdict.YES
    assert (report.logits.relative_rms or 0) < 1e-5
    assert report.agreement.same_text
    assert min(place.headroom or 1e9 for place in report.places) < LEAST_HEADROOM


@pytest.mark.slow
def test_an_int8_file_is_compared_as_the_worker_loads_it(folder: Path) -> None:
    """Its scales are not tensors of the model; a file for another program is refused."""
    target = folder / "model.int8.safetensors"
    assert dsmops("convert", "--weights", "int8", folder / LM_FILE, target).code == 0
    report = judged(folder, target)
    assert report.target.dtype is ComputeDType.F16
    assert report.verdict is NumericsVerdict.YES
    assert report.logits.relative_rms is not None
    assert 0 < report.logits.relative_rms < 0.05
    assert any("weights of the target are in int8" in note for note in report.notes)
    gguf = folder / "model.gguf"
    assert dsmops("export", "--to", "gguf", folder / LM_FILE, gguf).code == 0
    refused = run(folder, gguf)
    assert refused.code == 2
    assert "another program" in refused.stderr


def test_damaged_weights_are_named_in_both(folder: Path) -> None:
    """A NaN of the original is in the converted file too: the values agree, the model is dead, and
    the tensor and layer are named.
    """
    change(folder / LM_FILE, GATES, (3, 4), float("nan"))
    report = judged(folder, converted(folder))
    assert report.verdict is NumericsVerdict.NO
    reasons = [finding.message for finding in report.findings]
    assert f"the original has NaN or infinity among its weights as F32: {GATES} (1)" in reasons
    assert any(
        "the converted model, computed in F16" in reason
        and "first in transformer.layers.1 (gate product)" in reason
        for reason in reasons
    )
    assert report.logits.max_abs is None


def test_activations_that_leave_the_range_name_the_first_layer(folder: Path) -> None:
    """Every weight fits, the conversion is exact, and the model does not survive f16: where it
    begins is said, with the size in f32.
    """
    change(folder / LM_FILE, GATES, slice(None), 0.0, factor=300.0)
    report = judged(folder, converted(folder))
    assert report.verdict is NumericsVerdict.NO
    (finding,) = report.findings
    assert "first in transformer.layers.1 (gate product)" in finding.message
    assert report.source.non_finite == 0
    assert report.source.weight_faults == report.target.weight_faults == ()
    gate = next(
        place
        for place in report.places
        if (place.layer, place.stage) == ("transformer.layers.1", "gate_product")
    )
    assert gate.headroom == pytest.approx(F16_MAX / gate.source_largest)
    assert gate.headroom < 1
    assert gate.target_non_finite > 0


@pytest.mark.slow
def test_little_room_is_a_warning(folder: Path) -> None:
    """Finite on this recording, but less than twice the range: yes with a warning that says
    where.
    """
    exact = judged(folder, converted(folder))
    gate = next(
        place
        for place in exact.places
        if (place.layer, place.stage) == ("transformer.layers.0", "gate_product")
    )
    # The gate's upper half enters the product as it is; the activation in front of it stays.
    hidden = (
        load_file(folder / LM_FILE)["transformer.layers.0.gating.linear_in.weight"].shape[0] // 2
    )
    factor = F16_MAX / 1.5 / gate.largest
    change(
        folder / LM_FILE,
        "transformer.layers.0.gating.linear_in.weight",
        slice(hidden, None),
        0.0,
        factor=factor,
    )
    report = judged(folder, converted(folder))
    assert report.verdict is NumericsVerdict.WARNING
    (finding,) = report.findings
    assert "transformer.layers.0 (gate product)" in finding.message
    assert "yes, with little to spare" in said(report)


def test_scores_that_only_moshi_server_forms_are_a_no(folder: Path) -> None:
    """Q·K beyond f16 does no harm here, because it is scaled first.

    The server forms it in f16, so the answer is no.
    """
    change(
        folder / LM_FILE,
        "transformer.layers.1.self_attn.in_proj_weight",
        slice(0, 128),
        0.0,
        factor=100.0,
    )
    report = judged(folder, converted(folder))
    assert report.target.non_finite == 0
    assert report.verdict is NumericsVerdict.NO
    assert "moshi-server" in report.findings[0].message


def test_a_clamped_weight_that_matters_is_seen(folder: Path) -> None:
    """Clamping keeps all finite and verifies.

    That two weights are no longer as far apart as they were shows in the logits.
    """
    change(folder / LM_FILE, "emb.0.weight", (slice(None), 5), 2.0**20)
    change(folder / LM_FILE, "emb.0.weight", (slice(None), 6), 2.0**15)
    report = judged(folder, converted(folder, OverflowPolicy.CLAMP))
    assert report.target.non_finite == 0
    assert report.verdict is NumericsVerdict.NO
    cannot_hold, apart = (finding.message for finding in report.findings)
    assert "f16 cannot hold; the converted model stays finite" in cannot_hold
    assert "rounding cannot explain it" in apart


def test_a_tensor_kept_in_f32_does_not_help(folder: Path) -> None:
    """`keep-f32` keeps the value in the file.

    Served in f16 it is infinite, and the tensor is named.
    """
    change(folder / LM_FILE, "out_norm.alpha", (0, 0, 7), 98304.0)
    report = judged(folder, converted(folder, OverflowPolicy.KEEP_F32))
    assert report.verdict is NumericsVerdict.NO
    assert [fault.tensor for fault in report.target.weight_faults] == ["out_norm.alpha"]
    assert report.source.weight_faults == ()
    assert any("Stored in F32 but computed in F16" in note for note in report.notes)


def test_another_model_of_the_same_shape_is_no_conversion(folder: Path) -> None:
    """Two seeds hear the same and say different things."""
    other = write_tiny_stt(folder / "other", seed=1)
    report = judged(folder, other.files.lm)
    assert report.verdict is NumericsVerdict.NO
    assert report.target.dtype is ComputeDType.BF16
    assert report.agreement.first_difference_step is not None
    assert report.agreement.first_difference_s == pytest.approx(
        report.agreement.first_difference_step * 0.08
    )


def test_only_so_much_of_a_recording_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out is said."""
    monkeypatch.setattr(numerics, "LONGEST_S", 0.8)
    report = judged(folder, converted(folder))
    assert report.audio_s == pytest.approx(0.8)
    assert any("first 0.8 s" in note for note in report.notes)


@pytest.mark.slow
def test_all_that_can_be_missing_is_found_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not a recording, a folder without a config, a model of another shape, an
    absent extra.
    """
    source, target = folder / LM_FILE, converted(folder)
    with pytest.raises(InputError, match=r"config\.json"):
        plan_numerics(str(source), (source, target), folder / "config.json")
    with pytest.raises(SourceError, match=r"nowhere\.wav"):
        plan_numerics(str(source), (source, target), folder / "nowhere.wav")
    (folder / "alone").mkdir()
    alone = str(shutil.copy(source, folder / "alone" / LM_FILE))
    with pytest.raises(SourceError, match=r"no config beside .*config\.json") as caught:
        plan_numerics(alone, (Path(alone), target), folder / "speech.wav")
    assert "--model" in caught.value.hint
    monkeypatch.chdir(folder)  # from where the server's config names its files
    assert judged(folder, target, model="config-stt-tiny.toml").verdict is NumericsVerdict.YES
    other = write_tiny_weights(folder / "other.safetensors")
    with pytest.raises(CheckpointError, match="does not hold the language model"):
        compare_numerics(
            plan_numerics(str(source), (other, other), folder / "speech.wav"), cpu=True
        )
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(ExtraMissingError, match="comparing numerics needs the package torch"):
        plan_numerics(str(source), (source, target), folder / "speech.wav")


def test_with_a_model_named_its_own_weights_are_not_looked_for(folder: Path) -> None:
    """Only the config, the tokenizer and Mimi are needed of it: the two files to compare lie
    elsewhere.
    """
    (folder / "weights").mkdir()
    source = (folder / LM_FILE).rename(folder / "weights" / "original.safetensors")
    plan = plan_numerics(str(source), (source, source), folder / "speech.wav", model=str(folder))
    assert plan.stt.files.lm == source


def run(folder: Path, target: Path, *more: str | Path) -> Run:
    return dsmops(
        "verify", folder / LM_FILE, target, "--numerics", folder / "speech.wav", "--cpu", *more
    )


@pytest.mark.slow
def test_yes_is_exit_0_with_both_answers_in_one_document(folder: Path) -> None:
    """Values and numerics, with the thresholds that the verdict was measured by."""
    done = run(folder, converted(folder), "--json")
    assert (done.code, done.stderr) == (0, "")
    found = done.document
    assert (found["schema"], found["differences"]) == ("dsmops.verify/1", [])
    assert found["numerics"]["verdict"] == "yes"
    assert found["numerics"]["thresholds"]["least_headroom"] == 2.0
    assert {place["layer"] for place in found["numerics"]["places"]} >= {
        "emb",
        "transformer.layers.1",
        "text_linear",
    }
    assert len(found["numerics"]["source"]["tokens"]) == found["numerics"]["steps"]


@pytest.mark.slow
def test_no_is_exit_1_although_every_value_agrees(folder: Path) -> None:
    """The table and the reason are on stdout, and nothing is on stderr."""
    change(folder / LM_FILE, GATES, slice(None), 0.0, factor=300.0)
    done = run(folder, converted(folder))
    assert (done.code, done.stderr) == (1, "")
    assert "every value compared" in done.stdout
    assert "no: the converted model, computed in F16, gives NaN or infinity" in done.stdout
    assert "transformer.layers.1" in done.stdout


def test_checkpoints_of_different_shapes_are_not_run(folder: Path) -> None:
    """The differences are named, the answer is no, and there are no numerics."""
    other = write_tiny_weights(folder / "other.safetensors")
    done = run(folder, other, "--json")
    assert done.code == 1
    assert done.document["numerics"] is None
    assert done.document["differences"]
    assert "were not run" in run(folder, other).stdout


def test_options_of_numerics_need_it(folder: Path) -> None:
    """--model and --cpu alone are a mistake in the command line."""
    assert dsmops("verify", folder / LM_FILE, converted(folder), "--cpu").code == 2


@pytest.mark.slow
def test_without_it_no_torch_is_loaded(folder: Path) -> None:
    """Comparing values needs neither the extra nor its time."""
    script = (
        "import sys\nfrom dsmops.cli.app import app\n"
        f"app(['verify', {str(folder / LM_FILE)!r}, {str(converted(folder))!r}], "
        "standalone_mode=False)\n"
        "sys.exit(bool({'torch', 'soundfile'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "every value compared" in done.stdout
