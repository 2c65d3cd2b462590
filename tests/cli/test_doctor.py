"""`dsmops doctor` as a user types it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dsmops.cli.app import app
from dsmops.operations.doctor import AREAS
from tests.gpu.hosts import PlayedHost, load_host
from tests.support.binaries import write_server
from tests.support.cli import dsmops
from tests.support.tiny_checkpoint import CONFIG, write_tiny_server

FINDING_KEYS = {
    "name",
    "severity",
    "cause",
    "evidence",
    "fix",
    "upstream_issue",
    "runbook",
    "unseen",
}


@pytest.fixture
def port() -> str:
    """A port without a listener."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: str) -> Any:
    """Run the command on a recorded host, in a folder of its own, without asking anybody."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(host: str, *args: str | Path) -> Any:
        monkeypatch.setattr(
            "dsmops.operations.doctor.site.probe",
            PlayedHost(load_host(host), tmp_path, monkeypatch).probe,
        )
        return CliRunner().invoke(app, ["doctor", "--offline", "--port", port, *map(str, args)])

    return run


def test_a_bare_machine_exits_0(run: Any) -> None:
    """No card, no server, no config: notes, and what could not be seen."""
    result = run("no_driver")
    assert result.exit_code == 0
    assert "note     there is no GPU here [gpu-none]" in result.stdout
    assert "see: runbooks/gpu-not-usable.md#gpu-none" in result.stdout
    assert "\n0 errors, 0 warnings, " in result.stdout
    assert result.stdout.partition("Not seen:\n")[2].startswith("  whether ")


def test_an_error_exits_1_with_cause_evidence_fix_and_page(run: Any, tmp_path: Path) -> None:
    """A config that a T4 cannot serve is reported with its line; the same with --quiet is
    silent.
    """
    config = write_tiny_server(tmp_path)
    config.write_text(CONFIG.replace('dtype_override = "f16"\n', ""))
    result = run(
        "t4_cloud", "--config", config, "--moshi-bin", write_server(tmp_path / "moshi-server")
    )
    assert result.exit_code == 1
    lines = [line.strip() for line in result.stdout.splitlines()]
    at = next(
        index for index, line in enumerate(lines) if "[config-dtype-override-missing]" in line
    )
    assert lines[at].startswith("error ")
    assert lines[at + 1] == f"{config}:7: modules.asr"
    assert lines[at + 2] == 'fix: Add dtype_override = "f16" below batch_size.'
    assert lines[at + 3] == "see: runbooks/config-findings.md"


def test_the_document_has_its_keys(run: Any, tmp_path: Path) -> None:
    """One schema, every area in order, every finding with all its keys; exit code and counts
    agree.
    """
    result = run("lost_only_gpu", "--json")
    document = json.loads(result.stdout)
    assert document["schema"] == "dsmops.doctor/1"
    assert [area["name"] for area in document["areas"]] == [name for name, _ in AREAS]
    findings = [finding for area in document["areas"] for finding in area["findings"]]
    assert all(set(finding) == FINDING_KEYS for finding in findings)
    assert document["errors"] == sum(finding["severity"] == "error" for finding in findings) == 1
    assert result.exit_code == 1
    assert document["not_seen"]


def test_clumsy_input_gets_findings_not_a_traceback(run: Any) -> None:
    """Everything that was named and is not there is an error of its own."""
    result = run(
        "no_driver",
        "--config",
        "no.toml",
        "--checkpoint",
        "",
        "--moshi-bin",
        "nowhere",
        "--log",
        "no.log",
    )
    assert result.exit_code == 1
    for name in ("config-unreadable", "checkpoint-missing", "server-missing", "log-unreadable"):
        assert f"[{name}]" in result.stdout
    assert "4 errors" in result.stdout


def test_quiet_leaves_the_exit_code(tmp_path: Path, port: str) -> None:
    """A process of its own, as a script would run it."""
    for args, code in (((), 0), (("--config", "no.toml"), 1)):
        result = dsmops(
            "doctor",
            "--quiet",
            "--offline",
            "--port",
            port,
            *args,
            cwd=tmp_path,
            env={"CUDA_VISIBLE_DEVICES": "0"},
        )
        assert (result.stdout, result.stderr) == ("", "")
        assert result.code == code


@pytest.mark.slow
def test_the_password_of_a_mirror_is_not_shown(tmp_path: Path) -> None:
    """Neither by the doctor nor by what fetches."""
    mirror = {
        "HF_ENDPOINT": "http://someone:pwSECRET@127.0.0.1:9",
        "HF_HOME": str(tmp_path / "home"),
    }
    told = dsmops("doctor", "--json", cwd=tmp_path, env=mirror)
    assert "http://127.0.0.1:9" in told.stdout
    fetched = dsmops(
        "inspect", "hf://kyutai/stt-1b-en_fr-candle/model.safetensors", cwd=tmp_path, env=mirror
    )
    assert fetched.code == 6
    assert "SECRET" not in told.stdout + told.stderr + fetched.stdout + fetched.stderr
