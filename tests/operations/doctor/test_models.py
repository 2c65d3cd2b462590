"""Configs and checkpoints are judged from real files."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from dsmops.findings import Severity
from dsmops.gpu import GpuReport
from dsmops.operations.doctor import Scope, diagnose
from dsmops.shipped import shipped_folder
from tests.operations.doctor.conftest import Play, found
from tests.support.tiny_checkpoint import (
    CONFIG,
    MIMI_FILE,
    WEIGHTS_FILE,
    write_tiny_server,
    write_tiny_weights,
)


def test_a_config_is_judged_for_this_card_and_server(scope: Scope, play: Play) -> None:
    """On a T4, a config without an override is an error with its line; with it, there is none."""
    (scope.folder / "configs").mkdir()
    config = write_tiny_server(scope.folder).rename(scope.folder / "configs" / "tiny.toml")
    report = play("t4_cloud")
    assert diagnose(scope, report).errors == 0
    config.write_text(CONFIG.replace('dtype_override = "f16"\n', ""))
    seen = found(diagnose(scope, report))["config-dtype-override-missing"]
    assert seen.severity is Severity.ERROR
    assert seen.evidence[0].startswith(f"{config}:7:")


def test_ready_configs_are_nobodys(scope: Scope, play: Play) -> None:
    """As shipped they say nothing of this machine, unless they are named."""
    shutil.copytree(shipped_folder("configs"), scope.folder / "configs")
    report = play("t4_cloud")
    assert "config-none" in found(diagnose(scope, report))
    named = diagnose(
        replace(scope, configs=(scope.folder / "configs" / "config-stt-en_fr-hf.toml",)), report
    )
    assert "config-dtype-override-missing" in found(named)


def test_a_ready_config_that_was_edited_is_somebodys(scope: Scope, play: Play) -> None:
    """Its digest is no longer that of the shipped one, wherever it lies."""
    folder = Path(shutil.copytree(shipped_folder("configs"), scope.folder / "configs"))
    with (folder / "config-stt-en_fr-hf.toml").open("a") as file:
        file.write("# mine\n")
    assert (
        found(diagnose(scope, play("t4_cloud")))["config-dtype-override-missing"].severity
        is Severity.ERROR
    )


def test_the_digests_of_the_ready_configs_are_theirs() -> None:
    """After a change of a ready config: `cd configs && sha256sum *.toml > SHA256SUMS`."""
    folder = shipped_folder("configs")
    listed = dict(
        reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines()
    )
    assert listed == {
        path.name: sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.toml")
    }


def test_damaged_configs_do_not_stop_the_others(scope: Scope, bare: GpuReport) -> None:
    """Each that cannot be read is an error; the rest is judged."""
    good, bad = write_tiny_server(scope.folder), scope.folder / "bad.toml"
    bad.write_text("[x")
    diagnosis = diagnose(replace(scope, configs=(bad, scope.folder / "absent.toml", good)), bare)
    assert diagnosis.errors == 2
    assert {"config-unreadable", "config-ok"} <= found(diagnosis).keys()


def test_files_that_a_config_names(scope: Scope, bare: GpuReport) -> None:
    """One that is missing or cut off is an error of the config, once; one that is whole is said to
    be.
    """
    config = write_tiny_server(scope.folder)
    (scope.folder / MIMI_FILE).unlink()
    diagnosis = diagnose(replace(scope, configs=(config,)), bare)
    assert found(diagnosis)["config-file-missing"].severity is Severity.ERROR
    assert WEIGHTS_FILE in found(diagnosis)["checkpoint-ok"].message
    os.truncate(scope.folder / WEIGHTS_FILE, 100)
    diagnosis = diagnose(replace(scope, configs=(config,)), bare)
    assert found(diagnosis)["config-not-safetensors"].severity is Severity.ERROR
    assert diagnosis.errors == 2


def test_checkpoints_are_read_by_their_headers(scope: Scope, play: Play) -> None:
    """A whole one is in order, a bf16 one on a T4 noted, a truncated one an error, and a leftover
    told.
    """
    folder = scope.folder / "assets" / "fp16"
    folder.mkdir(parents=True)
    whole = write_tiny_weights(folder / "whole.safetensors")
    report = play("t4_cloud")
    assert {"checkpoint-ok", "checkpoint-bf16"} <= found(diagnose(scope, report)).keys()
    cut = Path(shutil.copy(whole, folder / "cut.safetensors"))
    os.truncate(cut, cut.stat().st_size - 1)
    (folder / ".new.safetensors.dsmops-partial").write_bytes(b"half")
    seen = found(diagnose(scope, report))
    assert "cut.safetensors" in seen["checkpoint-damaged"].message
    assert seen["checkpoint-partial"].severity is Severity.NOTE


def test_checkpoints_that_are_named(scope: Scope, bare: GpuReport) -> None:
    """A file, a folder, nothing, an empty folder, and one of the hub that is not here."""
    write_tiny_weights(scope.folder / WEIGHTS_FILE)
    (scope.folder / "empty").mkdir()
    names = (
        "model.safetensors",
        ".",
        "absent",
        "empty",
        "hf://kyutai/stt-1b-en_fr-candle/model.safetensors",
    )
    area = next(
        area
        for area in diagnose(replace(scope, checkpoints=names), bare).areas
        if area.name == "checkpoints"
    )
    assert [each.code for each in area.findings] == [
        "checkpoint-missing",
        "checkpoint-none",
        "checkpoint-ok",
        "checkpoint-ok",
        "checkpoint-missing",
    ]
